"""Latents taken to zero in means over documents, and what linear probes make of it.

The SAE's error stays, so that an activation changes by what the latents S wrote: x' = x - f_S
W_dec_S. Both the mean over a document's tokens and a probe are linear, so that a document's logit
changes by exactly -mean(f_S) (W_dec_S . w): no token is looked at again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array

from saeflow.evaluation.linear_probes import LinearProbes
from saeflow.sae.boosted import Boosted
from saeflow.sae.model import SAE


class Ablated(NamedTuple):
    """Logits of documents with some latents taken to zero."""

    asked: int
    """How many latents were to be ablated."""
    latents: int
    """How many were: those with an effect, and no more than there are."""
    logits_nc: NDArray


@torch.no_grad()
def logit_weights(sae: SAE | Boosted, probes: LinearProbes) -> NDArray:
    """Return what one unit of each latent adds to each probe's logit, (d_sae, c)."""
    return (sae.W_dec @ probes.weight_cd.to(sae.W_dec).T).cpu().numpy()


def by_effect(effect_f: NDArray) -> NDArray[np.int64]:
    """Return the latents whose effect is not zero, the largest first (SAEBench)."""
    order = np.argsort(-effect_f, kind="stable")
    return order[effect_f[order] != 0]


def ablate(
    logits_nc: NDArray,
    latents_nf: csr_array,
    weights_fc: NDArray,
    order: NDArray[np.int64],
    sizes: Sequence[int],
) -> Iterator[Ablated]:
    """Yield the logits (documents, c) without the first latents of `order`, as many as each size.

    `latents_nf` are means of what is written (`pool` with `written`), `weights_fc` those of
    `logit_weights`.
    """
    order = order[: max(sizes)]
    among_nf = latents_nf[:, order].toarray()
    for size in sizes:
        written_nc = among_nf[:, :size] @ weights_fc[order[:size]]
        yield Ablated(size, len(order[:size]), logits_nc - written_nc)
