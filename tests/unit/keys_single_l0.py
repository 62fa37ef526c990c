"""Cases of the keys of figures and tables of a grid at one L0."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import single_l0_planted as planted
from keys_case import Case, Result, Stage
from keys_page import described, drawn, tabulated
from keys_shown import others
from test_figures_single_l0 import ABLATION, BARS, PAIRED, TABLE

from saeflow.evaluation.rows import write_rows
from saeflow.figures.draw import draw_figure
from saeflow.figures.settings import parse_figure, parse_table
from saeflow.figures.tables import write_table

CONTEXT = planted.context(l0s=(16, 32), seeds=(0, 1))


def prepare(world: Path) -> None:
    """Plant rows of two L0 targets, splits and selections."""
    named = [(name, l0) for name in planted.LABELS for l0 in (16, 32)]
    rows = [row for name, l0 in named for row in planted.rows_of(name, l0, (0, 1))]
    write_rows(world / "rows.parquet", [*rows, *others(rows)])


def draw(settings: Any, world: Path, out: Path) -> Result:
    rows = [world / "rows.parquet"]
    return drawn(settings, CONTEXT, out, partial(draw_figure, settings, rows, [], CONTEXT))


def tabulate(settings: Any, world: Path, out: Path) -> Result:
    rows = [world / "rows.parquet"]
    return tabulated(settings, CONTEXT, out, partial(write_table, settings, rows, CONTEXT))


def common(kind: str) -> dict[str, Case]:
    return {
        **described(kind),
        f"{kind}.split": Case("split", "validation", "data"),
        f"{kind}.selection": Case("selection", "part", "data"),
        f"{kind}.l0": Case("l0", 16, "data"),
    }


ONE_LINE = {"line": {4: "ortsae_k4", 8: "ortsae"}}
ONE_BAR = BARS["panels"][0]["bars"][0]
STAGES = {
    "ablation": Stage(
        parse_figure,
        ABLATION | {"lines": ONE_LINE, "panels": ABLATION["panels"][1:2]},
        draw,
        {
            **common("Ablation"),
            "Ablation.lines": Case("lines", {"line": {4: "ortsae_k4", 16: "ortsae"}}, "data"),
            "Ablation.levels": Case("levels", ["relu"], "data"),
            "Ablation.panels": Case("panels", ABLATION["panels"], "data"),
            "Ablation.x_label": Case("x_label", "Another", "picture"),
            "Ablation.x_scale": Case("x_scale", "linear", "picture"),
            "AblationPanel.metric": Case("panels.0.metric", "explained_variance", "data"),
            "AblationPanel.y_label": Case("panels.0.y_label", "Another", "picture"),
            "AblationPanel.reference": Case("panels.0.reference", None, "data"),
        },
        prepare,
    ),
    "paired": Stage(
        parse_figure,
        PAIRED,
        draw,
        {
            **common("Paired"),
            "Paired.variants": Case("variants", ["relu", "ortsae"], "data"),
            "Paired.x": Case("x", "clustering_coefficient", "data"),
            "Paired.y": Case("y", "edge_density", "data"),
            "Paired.x_label": Case("x_label", "Another", "picture"),
            "Paired.y_label": Case("y_label", "Another", "picture"),
            "Paired.x_scale": Case("x_scale", "linear", "data"),
            "Paired.y_scale": Case("y_scale", "log", "data"),
        },
        prepare,
    ),
    "bars": Stage(
        parse_figure,
        BARS,
        draw,
        {
            **common("Bars"),
            "Bars.panels": Case("panels", 2 * BARS["panels"], "data"),
            "BarsPanel.label": Case("panels.0.label", "Another", "picture"),
            "BarsPanel.bars": Case("panels.0.bars", [ONE_BAR], "data"),
            "Bar.variant": Case("panels.0.bars.0.variant", "matryoshka", "data"),
            "Bar.metric": Case("panels.0.bars.0.metric", "scr@20", "data"),
            "Bar.label": Case("panels.0.bars.0.label", "Another", "picture"),
            "Bar.look": Case("panels.0.bars.1.look", None, "picture"),
        },
        prepare,
    ),
    "metrics": Stage(
        parse_table,
        TABLE,
        tabulate,
        {
            **common("Metrics"),
            "Metrics.variants": Case("variants", ["relu", "ortsae"], "data"),
            "Metrics.columns": Case("columns", TABLE["columns"][:1], "data"),
            "Metrics.published": Case("published", None, "data"),
            "MetricsColumn.metric": Case("columns.0.metric", "composition_rate", "data"),
            "MetricsColumn.label": Case("columns.0.label", "Another", "picture"),
            "MetricsColumn.decimals": Case("columns.0.decimals", 5, "picture"),
            "MetricsColumn.best": Case("columns.0.best", "min", "picture"),
        },
        prepare,
    ),
}
