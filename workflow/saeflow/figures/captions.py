"""The words under figures and tables: what is shown, how far it goes, and what is not shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from saeflow.figures.origin import (
    origin_sentence,
    single_l0,
    spread_sentence,
    training_sentence,
)
from saeflow.figures.settings import (
    AnyContext,
    BarsAndDensity,
    Figure,
    Methods,
    Sweep,
    SweepContext,
    Table,
)
from saeflow.figures.single_l0_settings import Metrics
from saeflow.figures.sweep_settings import SweepShown


def caption_of(
    settings: Figure | Table,
    context: AnyContext,
    levels: Mapping[str, str] | None = None,
    notes: Sequence[str] = (),
) -> str:
    """Return the caption: what is shown, its spread, what is missing and where it comes from.

    `levels` are a table's printed levels by label, `notes` the sentences that the drawn data adds.
    """
    parts = [settings.caption]
    parts += [f"{label[:1].upper()}{label[1:]}: {text}." for label, text in (levels or {}).items()]
    parts.append(spread_sentence(settings, context))
    if (l0 := single_l0(settings, context)) is not None:
        parts.append(f"L0 target {l0}.")
    if isinstance(settings, BarsAndDensity) and settings.not_measured:
        parts.append(f"Not measured, so not drawn: {', '.join(settings.not_measured)}.")
    if _marks_best(settings):
        parts.append("Bold: the best of its column, where its interval overlaps no other's.")
    if isinstance(settings, Methods):
        groups = "; ".join(group.label for group in settings.groups)
        parts.append(f"Bold: the best mean of its category ({groups}).")
    parts += notes
    if isinstance(settings, SweepShown) and isinstance(context, SweepContext):
        parts.append(training_sentence(settings.series, context))
    parts.append(origin_sentence(settings, context))
    return " ".join(parts)


def _marks_best(settings: Figure | Table) -> bool:
    """Whether a table marks the best of some column."""
    if isinstance(settings, Metrics):
        return any(column.best for column in settings.columns)
    return isinstance(settings, Sweep) and settings.best is not None
