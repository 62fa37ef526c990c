"""A report that shows one figure or table, for cases of the keys that only a page shows."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

from saeflow.report.build import _environment, build_report

ENVIRONMENT = cache(_environment)


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
