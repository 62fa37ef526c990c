"""The latents that fine-tuning changed most, grafted into the SAE that it started from.

A baseline of Koriagin et al. 2025, there called stitching, which adds no latents that were trained
as an addition: a copy of the base was trained further on the domain, as a whole, and what changed
most of it is taken over. The paper leaves open how change is measured and whether grafted latents
come beside the originals or in their place; here both are arguments.

- `change`: by default the cosine distance between a latent's two decoder rows. What a graft brings
  is what its latents write; the encoder moves also where a latent only learns to fire more rarely.
- `replace`: by default off, so that a graft adds as many latents as a residual SAE has, which is
  what methods are compared at. x_hat is then base(x) plus what the grafted latents write, and
  nobody trained that sum: where a latent fires in both versions, it writes twice what the two have
  in common. The less a latent has changed the more that is, and of one that has not changed all.
  With `replace` its original goes: each latent writes once, in an SAE of the base's width, which
  is between base and fine-tuned SAE. The originals go wherever they fired, in general text too.

The decoder bias is the base's in both: the fine-tuned SAE has one for a whole reconstruction, which
the base gives already.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from saeflow.artifacts import Clock, read_manifest
from saeflow.fingerprint import fingerprint
from saeflow.sae.activation_functions import Gated, JumpReLU
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

Change = Literal["decoder", "encoder", "both"]
"""Cosine distance of a latent's decoder rows, encoder columns, or the mean of the two."""
_UNCHANGED = 1e-12
"""Cosine distance that rounding alone makes: weights are scaled for training and back in float32,
which moves a direction by some 1e-7, and the distance is half the square of that."""


@torch.no_grad()
def grafted(
    base: SAE, tuned: SAE, latents: int, *, change: Change = "decoder", replace: bool = False
) -> SAE:
    """Return `base` with the `latents` latents of `tuned` that changed most, those at the end.

    They fire and write as they do in `tuned`, the most changed first, beside the base's latents
    or, with `replace`, in place of their originals. Kept latents and the decoder bias are the
    base's. ReLU and JumpReLU (BatchTopK at inference) become JumpReLU, and where one of the two is
    gated all become gated. Raises ValueError for SAEs of different shapes, for TopK and what
    standardises its input, and for more latents than have changed or, with `replace`, than leave
    one of the base.
    """
    named = {"the base": base, "the fine-tuned SAE": tuned}
    return _graft(named, _chosen(named, latents, change, replace), replace)


def save_grafted(
    base: Path,
    tuned: Path,
    out: Path,
    latents: int,
    *,
    change: Change = "decoder",
    replace: bool = False,
    place: GridPlace | None = None,
) -> Path:
    """Write `base` with grafted latents of `tuned` as one SAELens checkpoint; return its manifest.

        save_grafted(Path("published"), Path("tuned/seed0"), Path("out"), 1024)

    `base` is in any layout that `load_sae` reads, `tuned` the folder of an SAE that this workflow
    trained from it (`init_from`). `metadata.stitched` of `cfg.json` and `stats.stitched` of the
    manifest list the two with role, path, digest and the latents that are theirs, from `start` to
    before `stop`; `latents` of the grafted part says which of the fine-tuned SAE's they are, and
    so, with `replace`, which of the base's are gone. The evaluation measures what has a `place`.
    Raises FormatError for a malformed base, ArtifactError for an unfinished or damaged `tuned`, and
    ValueError where that did not start from `base`, for an `out` that holds something else, for a
    place with another cache, and for what `grafted` refuses; nothing is written then.
    """
    clock = Clock()
    check_out(out, [base, tuned])
    digest = sae_digest(base)
    named = {str(base): load_sae(base)}
    _check_tuned(tuned, base, digest, place)
    named[str(tuned)] = load_sae(tuned)
    chosen = _chosen(named, latents, change, replace)
    sae = _graft(named, chosen, replace)
    whose = {"role": BASE, "path": str(base), "sha256": digest}
    graft = {"role": "grafted", "path": str(tuned), "sha256": sae_digest(tuned)}
    return save_side_by_side(
        sae,
        out,
        listed([(sae.d_sae - latents, whose), (latents, {**graft, "latents": chosen.tolist()})]),
        subject_of(tuned),
        settings={
            "base": str(base),
            "tuned": str(tuned),
            "latents": latents,
            "change": change,
            "replace": replace,
        },
        inputs={"tuned": tuned},
        place=place,
        code=fingerprint(__name__, "saeflow.sae.foreign"),
        clock=clock,
    )


