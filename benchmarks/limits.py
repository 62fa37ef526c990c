"""What this machine can do at best with the products that a training step needs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn.functional import embedding_bag


@dataclass
class Limits:
    """The best seconds seen so far of the parts of an ideal float32 step with k active latents."""

    product: float = math.inf
    """x_bd @ W_enc, the one product that must be dense."""
    bag: float = math.inf
    """A weighted sum of k rows for each token; an ideal step has four of that size."""
    adam: float = math.inf
    """Fused Adam on both weight matrices."""

    @property
    def step(self) -> float:
        """Seconds of an ideal step."""
        return self.product + 4 * self.bag + self.adam

    def measure(self, batch: int, d_in: int, d_sae: int, k: int, repeats: int = 3) -> None:
        """Time each part `repeats` times and keep the best of all calls."""
        x_bd, out_bf = torch.randn(batch, d_in), torch.empty(batch, d_sae)
        W_fd, W_df = torch.randn(d_sae, d_in), torch.randn(d_in, d_sae)
        latents_bk, values_bk = torch.randint(d_sae, (batch, k)), torch.rand(batch, k)
        parameters = [torch.zeros(d_sae, d_in, requires_grad=True) for _ in range(2)]
        for parameter in parameters:
            parameter.grad = torch.randn(d_sae, d_in)
        adam = torch.optim.Adam(parameters, fused=True)

        def bag() -> None:
            embedding_bag(latents_bk, W_fd, per_sample_weights=values_bk, mode="sum")

        layouts = (
            lambda: torch.mm(x_bd, W_fd.t(), out=out_bf),
            lambda: torch.mm(x_bd, W_df, out=out_bf),
        )
        self.product = min(self.product, *(best_seconds(mm, repeats) for mm in layouts))
        self.bag = min(self.bag, best_seconds(bag, repeats))
        self.adam = min(self.adam, best_seconds(adam.step, repeats))


def best_seconds(work: Callable[[], object], repeats: int) -> float:
    """Return the least time of `repeats` calls, after one to warm up."""
    work()
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return min(seconds)
