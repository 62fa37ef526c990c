"""How well an SAE rebuilds activations, and how often its latents fire."""

from __future__ import annotations

import torch
from torch import Tensor

from saeflow.evaluation.moments import Moments
from saeflow.sae.boosted import Boosted
from saeflow.sae.model import SAE

_CHUNK_ENTRIES = 2**22


class Reconstruction:
    """Streaming statistics of one SAE, alone or on top of its base, on the rows it is given.

    `added_from` is the first latent that was added to those of a base; null where none was. The
    latents of residual SAEs on top of their base are all added.
    """

    def __init__(self, sae: SAE | Boosted, added_from: int | None = None) -> None:
        d_sae, d_in = sae.W_dec.shape
        device = sae.W_dec.device
        self.sae = sae
        self.added_from = 0 if isinstance(sae, Boosted) else added_from
        self.base_fired = torch.zeros((), dtype=torch.int64, device=device)
        self.error = Moments(d_in, device)
        self.fired_f = torch.zeros(d_sae, dtype=torch.float64, device=device)
        self.activation_f = torch.zeros(d_sae, dtype=torch.float64, device=device)

    @torch.no_grad()
    def update(self, x_nd: Tensor) -> Tensor:
        """Return decode(encode(x)) (n, d_in) in float32, after counting it.

        Rows pass in chunks, so that a wide dictionary's latents never exist for all of them.
        """
        widest = self.fired_f.shape[0]
        if isinstance(self.sae, Boosted):
            widest = max(widest, self.sae.base.d_sae)
        chunks = [self._update(x) for x in x_nd.split(max(1, _CHUNK_ENTRIES // widest))]
        return torch.cat(chunks)

    def _update(self, x_nd: Tensor) -> Tensor:
        latents_nf = self.sae.encode(x_nd)
        self.fired_f += (latents_nf != 0).to(latents_nf.dtype).sum(0)
        self.activation_f += latents_nf.sum(0)
        if isinstance(self.sae, Boosted):
            base_nf = self.sae.base.encode(x_nd)
            self.base_fired += base_nf.count_nonzero()
            x_hat_nd = self.sae.decode(latents_nf, x_nd, base_nf)
        else:
            x_hat_nd = self.sae.decode(latents_nf, x_nd)
        self.error.update(x_nd - x_hat_nd)
        return x_hat_nd

    def metrics(self, inputs: Moments) -> dict[str, float]:
        """Return the reconstruction metrics against the moments of the same rows.

        - explained_variance: 1 - sum_d Var(x - x_hat)_d / sum_d Var(x)_d, both centred
        - fvu: E||x - x_hat||^2 / E||x - E x||^2, to which a constant error counts
        - l0: mean number of non-zero latents of a row
        - dead_latents: share of latents that never fire on these rows

        x_hat of a residual SAE is that of base and residual together; l0 and dead_latents are
        those of its own latents, without the base's. Where latents were added to a base also

        - l0_base, l0_added: l0 of the base's latents and of those added, together that of all
        - dead_latents_added: share of the added latents that never fire on these rows
        """
        return {
            "explained_variance": 1 - self.error.variance() / inputs.variance(),
            "fvu": self.error.mean_square() / inputs.variance(),
            "l0": float(self.fired_f.sum()) / inputs.n,
            "dead_latents": float((self.fired_f == 0).double().mean()),
            **self._of_added(inputs.n),
        }

    def _of_added(self, n: int) -> dict[str, float]:
        if self.added_from is None:
            return {}
        base_f, added_f = self.fired_f.tensor_split([self.added_from])
        return {
            "l0_base": float(base_f.sum() + self.base_fired) / n,
            "l0_added": float(added_f.sum()) / n,
            "dead_latents_added": float((added_f == 0).double().mean()),
        }
