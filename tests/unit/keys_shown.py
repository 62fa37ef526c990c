"""Cases of the keys of figures and tables: drawn from planted rows, and shown in a report."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import figures_planted as planted
import keys_folders
import pandas as pd
from keys_case import Case, Result, Stage
from keys_page import described, drawn, report_page, tabulated
from test_figures_draw import BARS, CURVE
from test_figures_scaling import SCALING, plant
from test_figures_tables import RATIO, SWEEP

from saeflow.evaluation.rows import Row, write_rows
from saeflow.figures.draw import draw_figure
from saeflow.figures.settings import (
    BarsAndDensity,
    Curve,
    Ratio,
    Scaling,
    Sweep,
    parse_figure,
    parse_table,
)
from saeflow.figures.tables import write_table

__all__ = ["STAGES", "report_page"]
L0S = (16, 32)
CONTEXT = planted.context(l0s=L0S, seeds=(0, 1))


def prepare(world: Path) -> None:
    """Plant rows of two splits, selections and (for timings) metrics, and per-latent tables."""
    rows = [row for name in planted.VARIANTS for l0 in L0S for row in planted.rows_of(name, l0)]
    write_rows(world / "rows.parquet", [*rows, *others(rows)])
    timed = pd.read_parquet(planted.plant_timing(world)).to_dict("records")
    timing = [Row(**row) for row in timed]
    slower = [row._replace(l0_target=16, value=1.1 * row.value) for row in timing]
    other = [row._replace(metric="other_seconds", value=1.2 * row.value) for row in timing]
    write_rows(world / "timing.parquet", [*timing, *slower, *other, *others(timing)])
    steps = [Row(**row) for row in pd.read_parquet(plant(world / "widths")).to_dict("records")]
    other = [row._replace(metric="other_seconds", value=1.2 * row.value) for row in steps]
    write_rows(world / "widths.parquet", [*steps, *other, *others(steps)])
    paths = [path for l0 in L0S for path in planted.plant_latents(world / str(l0), l0)]
    latents = pd.concat([pd.read_parquet(path) for path in paths])
    rescaled = {"max_decoder_cosine": 0.9 * latents["max_decoder_cosine"]}
    held_out = latents.assign(split="validation", **rescaled)
    pd.concat([latents, held_out]).to_parquet(world / "latents.parquet")


def others(rows: list[Row]) -> list[Row]:
    """Return the rows again, of another split and of another selection."""
    return [
        *(row._replace(split="validation", value=1.03 * row.value) for row in rows),
        *(row._replace(selection="part", value=1.05 * row.value) for row in rows),
    ]


def draw(settings: Curve | BarsAndDensity | Scaling, world: Path, out: Path) -> Result:
    rows = [world / ("widths.parquet" if isinstance(settings, Scaling) else "rows.parquet")]
    latents = [world / "latents.parquet"]
    return drawn(settings, CONTEXT, out, partial(draw_figure, settings, rows, latents, CONTEXT))


def tabulate(settings: Sweep | Ratio, world: Path, out: Path) -> Result:
    rows = [world / ("timing.parquet" if isinstance(settings, Ratio) else "rows.parquet")]
    return tabulated(settings, CONTEXT, out, partial(write_table, settings, rows, CONTEXT))


def common(kind: str, variants: list[str]) -> dict[str, Case]:
    return {
        **described(kind),
        f"{kind}.variants": Case("variants", variants, "data"),
        f"{kind}.split": Case("split", "validation", "data"),
        f"{kind}.selection": Case("selection", "part", "data"),
    }


def stage(
    parse: Callable[[Any], Any],
    run: Callable[[Any, Path, Path], Result],
    settings: dict[str, Any],
    cases: dict[str, Case],
) -> Stage:
    return Stage(parse, settings, run, cases, prepare)


STAGES = keys_folders.STAGES | {
    "curve": stage(
        parse_figure,
        draw,
        CURVE | {"variants": ["relu", "ortsae"]},
        {
            **common("Curve", ["relu", "topk"]),
            "Curve.metric": Case("metric", "kl_score", "data"),
            "Curve.y_label": Case("y_label", "Another", "picture"),
            "Curve.x_label": Case("x_label", "Another", "picture"),
            "Curve.x_scale": Case("x_scale", "linear", "picture"),
            "Curve.l0": Case("l0", "reference", "data"),
            "Curve.reference": Case("reference", None, "data"),
            "ReferenceLine.metric": Case("reference.metric", "ce_clean", "data"),
            "ReferenceLine.label": Case("reference.label", "another", "picture"),
        },
    ),
    "bars and density": stage(
        parse_figure,
        draw,
        BARS | {"variants": ["relu", "ortsae"], "panels": BARS["panels"][:1]},
        {
            **common("BarsAndDensity", ["relu", "topk"]),
            "BarsAndDensity.panels": Case("panels", BARS["panels"], "data"),
            "BarsAndDensity.l0": Case("l0", 16, "data"),
            "BarsAndDensity.not_measured": Case("not_measured", ["another rate"], "page"),
            "BarPanel.metric": Case("panels.0.metric", "kl_score", "data"),
            "BarPanel.label": Case("panels.0.label", "Another", "picture"),
            "Density.column": Case("density.column", "firing_rate", "data"),
            "Density.label": Case("density.label", "Another", "picture"),
            "Density.low": Case("density.low", -0.5, "data"),
            "Density.high": Case("density.high", 1.5, "data"),
            "Density.bandwidth": Case("density.bandwidth", 0.05, "data"),
            "Density.reference": Case("density.reference", None, "data"),
        },
    ),
    "scaling": stage(
        parse_figure,
        draw,
        SCALING,
        {
            **common("Scaling", ["ortsae"]),
            "Scaling.metric": Case("metric", "other_seconds", "data"),
            "Scaling.baseline": Case("baseline", None, "data"),
            "Scaling.factor": Case("factor", 10, "data"),
            "Scaling.y_label": Case("y_label", "Another", "picture"),
            "Scaling.x_label": Case("x_label", "Another", "picture"),
        },
    ),
    "sweep": stage(
        parse_table,
        tabulate,
        SWEEP,
        {
            **common("Sweep", ["relu", "topk"]),
            "Sweep.published": Case("published", None, "data"),
            "Sweep.metric": Case("metric", "kl_score", "data"),
            "Sweep.decimals": Case("decimals", 2, "picture"),
            "Sweep.best": Case("best", "max", "picture"),
            "Sweep.l0": Case("l0", [16], "data"),
            "Sweep.levels": Case("levels", {"site set to zero": "ce_zero"}, "picture"),
            "Published.label": Case("published.label", "another", "picture"),
            "Published.columns": Case("published.columns", ["a", "b"], "picture"),
            "Published.rows": Case("published.rows", {"ReLU": [1.0, 2.0]}, "data"),
            "Published.decimals": Case("published.decimals", [1, 1], "picture"),
        },
    ),
    "ratio": stage(
        parse_table,
        tabulate,
        RATIO,
        {
            **common("Ratio", ["batchtopk", "ortsae"]),
            "Ratio.published": Case("published", SWEEP["published"], "data"),
            "Ratio.metric": Case("metric", "other_seconds", "data"),
            "Ratio.unit": Case("unit", "hours", "picture"),
            "Ratio.factor": Case("factor", 10, "data"),
            "Ratio.baseline": Case("baseline", "matryoshka", "data"),
            "Ratio.decimals": Case("decimals", 3, "picture"),
            "Ratio.l0": Case("l0", 16, "data"),
        },
    ),
}
