"""Put an SVG file into an HTML page: no prologue, no ids that clash, a name for screen readers."""

from __future__ import annotations

import re
from html import escape
from pathlib import Path

from markupsafe import Markup

from saeflow.artifacts import ArtifactError

_BEFORE = re.compile(r"<\?xml.*?\?>|<!DOCTYPE.*?>|<!--.*?-->|<style.*?</style>", re.DOTALL)
_ID = re.compile(r'(?<=\sid=")[^"]+')
_REFERENCE = re.compile(r'(?<=href="#)[^"]+|(?<=url\(#)[^)]+')
_OPENING = re.compile(r"<svg\b[^>]*>")
_VIEW = re.compile(r'viewBox="0 0 ([0-9.]+) ([0-9.]+)"')
# A figure is drawn in points for print; on a screen it is read from further away.
_PIXELS_PER_POINT = 1.75
_WIDE_POINTS = 350


def inline_svg(path: Path, name: str, prefix: str) -> Markup:
    """Return the drawing as an `<svg>` element whose ids start with `prefix`.

    `name` is what a screen reader says. Styles of the file are dropped, since they would hold for
    the whole page. Raises ArtifactError for a file that is no SVG with a view box.
    """
    text = _BEFORE.sub("", path.read_text(encoding="utf-8")).strip()
    opening, view = _OPENING.match(text), _VIEW.search(text)
    if opening is None or view is None or "<script" in text:
        raise ArtifactError(f"{path} is not a plain SVG drawing; remove it and run snakemake again")
    body = text[opening.end() :]
    body = _ID.sub(lambda found: prefix + found[0], body)
    body = _REFERENCE.sub(lambda found: prefix + found[0], body)
    points = float(view[1])
    wide = " data-wide" if points > _WIDE_POINTS else ""
    return Markup(
        f'<svg role="img" aria-label="{escape(name)}" {view[0]}{wide} '
        f'width="{points * _PIXELS_PER_POINT:.0f}" xmlns:xlink="http://www.w3.org/1999/xlink">{body}'
    )
