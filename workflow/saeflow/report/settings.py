"""What the report shows and where it lies."""

from __future__ import annotations

from pathlib import Path

from saeflow.figures.settings import AnyContext, FigureSettings, TableSettings
from saeflow.settings import Settings


class ReportedFigure(Settings):
    """One figure: its files share `stem`."""

    name: str
    settings: FigureSettings
    context: AnyContext
    stem: Path


class ReportedTable(Settings):
    """One table: its files share `stem`."""

    name: str
    settings: TableSettings
    context: AnyContext
    stem: Path


class ReportedPaper(Settings):
    """What was made for one paper."""

    name: str
    title: str
    reference: str
    """How to cite it."""
    figures: tuple[ReportedFigure, ...]
    tables: tuple[ReportedTable, ...]
    claims: Path | None
    """Stem of the judged claims; null where the paper has none."""


class ReportSettings(Settings):
    """The whole report."""

    scale: str
    seeds: tuple[int, ...]
    papers: tuple[ReportedPaper, ...]
    subjects: dict[str, Path]
    """Folders of the models, by name."""
    corpora: dict[str, Path]
    """Folders of the corpora, by name."""
    artefacts: tuple[Path, ...]
    """Folders whose manifests are the provenance."""
    benchmarks: Path
    """Folder with one folder a rule of Snakemake's benchmark files."""
