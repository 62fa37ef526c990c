"""The dead-latent term."""

from __future__ import annotations

import torch
from torch import Tensor

from saeflow.sae import settings as config
from saeflow.sae.model import SAE
from saeflow.sae.preactivations import Preactivations
from saeflow.sae.selection import SelectTopK
from saeflow.sae.sparse import decode_pairs, encode_pairs
from saeflow.sae.step import LossTerm, Step, total

_LEAST_SHARE = 1e-3
"""Of the error's mean square, the least that counts as its variance."""
_LEAST_VARIANCE = 1e-12


class AuxKLoss(LossTerm):
    """Error of rebuilding the error with the top dead latents (Gao et al. 2024, App. A.2).

    The target is detached; gradient reaches the dead latents' encoder and decoder. With `normalise`
    the squared error is divided by the error's variance over the batch, both summed over
    dimensions, so that the term keeps its size while the reconstruction improves. Where tokens err
    alike, and so hardly vary, the divisor is a thousandth of the error's mean square instead.
    Without, it is the mean square over dimensions (the code of Bussmann et al. 2024). Zero where
    none is dead.
    """

    name = "auxk"

    def __init__(self, settings: config.AuxK, d_in: int) -> None:
        self.settings, self.weight = settings, settings.coefficient
        self.k = settings.k or max(1, d_in // 2)

    def __call__(self, sae: SAE, step: Step) -> Tensor:
        """Return each token's squared error (batch,)."""
        dead = step.dead_f.nonzero().squeeze(1)
        if not len(dead):
            return step.target_bd.new_zeros(step.batch)
        error_bd = step.error_bd
        squares_b = (self._rebuilt(sae, step, dead) - error_bd).square().sum(1)
        if not self.settings.normalise:
            return squares_b / error_bd.shape[1]
        mean_square = step.ranks.mean(total(error_bd.square()) / step.batch)
        variance = step.variance(error_bd).maximum(_LEAST_SHARE * mean_square)
        return squares_b / variance.clamp_min(_LEAST_VARIANCE)

    def _rebuilt(self, sae: SAE, step: Step, dead: Tensor) -> Tensor:
        """Return what the dictionary of the dead latents alone makes of the error (batch, d_in)."""
        W_enc = sae.W_enc.t().index_select(0, dead).t()
        W_dec, b_enc = sae.W_dec.index_select(0, dead), sae.b_enc.index_select(0, dead)
        with torch.no_grad():
            chunks = Preactivations(step.input_bd, W_enc, b_enc)
            pairs, values_p = SelectTopK(min(self.k, len(dead)))(chunks, (step.batch, len(dead)))
        b_dec = sae.b_dec if sae.apply_b_dec_to_input else None
        active_p = encode_pairs(values_p, step.input_bd, W_enc, b_enc, b_dec, pairs)
        return decode_pairs(active_p, W_dec, pairs)[:, 0]
