"""Cases of RAVEL's keys: latents in random directions on entities whose attributes are planted."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
from concept_recall_world import write_sae
from keys_case import Case, Result, Stage, watched
from ravel_world import SITE, entities, make_world, random_sae

from saeflow.evaluation.origin import Member
from saeflow.evaluation.ravel import evaluate_ravel
from saeflow.evaluation.ravel_settings import RavelSettings
from saeflow.evaluation.rows import Point

BASE = {
    "file": "entities.json",
    "min_entities": 2,
    "pairs": 30,
    "batch_pairs": 6,
    "learning_rate": 0.01,
}


def prepare(world: Path) -> None:
    make_world(world)
    write_sae(world / "random", random_sae(), SITE, world / "cache")
    fewer = entities()
    del fewer["city"]["entities"]["e00"]
    (world / "fewer.json").write_text(json.dumps(fewer))
    # Only the second token of this value is wrong.
    known = entities()
    known["city"]["entities"]["e20"]["country"] = "land c0"
    (world / "second.json").write_text(json.dumps(known))


def run(settings: RavelSettings, world: Path, out: Path) -> Result:
    """The tables, or what the job refuses, the most tokens in a pass, and the masks' logits."""
    with (
        watched("saeflow.evaluation.site_rows.run_to_sites") as passes,
        watched("saeflow.evaluation.ravel_interchange.cross_entropy") as losses,
    ):
        try:
            evaluate_ravel(
                settings,
                [Member(4, 0, world / "random")],
                subject=world / "subject",
                activations=world / "cache",
                data_dir=world,
                point=Point("ortsae", "subject", SITE, "docs", "all", "batchtopk", 40, 4),
                out=out,
            )
        except ValueError as error:
            return {"details": str(error)}
    return {
        "scores": pd.read_parquet(out / "ravel.parquet").to_json(),
        "details": pd.read_parquet(out / "ravel_details.parquet").to_json(),
        "arithmetic": [float(logits_bv.detach().sum()) for logits_bv, _ in losses],
        "largest pass": max(tokens_bt.numel() for _, tokens_bt, _ in passes),
    }


STAGES = {
    "ravel": Stage(
        RavelSettings.model_validate,
        BASE,
        run,
        {
            "RavelSettings.file": Case("file", "fewer.json", "details"),
            "RavelSettings.position": Case("position", "prompt", "details"),
            "RavelSettings.prompts": Case("prompts", 25, "details"),
            "RavelSettings.answer_tokens": Case(
                "answer_tokens", 1, "details", {"file": "second.json"}
            ),
            "RavelSettings.max_entities": Case("max_entities", 6, "details"),
            "RavelSettings.max_templates": Case("max_templates", 3, "details"),
            "RavelSettings.min_entities": Case("min_entities", 10, "details"),
            "RavelSettings.pairs": Case("pairs", 20, "details"),
            "RavelSettings.train_share": Case("train_share", 0.5, "details"),
            "RavelSettings.epochs": Case("epochs", 4, "details"),
            "RavelSettings.batch_pairs": Case("batch_pairs", 12, "details"),
            "RavelSettings.learning_rate": Case("learning_rate", 0.5, "details"),
            "RavelSettings.final_temperature": Case("final_temperature", 1.0, "details"),
            "RavelSettings.keep_error": Case("keep_error", True, "details"),
            "RavelSettings.batch_tokens": Case("batch_tokens", 16, "largest pass"),
            "RavelSettings.precision": Case("precision", "bfloat16", "arithmetic"),
            "RavelSettings.seed": Case("seed", 1, "details"),
        },
        prepare,
    )
}
