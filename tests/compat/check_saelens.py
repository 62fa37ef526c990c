"""Open SAEs of every architecture in the real SAELens and compare encode and decode with ours.

Run with the interpreter of the environment that `envs/export.txt` describes, saeflow importable:

    PYTHONPATH=workflow export/bin/python tests/compat/check_saelens.py [FOLDER ...]

Without folders it writes SAEs of random weights; a FOLDER is a trained SAE to compare as well.
Exits with 1 where an output differs by more than 1e-5 of its largest entry.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch
from sae_lens import SAE as LensSAE
from torch import nn

from saeflow.sae.activation_functions import JumpReLU, TopK
from saeflow.sae.formats import load_sae, save_sae
from saeflow.sae.model import SAE

TOLERANCE = 1e-5


def random_sae(activation: nn.Module, apply_b_dec_to_input: bool) -> SAE:
    draw = torch.Generator().manual_seed(0)
    shapes = ((24, 80), (80, 24), (80,), (24,))
    weights = [0.3 * torch.randn(*shape, generator=draw) for shape in shapes]
    return SAE(*weights, activation, apply_b_dec_to_input=apply_b_dec_to_input)


def write_random(parent: Path) -> list[Path]:
    activations = (nn.ReLU(), TopK(7), JumpReLU(torch.linspace(0, 1, 80)))
    folders = []
    for activation in activations:
        for centred in (True, False):
            folder = parent / f"{type(activation).__name__}-b_dec_at_input_{centred}"
            folder.mkdir()
            save_sae(random_sae(activation, centred), folder, {"hook_name": "layers.1"})
            folders.append(folder)
    return folders


def difference(folder: Path) -> float:
    """Largest difference of encode and decode, relative to the largest entry."""
    lens, ours = LensSAE.load_from_disk(folder), load_sae(folder)
    x_bd = 3 * torch.randn(256, ours.d_in, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        pairs = [
            (lens.encode(x_bd), ours.encode(x_bd)),
            (lens.decode(ours.encode(x_bd)), ours(x_bd)),
        ]
    return max(((a - b).abs().max() / b.abs().max()).item() for a, b in pairs)


def main() -> int:
    with tempfile.TemporaryDirectory() as parent:
        folders = write_random(Path(parent)) + [Path(name) for name in sys.argv[1:]]
        found = {folder.name: difference(folder) for folder in folders}
    for name, size in found.items():
        print(f"{name}: {size:.1e} {'ok' if size <= TOLERANCE else 'DIFFERS'}")
    return int(any(size > TOLERANCE for size in found.values()))


if __name__ == "__main__":
    sys.exit(main())
