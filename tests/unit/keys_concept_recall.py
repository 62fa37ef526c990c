"""Cases of concept recall's keys: the last block of a tiny subject, and random latents."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from concept_recall_world import BLOCK, make_world, random_sae, write_sae
from keys_case import Case, Result, Stage, watched

from saeflow.artifacts import read_manifest
from saeflow.evaluation.concept_recall import measure_concept_recall
from saeflow.evaluation.concept_recall_settings import ConceptRecallSettings
from saeflow.evaluation.rows import Point, read_rows

SENTENCES = [
    (concept, f"{first} {second}")
    for concept, own in (("one", ["w1", "w2", "w3"]), ("two", ["w4", "w5", "w3"]))
    for first in own
    for second in (*own, "w6", "w7")
]


def prepare(world: Path) -> None:
    planted = dict.fromkeys(("train", "validation", "test"), SENTENCES)
    make_world(world, planted, plain=40)
    write_sae(world / "random", random_sae(), BLOCK, world / "cache")


def run(settings: ConceptRecallSettings, world: Path, out: Path) -> Result:
    with watched("saeflow.evaluation.site_rows.run_to_sites") as passes:
        measure_concept_recall(
            settings,
            {0: world / "random"},
            subject=world / "subject",
            tokens=world / "tokens",
            corpus=world / "corpus",
            activations=world / "cache",
            point=Point("ssae", "subject", BLOCK, "planted", "all", "gsae", 40, 4),
            out=out,
        )
    rows = read_rows([out / "concept_recall.parquet"]).set_index("metric")["value"]
    return {
        "recall": rows["concept_recall"],
        "aurocs": pd.read_parquet(out / "concepts.parquet")["auroc_validation"].tolist(),
        "instances": read_manifest(out, kind="metrics")["stats"]["instances"],
        "largest pass": max(tokens_bt.numel() for _, tokens_bt, _ in passes),
    }


STAGES = {
    "concept recall": Stage(
        ConceptRecallSettings.model_validate,
        {},
        run,
        {
            "ConceptRecallSettings.bar": Case("bar", 0.51, "recall"),
            "ConceptRecallSettings.unplanted": Case("unplanted", 1.0, "instances"),
            "ConceptRecallSettings.batch_tokens": Case("batch_tokens", 64, "largest pass"),
            "ConceptRecallSettings.precision": Case("precision", "bfloat16", "aurocs"),
            "ConceptRecallSettings.seed": Case("seed", 1, "aurocs"),
        },
        prepare,
    )
}
