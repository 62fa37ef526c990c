"""Cases of the keys that decide which jobs there are and what each is given.

The functions by which the rules look their inputs and parameters up are those of the workflow.
"""

from __future__ import annotations

import os
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
from keys_case import Case, Result, Stage
from keys_shown import report_page
from sae_planted import SITE, planted, planted_cache, settings

from saeflow.config import Config, load_config
from saeflow.grids import Timing
from saeflow.paths import POINT, Paths
from saeflow.preflight import base_files, base_folder, corpus_files, subject_root
from saeflow.references import TIMING_SPLIT
from saeflow.sae.timing import time_variants
from saeflow.targets import targets

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "workflow" / "rules"


def lookups(config: Config) -> SimpleNamespace:
    """Return the functions of `inputs.smk` and `common.smk` for a configuration."""
    names: dict[str, Any] = {
        "CFG": config,
        "P": Paths(config.root),
        "PROJECT": ROOT,
        "POINT": POINT,
        "Path": Path,
        "os": os,
        "base_files": base_files,
        "base_folder": base_folder,
        "corpus_files": corpus_files,
        "subject_root": subject_root,
        "TIMING_SPLIT": TIMING_SPLIT,
        "product": product,
        "SimpleNamespace": SimpleNamespace,
    }
    common = (RULES / "common.smk").read_text()
    exec("def manifest" + common.split("def manifest", 1)[1], names)
    exec((RULES / "inputs.smk").read_text(), names)
    return SimpleNamespace(**names)


def run(config: Config, world: Path, out: Path) -> Result:
    rules, paper = lookups(config), config.ortsae
    of_paper = SimpleNamespace(paper="ortsae")
    figures = {name: SimpleNamespace(paper="ortsae", name=name) for name in paper.figures}
    tables = {name: SimpleNamespace(paper="ortsae", name=name) for name in paper.tables}
    timings = {name: SimpleNamespace(paper="ortsae", name=name) for name in paper.timings}
    claims = rules.claims_by_grid(of_paper)
    return {
        "targets": [(t.path, t.title, sorted(t.jobs)) for t in targets(config)],
        "roots": {name: rules.subject_paths(SimpleNamespace(subject=name)) for name in ("own",)},
        "saes": [
            rules.sae_settings(SimpleNamespace(variant=p.variant, d_sae=p.d_sae, l0=p.l0, seed=0))
            for grid in paper.grids.values()
            for p in grid.points()
        ],
        "bases": [
            rules.base_inputs(SimpleNamespace(**p.model_dump(), seed=0))
            for p in paper.grids["other"].points()
        ],
        "together": [[(s.path, s.seed) for s in saes] for saes in rules.sae_groups()],
        "figures": [(rules.figure_context(w), rules.figure_input(w)) for w in figures.values()],
        "tables": [(rules.table_context(w), rules.table_input(w)) for w in tables.values()],
        "timings": [
            (rules.timing_settings(w)["variants"], rules.timing_activations(w))
            for w in timings.values()
        ],
        "claims": {grid: [claim["id"] for claim in of_grid] for grid, of_grid in claims.items()},
        "page": page(rules, out),
    }


def page(rules: SimpleNamespace, out: Path) -> str:
    """Return the report without what other stages make."""
    settings = rules.report_settings(SimpleNamespace())
    nothing = {"subjects": {}, "corpora": {}, "artefacts": [], "benchmarks": out / "none"}
    papers = [
        {**paper, "figures": [], "tables": [], "claims": None} for paper in settings["papers"]
    ]
    return report_page({**settings, **nothing, "papers": papers}, out / "report.html")


def base() -> dict[str, Any]:
    """Return the smoke scale with a second grid and timing, and a subject in a folder."""
    user = {"scale": "smoke", "papers": ["ortsae"]}
    tree = load_config(user, ROOT / "config").model_dump(mode="json")
    sites = {"sites": ["gpt_neox.layers.*"]}
    tree["subjects"]["tiny"] |= sites
    tree["subjects"]["own"] = {"source": "folder", "path": "model", "context": 64} | sites
    frozen = {"source": "trained", "variant": "topk", "corpus": "docs", "d_sae": 64, "l0": 4}
    tree["variants"]["residual"] = {"activation": "topk", "error_of": frozen}
    other = {"d_sae": 128, "variants": [*tree["ortsae"]["grids"]["main"]["variants"], "residual"]}
    tree["ortsae"]["grids"]["other"] = tree["ortsae"]["grids"]["main"] | other
    tree["ortsae"]["timings"]["again"] = tree["ortsae"]["timings"]["steps"]
    return tree


