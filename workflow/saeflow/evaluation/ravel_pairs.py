"""Pairs of a base and a source prompt about one attribute, ready for passes from the site on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from saeflow.activations.windows import Window, group_by_length, pad
from saeflow.evaluation.pooled import Site
from saeflow.evaluation.ravel_prompts import Known
from saeflow.evaluation.ravel_settings import RavelSettings
from saeflow.evaluation.site_rows import arithmetic
from saeflow.subjects.sites import run_to_sites


class Pair(NamedTuple):
    """Two known prompts about one attribute with different answers, by their places among these."""

    attribute: str
    base: int
    source: int
    is_cause: bool
    """Whether the answer is to become the source's; else it is to stay the base's."""


class Ready(NamedTuple):
    """Pairs with what passes need: base prompts, their targets behind them, up to the site."""

    tokens_nt: Tensor
    acts_ntd: Tensor
    """Clean activations of the site."""
    at_n: Tensor
    """Where activations are interchanged."""
    lengths: list[int]
    """Tokens of each base prompt."""
    base_nd: Tensor
    """Activations there in the base prompt, and in the source's, float32."""
    source_nd: Tensor
    targets: list[tuple[int, ...]]
    """The answer that counts as right after the interchange."""
    is_cause: list[bool]


def draw_pairs(settings: RavelSettings, known: Mapping[str, Known], attribute: str) -> list[Pair]:
    """Return cause pairs of an attribute and as many isolation pairs of the others, shuffled.

    Both prompts of a pair are about the same attribute and have different answers, also where the
    answer is to stay: those of isolation pairs would change if the latents carried that attribute
    (SAEBench). Isolation pairs are of the other attributes in equal parts. There may be fewer than
    `pairs`: none is drawn twice.
    """
    rng = Random(f"ravel pairs/{attribute}/{settings.seed}")
    cause = [Pair(attribute, *of, True) for of in _unlike(known[attribute], settings.pairs, rng)]
    others = [name for name in known if name != attribute]
    share = -(-len(cause) // len(others))
    isolation = [
        Pair(name, *of, False) for name in others for of in _unlike(known[name], share, rng)
    ]
    rng.shuffle(isolation)
    pairs = [*cause, *isolation[: len(cause)]]
    rng.shuffle(pairs)
    return pairs


def _unlike(known: Known, n: int, rng: Random) -> list[tuple[int, int]]:
    """Return up to `n` different pairs of prompts whose values differ."""
    by_value: dict[str, list[int]] = {}
    for i, prompt in enumerate(known.prompts):
        by_value.setdefault(prompt.value, []).append(i)
    others = {
        value: [i for name, of in by_value.items() if name != value for i in of]
        for value in by_value
    }
    order = list(range(len(known.prompts)))
    drawn: dict[tuple[int, int], None] = {}
    for _ in range(-(-2 * n // len(order))):
        rng.shuffle(order)
        for base in order:
            drawn[base, rng.choice(others[known.prompts[base].value])] = None
    return list(drawn)[:n]


@torch.no_grad()
def ready(site: Site, known: Mapping[str, Known], pairs: Sequence[Pair]) -> Ready:
    """Return pairs with the clean activations of their base prompts, once for all SAEs.

    They take pairs times tokens times d_in floats. A target stands behind its prompt, all but its
    last token, so that one pass tells whether greedy decoding would give it.
    """
    prompts = [
        (known[p.attribute].prompts[p.base], known[p.attribute].prompts[p.source]) for p in pairs
    ]
    targets = [
        (source if pair.is_cause else base).answer
        for pair, (base, source) in zip(pairs, prompts, strict=True)
    ]
    windows = [
        Window(i, 0, np.asarray((*base.tokens, *target[:-1])))
        for i, ((base, _), target) in enumerate(zip(prompts, targets, strict=True))
    ]
    tokens_nt = pad(windows)[0].to(site.subject.device)
    context = arithmetic(site.subject, site.precision)
    acts_ntd: Tensor | None = None
    for batch in group_by_length(windows, site.batch_tokens, np.random.default_rng(0)):
        own = [window.document for window in batch]
        length = len(batch[-1].tokens)
        with context:
            acts_btd = run_to_sites(site.subject, tokens_nt[own, :length], [site.name])[site.name]
        if acts_ntd is None:
            acts_ntd = acts_btd.new_zeros(*tokens_nt.shape, acts_btd.shape[-1])
        acts_ntd[own, :length] = acts_btd
    if acts_ntd is None:
        raise ValueError("no pairs of prompts")
    return Ready(
        tokens_nt,
        acts_ntd,
        torch.tensor([base.at for base, _ in prompts], device=tokens_nt.device),
        [len(base.tokens) for base, _ in prompts],
        torch.stack([known[pair.attribute].x_nd[pair.base] for pair in pairs]),
        torch.stack([known[pair.attribute].x_nd[pair.source] for pair in pairs]),
        targets,
        [pair.is_cause for pair in pairs],
    )


def split(settings: RavelSettings, pairs: Sequence[Pair]) -> tuple[list[Pair], list[Pair]]:
    """Return the training pairs and the ones that are scored, cause and isolation alike."""
    train: list[Pair] = []
    test: list[Pair] = []
    for is_cause in (True, False):
        own = [pair for pair in pairs if pair.is_cause is is_cause]
        size = min(max(1, int(len(own) * settings.train_share)), len(own) - 1)
        train += own[:size]
        test += own[size:]
    return train, test
