"""Where further training starts: a finished SAE, brought back to the form and scale that train.

Rule: the first step finds the very function of the SAE that is trained further, up to rounding, and
the latents that `extend` adds come on top (see `extended`). An SAE whose function a variant cannot
have is refused.
"""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from saeflow.artifacts import MANIFEST, read_manifest
from saeflow.sae.activation_functions import Gated, JumpReLU, TopK
from saeflow.sae.equivalent import gated_magnitude
from saeflow.sae.extended import Sample, added_latents, frozen_mistakes
from saeflow.sae.formats import load_sae
from saeflow.sae.identity import sae_digest
from saeflow.sae.latents import Latents, joined, training_sae
from saeflow.sae.model import SAE
from saeflow.sae.settings import SAESettings

_STARTS_FROM = {
    "relu": nn.ReLU,
    "topk": TopK,
    "batchtopk": JumpReLU,
    "jumprelu": JumpReLU,
    "gated": Gated,
}
"""Activation function of the finished SAE that a variant's can go on from."""
_ALIKE = 1e-3
"""Largest relative spread of what must be the same for all latents."""


class Start(NamedTuple):
    """An SAE to be trained further."""

    sae: SAE
    """As it was finished: it reads and writes raw activations."""
    l1: float | None = None
    """L1 coefficient that its training ended with, of raw activations; None without or unknown."""


def load_start(path: str | Path) -> Start:
    """Return the SAE at `path`, in any layout that `load_sae` reads.

    Its L1 coefficient is known from a manifest beside it. Raises FormatError for a malformed SAE
    and ArtifactError for a damaged one of this workflow.
    """
    return Start(load_sae(path), _l1(Path(path)))


def start_identity(path: str | Path) -> dict[str, Any]:
    """Return what makes the start another one: weights, config and L1 coefficient."""
    return {"sae": sae_digest(path), "l1": _l1(Path(path))}


def _l1(path: Path) -> float | None:
    """Return the last L1 coefficient, in the space of raw activations.

    Training minimises mean_d (s error)^2 + coefficient * s * sum f of activations scaled by s, so
    that the balance of the two is that of coefficient / s.
    """
    folder = path if path.is_dir() else path.parent
    if not (folder / MANIFEST).is_file():
        return None
    stats = read_manifest(folder, kind="sae")["stats"]
    coefficient = stats["l1_coefficient"]
    return None if coefficient is None else coefficient / stats["scale"]


@torch.no_grad()
def continued_sae(settings: SAESettings, source: SAE, sample: Sample, factor: float) -> SAE:
    """Return `source` as an SAE that trains on activations like `sample`, scaled by `factor`.

    The inverse of `Trainer.finished`. Decoder rows are put to unit norm where the variant keeps
    them there, b_dec is put before the encoder or taken from there as the variant has it, and
    JumpReLU's thresholds and a gated SAE's magnitudes are taken over; BatchTopK selects anew and
    calibrates its threshold anew. With `extend`, new latents follow those of `source`. Raises
    ValueError for an SAE that does not fit the settings, with the reason.
    """
    variant = settings.variant
    _check(settings, source, sample.raw_nd)
    norm_f = torch.ones(source.d_sae)
    if variant.decoder_norm == "unit":
        norm_f = source.W_dec.norm(dim=1)
    rescale_f = norm_f * factor
    W_enc_fd = source.W_enc.t() * norm_f[:, None]
    b_dec = source.b_dec * factor
    b_enc = source.b_enc * rescale_f
    b_enc += (int(variant.centred) - int(source.apply_b_dec_to_input)) * (W_enc_fd @ b_dec)
    learnt = _learnt(source.activation, variant.activation, b_enc, rescale_f)
    latents = Latents(W_enc_fd, source.W_dec / norm_f[:, None], b_enc, learnt)
    if variant.extend is not None:
        new = added_latents(settings, variant.extend, source, latents, b_dec, sample)
        latents = joined(latents, new)
    return training_sae(settings, latents, b_dec, sample.rms)


def _learnt(found: nn.Module, kind: str, b_enc: Tensor, rescale_f: Tensor) -> dict[str, Tensor]:
    """Return what a training activation function takes over from the finished one."""
    if kind == "jumprelu" and isinstance(found, JumpReLU):
        return {"threshold": (found.threshold * rescale_f).clamp_min(0)}
    if kind == "gated" and isinstance(found, Gated):
        r_mag_f, b_mag_f = gated_magnitude(Gated(found.scale, found.shift * rescale_f), b_enc)
        return {"r_mag": r_mag_f, "b_mag": b_mag_f}
    return {}


def _check(settings: SAESettings, source: SAE, sample_nd: Tensor) -> None:
    """Raise ValueError unless the variant can have the function of `source`."""
    checks = (
        _width_mistakes(settings, source, sample_nd.shape[1]),
        _mistakes(settings, source),
        frozen_mistakes(settings, source, sample_nd),
    )
    for reason in chain.from_iterable(checks):
        raise ValueError(f"the SAE of init_from {reason}")


def _width_mistakes(settings: SAESettings, source: SAE, d_in: int) -> list[str]:
    if source.d_in != d_in:
        return [f"reads width {source.d_in}, the activations have {d_in}"]
    if settings.variant.extend is not None and source.d_sae != settings.start_width:
        added = settings.variant.extend.latents
        return [
            f"has {source.d_sae} latents, to which extend.latents adds {added}: set d_sae to "
            f"{source.d_sae + added}, it is {settings.d_sae}"
        ]
    if source.d_sae != settings.start_width:
        return [
            f"has {source.d_sae} latents, d_sae is {settings.d_sae}: weights fit only their own"
        ]
    return []


def _mistakes(settings: SAESettings, source: SAE) -> list[str]:
    variant, found = settings.variant, []
    kind = type(source.activation).__name__
    if not isinstance(source.activation, wanted := _STARTS_FROM[variant.activation]):
        found.append(
            f"has the activation function {kind}: {variant.activation} goes on from "
            f"{wanted.__name__} alone, as another one is another function of the same weights"
        )
    if source.standardise != (settings.training.input_scaling == "standardise"):
        found.append(
            f"{'reads standardised' if source.standardise else 'does not standardise its'} "
            f"activations, and input_scaling is {settings.training.input_scaling}: every token has "
            "a scale of its own there, which no weights make up for"
        )
    if not variant.decoder_bias and source.b_dec.any():
        found.append("has a b_dec, which decoder_bias: false takes away")
    norm_f = source.W_dec.norm(dim=1)
    if variant.decoder_norm == "unit" and not (norm_f > 0).all():
        found.append(
            f"has {int((norm_f == 0).sum())} decoder rows of norm zero, which decoder_norm: unit "
            "cannot normalise"
        )
    if variant.activation == "topk" and not _alike(norm_f):
        found.append(
            "has decoder rows of different norms: at unit norm TopK would select other latents"
        )
    if variant.activation == "batchtopk" and isinstance(source.activation, JumpReLU):
        threshold_f = source.activation.threshold.clamp_min(0)
        if not _alike(threshold_f * norm_f):
            found.append(
                "has another threshold for every latent, and batchtopk cuts all latents alike: "
                "go on with activation jumprelu"
            )
    return found


def _alike(entries_f: Tensor) -> bool:
    """Whether all entries are the same to rounding."""
    return bool((entries_f.max() - entries_f.min()) <= _ALIKE * entries_f.abs().max())