def run_timing(timing: Timing, world: Path, out: Path) -> Result:
    time_variants(
        {name: settings(name, d_sae=16) for name in timing.variants},
        world / "cache",
        SITE,
        out,
        rounds=timing.rounds,
        steps=timing.steps,
        origin=dict.fromkeys(("paper", "subject", "corpus", "split", "selection"), "x"),
    )
    rows = pq.read_table(out / "timing.parquet").to_pydict()
    return {"rounds": rows["seed"], "steps": rows["n"], "variants": rows["variant"]}


MAIN = "ortsae.grids.main"
FROZEN = "variants.residual.error_of"
TIMED_ALONE = {"ortsae.claims": [], "ortsae.tables": {}}
IN_BOTH = ["batchtopk", "matryoshka", "ortsae"]
TIMED_SWEEP = {
    "ortsae.tables.table4.timing": "steps",
    "ortsae.tables.table4.metric": "step_seconds",
    "ortsae.tables.table4.split": "train",
    "ortsae.tables.table4.variants": IN_BOTH,
    "ortsae.tables.table4.levels": {},
}
CASES = {
    "Config.scale": Case("scale", "desk", "targets"),
    "Config.seeds": Case("seeds", [0, 1, 2], "targets"),
    "Config.train_together": Case("train_together", 3, "together"),
    "Config.data_dir": Case("data_dir", "own_data", "roots"),
    "Config.results": Case("results", "elsewhere", "targets"),
    "Variant.label": Case("variants.relu.label", "Another", "figures"),
    "Variant.training": Case("variants.relu.training", {"learning_rate": 0.5}, "saes"),
    "TrainedBase.variant": Case(f"{FROZEN}.variant", "relu", "bases"),
    "TrainedBase.corpus": Case(f"{FROZEN}.corpus", "facts", "bases"),
    "TrainedBase.d_sae": Case(f"{FROZEN}.d_sae", 32, "bases"),
    "TrainedBase.l0": Case(f"{FROZEN}.l0", 2, "bases"),
    "Paper.title": Case("ortsae.title", "Another", "page"),
    "Paper.reference": Case("ortsae.reference", "Another", "page"),
    "Paper.claims": Case("ortsae.claims", [], "targets"),
    "Grid.subject": Case(f"{MAIN}.subject", "own", "targets"),
    "Grid.corpus": Case(f"{MAIN}.corpus", "biographies", "targets"),
    "Grid.site": Case(f"{MAIN}.site", "gpt_neox.layers.2", "targets"),
    "Grid.d_sae": Case(f"{MAIN}.d_sae", 512, "saes"),
    "Grid.l0": Case(f"{MAIN}.l0", [4, 8, 16], "saes"),
    "Grid.reference_l0": Case(f"{MAIN}.reference_l0", 4, "timings"),
    "Grid.variants": Case(f"{MAIN}.variants", ["topk", "relu", *IN_BOTH], "saes"),
    "Timing.grid": Case("ortsae.timings.steps.grid", "other", "timings", TIMED_ALONE),
    "Curve.grid": Case("ortsae.figures.fig3a.grid", "other", "figures"),
    "BarsAndDensity.grid": Case("ortsae.figures.fig1.grid", "other", "figures"),
    "Sweep.grid": Case("ortsae.tables.table4.grid", "other", "tables"),
    "Sweep.timing": Case("ortsae.tables.table4.timing", "again", "tables", TIMED_SWEEP),
    "Ratio.grid": Case("ortsae.tables.table3.grid", "other", "tables"),
    "Ratio.timing": Case("ortsae.tables.table3.timing", "again", "tables"),
    "ClaimSettings.grid": Case("ortsae.claims.0.grid", "other", "claims"),
}
STAGES = {
    "plan": Stage(Config.model_validate, base(), run, CASES),
    "timing": Stage(
        Timing.model_validate,
        {"grid": "main", "variants": ["relu", "batchtopk"], "rounds": 2, "steps": 2},
        run_timing,
        {
            "Timing.rounds": Case("rounds", 4, "rounds"),
            "Timing.steps": Case("steps", 3, "steps"),
            "Timing.variants": Case("variants", ["relu", "topk"], "variants"),
        },
        lambda world: planted_cache(world / "cache", planted(400)[0]),
    ),
}
