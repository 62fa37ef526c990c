"""SAEs with a part of their latents: SSAE's compressed SAEs, and the columns of an ablation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from saeflow.sae.activation_functions import Gated, JumpReLU, TopK
from saeflow.sae.model import SAE

Rule = Literal["frequency", "attribution", "first"]


def columns(sae: SAE, index: Tensor) -> SAE:
    """Return the SAE with the latents `index` alone; what the others wrote becomes its error.

    ReLU, JumpReLU and gated latents stay exactly as active as they were. Those of TopK compete, so
    that fewer of them are each more often among the k.
    """
    match sae.activation:
        case TopK(k=k):
            activation: torch.nn.Module = TopK(min(k, len(index)))
        case JumpReLU(threshold=threshold_f):
            activation = JumpReLU(threshold_f[index])
        case Gated() as gated:
            activation = Gated(gated.scale[index], gated.shift[index])
        case other:
            activation = other
    return SAE(
        sae.W_enc.detach()[:, index],
        sae.W_dec.detach()[index],
        sae.b_enc.detach()[index],
        sae.b_dec.detach(),
        activation,
        apply_b_dec_to_input=sae.apply_b_dec_to_input,
        standardise=sae.standardise,
    ).requires_grad_(False)


def encoder_of(sae: SAE, index: Tensor) -> Callable[[Tensor], Tensor]:
    """Return the function from activations (n, d_in) to the latents `index` (n, k) of the SAE.

    Only their columns are computed, but for TopK: where latents compete, which of them are active
    cannot be told from their columns alone.
    """
    if isinstance(sae.activation, TopK):
        return lambda x_nd: sae.encode(x_nd)[:, index]
    return columns(sae, index).encode


def kept_latents(d_sae: int, share: float, rule: Rule, score_f: Tensor | None) -> Tensor:
    """Return the sorted indices of the latents that a slice keeps: at least one.

    `score_f` (d_sae,) is how often each is active, or its effect, whose absolute value counts; of
    equal latents the first are kept. Raises ValueError for a rule that has no scores.
    """
    n = max(1, round(share * d_sae))
    if rule == "first":
        return torch.arange(n)
    if score_f is None:
        raise ValueError(f"slicing by {rule} needs a score of each latent")
    return score_f.abs().argsort(descending=True, stable=True)[:n].sort().values.cpu()
