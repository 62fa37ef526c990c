"""A table of debiasing methods: accuracies in percent, beside the paper's."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from saeflow.figures.cells import Cell, cell, number_text
from saeflow.figures.debias_settings import MethodColumn
from saeflow.figures.rows import FigureError
from saeflow.figures.settings import DebiasContext, Methods
from saeflow.intervals import t_interval

_PERCENT = 100


def method_cells(rows: pd.DataFrame, settings: Methods, context: DebiasContext) -> list[Cell]:
    """Return a cell a method and column: first the measured columns, then the published ones.

    In each category the best mean of a column is marked. Raises FigureError where a method, metric
    or seed is missing.
    """
    block = f"this run: {context.subject}, {context.scale} scale"
    cells: list[Cell] = []
    for column in settings.columns:
        for group in settings.groups:
            found = {
                label: t_interval(_percents(rows, column.metric, method, context))
                for method, label in group.methods.items()
            }
            best = _best({label: x.mean for label, x in found.items()}, column)
            cells += [
                cell(block, label, column.label, x, settings.decimals, label == best)
                for label, x in found.items()
            ]
    return cells + _published(block, settings)


def _percents(rows: pd.DataFrame, metric: str, method: str, context: DebiasContext) -> list[float]:
    here = rows[(rows["metric"] == metric) & (rows["variant"] == method)]
    values = here.set_index("seed")["value"]
    if values.index.has_duplicates:
        raise FigureError(f"metric {metric!r} of method {method!r} is there twice for a seed")
    missing = [seed for seed in context.seeds if seed not in values.index]
    if missing:
        raise FigureError(f"missing: seeds {missing} of metric {metric!r} of method {method!r}")
    return [_PERCENT * float(values[seed]) for seed in context.seeds]


def _best(means: Mapping[str, float | None], column: MethodColumn) -> str | None:
    """The best of a category; one that stands alone is not marked."""
    known = {label: mean for label, mean in means.items() if mean is not None}
    if len(known) < 2:
        return None
    pick = max if column.best == "max" else min
    return pick(known, key=lambda label: known[label])


def _published(block: str, settings: Methods) -> list[Cell]:
    """The paper's columns, which name their own best end if they are named as ours."""
    published = settings.published
    if published is None:
        return []
    ends = {column.label: column for column in settings.columns}
    cells = []
    for at, heading in enumerate(published.columns):
        for group in settings.groups:
            numbers = {
                label: published.rows[label][at] if label in published.rows else None
                for label in group.methods.values()
            }
            best = _best(numbers, ends[heading]) if heading in ends else None
            cells += [
                Cell(
                    block, label, f"{published.label}: {heading}", value, None, None, None,
                    label == best, number_text(value, published.decimals[at]),
                )
                for label, value in numbers.items()
            ]  # fmt: skip
    return cells
