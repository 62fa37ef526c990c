"""Draw one figure of a grid from metric files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import pandas as pd
from matplotlib.figure import Figure
from pydantic import Field, TypeAdapter

from saeflow.figures.ablation import ablation_marks, draw_ablation
from saeflow.figures.bars import bar_marks, draw_bars
from saeflow.figures.bars_and_density import bar_and_density_marks, draw_bars_and_density
from saeflow.figures.curves import curve_points, draw_curve
from saeflow.figures.decomposition import decomposition_marks, draw_decomposition
from saeflow.figures.decomposition_settings import Decomposition
from saeflow.figures.drawn import as_table, note, write_drawn
from saeflow.figures.frame import footer
from saeflow.figures.origin import footer_parts
from saeflow.figures.paired import draw_paired, paired_marks
from saeflow.figures.rows import read_latents, read_rows
from saeflow.figures.scaling import draw_scaling, scaling_marks
from saeflow.figures.settings import BarsAndDensity, Context, GridFigure
from saeflow.figures.style import house_style, save
from saeflow.figures.sweep_rows import JUDGED, Judge, judge_in
from saeflow.measures import FILES

_GRID_FIGURE: TypeAdapter[GridFigure] = TypeAdapter(
    Annotated[GridFigure, Field(discriminator="kind")]
)


class _Kind(NamedTuple):
    """How a figure that shows nothing but rows is made."""

    marks: Callable[[pd.DataFrame, Any, Context], pd.DataFrame]
    draw: Callable[[pd.DataFrame, Any], Figure]


_OF_ROWS = {
    "ablation": _Kind(ablation_marks, draw_ablation),
    "bars": _Kind(bar_marks, draw_bars),
    "curve": _Kind(curve_points, draw_curve),
    "paired": _Kind(paired_marks, draw_paired),
    "scaling": _Kind(scaling_marks, draw_scaling),
}


def draw_figure(
    settings: GridFigure | Mapping[str, Any],
    rows: Sequence[Path],
    latents: Sequence[Path],
    context: Context | Mapping[str, Any],
    out_stem: Path,
) -> None:
    """Write `out_stem`.svg, .png, .pdf and the drawn data as .parquet and .csv.

    `rows` are tidy metric files, `latents` per-latent tables (read by figures with a density
    only). Where there are rows of detection, footer and drawn data say who judged. Raises
    FigureError that names the variant, L0, metric or seed that is missing.
    """
    settings, context = _GRID_FIGURE.validate_python(settings), Context.model_validate(context)
    table, judge = read_rows(rows, settings, context), _judge(settings, rows)
    with house_style():
        if isinstance(settings, Decomposition):
            drawn = decomposition_marks(rows, settings, context)
            figure = draw_decomposition(drawn)
        elif isinstance(settings, BarsAndDensity):
            per_latent = read_latents(latents, settings.density.column, settings.split)
            drawn = bar_and_density_marks(table, per_latent, settings, context)
            figure = draw_bars_and_density(drawn, settings)
        else:
            kind = _OF_ROWS[settings.kind]
            drawn = kind.marks(table, settings, context)
            figure = kind.draw(drawn, settings)
        footer(figure, footer_parts(settings, context, judge and judge.name))
        save(figure, out_stem)
    if judge is not None:
        drawn = pd.concat([drawn, as_table([note(f"{JUDGED}: {judge.definition}.")])])
    write_drawn(drawn, out_stem)


def _judge(settings: GridFigure, rows: Sequence[Path]) -> Judge | None:
    tables = [
        path.with_name("detection_details.parquet")
        for path in rows
        if path.name == FILES["detection"]
    ]
    return judge_in(tables, settings.source) if tables else None
