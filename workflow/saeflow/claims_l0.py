"""Are the two sides of a comparison equally sparse? They are paired by L0 target, not by L0."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import pandas as pd

METRIC = "l0"
# What has no row where it is undefined: relations to a baseline whose curve ends at another L0.
RELATED = frozenset({"perplexity_ratio", "perplexity_difference", "perplexity_ratio_overlap"})


class Sides(NamedTuple):
    """Measured L0 of variant and baseline at one L0 target, means over seeds; None: no rows."""

    variant: float | None
    baseline: float | None

    @property
    def gap(self) -> float:
        """Their difference relative to the larger one; 0 where there are no two to compare."""
        if not self.variant or not self.baseline:
            return 0.0
        return abs(self.variant - self.baseline) / max(self.variant, self.baseline)


def measured_l0(
    rows: pd.DataFrame, split: str, variant: str, baseline: str | None, levels: Iterable[int]
) -> list[Sides]:
    """Return what metric `l0` says of both sides at each L0 target; timings have no such rows."""
    here = rows[(rows["metric"] == METRIC) & (rows["split"] == split)]
    means = here.groupby(["variant", "l0_target"])["value"].mean().to_dict()
    return [Sides(means.get((variant, l0)), means.get((baseline, l0))) for l0 in levels]


def mismatch(sides: Sequence[Sides], tolerance: float | None) -> str:
    """Return why sides are too unlike in sparsity to be compared, or nothing if they are not."""
    worst = max(sides, key=lambda side: side.gap)
    if tolerance is None or worst.gap <= tolerance:
        return ""
    return (
        f"measured L0 differs by {worst.gap:.0%}: {worst.variant:.3g} against {worst.baseline:.3g}"
    )
