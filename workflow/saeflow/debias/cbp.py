"""The concept bottleneck probe: a classifier that sees nothing but similarities to concepts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from saeflow.debias.patched import padded, states_at
from saeflow.subjects.load import Subject


@torch.no_grad()
def concept_vectors(subject: Subject, keywords: Sequence[str], site: str) -> Tensor:
    """Return the concepts (k, d): the state at a keyword's last token, less the mean of all.

    Each keyword follows a space (Marks et al. 2024, appendix).
    """
    bos = subject.begin_tokens
    rows = [
        [*bos, *subject.tokenizer(f" {word}", add_special_tokens=False)["input_ids"]]
        for word in keywords
    ]
    tokens_bt, lengths_b = padded(rows)
    states_btd = states_at(subject, tokens_bt, site).float().cpu()
    last_kd = states_btd[torch.arange(len(rows)), lengths_b - 1]
    return last_kd - last_kd.mean(0)


def similarities(
    x_nd: Tensor, concepts_kd: Tensor, normalise: Literal["concepts", "both"]
) -> Tensor:
    """Return the bottleneck (n, k): products with concepts of unit norm, or cosines."""
    similar_nk = x_nd @ (concepts_kd / concepts_kd.norm(dim=1, keepdim=True)).T
    return similar_nk / x_nd.norm(dim=1, keepdim=True) if normalise == "both" else similar_nk
