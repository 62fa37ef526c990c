"""Cases of the evaluation's keys: the tiny world of its own tests, with further splits."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
from keys_case import Case, Result, Stage, watched
from test_evaluation_core import (
    LENGTHS,
    SITE,
    make_subject,
    random_sae,
    sample,
    write_cache_manifest,
    write_sae,
    write_tokens,
)

from saeflow.artifacts import write_manifest
from saeflow.evaluation.core import evaluate_core, evaluate_series
from saeflow.evaluation.count_ratios import write_count_ratios
from saeflow.evaluation.maps import map_series
from saeflow.evaluation.origin import Member
from saeflow.evaluation.pareto import write_pareto
from saeflow.evaluation.rows import Point, make_row, read_rows, write_rows
from saeflow.evaluation.settings import (
    CoreSettings,
    CountRatioSettings,
    MapSettings,
    ParetoSettings,
    SeriesSettings,
    TokenMeasureSettings,
)
from saeflow.evaluation.token_measures import measure_tokens

POINT = Point("ssae", "subject", SITE, "docs", "all", "batchtopk", 40, 4)
PASSES = "saeflow.evaluation.site_rows.run_to_sites"


def prepare(world: Path) -> None:
    model = make_subject(world / "subject")
    write_tokens(world / "tokens", [sample(model, n, seed) for seed, n in enumerate(LENGTHS)])
    shutil.copy(world / "tokens" / "test.parquet", world / "tokens" / "validation.parquet")
    splits = ["test.parquet", "train.parquet", "validation.parquet"]
    half = pd.read_parquet(world / "tokens" / "test.parquet").iloc[::2]
    half.to_parquet(world / "tokens" / "train.parquet")
    write_manifest(world / "tokens", kind="tokens", settings={}, files=splits)
    write_cache_manifest(world / "cache", None)
    for name, seed in (("sae", 0), ("other", 5)):
        write_sae(world / name, random_sae(seed), 0, world / "cache")


def inputs(world: Path) -> dict[str, Any]:
    return {
        "subject": world / "subject",
        "tokens": world / "tokens",
        "activations": world / "cache",
        "point": POINT,
    }


def largest(passes: list[tuple[Any, ...]]) -> int:
    return max(tokens_bt.numel() for _, tokens_bt, _ in passes)


def run_core(settings: CoreSettings, world: Path, out: Path) -> Result:
    with watched(PASSES) as passes:
        evaluate_core(settings, {0: world / "sae"}, out=out, **inputs(world))
    rows = read_rows([out / "core.parquet"])
    return {
        "counts": rows[["split", "metric", "n"]].to_dict("records"),
        "values": rows["value"].tolist(),
        "largest pass": largest(passes),
    }


def run_series(settings: SeriesSettings, world: Path, out: Path) -> Result:
    saes = [Member(4, 0, world / "sae")]
    with watched(PASSES) as passes:
        evaluate_series(settings, saes, split="test", out=out, **inputs(world))
    rows = read_rows([out / "core.parquet"])
    return {
        "counts": rows["n"].tolist(),
        "values": rows["value"].tolist(),
        "largest pass": largest(passes),
    }


def run_pareto(settings: ParetoSettings, world: Path, out: Path) -> Result:
    """A series ends a fifth beyond the baseline, and it covers the baseline's range exactly."""
    rows = []
    for series, l0s in (("gsae", (4.0, 16.0)), ("bm25", (5.0, 20.0))):
        for l0 in l0s:
            point = POINT._replace(variant=series, l0_target=round(l0))
            values = {"l0": l0, "perplexity_sae": 100 / math.sqrt(l0), "perplexity_clean": 2.0}
            rows += [
                make_row(point, split="test", seed=0, metric=m, value=v, n=10)
                for m, v in values.items()
            ]
    names = sorted({row.variant for row in rows})
    paths = {name: out / name / "core.parquet" for name in names}
    for name, path in paths.items():
        write_rows(path, [row for row in rows if row.variant == name])
        write_manifest(path.parent, kind="metrics", settings={}, files=[path.name])
    [series] = set(names) - {"gsae"}
    write_pareto(paths, series, "gsae", settings, out / "pareto")
    found = read_rows([out / "pareto" / "pareto.parquet"])
    return {"metrics": found["metric"].value_counts().to_dict()}


def run_tokens(settings: TokenMeasureSettings, world: Path, out: Path) -> Result:
    with watched(PASSES) as passes:
        measure_tokens(settings, {0: world / "sae"}, split="test", out=out, **inputs(world))
    types, latents, curves = (
        pd.read_parquet(out / f"{name}.parquet") for name in ("types", "latents", "curves")
    )
    scalars = read_rows([out / "tokens.parquet"]).set_index("metric")["value"]

    def marks(*metrics: str) -> list[tuple[float, ...]]:
        return curves[curves["metric"].isin(metrics)][["x", "value", "n"]].to_numpy().tolist()

    return {
        "rows": int(types["count"].sum()),
        "errors": types["error_mean"].tolist(),
        "frequency": types["frequency"].tolist(),
        "stands for": latents["argmax_token"].fillna(-1).tolist(),
        "mass": types["covered_mass"].tolist(),
        "tail": scalars["tail_error_mean"],
        "cumulative": marks("cumulative_coverage_mass"),
        "bins": marks("coverage_mass", "error_mean_by_rank"),
        "ranks": len(marks("latent_count_by_rank")),
        "cosines": marks("decoder_cosine_density"),
        "largest pass": largest(passes),
    }


