"""Read what was measured of the series of a sweep: tidy rows, curves, and tables of values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pyarrow.parquet as pq

from saeflow.evaluation.curve_rows import read_curves
from saeflow.evaluation.rows import read_rows
from saeflow.figures.rows import FigureError
from saeflow.figures.sweep_settings import MEASURE_OF, SHARED_MEASURES, SweepContext, SweepShown

Inputs = Mapping[str, Mapping[str, Path]]
"""Folders by measure and series; a measure of the whole sweep has one folder under any name."""

JUDGED = "Latents explained and scored by"


class Judge(NamedTuple):
    """Who explained and scored latents."""

    name: str
    definition: str
    """Its name and what it does, as captions say it."""


def files_of(inputs: Inputs, file: str, series: Sequence[str]) -> dict[str, Path]:
    """Return where `file` lies, by series (for measures of the whole sweep: one entry).

    Raises FigureError where a folder was not given.
    """
    measure = MEASURE_OF[file]
    folders = inputs.get(measure, {})
    if measure in SHARED_MEASURES:
        chosen, missing = dict(list(folders.items())[:1]), ["the sweep"] if not folders else []
    else:
        chosen = {name: folders[name] for name in series if name in folders}
        missing = [name for name in series if name not in folders]
    if missing:
        raise FigureError(f"missing: folders of measure {measure!r} of {', '.join(missing)}")
    return {name: Path(folder) / f"{file}.parquet" for name, folder in chosen.items()}


def read_sweep_rows(
    inputs: Inputs, file: str, settings: SweepShown, context: SweepContext
) -> pd.DataFrame:
    """Return the tidy rows of the figure's series on its text, with column `x` for curves.

    Raises ArtifactError for a file that holds no such rows, and FigureError where rows are of
    another subject, site or dictionary size, or none is of the tested text.
    """
    paths = list(files_of(inputs, file, settings.series).values())
    rows = (
        pd.concat(map(read_curves, paths), ignore_index=True)
        if file == "curves"
        else read_rows(paths)
    )
    for column in ("subject", "site", "d_sae"):
        expected = getattr(context, column)
        others = sorted(set(rows[column].astype(str)) - {str(expected)})
        if others:
            raise FigureError(f"{settings.source}: rows of {column} {others}, expected {expected}")
    here = (rows["corpus"] == context.corpus) & (rows["split"] == context.split)
    if not here.any():
        found = sorted(set(rows["corpus"] + " " + rows["split"]))
        raise FigureError(
            f"{settings.source}: no row of {file} was measured on {context.corpus} "
            f"{context.split}; there are {found}"
        )
    return rows[here & rows["variant"].isin(settings.series)]


def read_values(
    inputs: Inputs, file: str, column: str, settings: SweepShown, context: SweepContext
) -> dict[str, dict[int, pd.Series]]:
    """Return the values of a column by series and seed, in the order of both.

    Raises FigureError where a column, a series or a seed is missing.
    """
    paths = files_of(inputs, file, settings.series)
    shared = MEASURE_OF[file] in SHARED_MEASURES
    wanted = ["seed", column, *(["series"] if shared else [])]
    tables = {name: _columns(path, wanted) for name, path in paths.items()}
    found: dict[str, dict[int, pd.Series]] = {}
    for name in settings.series:
        table = next(iter(tables.values())) if shared else tables[name]
        here = table[table["series"] == name] if shared else table
        missing = sorted(set(context.seeds) - set(here["seed"]))
        if missing:
            raise FigureError(f"missing: {column!r} of {file} of series {name!r}, seeds {missing}")
        found[name] = {seed: here.loc[here["seed"] == seed, column] for seed in context.seeds}
    return found


def judge_of(inputs: Inputs, settings: SweepShown) -> Judge:
    """Return who explained and scored the latents of all series of the figure.

    Raises FigureError where there are several, whose scores do not compare.
    """
    return judge_in(files_of(inputs, "scores", settings.series).values(), settings.source)


def judge_in(paths: Iterable[Path], source: str) -> Judge:
    """Return the one judge of tables of latents; raises FigureError where there are several."""
    tables = [_columns(path, ["judge", "judge_definition"]) for path in paths]
    judges = {Judge(*row) for table in tables for row in table.itertuples(index=False)}
    if len(judges) != 1:
        found = "; ".join(sorted(judge.definition for judge in judges))
        raise FigureError(f"{source}: needs scores of one judge, got {found}")
    return judges.pop()


def _columns(path: Path, wanted: Sequence[str]) -> pd.DataFrame:
    missing = sorted(set(wanted) - set(pq.read_schema(path).names))
    if missing:
        raise FigureError(f"{path} lacks the columns {missing}")
    return pd.read_parquet(path, columns=list(wanted))
