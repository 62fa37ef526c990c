"""What an SAE does on each token type, and each latent on the types, over a stream of rows."""

from __future__ import annotations

import torch
from torch import Tensor

from saeflow.evaluation.pair_sums import PairSums
from saeflow.sae.boosted import Boosted
from saeflow.sae.model import SAE

_CHUNK_ENTRIES = 1 << 22


class TypeStatistics:
    """Streaming sums by token type and by latent; `vocab_size` types, of which few may occur."""

    def __init__(self, sae: SAE | Boosted, vocab_size: int) -> None:
        d_sae, device = sae.W_dec.shape[0], sae.W_dec.device
        self.sae = sae

        def zeros(size: int) -> Tensor:
            return torch.zeros(size, dtype=torch.float64, device=device)

        self.count_v = zeros(vocab_size)
        self.error_v, self.error_square_v = zeros(vocab_size), zeros(vocab_size)
        """Sums of ||x - x_hat||^2 and of its square over the type's tokens."""
        self.error_max_v = zeros(vocab_size)
        self.largest_v = zeros(vocab_size)
        """Largest activation of any latent on any token of the type."""
        self.peaks_v = zeros(vocab_size)
        """Sum over the type's tokens of the token's largest activation."""
        self.fired_f = zeros(d_sae)
        """Tokens on which the latent is not zero."""
        self.best_f = zeros(d_sae)
        self.best_type_f = torch.full((d_sae,), -1, dtype=torch.int64, device=device)
        """Largest activation of the latent, and the type of the first token that has it."""
        self.mass = PairSums(vocab_size, d_sae)
        """Summed activation by (type, latent)."""

    @torch.no_grad()
    def update(self, x_nd: Tensor, types_n: Tensor) -> None:
        """Add rows: activations (n, d_in) float32 and their token types (n,)."""
        if len(x_nd) == 0:
            return
        rows = max(1, _CHUNK_ENTRIES // len(self.fired_f))
        for x, types in zip(x_nd.split(rows), types_n.split(rows), strict=True):
            self._update(x, types)

    def _update(self, x_nd: Tensor, types_n: Tensor) -> None:
        latents_nf = self.sae.encode(x_nd)
        error_n = (x_nd - self.sae.decode(latents_nf, x_nd)).double().square().sum(1)
        peak_n = latents_nf.amax(1).double()
        self.count_v.index_add_(0, types_n, torch.ones_like(error_n))
        self.error_v.index_add_(0, types_n, error_n)
        self.error_square_v.index_add_(0, types_n, error_n.square())
        self.peaks_v.index_add_(0, types_n, peak_n)
        self.error_max_v.scatter_reduce_(0, types_n, error_n, "amax")
        self.largest_v.scatter_reduce_(0, types_n, peak_n, "amax")
        best = latents_nf.max(0)
        better_f = best.values > self.best_f
        self.best_f[better_f] = best.values[better_f].double()
        self.best_type_f[better_f] = types_n[best.indices[better_f]]
        rows_p, latents_p = latents_nf.nonzero(as_tuple=True)
        self.fired_f += torch.bincount(latents_p, minlength=len(self.fired_f))
        pairs = types_n[rows_p], latents_p, latents_nf[rows_p, latents_p]
        self.mass.add(*(part.cpu().numpy() for part in pairs))
