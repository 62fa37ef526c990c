"""Which tokens have no place in a cache: special tokens, first positions and attention sinks.

The rule, the same for caching and for evaluation: a token is kept unless it is padding, a special
token of the tokenizer, among the first `skip_positions` of its window as fed to the model (a
prepended BOS counts), or an attention sink. A sink is a row whose norm at some site exceeds
`sink_norm` times that site's median norm; it is dropped at every site. Such massive activations
would swamp explained variance and kill latents.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor


def keep_mask(
    tokens_bt: Tensor, lengths_b: Tensor, special_ids: Iterable[int], skip_positions: int
) -> Tensor:
    """Return the bool mask (b, t) of tokens that the rule keeps before sinks are known.

    `lengths_b` counts the tokens of each window; what lies behind them is padding.
    """
    positions_t = torch.arange(tokens_bt.shape[1], device=tokens_bt.device)
    inside_bt = positions_t < lengths_b.to(tokens_bt.device)[:, None]
    return inside_bt & (positions_t >= skip_positions) & ~is_special(tokens_bt, special_ids)


def is_special(tokens_bt: Tensor, special_ids: Iterable[int]) -> Tensor:
    """Return the bool mask of special tokens, in the shape of `tokens_bt`."""
    special = torch.tensor(sorted(special_ids), dtype=tokens_bt.dtype, device=tokens_bt.device)
    return torch.isin(tokens_bt, special)


def sink_thresholds(
    norms: Mapping[str, Tensor], sink_norm: float | None
) -> dict[str, float] | None:
    """Return the largest kept norm of each site, `sink_norm` times the median of `norms[site]`.

    None where `sink_norm` is None: then no row is a sink. Raises ValueError naming a site whose
    median norm is zero, as such a site has nothing to cache.
    """
    if sink_norm is None:
        return None
    medians = {site: float(norms_n.median()) for site, norms_n in norms.items()}
    for site, median in medians.items():
        if median <= 0:
            raise ValueError(f"site {site}: the median activation norm is {median:g}")
    return {site: sink_norm * median for site, median in medians.items()}


def sink_mask(norms: Mapping[str, Tensor], thresholds: Mapping[str, float]) -> Tensor:
    """Return the bool mask (n,) of rows that are a sink at one site or more.

    A row that is not finite is no sink: it must be seen, not dropped.
    """
    over = [norms[s].isfinite() & (norms[s] > limit) for s, limit in thresholds.items()]
    return torch.stack(over).any(dim=0)
