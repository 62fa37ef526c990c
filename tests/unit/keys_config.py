"""Cases of the keys that decide which jobs there are and what each is given.

The functions by which the rules look their inputs and parameters up are those of the workflow.
"""

from __future__ import annotations

import os
import re
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
from keys_case import Case, Result, Stage
from keys_shown import report_page
from sae_planted import SITE, planted, planted_cache, settings
from test_figures_single_l0 import ABLATION, BARS, PAIRED, TABLE

from saeflow.autointerp.kinds import judge_files
from saeflow.config import Config, load_config
from saeflow.figures.caption_values import filled
from saeflow.figures.sweep_settings import SHARED_MEASURES
from saeflow.fingerprint import fingerprint
from saeflow.grids import Timing
from saeflow.measures import FILES, PAIR_MEASURES, measure_of, measure_of_grid
from saeflow.paths import POINT, Paths
from saeflow.preflight import base_files, base_folder, corpus_files, person_files, subject_root
from saeflow.references import TIMING_SPLIT
from saeflow.retrieval.settings import BM25_INDEX
from saeflow.sae.settings import TIMING_METRIC
from saeflow.sae.timing import time_variants

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "workflow" / "rules"


def lookups(config: Config) -> SimpleNamespace:
    """Return the functions of `inputs*.smk` and `common.smk` for a configuration."""
    names: dict[str, Any] = {
        "BM25_INDEX": BM25_INDEX,
        "CFG": config,
        "MEASURE_FILES": FILES,
        "P": Paths(config.root),
        "PROJECT": ROOT,
        "POINT": POINT,
        "Path": Path,
        "SHARED_MEASURES": SHARED_MEASURES,
        "os": os,
        "re": re,
        "base_files": base_files,
        "base_folder": base_folder,
        "person_files": person_files,
        "corpus_files": corpus_files,
        "filled": filled,
        "fingerprint": fingerprint,
        "judge_files": judge_files,
        "PAIR_MEASURES": PAIR_MEASURES,
        "TIMING_METRIC": TIMING_METRIC,
        "measure_of": measure_of,
        "measure_of_grid": measure_of_grid,
        "subject_root": subject_root,
        "TIMING_SPLIT": TIMING_SPLIT,
        "product": product,
        "SimpleNamespace": SimpleNamespace,
    }
    common = (RULES / "common.smk").read_text()
    exec("def manifest" + common.split("def manifest", 1)[1], names)
    for rules in ("", "_sweeps", "_suite", "_selections", "_debias", "_figures", "_together"):
        exec((RULES / f"inputs{rules}.smk").read_text(), names)
    return SimpleNamespace(**names)


