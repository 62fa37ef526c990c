"""Cases of the keys of detection: latents of no plain rule, read by the judge without a model."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
from autointerp_planted import POINT, make_world
from keys_autointerp import D_SAE, SITE, write_noisy_sae
from keys_case import Case, Result, Stage, watched

from saeflow.autointerp.settings import Autointerp
from saeflow.evaluation.detection import evaluate_detection
from saeflow.evaluation.detection_settings import DetectionSettings
from saeflow.evaluation.origin import Member


def prepare(world: Path) -> None:
    make_world(world)
    write_noisy_sae(world / "sae", world / "cache")


def run(settings: DetectionSettings, world: Path, out: Path) -> Result:
    with watched("saeflow.autointerp.firing.run_to_sites") as passes:
        evaluate_detection(
            settings,
            Autointerp.model_validate({"judge": {"kind": "lexical", "contrast": 50}}),
            [Member(1, 0, world / "sae")],
            subject=world / "subject",
            tokens=world / "tokens",
            activations=world / "cache",
            split="test",
            point=POINT._replace(site=SITE, d_sae=D_SAE, l0_target=1),
            out=out,
        )
    rows = pq.read_table(out / "detection.parquet").to_pylist()
    details = pq.read_table(out / "detection_details.parquet").to_pylist()
    return {
        "metrics": [row["metric"] for row in rows],
        "values": [row["value"] for row in rows],
        "looked at": {row["metric"]: row["n"] for row in rows}["detection_live"],
        "details": details,
        "live": {row["metric"]: row["value"] for row in rows}["detection_live"],
        "scored on": {(one["protocol"], one["active"], one["silent"]) for one in details},
        "largest pass": max(tokens_bt.numel() for _, tokens_bt, _ in passes),
    }


STAGES = {
    "detection": Stage(
        DetectionSettings.model_validate,
        {
            "ortsae": {"explain": 6, "active": 8, "silent": 8, "quantiles": 4},
            "saebench": {"explain_top": 4, "explain_weighted": 2, "silent": 6},
            "tokens": 10_000,
            "side_tokens": 2,
        },
        run,
        {
            "DetectionSettings.ortsae": Case("ortsae", None, "metrics"),
            "DetectionSettings.saebench": Case("saebench", None, "metrics"),
            "DetectionSettings.tokens": Case("tokens", 2500, "details"),
            "DetectionSettings.batch_tokens": Case("batch_tokens", 100, "largest pass"),
            "DetectionSettings.latents": Case("latents", 2, "details"),
            "DetectionSettings.candidates": Case("candidates", 4, "looked at", {"latents": 4}),
            "DetectionSettings.min_firings": Case("min_firings", 130, "live"),
            "DetectionSettings.side_tokens": Case("side_tokens", 1, "details"),
            "DetectionSettings.active_share": Case("active_share", 0.6, "details"),
            "DetectionSettings.seed": Case("seed", 1, "details"),
            "OrtSAESequences.explain": Case("ortsae.explain", 3, "details"),
            "OrtSAESequences.active": Case("ortsae.active", 6, "scored on"),
            "OrtSAESequences.silent": Case("ortsae.silent", 6, "scored on"),
            "OrtSAESequences.quantiles": Case("ortsae.quantiles", 1, "details"),
            "SAEBenchSequences.explain_top": Case("saebench.explain_top", 3, "details"),
            "SAEBenchSequences.explain_weighted": Case("saebench.explain_weighted", 1, "details"),
            "SAEBenchSequences.top": Case("saebench.top", 1, "scored on"),
            "SAEBenchSequences.weighted": Case("saebench.weighted", 1, "scored on"),
            "SAEBenchSequences.silent": Case("saebench.silent", 5, "scored on"),
        },
        prepare,
    )
}
