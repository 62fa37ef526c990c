"""What a figure or table leaves: its data, its picture, and a report that shows it alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

from keys_case import Case, Result

from saeflow.figures import style
from saeflow.report.build import _environment, build_report

ENVIRONMENT = cache(_environment)


def described(kind: str) -> dict[str, Case]:
    """Return the cases of the keys that all figures and tables have."""
    return {
        f"{kind}.title": Case("title", "Another title", "page"),
        f"{kind}.source": Case("source", "after another figure", "picture"),
        f"{kind}.statement": Case("statement", "Says another thing.", "page"),
        f"{kind}.caption": Case("caption", "Shows another thing.", "page"),
    }


def drawn(
    settings: Any, context: Mapping[str, Any], out: Path, draw: Callable[[Path], object]
) -> Result:
    """Return what a figure leaves that `draw` writes to the stem that it is given, below `out`."""
    stem = out / "fig"
    with patch.dict(style._METADATA):
        del style._METADATA["png"], style._METADATA["pdf"]  # slow, and drawn from the same
        draw(stem)
    for suffix in ("png", "pdf"):
        stem.with_suffix(f".{suffix}").touch()
    return _shown(settings, context, "figures", stem, ".svg")


def tabulated(
    settings: Any, context: Mapping[str, Any], out: Path, write: Callable[[Path], object]
) -> Result:
    """Return what a table leaves that `write` writes to the stem that it is given, below `out`."""
    stem = out / "table"
    write(stem)
    return _shown(settings, context, "tables", stem, ".md")


def _shown(
    settings: Any, context: Mapping[str, Any], kind: str, stem: Path, picture: str
) -> Result:
    return {
        "data": stem.with_suffix(".csv").read_text(),
        "picture": stem.with_suffix(picture).read_text(),
        "page": page(settings, kind, stem, context),
    }


def page(settings: Any, kind: str, stem: Path, context: Mapping[str, Any]) -> str:
    """Return a report that shows this alone."""
    shown = {"name": "x", "settings": settings, "context": context, "stem": stem}
    paper = {"name": "p", "title": "", "reference": "", "figures": [], "tables": [], "claims": None}
    report = {
        "scale": "desk",
        "seeds": context["seeds"],
        "papers": [{**paper, kind: [shown]}],
        "subjects": {},
        "corpora": {},
        "artefacts": [],
        "benchmarks": stem.parent / "none",
    }
    return report_page(report, stem.parent / "report.html")


def report_page(report: dict[str, Any], path: Path) -> str:
    """Return the page of a report, from a template that is compiled once for all."""
    with patch("saeflow.report.build._environment", ENVIRONMENT):
        build_report(report, path)
    return path.read_text()
