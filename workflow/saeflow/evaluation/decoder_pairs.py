"""SAEs of a variant, each beside the one of a baseline that has the same L0 target and seed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from saeflow.evaluation.origin import Key, Member, check_members, load_members, members_of
from saeflow.evaluation.rows import Point
from saeflow.sae.boosted import Boosted
from saeflow.sae.model import SAE


class Pair(NamedTuple):
    """Where two SAEs that are compared lie."""

    variant: Member
    baseline: Member


def pairs_of(
    variant: Iterable[Mapping[str, Any]], baseline: Iterable[Mapping[str, Any]]
) -> list[Pair]:
    """Return the pairs that a job was given; raises ValueError where one side has more SAEs."""
    return [Pair(*pair) for pair in zip(members_of(variant), members_of(baseline), strict=True)]


class Compared(NamedTuple):
    """Two SAEs that are compared."""

    variant: SAE | Boosted
    baseline: SAE | Boosted


def load_pairs(
    pairs: Sequence[Pair], point: Point, baseline: str, activations: Path, device: str
) -> dict[Key, Compared]:
    """Return the SAEs by L0 target and seed.

    `point` is the variant's, `baseline` the other's name; both are of one width and were trained
    on the cache `activations`. Raises ValueError for a pair of different L0 or seed, and what
    `check_members` raises, e.g. ArtifactError for an SAE of another site.
    """
    for pair in pairs:
        if pair.variant.key != pair.baseline.key:
            raise ValueError(
                f"{pair.variant.folder} ({pair.variant.key}) is compared with "
                f"{pair.baseline.folder} ({pair.baseline.key}): give SAEs of the same L0 and seed"
            )
    sides = [[pair.variant for pair in pairs], [pair.baseline for pair in pairs]]
    for side, name in zip(sides, (point.variant, baseline), strict=True):
        check_members(side, point._replace(variant=name), activations)
    variants, baselines = (load_members(side, device) for side in sides)
    return {key: Compared(sae, baselines[key]) for key, sae in variants.items()}


def check_widths(pairs: Mapping[Key, Compared]) -> None:
    """Raise ValueError unless the two of every pair write vectors of the same width."""
    if not pairs:
        raise ValueError("no pairs of SAEs given")
    for key, (variant, baseline) in pairs.items():
        widths = variant.W_dec.shape[1], baseline.W_dec.shape[1]
        if widths[0] != widths[1]:
            raise ValueError(
                f"{key}: decoder vectors of width {widths[0]} cannot be compared with those of "
                f"the baseline, of width {widths[1]}: give SAEs of one site"
            )


def pair_inputs(pairs: Sequence[Pair]) -> dict[str, Path]:
    """Return the folders of all SAEs by names for a manifest."""
    return {
        f"{side}/l0_{sae.l0_target}/seed{sae.seed}": sae.folder
        for pair in pairs
        for side, sae in pair._asdict().items()
    }