def run(config: Config, world: Path, out: Path) -> Result:
    rules, paper = lookups(config), config.ortsae
    papers = [SimpleNamespace(paper=name) for name in config.papers]
    figures = [
        SimpleNamespace(paper=w.paper, name=name)
        for w in papers
        for name in config.paper(w.paper).figures
    ]
    tables = [
        SimpleNamespace(paper=w.paper, name=name)
        for w in papers
        for name in config.paper(w.paper).tables
    ]
    timings = [SimpleNamespace(paper="ortsae", name=name) for name in paper.timings]
    points = [point for w in papers for _, point in config.points(w.paper)]
    return {
        "targets": rules.all_targets(SimpleNamespace()),
        "roots": {name: rules.subject_paths(SimpleNamespace(subject=name)) for name in ("own",)},
        "saes": [
            rules.sae_settings(SimpleNamespace(variant=p.variant, d_sae=p.d_sae, l0=p.l0, seed=0))
            for p in points
        ],
        "needs": [rules.needed_inputs(SimpleNamespace(**plain(p), seed=0)) for p in points],
        "caches": [
            rules.activation_settings(SimpleNamespace(subject=name, split="train"))
            for name in config.subjects
        ],
        "selections": [
            (rules.selection_settings(w), rules.tracin_inputs(w))
            for name in rules.SELECTIONS
            for w in [SimpleNamespace(corpus=name)]
        ],
        "together": [[(s.path, s.seed) for s in saes] for saes in rules.sae_groups()],
        "in one process": list(rules.job_groups()),
        "series": [series_of(rules, config, name) for name in config.ssae.sweeps],
        "compared": [
            (rules.baseline_params(w), rules.pair_inputs(w), rules.sweep_baseline(w))
            for name, grid in paper.grids.items()
            for series in grid.variants
            for w in [SimpleNamespace(paper="ortsae", sweep=name, series=series)]
        ],
        "probed": [
            (rules.measure_settings(w), rules.labelled_inputs(w))
            for name in ("sparse_probing", "scr", "tpp")
            for w in [SimpleNamespace(measure=name)]
        ],
        "debias": debias_of(rules, config),
        "figures": [(rules.figure_context(w), rules.figure_input(w)) for w in figures],
        "tables": [(rules.table_context(w), rules.table_input(w)) for w in tables],
        "timings": [
            (rules.timing_settings(w)["variants"], rules.timing_activations(w)) for w in timings
        ],
        "claims": [
            [[c["id"] for c in e["claims"]], *(e[k] for k in ("rows", "l0s", "window"))]
            for w in papers
            for e in rules.claim_experiments(w)
        ],
        "page": page(rules, out),
    }


def plain(settings: Any) -> dict[str, Any]:
    return settings.model_dump(mode="json")


def series_of(rules: SimpleNamespace, config: Config, name: str) -> Any:
    """Return what the measures of a sweep are given."""
    sweep = config.ssae.sweeps[name]
    here = {"paper": "ssae", "sweep": name}
    return [
        (
            rules.series_params(w),
            rules.series_point(w),
            rules.tested_tokens(w),
            rules.tested_split(w),
            rules.sweep_exclusion(w),
            rules.sweep_baseline(w),
            rules.pareto_files(w),
            rules.counts_folders(w),
            rules.map_saes(w),
        )
        for series, tested in product(sweep.series, sweep.tested)
        for w in [SimpleNamespace(**here, series=series, tested=tested)]
    ]


def debias_of(rules: SimpleNamespace, config: Config) -> Any:
    """Return what a job of the debiasing experiment is given."""
    w = SimpleNamespace(paper="ssae", seed=0)
    if config.ssae.debias is None:
        return None
    return (
        rules.debias_subject(w),
        rules.debias_corpus(w),
        rules.debias_settings(w),
        rules.debias_saes(w),
        rules.debias_inputs(w),
        [[(s.path, s.seed) for s in saes] for saes in rules.site_groups()],
    )


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
    user = {"scale": "smoke", "papers": ["ortsae", "ssae"]}
    tree = load_config(user, ROOT / "config").model_dump(mode="json")
    sites = {
        "sites": ["gpt_neox.*", *(f"gpt_neox.layers.*{m}" for m in ("", ".attention", ".mlp"))]
    }
    tree["subjects"]["tiny"] |= sites
    tree["subjects"]["own"] = {"source": "folder", "path": "model", "context": 64} | sites
    frozen = {"source": "trained", "variant": "topk", "corpus": "docs", "d_sae": 64, "l0": 4}
    tree["variants"]["residual"] = {"activation": "topk", "error_of": frozen}
    hub = {"source": "hub", "id": "some/model", "revision": "v1", "context": 64}
    llama = {"source": "llama2c", "checkpoint": "a.bin", "tokenizer": "b.bin", "context": 64}
    tree["subjects"] |= {"hub": hub | sites, "llama": llama | sites}
    sweeps = tree["ssae"]["sweeps"]
    sweeps["gsae"]["tested"]["more"] = {"corpus": "facts"}
    sweeps["again"] = sweeps["gsae"] | {"d_sae": 64}
    sweeps["third"] = sweeps["second"] | {"d_sae": 64}
    other = {"d_sae": 128, "variants": [*tree["ortsae"]["grids"]["main"]["variants"], "residual"]}
    tree["ortsae"]["grids"]["other"] = tree["ortsae"]["grids"]["main"] | other
    timings = tree["ortsae"]["timings"]
    timings |= {"again": timings["steps"], "wider": timings["widths"]}
    lines = {"line": {4: "batchtopk", 8: "ortsae"}}
    tree["ortsae"]["figures"] |= {
        "ablation": ABLATION | {"lines": lines, "levels": ["relu"]},
        "paired": PAIRED,
        "bars": BARS,
    }
    tree["ortsae"]["tables"]["metrics"] = TABLE
    return tree


