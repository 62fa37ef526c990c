"""Draw one figure of a sweep or of the debiasing experiment from the folders of its measures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure as Drawing

from saeflow.figures.circuit import circuit_marks, draw_circuit
from saeflow.figures.densities import density_marks, draw_densities
from saeflow.figures.drawn import as_table, note, write_drawn
from saeflow.figures.frame import footer
from saeflow.figures.lines import draw_lines, line_marks
from saeflow.figures.origin import footer_parts
from saeflow.figures.rows import FigureError
from saeflow.figures.scatter import draw_map, map_marks
from saeflow.figures.settings import (
    Circuit,
    DebiasContext,
    Densities,
    Figure,
    Lines,
    Scatter,
    SweepContext,
    parse_context,
    parse_figure,
)
from saeflow.figures.style import house_style, save
from saeflow.figures.sweep_rows import (
    JUDGED,
    Inputs,
    Judge,
    files_of,
    judge_of,
    read_sweep_rows,
    read_values,
)


def draw_from_folders(
    settings: Figure | Mapping[str, Any],
    folders: Inputs,
    context: Mapping[str, Any],
    out_stem: Path,
) -> None:
    """Write `out_stem`.svg, .png, .pdf and the drawn data as .parquet and .csv.

    `folders` hold the figure's `measures`, by series (of the debiasing experiment, by seed).
    Raises FigureError that names the series, metric, seed or folder that is missing.
    """
    settings, known = parse_figure(settings), parse_context(context)
    judge = _judge(settings, folders)
    named = known.judge if isinstance(known, DebiasContext) else judge and judge.name
    with house_style():
        if isinstance(settings, Circuit):
            drawn, figure = _circuit(settings, folders, known.seeds[0])
        elif isinstance(known, SweepContext):
            drawn, figure = _of_sweep(settings, folders, known)
        else:
            raise FigureError(f"{settings.source}: kind {settings.kind} needs a sweep")
        footer(figure, footer_parts(settings, known, named))
        save(figure, out_stem)
    if judge is not None:
        drawn = pd.concat([drawn, as_table([note(f"{JUDGED}: {judge.definition}.")])])
    write_drawn(drawn, out_stem)


def _judge(settings: Figure, folders: Inputs) -> Judge | None:
    if isinstance(settings, Densities) and "explained" in settings.measures:
        return judge_of(folders, settings)
    return None


def _circuit(settings: Circuit, folders: Inputs, seed: int) -> tuple[pd.DataFrame, Drawing]:
    """The circuit of one seed, with the SAEs of one kind patched in."""
    nodes, edges = (
        pd.read_parquet(files_of(folders, file, [str(seed)])[str(seed)])
        for file in ("nodes", "edges")
    )
    if settings.sae not in set(nodes["sae"]):
        raise FigureError(f"{settings.source}: no circuit of {settings.sae!r} at seed {seed}")
    of_kind = (table[table["sae"] == settings.sae] for table in (nodes, edges))
    nodes, edges = (table.drop(columns="sae").reset_index(drop=True) for table in of_kind)
    drawn = circuit_marks(nodes, edges, settings.style)
    return drawn, draw_circuit(drawn, settings.style)


def _of_sweep(
    settings: Figure, folders: Inputs, context: SweepContext
) -> tuple[pd.DataFrame, Drawing]:
    if isinstance(settings, Lines):
        files: set[str] = {panel.file for panel in settings.panels}
        tables = {file: read_sweep_rows(folders, file, settings, context) for file in files}
        drawn = line_marks(tables, settings, context)
        return drawn, draw_lines(drawn, settings)
    if isinstance(settings, Densities):
        values = [
            read_values(folders, panel.file, panel.column, settings, context)
            for panel in settings.panels
        ]
        drawn = density_marks(values, settings, context)
        return drawn, draw_densities(drawn, settings)
    if isinstance(settings, Scatter):
        [path] = files_of(folders, "map", settings.series).values()
        drawn = map_marks(path, settings, context)
        return drawn, draw_map(drawn, settings)
    raise FigureError(f"{settings.source}: kind {settings.kind} is not drawn from a sweep")
