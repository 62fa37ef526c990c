"""Densities of a value over token types or latents, one line a series."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from saeflow.figures.drawn import as_table, mark, note
from saeflow.figures.frame import REFERENCE, legend_above
from saeflow.figures.kernel import kernel_density
from saeflow.figures.rows import FigureError, label_of
from saeflow.figures.style import ONE_COLUMN, TWO_COLUMNS, Look, looks_of
from saeflow.figures.sweep_settings import Densities, DensityPanel, SweepContext
from saeflow.figures.text import wrap

_HEIGHT = 2.1
Values = Mapping[str, Mapping[int, pd.Series]]
"""Values by series and seed."""


def density_marks(
    values: Sequence[Values], settings: Densities, context: SweepContext
) -> pd.DataFrame:
    """Return the marks: per panel and series x and y of the density, the mean over seeds.

    `values` are those of each panel. What is undefined, or beyond the axis, is counted in a note.
    Raises FigureError where a series has no value, or all are the same.
    """
    marks = []
    for number, (panel, by_series) in enumerate(zip(settings.panels, values, strict=True)):
        finite = {name: _finite(found, panel, name) for name, found in by_series.items()}
        labels = {name: label_of(name, context) for name in settings.series}
        low, high = ends = _ends(panel, finite)
        for name, label in labels.items():
            x, y = kernel_density(finite[name], low, high, panel.bandwidth * (high - low))
            count = sum(map(len, finite[name]))
            marks += [
                mark(panel_name(number, panel), name, label, x=at, y=height, n=count)
                for at, height in zip(x, y, strict=True)
            ]
        marks += _undefined(panel, labels, by_series, finite)
        marks += _beyond(panel, labels, finite, ends)
        if panel.reference:
            line = panel.reference
            marks.append(mark(panel_name(number, panel), None, line.label, x=line.value))
    return as_table(marks)


def panel_name(number: int, panel: DensityPanel) -> str:
    """Return the name of a panel in the drawn data; two may show one column."""
    return f"{number + 1}: {panel.column}"


def _finite(found: Mapping[int, pd.Series], panel: DensityPanel, series: str) -> list[np.ndarray]:
    kept = []
    for seed, column in found.items():
        values = column.to_numpy(float, na_value=np.nan)
        kept.append(values[np.isfinite(values)])
        if not kept[-1].size:
            raise FigureError(f"no value of {panel.column!r} of series {series!r}, seed {seed}")
    return kept


def _ends(panel: DensityPanel, finite: Mapping[str, list[np.ndarray]]) -> tuple[float, float]:
    """Return the ends that are set, else quantiles of all values; the extremes if these agree."""
    everything = np.concatenate([values for seeds in finite.values() for values in seeds])
    for beyond in (panel.beyond, 0.0):
        least, most = np.quantile(everything, (beyond, 1 - beyond))
        low = float(least) if panel.low is None else panel.low
        high = float(most) if panel.high is None else panel.high
        if low < high:
            return low, high
    raise FigureError(f"{panel.column!r} has no spread to draw, only {low:g} to {high:g}")


def _undefined(
    panel: DensityPanel,
    labels: Mapping[str, str],
    found: Values,
    finite: Mapping[str, list[np.ndarray]],
) -> Iterator[dict[str, Any]]:
    """Yield the note on what is no number, if there is any."""
    every = {name: sum(map(len, found[name].values())) for name in labels}
    left_out = {name: every[name] - sum(map(len, finite[name])) for name in labels}
    if any(left_out.values()):
        counts = _counts(labels, left_out, every)
        yield note(f"Undefined, so left out of “{panel.label}”: {counts}.")


def _beyond(
    panel: DensityPanel,
    labels: Mapping[str, str],
    finite: Mapping[str, list[np.ndarray]],
    ends: tuple[float, float],
) -> Iterator[dict[str, Any]]:
    """Yield the note on what lies beyond the axis, if anything does."""
    values = {name: np.concatenate(finite[name]) for name in labels}
    outside = {name: int(((v < ends[0]) | (v > ends[1])).sum()) for name, v in values.items()}
    if any(outside.values()):
        counts = _counts(labels, outside, {name: len(v) for name, v in values.items()})
        yield note(f"Beyond the axis of “{panel.label}”: {counts}.")


def _counts(labels: Mapping[str, str], some: Mapping[str, int], every: Mapping[str, int]) -> str:
    """Return e.g. `3 of 1,500 values of GSAE`, series by series, without those that have none."""
    return ", ".join(
        f"{some[name]:,} of {every[name]:,} values of {label}"
        for name, label in labels.items()
        if some[name]
    )


def draw_densities(marks: pd.DataFrame, settings: Densities) -> Figure:
    """Draw what `density_marks` returned."""
    count = len(settings.panels)
    figure = Figure(figsize=(ONE_COLUMN if count == 1 else TWO_COLUMNS, _HEIGHT))
    looks = looks_of(settings.series)
    handles: dict[str, object] = {}
    for number, panel in enumerate(settings.panels):
        axes = figure.add_subplot(1, count, number + 1)
        lines = marks[marks["panel"] == panel_name(number, panel)]
        for name in settings.series:
            _draw_density(axes, lines[lines["variant"] == name], looks[name])
        references = lines[lines["variant"].isna()]
        for label, x in zip(references["label"], references["x"], strict=True):
            axes.axvline(float(x), label=label, **REFERENCE)
        drawn = lines[lines["variant"].notna()]["x"].astype(float)
        axes.set_xlim(drawn.min(), drawn.max())
        axes.set_ylim(bottom=0)
        axes.set_xlabel(wrap(panel.label, 7.5, figure.get_figwidth() / count - 0.7))
        axes.set_ylabel("Density")
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    legend_above(figure, list(handles.values()), list(handles))
    return figure


def _draw_density(axes: Axes, line: pd.DataFrame, look: Look) -> None:
    x, y = line["x"].astype(float), line["y"].astype(float)
    axes.plot(x, y, color=look.color, linestyle=look.line, label=line["label"].iloc[0])
    axes.fill_between(x, y, color=look.color, alpha=0.1, linewidth=0)
