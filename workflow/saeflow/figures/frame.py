"""What stands around the data: legend, error bars, reference labels and the footer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from saeflow.figures.style import FAINT_INK
from saeflow.figures.text import width_in_inches, wrap

_LEGEND_SIZE = 7.0
_FOOTER_SIZE = 5.0
_HANDLE_AND_GAPS = 0.6
_LEGEND_LINE = 0.155
_FOOTER_LINE = 0.085
_MARGIN = 0.05

# The one look of a level to compare with.
REFERENCE: dict[str, Any] = {
    "color": FAINT_INK,
    "linewidth": 0.7,
    "linestyle": (0, (9, 2.5)),
    "zorder": 1,
}


def error_bar(points: pd.DataFrame, axis: str) -> np.ndarray | None:
    """Return distances (2, n) below and above the mean, or None where no point has an interval."""
    low, high = points[f"{axis}_low"], points[f"{axis}_high"]
    if low.isna().all():
        return None
    below, above = points[axis] - low, high - points[axis]
    return np.stack([below.fillna(0).astype(float), above.fillna(0).astype(float)])


def legend_above(
    figure: Figure, handles: Sequence[Any], labels: Sequence[str], *, magnified: float = 1
) -> None:
    """Put the legend above the axes in as many columns as fit, and make the figure taller by it."""
    width = figure.get_figwidth()
    wrapped = [wrap(label, _LEGEND_SIZE, width - _HANDLE_AND_GAPS) for label in labels]
    widest = max(width_in_inches(line, _LEGEND_SIZE) for w in wrapped for line in w.split("\n"))
    columns = max(1, min(len(labels), int(width / (widest + _HANDLE_AND_GAPS))))
    lines = -(-len(labels) // columns) + max(w.count("\n") for w in wrapped)
    figure.set_figheight(figure.get_figheight() + lines * _LEGEND_LINE)
    figure.legend(
        handles, wrapped, loc="outside upper center", ncols=columns, markerscale=magnified
    )


def footer(figure: Figure, parts: Sequence[str]) -> None:
    """Say in small print what the figure is: its original, subject, scale, tokens and seeds."""
    # No-break spaces within a part keep it whole.
    joined = "\u00a0· ".join(part.replace(" ", "\u00a0") for part in parts)
    text = wrap(joined, _FOOTER_SIZE, figure.get_figwidth() - 2 * _MARGIN)
    figure.set_figheight(figure.get_figheight() + (text.count("\n") + 1) * _FOOTER_LINE)
    left = _MARGIN / figure.get_figwidth()
    figure.supxlabel(text, fontsize=_FOOTER_SIZE, color=FAINT_INK, x=left, ha="left")
