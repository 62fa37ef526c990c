"""Text that fits: lines are broken by measured width, not by a count of characters."""

from __future__ import annotations

import re

from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath

_POINTS_PER_INCH = 72
# Long names of models and modules may break after these.
_BREAKS = re.compile(r"(?<=[\u00a0./_\-])")


def width_in_inches(text: str, size: float) -> float:
    """Return the width of one line of the house font at `size` points."""
    if not text.strip():
        return 0.0
    extent = TextPath((0, 0), text, size=size, prop=FontProperties(family="DejaVu Sans"))
    return float(extent.get_extents().x1) / _POINTS_PER_INCH


def wrap(text: str, size: float, width: float) -> str:
    """Break `text` so that no line is wider than `width` inches at `size` points.

    Lines break at spaces; a word that is too long breaks after a no-break space or . / _ - and
    then anywhere.
    """
    lines, line = [], ""
    for piece in _pieces(text, size, width):
        if line and width_in_inches((line + piece).rstrip(), size) > width:
            lines.append(line.rstrip())
            line = piece
        else:
            line += piece
    return "\n".join([*lines, line.rstrip()])


def _pieces(text: str, size: float, width: float) -> list[str]:
    """Split at spaces, and split further only those words that are wider than a line."""
    pieces: list[str] = []
    for word in re.split(r"(?<= )", text):
        if width_in_inches(word.rstrip(), size) <= width:
            pieces.append(word)
            continue
        for part in _BREAKS.split(word):
            fits = width_in_inches(part.rstrip(), size) <= width
            pieces.extend([part] if fits else list(part))
    return [p for p in pieces if p]
