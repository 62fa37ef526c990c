"""Build the report: gather what the page shows, and fill the template."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pyarrow.parquet as pq
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from saeflow.artifacts import ArtifactError, atomic_path, read_manifest
from saeflow.claims_table import at_l0, judged, number
from saeflow.figures.captions import caption_of
from saeflow.figures.cells import LEVELS
from saeflow.figures.drawn import notes_in
from saeflow.figures.table_formats import Block, blocks
from saeflow.report.provenance import made_between, read_artefacts, software
from saeflow.report.runtimes import rule_times
from saeflow.report.settings import (
    ReportedFigure,
    ReportedPaper,
    ReportedTable,
    ReportSettings,
)
from saeflow.report.svg import inline_svg

_HERE = Path(__file__).parent
_FIGURE_FILES = ("svg", "png", "pdf", "csv", "parquet")
_TABLE_FILES = ("csv", "md", "tex", "parquet")
_CLAIM_FILES = ("md", "parquet")
_ROW_NAMES = {"methods": "Method", "latents": "Latent"}
# A verdict is told by sign and word; the colour only repeats it.
VERDICTS = {"reproduced": "✓", "not reproduced": "✗", "inconclusive": "?"}


class Link(NamedTuple):
    """A file beside the report."""

    text: str
    href: str


class Item(NamedTuple):
    """A figure or a table on the page."""

    anchor: str
    title: str
    statement: str
    caption: str
    links: list[Link]
    drawing: Markup | None
    blocks: list[Block]
    row_name: str
    """What a row of the table is."""


class Claim(NamedTuple):
    """A row of the table of claims."""

    statement: str
    source: str
    paper: str
    measured: str
    expectation: str
    seeds: int
    verdict: str
    reason: str


class Claims(NamedTuple):
    """The judged claims of a paper."""

    rows: list[Claim]
    counts: dict[str, int]
    comparisons: list[dict[Any, Any]]
    links: list[Link]


class Paper(NamedTuple):
    """A paper's part of the page."""

    name: str
    title: str
    reference: str
    claims: Claims | None
    figures: list[Item]
    tables: list[Item]


def build_report(settings: ReportSettings | Mapping[str, Any], out: Path) -> None:
    """Write one HTML file that needs no other file and no network; links to data are relative.

    Raises ArtifactError where a file that it shows is missing or damaged.
    """
    settings = ReportSettings.model_validate(settings)
    artefacts = read_artefacts(settings.artefacts, out.parent)
    page = _environment().get_template("report.html").render(
        scale=settings.scale,
        seeds=settings.seeds,
        papers=[_paper(paper, out.parent) for paper in settings.papers],
        subjects={
            name: read_manifest(path, kind="subject")["stats"]
            for name, path in settings.subjects.items()
        },
        corpora={
            name: read_manifest(path, kind="corpus")["stats"]
            for name, path in settings.corpora.items()
        },
        times=rule_times(settings.benchmarks),
        artefacts=artefacts,
        software=software(artefacts),
        made=made_between(artefacts),
        verdicts=VERDICTS,
        css=Markup((_HERE / "report.css").read_text(encoding="utf-8")),
    )  # fmt: skip
    with atomic_path(out) as path:
        path.write_text(page, encoding="utf-8")


def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _paper(paper: ReportedPaper, root: Path) -> Paper:
    return Paper(
        name=paper.name,
        title=paper.title,
        reference=paper.reference,
        claims=None if paper.claims is None else _claims(paper.claims, root),
        figures=[_figure(figure, paper.name, root) for figure in paper.figures],
        tables=[_table(table, paper.name, root) for table in paper.tables],
    )


def _figure(figure: ReportedFigure, paper: str, root: Path) -> Item:
    anchor = f"{paper}-{figure.name}"
    shown = figure.settings
    links = _links(figure.stem, _FIGURE_FILES, root)
    drawing = inline_svg(_beside(figure.stem, "svg"), f"{shown.title}. {shown.caption}", anchor)
    notes = notes_in(pd.read_parquet(_beside(figure.stem, "parquet")))
    caption = caption_of(shown, figure.context, notes=notes)
    return Item(anchor, shown.title, shown.statement, caption, links, drawing, [], "")


def _table(table: ReportedTable, paper: str, root: Path) -> Item:
    shown = table.settings
    links = _links(table.stem, _TABLE_FILES, root)
    cells = pd.read_parquet(_beside(table.stem, "parquet"))
    is_level = cells["block"] == LEVELS
    levels = dict(zip(cells[is_level]["row"], cells[is_level]["text"], strict=True))
    caption = caption_of(shown, table.context, levels)
    parts = blocks(cells[~is_level])
    anchor, row_name = f"{paper}-{table.name}", _ROW_NAMES.get(shown.kind, "Variant")
    return Item(anchor, shown.title, shown.statement, caption, links, None, parts, row_name)


def _claims(stem: Path, root: Path) -> Claims:
    links = _links(stem, _CLAIM_FILES, root)
    # Not by pandas, which has no None in a column of text.
    judged = pq.read_table(_beside(stem, "parquet")).to_pylist()
    verdicts = [row["verdict"] for row in judged]
    unknown = sorted(set(verdicts) - set(VERDICTS))
    if unknown:
        raise ArtifactError(f"{stem}.parquet holds unknown verdicts {unknown}; run it again")
    counts = Counter(verdicts)
    comparisons = pd.read_parquet(_beside(stem, "comparisons.parquet"))
    return Claims(
        rows=[_claim(row) for row in judged],
        counts={verdict: counts[verdict] for verdict in VERDICTS},
        comparisons=[{**row, "measured": _interval(row)} for row in comparisons.to_dict("records")],
        links=links,
    )


def _claim(row: Mapping[Any, Any]) -> Claim:
    value = "" if pd.isna(row["paper_value"]) else number(row["paper_value"])
    note = row["paper_note"] or ""
    measured = f"{at_l0(row['comparison'], row['l0'])}: {_interval(row)}{judged(row['judge'])}"
    return Claim(
        statement=row["statement"],
        source=row["source"],
        paper=f"{value} ({note})" if value and note else value + note,
        measured=measured,
        expectation=row["expectation"],
        seeds=int(row["seeds"]),
        verdict=row["verdict"],
        reason=row["reason"] or "",
    )


def _interval(row: Mapping[Any, Any]) -> str:
    if pd.isna(row["effect"]):
        return "not measured"
    if pd.isna(row["low"]) or pd.isna(row["high"]):
        return f"{number(row['effect'])} (no interval)"
    return f"{number(row['effect'])} [{number(row['low'])}, {number(row['high'])}]"


def _beside(stem: Path, suffix: str) -> Path:
    return stem.with_name(f"{stem.name}.{suffix}")


def _links(stem: Path, suffixes: tuple[str, ...], root: Path) -> list[Link]:
    links = []
    for suffix in suffixes:
        path = _beside(stem, suffix)
        if not path.is_file():
            raise ArtifactError(f"{path} is missing: run snakemake --cores all {path}")
        links.append(Link(suffix.upper(), Path(os.path.relpath(path, root)).as_posix()))
    return links