def run_counts(settings: CountRatioSettings, world: Path, out: Path) -> Result:
    folders = {}
    for series, counts in (("gsae", [9, 0, 3]), ("bm25", [1, 5, 3])):
        folders[series] = out / series
        folders[series].mkdir(parents=True)
        table = pd.DataFrame({"seed": [0] * 3, "latent": range(3), "count": counts})
        table.to_parquet(out / series / "latents.parquet")
        point = POINT._replace(variant=series)._asdict()
        settings_of = {"point": point, "split": "test"}
        write_manifest(
            out / series, kind="metrics", settings=settings_of, files=["latents.parquet"]
        )
    write_count_ratios(settings, folders, "gsae", out / "ratios")
    return {"ratios": pd.read_parquet(out / "ratios" / "ratios.parquet")["log_ratio"].tolist()}


def run_map(settings: MapSettings, world: Path, out: Path) -> Result:
    given = inputs(world)
    given["activations"] = {"erm": world / "cache", "term": world / "cache"}
    with watched(PASSES) as passes:
        map_series(
            settings,
            {"erm": world / "sae", "term": world / "other"},
            exclusion=world / "cache",
            split="test",
            seed=0,
            out=out,
            **given,
        )
    table = pd.read_parquet(out / "map.parquet")
    activations = table["kind"] == "activation"
    return {
        "places": table[["x", "y"]].to_numpy().tolist(),
        "texts": table["text"][activations].tolist(),
        "activations": int(activations.sum()),
        "latents": int((~activations).sum()),
        "largest pass": largest(passes),
    }


STAGES = {
    "core": Stage(
        CoreSettings.model_validate,
        {"splits": {"test": 10_000}},
        run_core,
        {
            "CoreSettings.splits": Case("splits", {"test": 50, "validation": 50}, "counts"),
            "CoreSettings.batch_tokens": Case("batch_tokens", 64, "largest pass"),
            "CoreSettings.precision": Case("precision", "bfloat16", "values"),
        },
        prepare,
    ),
    "series": Stage(
        SeriesSettings.model_validate,
        {},
        run_series,
        {
            "SeriesSettings.tokens": Case("tokens", 50, "counts"),
            "SeriesSettings.batch_tokens": Case("batch_tokens", 64, "largest pass"),
            "SeriesSettings.precision": Case("precision", "bfloat16", "values"),
        },
        prepare,
    ),
    "pareto": Stage(
        ParetoSettings.model_validate,
        {},
        run_pareto,
        {
            "ParetoSettings.extrapolate": Case("extrapolate", 0.3, "metrics"),
            "ParetoSettings.overlap_margin": Case("overlap_margin", 0, "metrics"),
        },
    ),
    "token measures": Stage(
        TokenMeasureSettings.model_validate,
        {},
        run_tokens,
        {
            "TokenMeasureSettings.tokens": Case("tokens", 50, "rows"),
            "TokenMeasureSettings.batch_tokens": Case("batch_tokens", 64, "largest pass"),
            "TokenMeasureSettings.precision": Case("precision", "bfloat16", "errors"),
            "TokenMeasureSettings.frequency_split": Case(
                "frequency_split", "validation", "frequency"
            ),
            "TokenMeasureSettings.argmax": Case("argmax", "type", "stands for"),
            "TokenMeasureSettings.mass_share": Case("mass_share", 0.2, "mass"),
            "TokenMeasureSettings.tail": Case("tail", 0.1, "tail"),
            "TokenMeasureSettings.cumulative": Case("cumulative", "tokens", "cumulative"),
            "TokenMeasureSettings.bins": Case("bins", 3, "bins"),
            "TokenMeasureSettings.points": Case("points", 5, "ranks"),
            "TokenMeasureSettings.cosine_bins": Case("cosine_bins", 20, "cosines"),
            "TokenMeasureSettings.cosine_latents": Case("cosine_latents", 10, "cosines"),
        },
        prepare,
    ),
    "counts": Stage(
        CountRatioSettings.model_validate,
        {},
        run_counts,
        {"CountRatioSettings.epsilon": Case("epsilon", 0.1, "ratios")},
    ),
    "map": Stage(
        MapSettings.model_validate,
        {"activations": 60, "latents": 20, "neighbours": 5},
        run_map,
        {
            "MapSettings.tokens": Case("tokens", 30, "activations"),
            "MapSettings.batch_tokens": Case("batch_tokens", 64, "largest pass"),
            "MapSettings.activations": Case("activations", 30, "activations"),
            "MapSettings.latents": Case("latents", 10, "latents"),
            "MapSettings.neighbours": Case("neighbours", 9, "places"),
            "MapSettings.min_distance": Case("min_distance", 0.9, "places"),
            "MapSettings.metric": Case("metric", "euclidean", "places"),
            "MapSettings.centre": Case("centre", False, "places"),
            "MapSettings.seed": Case("seed", 1, "texts"),
        },
        prepare,
    ),
}
