"""A map of token activations (light) and decoder directions (dark)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from saeflow.figures.drawn import as_table, mark
from saeflow.figures.frame import legend_above
from saeflow.figures.rows import FigureError, label_of
from saeflow.figures.style import ONE_COLUMN, TWO_COLUMNS, looks_of
from saeflow.figures.sweep_settings import Scatter, SweepContext

_COLUMNS = ["series", "kind", "x", "y"]
_ACTIVATIONS = "token activations"
_LIGHT = "#c4c4c4"
_PANEL = 2.4


def map_marks(path: Path, settings: Scatter, context: SweepContext) -> pd.DataFrame:
    """Return the marks: a row a token activation (no series) and a decoder direction.

    Raises FigureError where the map lacks a column, a series or the activations.
    """
    missing = sorted(set(_COLUMNS) - set(pq.read_schema(path).names))
    if missing:
        raise FigureError(f"{path} lacks the columns {missing}")
    points = pd.read_parquet(path, columns=_COLUMNS)
    marks = []
    for series in ("", *settings.series):
        kind = "decoder" if series else "activation"
        here = points[(points["series"] == series) & (points["kind"] == kind)]
        if here.empty:
            what = f"decoder directions of {series!r}" if series else "token activations"
            raise FigureError(f"missing: {what} in {path}")
        label = label_of(series, context) if series else _ACTIVATIONS
        marks += [
            mark("map", series or None, label, kind=kind, x=x, y=y)
            for x, y in zip(here["x"], here["y"], strict=True)
        ]
    return as_table(marks)


def draw_map(marks: pd.DataFrame, settings: Scatter) -> Figure:
    """Draw what `map_marks` returned."""
    apart = settings.layout == "panels"
    groups = [(name,) for name in settings.series] if apart else [settings.series]
    width = ONE_COLUMN if len(groups) == 1 else TWO_COLUMNS
    figure = Figure(figsize=(width, _PANEL if len(groups) > 1 else 2.7))
    looks = looks_of(settings.series)
    handles: dict[str, Any] = {}
    first: Axes | None = None
    for number, group in enumerate(groups):
        axes = figure.add_subplot(1, len(groups), number + 1, sharex=first, sharey=first)
        first = first or axes
        light = marks[marks["kind"] == "activation"]
        _draw_points(axes, light, color=_LIGHT, s=4.5)
        for name in group:
            _draw_points(axes, marks[marks["variant"] == name], color=looks[name].color, s=1.8)
        axes.set_xlabel("UMAP 1")
        axes.set_ylabel("UMAP 2" if number == 0 else "")
        axes.grid(visible=False)
        axes.tick_params(labelbottom=False, labelleft=False, length=0)
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    legend_above(figure, list(handles.values()), list(handles), magnified=2.5)
    return figure


def _draw_points(axes: Axes, points: pd.DataFrame, **style: Any) -> None:
    # Thousands of points as paths would make a drawing of several MB.
    x, y = points["x"].astype(float), points["y"].astype(float)
    axes.scatter(x, y, label=points["label"].iloc[0], linewidths=0, rasterized=True, **style)
