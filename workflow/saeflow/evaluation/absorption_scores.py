"""Full absorption and absorption fraction of single activations, as SAEBench defines them.

p is a class's probe direction of length 1, and x an activation that the probe takes for the class,
rightly. A latent's *projection* is its activation times its decoder row's part along p: what it
contributes to x.p, the *total*.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from saeflow.evaluation.absorption_settings import AbsorptionSettings
from saeflow.sae.model import SAE, standardised


class Projections(NamedTuple):
    """How latents contribute to a probe's direction in n activations."""

    acts_nf: Tensor
    projection_nf: Tensor
    cosine_f: Tensor
    """Of the decoder's rows to the direction."""
    total_n: Tensor
    """Projection of the activations themselves."""


class Absorption(NamedTuple):
    """The scores of n activations, and which latents they come from."""

    full_n: Tensor
    """Whether one latent does the work of the silent main latents."""
    fraction_n: Tensor
    """The part of the main latents' and the absorbers' work that the absorbers do."""
    top_n: Tensor
    """The latent with the largest projection."""
    absorber_na: Tensor
    """The latents that could absorb a fraction, largest projection first."""
    absorbed_na: Tensor
    """Their projections, 0 where there are fewer."""


@torch.no_grad()
def projections(sae: SAE, x_nd: Tensor, direction_d: Tensor) -> Projections:
    """Return the projections of activations (n, d_in) on a direction (d_in,) of any length.

    SAEBench multiplies activations by cosines, which is the same for decoder rows of length 1.
    """
    direction_d = direction_d / direction_d.norm()
    acts_nf = sae.encode(x_nd)
    projection_nf = acts_nf * (sae.W_dec @ direction_d)
    if sae.standardise:
        projection_nf *= standardised(x_nd).deviation_b1
    return Projections(acts_nf, projection_nf, cosines(sae, direction_d), x_nd @ direction_d)


@torch.no_grad()
def cosines(sae: SAE, direction_d: Tensor) -> Tensor:
    """Return the cosines (d_sae,) of the decoder's rows to a direction (d_in,)."""
    return cosine_similarity(sae.W_dec, direction_d, dim=1)


def absorption(settings: AbsorptionSettings, of: Projections, main: Sequence[int]) -> Absorption:
    """Return the absorption of the latents `main` in each activation.

    *Full*: the main latents are silent, and the latent with the largest projection has a cosine of
    `full_cosine` and makes up `projection_share` of a total that is not negative. *Fraction*: the
    main latents' projection is M and that of the absorbers A (the `max_absorbers` largest positive
    projections of other latents, with a cosine of `fraction_cosine`). It is 0 where M reaches the
    total or A is below `projection_share` of it, 1 where M is 0 or less, and else a / (a + M) with
    a = min(A, total - M).
    """
    top_n, top_projection_n = of.projection_nf.argmax(1), of.projection_nf.amax(1)
    needed_n = settings.projection_share * of.total_n
    silent_n = (of.acts_nf[:, main].abs() < settings.silent).all(1)
    full_n = (
        silent_n
        & (of.cosine_f[top_n] >= settings.full_cosine)
        & (of.total_n >= 0)
        & (top_projection_n >= needed_n)
        & (top_projection_n > 0)
    )
    may_absorb_f = of.cosine_f >= settings.fraction_cosine
    may_absorb_f[main] = False
    most = min(settings.max_absorbers, len(may_absorb_f))
    absorbed_na, absorber_na = of.projection_nf.clamp_min(0).mul(may_absorb_f).topk(most, dim=1)
    fraction_n = _fraction(
        of.projection_nf[:, main].sum(1), absorbed_na.sum(1), of.total_n, needed_n
    )
    return Absorption(full_n, fraction_n, top_n, absorber_na, absorbed_na)


def _fraction(main_n: Tensor, absorbed_n: Tensor, total_n: Tensor, needed_n: Tensor) -> Tensor:
    a_n = torch.minimum(absorbed_n, total_n - main_n)
    partial_n = (a_n / (a_n + main_n)).clamp(0, 1)
    # A share of a total that is not positive is not positive either, and no absorption.
    none_n = (main_n >= total_n) | (absorbed_n < needed_n) | (total_n <= 0)
    fraction_n = torch.where(main_n <= 0, 1.0, partial_n)
    return torch.where(none_n, 0.0, fraction_n)
