"""An SAE with new latents beside its own: where the new ones start, and how its own stay.

The extended SAE is a baseline of SAE Boost (Koriagin et al. 2025), which says of its new latents
that they start at random or from the most active ones, and no more. Here the most active latents
are those of the largest mean activation, a decoder row's norm counted in: what a latent writes on
average. A firing rate would prefer latents that write little on every token, and is the same for
many of a sample.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from saeflow.sae.initial import initial_latents
from saeflow.sae.latents import Latents
from saeflow.sae.model import SAE
from saeflow.sae.parts import BASE, listed
from saeflow.sae.preactivations import chunk_rows
from saeflow.sae.seeding import generator
from saeflow.sae.settings import Extension, SAESettings

_UNIT = 1e-3
"""How far from 1 the norm of a decoder row of unit norm may be."""


class Sample(NamedTuple):
    """Activations of the training, by which new latents are chosen or set."""

    raw_nd: Tensor
    """As they are in the cache."""
    x_nd: Tensor
    """As they are trained on."""
    rms: float
    """Root mean square of an entry that is trained on."""


def added_latents(
    settings: SAESettings,
    extend: Extension,
    source: SAE,
    latents: Latents,
    b_dec: Tensor,
    sample: Sample,
) -> Latents:
    """Return the new latents of `source`, whose own are `latents` with `b_dec` as they train.

    At random they are `initial_latents`. Otherwise they are copies of the most active ones, of
    equals the first, encoder and decoder rows turned in one seeded direction: what a copy reads
    more it writes more. At the first step a copy adds its part to that of its original.
    """
    draw = generator(settings.seed, "added latents")
    if extend.initialise == "random":
        return initial_latents(settings, extend.latents, sample.x_nd, b_dec, sample.rms, draw)
    mean_f = _activity(source, sample.raw_nd).mean_f
    chosen = mean_f.argsort(descending=True, stable=True)[: extend.latents]
    noise_nd = torch.randn(len(chosen), source.d_in, generator=draw)
    noise_nd *= extend.noise / noise_nd.norm(dim=1, keepdim=True)
    return Latents(
        _turned(latents.W_enc_fd[chosen], noise_nd),
        _turned(latents.W_dec[chosen], noise_nd),
        latents.b_enc[chosen],
        {name: learnt_f[chosen] for name, learnt_f in latents.learnt.items()},
    )


class _Activity(NamedTuple):
    mean_f: Tensor
    """Mean length of what each latent writes, (d_sae,)."""
    l0: float
    """Mean number of active latents."""


def _activity(source: SAE, raw_nd: Tensor) -> _Activity:
    sums_f, active = torch.zeros(source.d_sae, dtype=torch.float64), 0
    for part in raw_nd.split(chunk_rows(len(raw_nd), source.d_sae, raw_nd.is_cuda)):
        acts_bf = source.encode(part)
        sums_f += acts_bf.sum(0, dtype=torch.float64)
        active += int(torch.count_nonzero(acts_bf))
    mean_f = sums_f * source.W_dec.norm(dim=1) / len(raw_nd)
    return _Activity(mean_f, active / len(raw_nd))


def _turned(rows_nd: Tensor, noise_nd: Tensor) -> Tensor:
    """Return the rows turned towards `noise_nd`, in units of their length, which they keep."""
    length_n1 = rows_nd.norm(dim=1, keepdim=True)
    tiny = torch.finfo(rows_nd.dtype).tiny
    moved_nd = rows_nd + length_n1 * noise_nd
    return moved_nd * (length_n1 / moved_nd.norm(dim=1, keepdim=True).clamp_min(tiny))


def frozen_mistakes(settings: SAESettings, source: SAE, raw_nd: Tensor) -> Iterator[str]:
    """Yield why the latents of `source` cannot stay as they are while new ones train."""
    variant = settings.variant
    if not settings.frozen_latents:
        return
    if variant.centred != source.apply_b_dec_to_input:
        does = "subtracts b_dec from" if source.apply_b_dec_to_input else "subtracts no b_dec from"
        yield (
            f"{does} its input, and its encoder biases stay with extend.frozen: set "
            f"apply_b_dec_to_input: {str(source.apply_b_dec_to_input).lower()}"
        )
    if variant.steered and (l0 := _activity(source, raw_nd).l0) >= settings.l0:
        yield (
            f"has an L0 of {l0:.3g} on these activations, which stays with extend.frozen and "
            f"leaves nothing of l0 {settings.l0} to new latents: set a larger l0, or frozen: false"
        )


def kept(settings: SAESettings, source: SAE) -> SAE | None:
    """Return the SAE whose latents the finished one has bit for bit; None where it has none.

    None too where the decoder rows of `source` are not of unit norm and the variant's are: then
    its latents are kept at unit norm, up to rounding.
    """
    if not settings.frozen_latents:
        return None
    free = settings.variant.decoder_norm == "free"
    unit = bool((source.W_dec.norm(dim=1) - 1).abs().max() <= _UNIT)
    return source if free or unit else None


@torch.no_grad()
def put_back(settings: SAESettings, sae: SAE, source: SAE) -> None:
    """Overwrite the first latents of a finished `sae`, and its b_dec, by those of `source`.

    Scaling a weight and back need not give the same bits. One threshold of all latents, which
    BatchTopK calibrates anew, stays.
    """
    own = slice(source.d_sae)
    sae.W_enc[:, own], sae.W_dec[own], sae.b_enc[own] = source.W_enc, source.W_dec, source.b_enc
    sae.b_dec.copy_(source.b_dec)
    names = {"jumprelu": ("threshold",), "gated": ("scale", "shift")}
    for name in names.get(settings.variant.activation, ()):
        sae.activation.get_buffer(name)[own] = source.activation.get_buffer(name)


def extended_parts(settings: SAESettings, digest: str) -> list[dict[str, Any]]:
    """Return whose the latents are: first those of the SAE with `digest`, then the new ones."""
    own, new = settings.start_width, settings.added_latents
    return listed([(own, {"role": BASE, "sha256": digest}), (new, {"role": "added"})])