@torch.no_grad()
def changes(base: SAE, tuned: SAE, change: Change = "decoder") -> Tensor:
    """Return how far each latent of `tuned` is from that of `base` (d_sae,), from 0 to 2.

    Raises ValueError for SAEs of different shapes and another `change`.
    """
    if (base.d_sae, base.d_in) != (tuned.d_sae, tuned.d_in):
        raise ValueError(
            f"the base has {base.d_sae} latents of width {base.d_in}, the fine-tuned SAE "
            f"{tuned.d_sae} of {tuned.d_in}: a latent's change is that to its own original, so "
            "give the SAE that the fine-tuning started from"
        )
    moved = {
        "decoder": lambda: _distance(base.W_dec, tuned.W_dec),
        "encoder": lambda: _distance(base.W_enc.t(), tuned.W_enc.t()),
        "both": lambda: (changes(base, tuned, "decoder") + changes(base, tuned, "encoder")) / 2,
    }
    if change not in moved:
        raise ValueError(f"change is {change!r}, it can be {', '.join(moved)}")
    return moved[change]()


def _distance(one_fd: Tensor, other_fd: Tensor) -> Tensor:
    """Return the cosine distance of rows (d_sae,).

    As half the squared distance of unit vectors, which keeps small changes that 1 - cosine rounds
    away, and finds none between two rows of zeros.
    """
    apart_fd = normalize(one_fd.double(), dim=1) - normalize(other_fd.double(), dim=1)
    return apart_fd.square().sum(1) / 2


def _chosen(named: Mapping[str, SAE], latents: int, change: Change, replace: bool) -> Tensor:
    """Return the latents (latents,) that changed most, the most changed first; of equals the first.

    `named` are base and fine-tuned SAE by what messages say. Raises what `grafted` raises.
    """
    check_alike(named, "")
    base, tuned = named.values()
    change_f = changes(base, tuned, change)
    changed = int((change_f > _UNCHANGED).sum())
    if not 1 <= latents <= changed:
        raise ValueError(
            f"{latents} latents cannot be grafted: fine-tuning changed {changed} of the "
            f"{base.d_sae} (change: {change}), and one that did not change is its original a "
            "second time; graft fewer, or train longer"
        )
    if replace and latents == base.d_sae:
        raise ValueError(
            f"with replace all {latents} latents would be the fine-tuned SAE's and none the "
            "base's: graft fewer, or use the fine-tuned SAE itself"
        )
    return torch.sort(change_f, descending=True, stable=True).indices[:latents]


@torch.no_grad()
def _graft(named: Mapping[str, SAE], chosen: Tensor, replace: bool) -> SAE:
    base, tuned = named.values()
    kept_f = torch.ones(base.d_sae, dtype=torch.bool)
    kept_f[chosen] = not replace
    saes = [_only(base, kept_f.nonzero()[:, 0]), _only(tuned, chosen)]
    return side_by_side(saes, base.b_dec.double())


def _only(sae: SAE, latents: Tensor) -> SAE:
    """Return an SAE of some latents, in the order given; it reads and adds b_dec as before."""
    activation: nn.Module = nn.ReLU()
    if isinstance(sae.activation, JumpReLU):
        activation = JumpReLU(sae.activation.threshold[latents])
    elif isinstance(sae.activation, Gated):
        activation = Gated(sae.activation.scale[latents], sae.activation.shift[latents])
    return SAE(
        sae.W_enc[:, latents],
        sae.W_dec[latents],
        sae.b_enc[latents],
        sae.b_dec,
        activation,
        apply_b_dec_to_input=sae.apply_b_dec_to_input,
    )


def _check_tuned(tuned: Path, base: Path, digest: str, place: GridPlace | None) -> None:
    """Raise unless `tuned` is whole and was trained from `base`, which has this digest.

    And on the cache of `place`.
    """
    manifest = read_manifest(tuned, kind="sae", deep=True)
    start = manifest["stats"].get("init")
    if start is None:
        raise ValueError(
            f"{tuned} was not fine-tuned: it started from no other SAE, so its latents are none of "
            f"{base} that changed; give one of a variant with init_from"
        )
    if start["sae"] != digest:
        raise ValueError(
            f"{tuned} was fine-tuned from another SAE than {base}, or that has changed since: give "
            "the one that it started from, or train it anew"
        )
    check_place(place, {tuned: manifest})
