"""Cases of the activation cache's keys: a three-layer GPT-NeoX with one planted sink."""

from __future__ import annotations

from pathlib import Path

from activations_planted import SITES, make_subject, make_tokens, random_windows, read_cache
from keys_case import Case, Result, Stage, watched

from saeflow.activations.settings import ActivationSettings
from saeflow.activations.write import cache_activations
from saeflow.artifacts import read_manifest


def prepare(world: Path) -> None:
    make_subject(world / "subject", massive_token=5)
    make_tokens(world / "tokens", random_windows(40))


def run(settings: ActivationSettings, world: Path, out: Path) -> Result:
    with watched("saeflow.activations.rows.run_to_sites") as passes:
        cache_activations(settings, world / "subject", world / "tokens", "train", SITES[:1], out)
    rows = read_cache(out, SITES[0], settings.dtype)
    stats = read_manifest(out, kind="activations")["stats"]
    return {
        "values": rows["acts"].tobytes(),
        "tokens": rows["token"].tolist(),
        "rows": stats["rows"],
        "left out": {reason: stats[reason] for reason in ("first_positions", "sinks")},
        "shards": stats["shards"],
        "largest pass": max(tokens_bt.numel() for _, tokens_bt, _ in passes),
    }


STAGES = {
    "activations": Stage(
        ActivationSettings.model_validate,
        {"tokens": {"train": 10**6}, "dtype": "float32", "batch_tokens": 128, "shuffle_rows": 300},
        run,
        {
            "ActivationSettings.tokens": Case("tokens", {"train": 50}, "rows"),
            "ActivationSettings.dtype": Case("dtype", "float16", "values"),
            "ActivationSettings.precision": Case("precision", "bfloat16", "values"),
            "ActivationSettings.batch_tokens": Case("batch_tokens", 64, "largest pass"),
            "ActivationSettings.shuffle_rows": Case("shuffle_rows", 100, "shards"),
            "ActivationSettings.skip_positions": Case("skip_positions", 3, "left out"),
            "ActivationSettings.sink_norm": Case("sink_norm", None, "left out"),
            "ActivationSettings.seed": Case("seed", 1, "tokens"),
        },
        prepare,
    )
}
