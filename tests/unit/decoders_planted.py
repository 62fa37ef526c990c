"""SAEs whose decoder vectors are known, as they are in memory and as folders."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from saeflow.artifacts import write_manifest
from saeflow.evaluation.decoder_pairs import Compared, Pair
from saeflow.evaluation.origin import Key, Member
from saeflow.evaluation.rows import Point
from saeflow.sae.formats import save_sae
from saeflow.sae.model import SAE

POINT = Point("ortsae", "subject", "layers.1", "docs", "all", "ortsae", 24, 4)
KEY = Key(4, 0)


def of_decoder(w_dec_fd: Tensor) -> SAE:
    w = w_dec_fd.float()
    return SAE(w.T.clone(), w.clone(), torch.zeros(len(w)), torch.zeros(w.shape[1]), nn.ReLU())


def compared(variant_fd: Tensor, baseline_fd: Tensor) -> dict[Key, Compared]:
    return {KEY: Compared(of_decoder(variant_fd), of_decoder(baseline_fd))}


def random_vectors(n: int, d: int, seed: int = 0) -> Tensor:
    return normalize(torch.randn(n, d, generator=torch.Generator().manual_seed(seed)), dim=1)


def sums_of_atoms(n: int, d: int, atoms: int, terms: int, seed: int = 0) -> Tensor:
    """Unit vectors, each a positive sum of a few of the same atoms."""
    generator = torch.Generator().manual_seed(seed)
    atoms_ad = random_vectors(atoms, d, seed + 1)
    chosen_nt = torch.rand(n, atoms, generator=generator).topk(terms).indices
    strength_nt = 0.5 + torch.rand(n, terms, generator=generator)
    return normalize((atoms_ad[chosen_nt] * strength_nt[:, :, None]).sum(1), dim=1)


def cache(folder: Path) -> Path:
    if not folder.exists():
        folder.mkdir(parents=True)
        write_manifest(folder, kind="activations", settings={}, files=[])
    return folder


def written(
    root: Path, w_dec_fd: Tensor, name: str, l0: int = 4, seed: int = 0, site: str = POINT.site
) -> Member:
    """Write an SAE that was trained on the cache in `root`."""
    folder = root / name / f"l0_{l0}" / f"seed{seed}"
    write_manifest(
        folder,
        kind="sae",
        settings={"d_sae": len(w_dec_fd), "l0": l0, "seed": seed},
        files=save_sae(of_decoder(w_dec_fd), folder, {}),
        inputs={"activations": cache(root / "cache")},
        stats={"site": site},
    )
    return Member(l0, seed, folder)


def written_pairs(root: Path, d: int = 12) -> list[Pair]:
    """Write random SAEs of POINT's width, two seeds of a variant and of its baseline."""
    sides = [
        [written(root, random_vectors(POINT.d_sae, d, 10 * i + s), name, seed=s) for s in (0, 1)]
        for i, name in enumerate(("ortsae", "batchtopk"))
    ]
    return [Pair(*pair) for pair in zip(*sides, strict=True)]
