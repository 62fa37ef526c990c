"""Write one table of a sweep or of the debiasing experiment from the folders of its measures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from saeflow.evaluation.rows import read_rows
from saeflow.figures.captions import caption_of
from saeflow.figures.cells import LEVELS, write_cells
from saeflow.figures.latents_table import latent_cells
from saeflow.figures.methods_table import method_cells
from saeflow.figures.rows import FigureError
from saeflow.figures.settings import (
    DebiasContext,
    Latents,
    Methods,
    SweepContext,
    Table,
    parse_context,
    parse_table,
)
from saeflow.figures.sweep_rows import Inputs, files_of, judge_of


def write_table_from_folders(
    settings: Table | Mapping[str, Any],
    folders: Inputs,
    context: Mapping[str, Any],
    out_stem: Path,
) -> None:
    """Write `out_stem`.csv and .parquet (one row a cell), .md and .tex (booktabs).

    `folders` hold the table's `measures`, by series (of the debiasing experiment, by seed). Raises
    FigureError that names the method, series, metric, seed or folder that is missing.
    """
    settings, known = parse_table(settings), parse_context(context)
    if isinstance(settings, Methods) and isinstance(known, DebiasContext):
        paths = files_of(folders, "debias", [str(seed) for seed in known.seeds])
        cells = method_cells(read_rows(paths.values()), settings, known)
    elif isinstance(settings, Latents) and isinstance(known, SweepContext):
        paths = files_of(folders, "scores", settings.series)
        cells = latent_cells(paths, judge_of(folders, settings), settings, known)
    else:
        raise FigureError(f"{settings.source}: a table of kind {settings.kind} needs other inputs")
    levels = {one.row: one.text for one in cells if one.block == LEVELS}
    write_cells(cells, caption_of(settings, known, levels), out_stem)
