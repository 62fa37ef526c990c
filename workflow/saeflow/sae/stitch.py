"""Base and residual SAEs as one: latents side by side, decoder biases added.

Koriagin et al. 2025, section 3.2. Thresholds and gates are a latent's own, so that the sum is one
SAE. TopK compares latents with one another, and what standardises has a mean and a scale of each
token: sums of these are none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import torch

from saeflow.artifacts import Clock, read_manifest
from saeflow.fingerprint import fingerprint
from saeflow.sae.formats import load_sae
from saeflow.sae.identity import sae_digest
from saeflow.sae.model import SAE
from saeflow.sae.parts import BASE, listed
from saeflow.sae.side_by_side import (
    GridPlace,
    check_alike,
    check_out,
    check_place,
    save_side_by_side,
    side_by_side,
    subject_of,
)

_NOTHING_TO_ADD = "no residual SAE is given: there is nothing to add to the base"
_APART = "use base and residual SAEs apart, as base(x) + residual(x), or "


def stitched(base: SAE, residuals: Sequence[SAE]) -> SAE:
    """Return one SAE whose reconstruction is base(x) + the sum of residual(x), up to rounding.

    Its latents are those of the base and then of each residual SAE, activations and decoder rows
    unchanged. As the base does, it subtracts the decoder bias, now the sum of all, from its input
    or not; encoder biases make up for it. ReLU and JumpReLU (BatchTopK at inference) become
    JumpReLU, and with a gated SAE among them all become gated. Raises ValueError for no residual
    SAE, another width, TopK and what standardises its input.
    """
    names = ["the base", *(f"residual SAE {number}" for number in range(1, len(residuals) + 1))]
    return _sum_of(dict(zip(names, (base, *residuals), strict=True)))


def save_stitched(
    base: Path, residuals: Sequence[Path], out: Path, place: GridPlace | None = None
) -> Path:
    """Write the SAE in `base` with `residuals` as one SAELens checkpoint; return its manifest.

        save_stitched(Path("published"), [Path("chemistry/seed0"), Path("law/seed0")], Path("out"))

    `base` is in any layout that `load_sae` reads, `residuals` are folders of SAEs that this
    workflow trained on its error. `metadata.stitched` of `cfg.json` and `stats.stitched` of the
    manifest list the SAEs with role, path, digest and the latents that are theirs, from `start` to
    before `stop`. The evaluation measures what has a `place`: it is how several residual SAEs are
    measured together. Raises FormatError for a malformed base, ArtifactError for an unfinished or
    damaged residual SAE, and ValueError for one of another base, subject or site, for an `out` that
    holds something else, for a place with a cache that no residual SAE was trained on, and for what
    `stitched` refuses; nothing is written then.
    """
    clock, paths = Clock(), [base, *residuals]
    check_out(out, paths)
    saes = {base: load_sae(base)}
    digests = {path: sae_digest(path) for path in paths}
    subject = _subject(base, digests[base], residuals, place)
    saes |= {folder: load_sae(folder) for folder in residuals}
    return save_side_by_side(
        _sum_of({str(path): sae for path, sae in saes.items()}),
        out,
        _parts(saes, digests),
        subject,
        settings={"base": str(base), "residuals": [str(folder) for folder in residuals]},
        inputs={f"residual{n}": folder for n, folder in enumerate(residuals, 1)},
        place=place,
        code=fingerprint(__name__, "saeflow.sae.foreign"),
        clock=clock,
    )


@torch.no_grad()
def _sum_of(named: Mapping[str, SAE]) -> SAE:
    """Return the sum of the SAEs, the base first, each called by what messages say."""
    if len(named) < 2:
        raise ValueError(_NOTHING_TO_ADD)
    check_alike(named, _APART)
    saes = list(named.values())
    return side_by_side(saes, torch.stack([sae.b_dec.double() for sae in saes]).sum(0))


def _parts(saes: Mapping[Path, SAE], digests: Mapping[Path, str]) -> list[dict[str, Any]]:
    """Return whose the latents are, the base's first."""
    roles = chain([BASE], repeat("residual"))
    return listed(
        (sae.d_sae, {"role": role, "path": str(path), "sha256": digests[path]})
        for role, (path, sae) in zip(roles, saes.items(), strict=False)
    )


def _subject(
    base: Path, digest: str, residuals: Sequence[Path], place: GridPlace | None
) -> dict[str, Any]:
    """Return the metadata of subject and site that the residual SAEs share.

    Raises unless each is whole and was trained on the error of `base`, which has this digest, and
    one of them on the cache of `place`.
    """
    found: dict[Path, dict[str, Any]] = {}
    manifests: dict[Path, dict[str, Any]] = {}
    for folder in residuals:
        manifests[folder] = read_manifest(folder, kind="sae", deep=True)
        trained_on = manifests[folder]["stats"].get("base")
        if trained_on is None:
            raise ValueError(
                f"{folder} is no residual SAE: it was not trained on the error of a frozen one, "
                "so its sum with another reconstructs nothing; give one of a variant with error_of"
            )
        if trained_on != digest:
            raise ValueError(
                f"{folder} was trained on the error of another SAE than {base}, or that has "
                "changed since: give the one that it was trained on, or train it anew"
            )
        found[folder] = subject_of(folder)
    if not found:
        raise ValueError(_NOTHING_TO_ADD)
    first, *others = found
    for folder in others:
        if found[folder] != found[first]:
            raise ValueError(
                f"{folder} reads {found[folder]}, {first} reads {found[first]}: residual SAEs of "
                "one subject and site can be added"
            )
    check_place(place, manifests)
    return found[first]
