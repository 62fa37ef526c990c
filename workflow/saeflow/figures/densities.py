"""Densities of a value over token types or latents, one line a series."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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

    `values` are those of each panel. What is undefined, or beyond an axis whose ends are set, is
    counted in a note. Raises FigureError where a series has no value, or all are the same.
    """
    marks = []
    for number, (panel, by_series) in enumerate(zip(settings.panels, values, strict=True)):
        finite = {name: _finite(found, panel, name) for name, found in by_series.items()}
        low, high = _ends(panel, finite)
        for name in settings.series:
            seeds, label = finite[name], label_of(name, context)
            x, y = kernel_density(seeds, low, high, panel.bandwidth * (high - low))
            count = sum(len(one) for one in seeds)
            marks += [
                mark(panel_name(number, panel), name, label, x=at, y=height, n=count)
                for at, height in zip(x, y, strict=True)
            ]
            marks += _notes(panel, label, by_series[name], seeds, (low, high))
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
    everything = np.concatenate([values for seeds in finite.values() for values in seeds])
    low = float(everything.min()) if panel.low is None else panel.low
    high = float(everything.max()) if panel.high is None else panel.high
    if low >= high:
        raise FigureError(f"{panel.column!r} has no spread to draw, only {low:g} to {high:g}")
    return low, high


def _notes(
    panel: DensityPanel,
    label: str,
    found: Mapping[int, pd.Series],
    seeds: list[np.ndarray],
    ends: tuple[float, float],
) -> list[dict[str, Any]]:
    every = sum(len(column) for column in found.values())
    kept = np.concatenate(seeds)
    beyond = int(((kept < ends[0]) | (kept > ends[1])).sum())
    what = f"values of “{panel.label}” of {label}"
    notes = []
    if every > len(kept):
        notes.append(note(f"Undefined, so left out: {every - len(kept):,} of {every:,} {what}."))
    if beyond:
        notes.append(note(f"Beyond the axis: {beyond:,} of {len(kept):,} {what}."))
    return notes


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
