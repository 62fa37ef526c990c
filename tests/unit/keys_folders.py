"""Cases of the keys of figures and tables of sweeps and of the debiasing experiment."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import sweeps_planted as planted
from keys_case import Case, Result, Stage
from keys_page import described, drawn, tabulated
from test_figures_sweeps import CIRCUIT, CURVES, DENSITIES, LINES, SCATTER
from test_figures_tables_folders import LATENTS, METHODS

from saeflow.figures.draw_folders import draw_from_folders
from saeflow.figures.settings import parse_figure, parse_table
from saeflow.figures.tables_folders import write_table_from_folders


def folders_in(world: Path) -> planted.Folders:
    """Where `planted.plant_all` put each measure."""
    names = {measure: sorted(p.name for p in (world / measure).iterdir()) for measure in EACH}
    each = {measure: {name: world / measure / name for name in names[measure]} for measure in EACH}
    seeds = {path.name.removeprefix("seed"): path for path in (world / "debias").iterdir()}
    return each | {measure: {"": world / measure} for measure in SHARED} | {"debias": seeds}


EACH = ("core", "pareto", "tokens", "ratios", "explained", "concepts")
SHARED = ("map",)


def context_of(settings: Any) -> dict[str, Any]:
    if settings.kind in ("methods", "circuit"):
        return planted.debias_context()
    return planted.context()


def draw(settings: Any, world: Path, out: Path) -> Result:
    context = context_of(settings)
    of = partial(draw_from_folders, settings, folders_in(world), context)
    return drawn(settings, context, out, of)


def tabulate(settings: Any, world: Path, out: Path) -> Result:
    context = context_of(settings)
    of = partial(write_table_from_folders, settings, folders_in(world), context)
    return tabulated(settings, context, out, of)


def stage(
    parse: Callable[[Any], Any],
    run: Callable[[Any, Path, Path], Result],
    settings: dict[str, Any],
    cases: dict[str, Case],
) -> Stage:
    return Stage(parse, settings, run, cases, planted.plant_all)


CURVE = {"panels.0": CURVES["panels"][0]}
COSINE = {"panels.0": CURVES["panels"][1]}
FREE = {"panels.0.low": None, "panels.0.high": None}
WIDE = {"panels.0.high": 1024}
COLUMNS, GROUPS = METHODS["columns"], METHODS["groups"]
STAGES = {
    "lines": stage(
        parse_figure,
        draw,
        LINES | {"panels": LINES["panels"][:1]},
        {
            **described("Lines"),
            "Lines.series": Case("series", ["gsae", "dense"], "data"),
            "Lines.panels": Case("panels", LINES["panels"], "data"),
            "Lines.shade": Case("shade", None, "picture"),
            "Window.low": Case("shade.low", 12, "picture"),
            "Window.high": Case("shade.high", 60, "picture"),
            "Window.label": Case("shade.label", "another", "picture"),
            "LinePanel.file": Case(
                "panels.0.file", "core", "data", {"panels.0.metric": "perplexity_sae"}
            ),
            "LinePanel.metric": Case("panels.0.metric", "perplexity_sae", "data"),
            "LinePanel.title": Case("panels.0.title", "a panel", "picture"),
            "LinePanel.x_label": Case("panels.0.x_label", "another", "picture"),
            "LinePanel.y_label": Case("panels.0.y_label", "another", "picture"),
            "LinePanel.x_scale": Case("panels.0.x_scale", "linear", "picture"),
            "LinePanel.x_from": Case("panels.0.x_from", -0.9, "picture", COSINE),
            "LinePanel.x_to": Case("panels.0.x_to", 0.9, "picture", COSINE),
            "LinePanel.y_scale": Case("panels.0.y_scale", "linear", "data", CURVE),
            "LinePanel.l0": Case("panels.0.l0", [8], "data"),
            "LinePanel.series": Case("panels.0.series", ["gsae"], "data"),
            "LinePanel.reference": Case("panels.0.reference", None, "data"),
            "FixedLine.value": Case("panels.0.reference.value", 1.1, "data"),
            "FixedLine.label": Case("panels.0.reference.label", "another", "picture"),
        },
    ),
    "densities": stage(
        parse_figure,
        draw,
        DENSITIES | {"panels": DENSITIES["panels"][1:]},
        {
            **described("Densities"),
            "Densities.series": Case("series", ["dense"], "data"),
            "Densities.panels": Case("panels", DENSITIES["panels"], "data"),
            "DensityPanel.file": Case(
                "panels.0.file", "scores", "data", {"panels.0.column": "latent", **WIDE}
            ),
            "DensityPanel.column": Case("panels.0.column", "latent", "data", WIDE),
            "DensityPanel.label": Case("panels.0.label", "another", "picture"),
            "DensityPanel.low": Case("panels.0.low", -3, "data"),
            "DensityPanel.high": Case("panels.0.high", 3, "data"),
            "DensityPanel.beyond": Case("panels.0.beyond", 0.1, "data", FREE),
            "DensityPanel.bandwidth": Case("panels.0.bandwidth", 0.2, "data"),
            "DensityPanel.reference": Case("panels.0.reference", None, "data"),
        },
    ),
    "scatter": stage(
        parse_figure,
        draw,
        SCATTER,
        {
            **described("Scatter"),
            "Scatter.series": Case("series", ["gsae"], "data"),
            "Scatter.layout": Case("layout", "overlay", "picture"),
        },
    ),
    "circuit": stage(
        parse_figure,
        draw,
        CIRCUIT,
        {
            **described("Circuit"),
            "Circuit.sae": Case("sae", "ssae", "data"),
            "CircuitStyle.max_nodes": Case("style.max_nodes", 15, "data"),
            "CircuitStyle.max_edges": Case("style.max_edges", 2, "data"),
            "CircuitStyle.max_labels": Case("style.max_labels", 1, "picture"),
            "CircuitStyle.label_chars": Case("style.label_chars", 2, "picture"),
            "CircuitStyle.label_tokens": Case("style.label_tokens", 1, "picture"),
        },
    ),
    "methods": stage(
        parse_table,
        tabulate,
        METHODS | {"columns": COLUMNS[:1], "published": None},
        {
            **described("Methods"),
            "Methods.columns": Case("columns", COLUMNS, "data"),
            "Methods.groups": Case("groups", GROUPS[:1], "data"),
            "Methods.decimals": Case("decimals", 2, "picture"),
            "Methods.published": Case("published", METHODS["published"], "data"),
            "MethodColumn.metric": Case("columns.0.metric", "profession_accuracy", "data"),
            "MethodColumn.label": Case("columns.0.label", "another", "picture"),
            "MethodColumn.best": Case("columns.0.best", "min", "picture"),
            "MethodGroup.label": Case("groups.0.label", "others", "picture"),
            "MethodGroup.methods": Case("groups.0.methods", {"cbp": "CBP"}, "data"),
        },
    ),
    "latents": stage(
        parse_table,
        tabulate,
        LATENTS,
        {
            **described("Latents"),
            "Latents.series": Case("series", ["dense"], "data"),
            "Latents.rows": Case("rows", 3, "data"),
            "Latents.examples": Case("examples", 1, "data"),
            "Latents.sampling_seed": Case("sampling_seed", 1, "data"),
            "Latents.published": Case("published", [], "data"),
            "PublishedLatents.label": Case("published.0.label", "others", "picture"),
            "PublishedLatents.rows": Case("published.0.rows", {"a": ["b", 1]}, "data"),
        },
    ),
}
