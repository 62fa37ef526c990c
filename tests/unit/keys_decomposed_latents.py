"""Cases of the keys of decomposed latents: how they are read off a text, and how they are shown."""

from __future__ import annotations

from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace

import figures_planted as planted
import pyarrow.parquet as pq
from decomposed_planted import FIGURE, TABLE, plant
from decomposed_world import evaluate, make_world
from keys_case import Case, Result, Stage, watched
from keys_config import base, lookups
from keys_page import described, drawn, tabulated

from saeflow.config import Config
from saeflow.evaluation.decomposed_latents_settings import DecomposedLatentsSettings
from saeflow.figures.decomposition_settings import Decomposition, Decompositions
from saeflow.figures.draw import draw_figure
from saeflow.figures.settings import parse_figure, parse_table
from saeflow.figures.tables import write_table

CONTEXT = planted.context(seeds=(0,))


def run(settings: DecomposedLatentsSettings, world: Path, out: Path) -> Result:
    with watched("saeflow.autointerp.firing.run_to_sites") as passes:
        evaluate(settings, world, out)
    table = pq.read_table(out / "decomposed_latents.parquet")
    rows = pq.read_table(out / "decomposed_cofiring.parquet").to_pydict()
    columns = {name: table[name].to_pylist() for name in table.column_names}
    return columns | {"metrics": rows["value"], "passes": len(passes)}


def prepare(world: Path) -> None:
    plant(
        world,
        {},
        {"split": "validation"},
        {"selection": "part"},
        {"variant": "matryoshka"},
        {"baseline": "topk"},
    )


@cache
def rules() -> SimpleNamespace:
    """The functions by which the rules look up what a figure or table is made from."""
    return lookups(Config.model_validate(base()))


def show(settings: Decomposition | Decompositions, world: Path, out: Path) -> Result:
    rows = [world / "decomposed_cofiring.parquet"]
    if isinstance(settings, Decomposition):
        draw = partial(draw_figure, settings, rows, [], CONTEXT)
        shown = drawn(settings, CONTEXT, out, draw)
    else:
        shown = tabulated(settings, CONTEXT, out, partial(write_table, settings, rows, CONTEXT))
    return {**shown, "folders": rules().shown_folders("ortsae", settings)}


def common(kind: str) -> dict[str, Case]:
    return {
        **described(kind),
        f"{kind}.grid": Case("grid", "other", "folders"),
        f"{kind}.split": Case("split", "validation", "picture"),
        f"{kind}.selection": Case("selection", "part", "picture"),
        f"{kind}.variant": Case("variant", "matryoshka", "picture"),
        f"{kind}.baseline": Case("baseline", "topk", "picture"),
        f"{kind}.contexts": Case("contexts", 1, "picture"),
    }


STAGES = {
    "decomposed latents": Stage(
        DecomposedLatentsSettings.model_validate,
        {"parts": [2, 3], "tokens": 2000, "context": 3, "min_tokens": 5},
        run,
        {
            f"DecomposedLatentsSettings.{name}": Case(name, value, looks)
            for name, value, looks in (
                ("parts", [3, 2], "parts"),
                ("tokens", 1000, "tokens"),
                ("batch_tokens", 200, "passes"),
                ("min_tokens", 10_000, "role"),
                ("context", 4, "contexts"),
                ("contexts", 1, "contexts"),
                ("words", 1, "words"),
                ("min_gain", 0.6, "words"),
                ("word_contexts", 1, "words"),
                ("seed", 1, "latent"),
            )
        },
        make_world,
    ),
    "figure of a sum": Stage(
        parse_figure,
        FIGURE,
        show,
        common("Decomposition") | {"Decomposition.example": Case("example", 1, "picture")},
        prepare,
    ),
    "table of sums": Stage(
        parse_table,
        TABLE,
        show,
        common("Decompositions")
        | {
            "Decompositions.examples": Case("examples", [1], "data"),
            "Decompositions.published": Case("published", [], "data"),
            "PublishedSum.label": Case("published.0.label", "another paper", "picture"),
            "PublishedSum.latent": Case("published.0.latent", "King", "picture"),
            "PublishedSum.parts": Case("published.0.parts", ["a", "b"], "picture"),
        },
        prepare,
    ),
}
