"""Open SAEs in the real SAELens and compare encode and decode with ours.

Run with the interpreter of the environment that `make export` builds, saeflow importable:

    PYTHONPATH=workflow .venv-export/bin/python tests/compat/check_saelens.py [FOLDER ...]

Compares SAEs of random weights, of every architecture with every flag, with what SAELens opens of
them, and each FOLDER besides, as `load_sae` reads it.
Prints the largest difference of each, relative to the largest entry, and exits with 1 where one
exceeds 1e-5. `test_saelens.py` runs it on trained SAEs.
"""

from __future__ import annotations

import sys
import tempfile
from itertools import product
from pathlib import Path

import torch
from sae_lens import SAE as LensSAE
from torch import nn

from saeflow.sae.activation_functions import Gated, JumpReLU, TopK
from saeflow.sae.formats import load_sae, save_sae
from saeflow.sae.model import SAE

TOLERANCE = 1e-5
D_IN, D_SAE, ROWS = 24, 80, 256


def write_random(parent: Path) -> dict[Path, SAE]:
    ramp_f = torch.linspace(0, 1, D_SAE)
    activations = (nn.ReLU(), TopK(7), JumpReLU(ramp_f), Gated(0.1 + 2 * ramp_f, ramp_f - 0.5))
    saes = {}
    for activation, centred, standardise in product(activations, (True, False), (True, False)):
        name = f"{type(activation).__name__}-b_dec_at_input_{centred}-standardise_{standardise}"
        draw = torch.Generator().manual_seed(0)
        shapes = ((D_IN, D_SAE), (D_SAE, D_IN), (D_SAE,), (D_IN,))
        weights = [0.3 * torch.randn(*shape, generator=draw) for shape in shapes]
        flags = {"apply_b_dec_to_input": centred, "standardise": standardise}
        saes[parent / name] = SAE(*weights, activation, **flags)
        save_sae(saes[parent / name], parent / name, {"hook_name": "layers.1"})
    return saes


@torch.no_grad()
def difference(folder: Path, ours: SAE) -> float:
    """Largest difference of encode, decode and forward, relative to the largest entry."""
    lens = LensSAE.load_from_disk(folder)
    x_bd = 1 + 3 * torch.randn(ROWS, ours.d_in, generator=torch.Generator().manual_seed(1))
    acts_bf = ours.encode(x_bd)
    if not acts_bf.any():
        raise SystemExit(f"{folder}: no latent is active, so there is nothing to compare")
    pairs = [
        (lens.encode(x_bd), acts_bf),
        # SAELens remembers the means and deviations that it encoded with, ours is given x.
        (lens.decode(acts_bf), ours.decode(acts_bf, x_bd)),
        (lens(x_bd), ours(x_bd)),
    ]
    return max(((a - b).abs().max() / b.abs().max()).item() for a, b in pairs)


def main() -> int:
    with tempfile.TemporaryDirectory() as parent:
        saes = write_random(Path(parent)) | {Path(name): load_sae(name) for name in sys.argv[1:]}
        found = {folder.name: difference(folder, sae) for folder, sae in saes.items()}
    for name, size in found.items():
        print(f"{name}: {size:.1e} {'ok' if size <= TOLERANCE else 'DIFFERS'}")
    return int(any(size > TOLERANCE for size in found.values()))


if __name__ == "__main__":
    sys.exit(main())