def run_timing(timing: Timing, world: Path, out: Path) -> Result:
    time_variants(
        {name: settings(name, d_sae=16) for name in timing.variants},
        world / "cache",
        SITE,
        out,
        rounds=timing.rounds,
        steps=timing.steps,
        d_sae=timing.d_sae,
        origin=dict.fromkeys(("paper", "subject", "corpus", "split", "selection"), "x"),
    )
    rows = pq.read_table(out / "timing.parquet").to_pydict()
    parts = {"rounds": "seed", "steps": "n", "variants": "variant", "sizes": "d_sae"}
    return {part: rows[column] for part, column in parts.items()}


MAIN = "ortsae.grids.main"
IN_GAMMA = ["batchtopk", "ortsae", "ortsae_g4"]
PROFESSION = {"label": "profession", "classes": ["poet", "nurse"]}
CLASSES = {"datasets": {"work": {"corpus": "biographies", "attribute": PROFESSION}}}
GENDER = {"label": "gender", "classes": ["male", "female"]}
PAIRS = {"pairs": {"work": {"corpus": "biographies", "first": PROFESSION, "second": GENDER}}}
SWEEP = "ssae.sweeps.physics"
RERANKED = "corpora.physics_bm25_tracin.tracin.sae"
IN_FOLDERS = {
    "data_dir": str(ROOT / "tests"),
    "ssae.debias.saes.gsae": {
        "source": "folder",
        "path": "fixtures/saes/saelens/standard",
        "d_sae": 8,
    },
}
PLAN = base()
SECOND = [claim["id"] for claim in PLAN["ssae"]["claims"]].index("coverage_dense_second")
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
    "Config.papers": Case("papers", ["ortsae"], "targets"),
    "Config.seeds": Case("seeds", [0, 1, 2], "targets"),
    "Config.train_together": Case("train_together", 3, "together"),
    "Config.seeds_together": Case("seeds_together", 1, "together"),
    "Config.measure_together": Case("measure_together", 1, "in one process"),
    "Config.select_together": Case("select_together", 1, "in one process"),
    "Config.data_dir": Case("data_dir", "own_data", "roots"),
    "Config.results": Case("results", "elsewhere", "targets"),
    "Variant.label": Case("variants.relu.label", "Another", "figures"),
    "Variant.training": Case("variants.relu.training", {"learning_rate": 0.5}, "saes"),
    "TrainedBase.variant": Case(f"{FROZEN}.variant", "relu", "needs"),
    "TrainedBase.corpus": Case(f"{FROZEN}.corpus", "facts", "needs"),
    "TrainedBase.d_sae": Case(f"{FROZEN}.d_sae", 32, "needs"),
    "TrainedBase.l0": Case(f"{FROZEN}.l0", 2, "needs"),
    "Paper.title": Case("ortsae.title", "Another", "page"),
    "Paper.reference": Case("ortsae.reference", "Another", "page"),
    "Paper.claims": Case("ortsae.claims", [], "targets"),
    "TrainedInit.variant": Case("variants.ssae.init_from.variant", "relu", "needs"),
    "TrainedInit.corpus": Case("variants.ssae.init_from.corpus", "facts", "needs"),
    "TrainedInit.l0": Case("variants.ssae.init_from.l0", 8, "needs"),
    "TrainedInit.seed": Case("variants.ssae.init_from.seed", 1, "needs"),
    "SeriesGrid.subject": Case(f"{SWEEP}.subject", "own", "series"),
    "SeriesGrid.site": Case(f"{SWEEP}.site", "gpt_neox.layers.2", "series"),
    "SeriesGrid.d_sae": Case(f"{SWEEP}.d_sae", 64, "saes"),
    "SeriesGrid.l0": Case(f"{SWEEP}.l0", [4, 8, 16], "series"),
    "SeriesGrid.reference_l0": Case(f"{SWEEP}.reference_l0", 4, "series"),
    "SeriesGrid.baseline": Case(f"{SWEEP}.baseline", "all", "series"),
    "SeriesGrid.window": Case(f"{SWEEP}.window", None, "claims"),
    "L0Window.low": Case(f"{SWEEP}.window.low", 1, "claims"),
    "L0Window.high": Case(f"{SWEEP}.window.high", 999, "claims"),
    "Series.corpus": Case(f"{SWEEP}.series.all.corpus", "facts", "series"),
    "Series.variant": Case(f"{SWEEP}.series.all.variant", "ssae_t5", "series"),
    "Series.label": Case(f"{SWEEP}.series.bm25.label", "Another", "figures"),
    "Tested.corpus": Case("ssae.sweeps.gsae.tested.docs.corpus", "facts", "series"),
    "Tested.split": Case(f"{SWEEP}.tested.physics.split", "validation", "series"),
    "Debiasing.subject": Case("ssae.debias.subject", "own", "debias"),
    "Debiasing.corpus": Case("ssae.debias.corpus", "biographies", "debias"),
    "SiteSAEs.corpus": Case("ssae.debias.saes.ssae.corpus", "docs", "debias"),
    "SiteSAEs.variant": Case("ssae.debias.saes.ssae.variant", "gsae_sites", "debias"),
    "SiteSAEs.d_sae": Case("ssae.debias.saes.ssae.d_sae", 32, "debias"),
    "SiteSAEs.l0": Case("ssae.debias.saes.ssae.l0", 4, "debias"),
    "SiteFolders.path": Case(
        "ssae.debias.saes.gsae.path", "fixtures/saes/saelens/jumprelu", "debias", IN_FOLDERS
    ),
    "SiteFolders.d_sae": Case("ssae.debias.saes.gsae.d_sae", 9, "figures", IN_FOLDERS),
    "Paper.debias": Case(
        "ssae.debias",
        None,
        "debias",
        {"ssae.figures": {}, "ssae.tables": {}, "ssae.claims": []},
    ),
    "TracInSAE.variant": Case(
        f"{RERANKED}.variant",
        "gsae_t500",
        "selections",
        {"corpora.physics_bm25_tracin.tracin.checkpoints": "final"},
    ),
    "TracInSAE.corpus": Case(f"{RERANKED}.corpus", "facts", "selections"),
    "TracInSAE.d_sae": Case(f"{RERANKED}.d_sae", 64, "selections"),
    "TracInSAE.l0": Case(f"{RERANKED}.l0", 4, "selections"),
    "TracInSAE.seed": Case(f"{RERANKED}.seed", 1, "selections"),
    "Lines.sweep": Case("ssae.figures.fig3.sweep", "again", "figures"),
    "Lines.tested": Case("ssae.figures.fig3.tested", "more", "figures"),
    "Densities.sweep": Case("ssae.figures.fig4.sweep", "again", "figures"),
    "Densities.tested": Case("ssae.figures.fig4.tested", "more", "figures"),
    "Scatter.sweep": Case("ssae.figures.fig19.sweep", "again", "figures"),
    "Scatter.tested": Case("ssae.figures.fig19.tested", "more", "figures"),
    "Latents.sweep": Case("ssae.tables.table2.sweep", "again", "tables"),
    "Latents.tested": Case("ssae.tables.table2.tested", "more", "tables"),
    "ClaimSettings.sweep": Case(f"ssae.claims.{SECOND}.sweep", "third", "claims"),
    "FromHub.cached_tokens": Case("subjects.hub.cached_tokens", 9, "caches"),
    "FromLlama2c.cached_tokens": Case("subjects.llama.cached_tokens", 9, "caches"),
    "FromFolder.cached_tokens": Case("subjects.own.cached_tokens", 9, "caches"),
    "PretrainedHere.cached_tokens": Case("subjects.tiny.cached_tokens", 9, "caches"),
    "Grid.subject": Case(f"{MAIN}.subject", "own", "targets"),
    "Grid.corpus": Case(f"{MAIN}.corpus", "biographies", "targets"),
    "Grid.site": Case(f"{MAIN}.site", "gpt_neox.layers.2", "targets"),
    "Grid.d_sae": Case(f"{MAIN}.d_sae", 512, "saes"),
    "Grid.l0": Case(f"{MAIN}.l0", [4, 8, 16], "saes"),
    "Grid.reference_l0": Case(f"{MAIN}.reference_l0", 4, "timings"),
    "Grid.variants": Case(f"{MAIN}.variants", ["topk", "relu", *IN_BOTH], "saes"),
    "EvaluationSettings.sparse_probing": Case("evaluation.sparse_probing", CLASSES, "probed"),
    "EvaluationSettings.tpp": Case("evaluation.tpp", CLASSES, "probed"),
    "EvaluationSettings.scr": Case("evaluation.scr", PAIRS, "probed"),
    "Grid.like": Case(
        "ortsae.grids.gamma.like",
        "other",
        "saes",
        {"ortsae.grids.gamma": {"like": "main", "variants": IN_GAMMA, "baseline": "batchtopk"}},
    ),
    "Grid.baseline": Case("ortsae.grids.gamma.baseline", "ortsae", "compared"),
    "Timing.grid": Case("ortsae.timings.steps.grid", "other", "timings", TIMED_ALONE),
    "Curve.grid": Case("ortsae.figures.fig3a.grid", "other", "figures"),
    "BarsAndDensity.grid": Case("ortsae.figures.fig1.grid", "other", "figures"),
    "Scaling.grid": Case("ortsae.figures.fig_cost.grid", "other", "figures"),
    "Scaling.timing": Case("ortsae.figures.fig_cost.timing", "wider", "figures"),
    "Ablation.grid": Case("ortsae.figures.ablation.grid", "other", "figures"),
    "Paired.grid": Case("ortsae.figures.paired.grid", "other", "figures"),
    "Bars.grid": Case("ortsae.figures.bars.grid", "other", "figures"),
    "Metrics.grid": Case("ortsae.tables.metrics.grid", "other", "tables"),
    "Sweep.grid": Case("ortsae.tables.table4.grid", "other", "tables"),
    "Sweep.timing": Case("ortsae.tables.table4.timing", "again", "tables", TIMED_SWEEP),
    "Ratio.grid": Case("ortsae.tables.table3.grid", "other", "tables"),
    "Ratio.timing": Case("ortsae.tables.table3.timing", "again", "tables"),
    "ClaimSettings.grid": Case("ortsae.claims.0.grid", "other", "claims"),
}
STAGES = {
    "plan": Stage(Config.model_validate, PLAN, run, CASES),
    "timing": Stage(
        Timing.model_validate,
        {"grid": "main", "variants": ["relu", "batchtopk"], "rounds": 2, "steps": 2},
        run_timing,
        {
            "Timing.rounds": Case("rounds", 4, "rounds"),
            "Timing.steps": Case("steps", 3, "steps"),
            "Timing.d_sae": Case("d_sae", [16, 24], "sizes"),
            "Timing.variants": Case("variants", ["relu", "topk"], "variants"),
        },
        lambda world: planted_cache(world / "cache", planted(400)[0]),
    ),
}
