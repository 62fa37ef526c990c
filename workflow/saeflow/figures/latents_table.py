"""A table of latents with a judge's explanation, examples and diversity score."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq

from saeflow.figures.cells import LEVELS, Cell, number_text, word_cell
from saeflow.figures.rows import FigureError, label_of
from saeflow.figures.settings import Latents, SweepContext
from saeflow.figures.sweep_rows import JUDGED, Judge

_WORDS = {"Explanation": "explanation", "Examples": "examples", "Why so diverse": "justification"}
_COLUMNS = ["seed", "latent", "status", *_WORDS.values(), "diversity", "f1"]
_SCORED = "ok"
_NUMBERS = {"Diversity": ("diversity", 0), "F1": ("f1", 2)}


def latent_cells(
    paths: Mapping[str, Path], judge: Judge, settings: Latents, context: SweepContext
) -> list[Cell]:
    """Return a block a series, the paper's, and who judges: a row a latent, of the first seed.

    The latents are drawn at random from those that were scored and stand in the order of their
    numbers. Raises FigureError where a series or its seed was not scored, or too few latents were.
    """
    cells: list[Cell] = []
    for series in settings.series:
        block = f"this run: {label_of(series, context)}, judge: {judge.name}"
        for row in _drawn(paths[series], series, settings, context).to_dict("records"):
            name = f"latent {row['latent']}"
            row["examples"] = " / ".join(json.loads(row["examples"])[: settings.examples])
            for heading, column in _WORDS.items():
                cells.append(word_cell(block, name, heading, _one_line(row[column])))
            for heading, (column, decimals) in _NUMBERS.items():
                value = float(row[column])
                text = number_text(value, decimals)
                cells.append(Cell(block, name, heading, value, None, None, None, False, text))
    for part in settings.published:
        for name, (concept, diversity) in part.rows.items():
            cells.append(word_cell(part.label, name, "Explanation", concept))
            text = number_text(diversity, 0)
            cells.append(
                Cell(part.label, name, "Diversity", diversity, None, None, None, False, text)
            )
    return [*cells, word_cell(LEVELS, JUDGED, "judge", judge.definition)]


def _drawn(path: Path, series: str, settings: Latents, context: SweepContext) -> pd.DataFrame:
    missing = sorted(set(_COLUMNS) - set(pq.read_schema(path).names))
    if missing:
        raise FigureError(f"{path} lacks the columns {missing}")
    seed = context.seeds[0]
    scores = pd.read_parquet(path, columns=_COLUMNS)
    scored = scores[(scores["seed"] == seed) & (scores["status"] == _SCORED)]
    scored = scored.dropna(subset=["diversity", "f1"])
    if len(scored) < settings.rows:
        raise FigureError(
            f"{len(scored)} latents of series {series!r}, seed {seed}, were scored: the table asks "
            f"for {settings.rows}; set its rows to at most that"
        )
    latents = sorted(scored["latent"])
    chosen = random.Random(settings.sampling_seed).sample(latents, settings.rows)
    return scored[scored["latent"].isin(chosen)].sort_values("latent")


def _one_line(text: str) -> str:
    return " ".join(text.split())
