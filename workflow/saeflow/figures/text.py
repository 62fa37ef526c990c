"""Text that fits: lines are broken by measured width, not by a count of characters."""

from __future__ import annotations

import re

from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.ft2font import FT2Font, LoadFlags

_POINTS_PER_INCH = 72
_SUBPIXELS = 64
# Long names of models and modules may break after these.
_BREAKS = re.compile(r"(?<=[\u00a0./_\-])")


def width_in_inches(text: str, size: float) -> float:
    """Return the width of one line of the house font at `size` points."""
    font = _font()
    font.set_size(size, _POINTS_PER_INCH)
    font.set_text(text, 0.0, flags=LoadFlags.NO_HINTING)
    return float(font.get_width_height()[0]) / _SUBPIXELS / _POINTS_PER_INCH


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


def trimmed(text: str, size: float, width: float, *, at_start: bool = False) -> str:
    """Return as much of a line as `width` inches hold, with an ellipsis at the end that is cut."""
    if width_in_inches(text, size) <= width:
        return text
    for cut in range(1, len(text)):
        short = f"…{text[cut:]}" if at_start else f"{text[:-cut]}…"
        if width_in_inches(short, size) <= width:
            return short
    return "…"


def drawable(text: str) -> str:
    """Return text with a white square for each character that the house font does not have."""
    known = _font().get_charmap()
    return "".join(letter if ord(letter) in known else "□" for letter in text)


def _font() -> FT2Font:
    return get_font(findfont(FontProperties(family="DejaVu Sans")))
