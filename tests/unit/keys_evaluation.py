"""Cases of the evaluation's keys: the tiny world of its own tests, with a second split."""

from __future__ import annotations

import shutil
from pathlib import Path

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
from saeflow.evaluation.core import evaluate_core
from saeflow.evaluation.rows import Point, read_rows
from saeflow.evaluation.settings import CoreSettings


def prepare(world: Path) -> None:
    model = make_subject(world / "subject")
    write_tokens(world / "tokens", [sample(model, n, seed) for seed, n in enumerate(LENGTHS)])
    shutil.copy(world / "tokens" / "test.parquet", world / "tokens" / "validation.parquet")
    splits = ["test.parquet", "validation.parquet"]
    write_manifest(world / "tokens", kind="tokens", settings={}, files=splits)
    write_cache_manifest(world / "cache", None)
    write_sae(world / "sae", random_sae(0), 0, world / "cache")


def run(settings: CoreSettings, world: Path, out: Path) -> Result:
    with watched("saeflow.evaluation.site_rows.run_to_sites") as passes:
        evaluate_core(
            settings,
            {0: world / "sae"},
            subject=world / "subject",
            tokens=world / "tokens",
            activations=world / "cache",
            point=Point("ortsae", "subject", SITE, "docs", "all", "batchtopk", 40, 4),
            out=out,
        )
    rows = read_rows([out / "core.parquet"])
    return {
        "counts": rows[["split", "metric", "n"]].to_dict("records"),
        "values": rows["value"].tolist(),
        "largest pass": max(tokens_bt.numel() for _, tokens_bt, _ in passes),
    }


STAGES = {
    "core": Stage(
        CoreSettings.model_validate,
        {"splits": {"test": 10_000}},
        run,
        {
            "CoreSettings.splits": Case("splits", {"test": 50, "validation": 50}, "counts"),
            "CoreSettings.batch_tokens": Case("batch_tokens", 64, "largest pass"),
            "CoreSettings.precision": Case("precision", "bfloat16", "values"),
        },
        prepare,
    )
}
