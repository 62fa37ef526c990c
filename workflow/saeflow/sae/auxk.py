"""The dead-latent term."""

from __future__ import annotations

import torch
from torch import Tensor

from saeflow.sae import settings as config
from saeflow.sae.model import SAE
from saeflow.sae.sparse import Pairs, decode_pairs, encode_pairs
from saeflow.sae.step import LossTerm, Step, total


class AuxKLoss(LossTerm):
    """Error of rebuilding the error with the top dead latents (Gao et al. 2024, App. A.2).

    Divided by the error's variance over the batch, so that the term keeps its size while the
    reconstruction improves. The target is detached; gradient reaches the dead latents' encoder
    and decoder. Zero where no latent is dead.
    """

    name = "auxk"

    def __init__(self, settings: config.AuxK, d_in: int) -> None:
        self.settings, self.weight = settings, settings.coefficient
        self.k = settings.k or max(1, d_in // 2)

    def __call__(self, sae: SAE, step: Step) -> Tensor:
        """Return the normalised squared error."""
        dead = step.dead_f.nonzero().squeeze(1)
        if not len(dead):
            return step.target_bd.new_zeros(())
        error_bd = step.error_bd
        pairs, values_p = self._select(sae, step, dead)
        active_p = encode_pairs(
            values_p, step.input_bd, sae.W_enc, sae.b_enc, sae.b_dec if sae.apply_b_dec_to_input else None, pairs
        )
        rebuilt_bd = decode_pairs(active_p, sae.W_dec, pairs)[:, 0]
        squares_b = (rebuilt_bd - error_bd).square().sum(1)
        if not self.settings.normalise:
            return squares_b / error_bd.shape[1]
        variance = total((error_bd - error_bd.mean(0)).square()) / len(error_bd)
        return squares_b / variance.clamp_min(1e-12)

    @torch.no_grad()
    def _select(self, sae: SAE, step: Step, dead: Tensor) -> tuple[Pairs, Tensor]:
        """Return each token's top k positive dead latents and their pre-activations."""
        pre_bn = torch.addmm(sae.b_enc[dead], step.input_bd, sae.W_enc[:, dead])
        if self.k < len(dead):
            kept_bk = pre_bn.topk(self.k, dim=1, sorted=False).indices
            pre_bn = torch.zeros_like(pre_bn).scatter(1, kept_bk, pre_bn.gather(1, kept_bk))
        rows, columns = (pre_bn > 0).nonzero(as_tuple=True)
        shape = (len(step.target_bd), sae.d_sae)
        return Pairs(rows, dead[columns], shape), pre_bn[rows, columns]
