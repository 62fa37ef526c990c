"""Cases of the SAEs' keys: twelve steps on activations of a known dictionary."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from keys_case import Case, Result, Stage, watched
from sae_planted import SITE, planted, planted_cache
from sae_planted import settings as planted_settings

from saeflow.sae.formats import WEIGHTS
from saeflow.sae.settings import SAESettings, TrainedInit
from saeflow.sae.trainer import train_sae

STEPS = 12


def run(settings: SAESettings, world: Path, out: Path) -> Result:
    base = settings.variant.error_of and world / settings.variant.error_of.path
    init = started_from(settings, world)
    with watched("saeflow.sae.run.save_state") as saves:
        train_sae(settings, world / "cache", SITE, out, base=base, init=init)
    log = pq.read_table(out / "log.parquet").drop_columns("seconds").to_pydict()
    return {
        "weights": (out / WEIGHTS).read_bytes(),
        "log": {name: [str(value) for value in column] for name, column in log.items()},
        "checkpoints": len(saves),
        "snapshots": sorted(path.name for path in out.glob("snapshots/*")),
    }


def started_from(settings: SAESettings, world: Path) -> Path | None:
    """Return the folder of the SAE that is trained further; a grid's is of the width it needs."""
    start = settings.variant.init_from
    if isinstance(start, TrainedInit):
        return world / f"d{settings.start_width}"
    return start and world / start.path


def prepare(world: Path) -> None:
    """Write a cache and SAEs that may serve as frozen bases, and be trained further."""
    planted_cache(world / "cache", planted(400)[0])
    saes = {"base": (0, 64), "other": (1, 64), "d64": (0, 64), "d48": (0, 48), "d40": (0, 40)}
    for name, (seed, d_sae) in saes.items():
        settings = planted_settings("topk", tokens=64, seed=seed, d_sae=d_sae)
        train_sae(settings, world / "cache", SITE, world / name)


def variant(**parts: Any) -> dict[str, Any]:
    return {"variant": {"label": "A", "activation": "batchtopk", **parts}}


RELU = variant(activation="relu", l1={})
DEAD = {"training.dead_after_tokens": 64, **variant(auxk={})}
JUMP = variant(activation="jumprelu", l0={}, jumprelu={})
RESIDUAL = variant(error_of={"source": "folder", "path": "base"})
TILTED = variant(tilt={"t": 5.0})
NESTED = variant(matryoshka={"fractions": [0.25, 0.75]})
ORTHOGONAL = variant(orthogonality={"chunk_size": 16})
WIDE = {**variant(orthogonality={"chunk_size": 1024}), "d_sae": 1024}  # no strips in small chunks
TOPK = {"source": "trained", "variant": "topk", "corpus": "general"}
FURTHER = variant(activation="topk", init_from=TOPK)
EXTENDED = {**FURTHER, "variant.extend": {"latents": 16}}
STAGES = {
    "saes": Stage(
        SAESettings.model_validate,
        {
            **variant(),
            "training": {"tokens": STEPS * 64, "batch_size": 64, "learning_rate": 3e-3},
            "d_sae": 64,
            "l0": 3,
            "seed": 0,
        },
        run,
        {
            "Training.tokens": Case("training.tokens", 14 * 64, "weights"),
            "Training.batch_size": Case("training.batch_size", 48, "weights"),
            "Training.learning_rate": Case("training.learning_rate", 1e-3, "weights"),
            "Training.betas": Case("training.betas", [0.5, 0.9], "weights"),
            "Training.warmup": Case("training.warmup", 0.5, "weights"),
            "Training.decay": Case("training.decay", 0.5, "weights"),
            "Training.clip_norm": Case("training.clip_norm", 0.01, "weights"),
            "Training.input_scaling": Case("training.input_scaling", "none", "weights"),
            "Training.dead_after_tokens": Case("training.dead_after_tokens", 64, "log"),
            "Training.calibration_batches": Case("training.calibration_batches", 1, "weights"),
            "Training.checkpoint_minutes": Case("training.checkpoint_minutes", 0, "checkpoints"),
            "Variant.activation": Case("variant.activation", "topk", "weights"),
            "Variant.l1": Case("variant.l1", {"coefficient": 1.0}, "weights", RELU),
            "Variant.auxk": Case("variant.auxk", None, "weights", DEAD),
            "Variant.matryoshka": Case("variant.matryoshka", {}, "weights"),
            "Variant.orthogonality": Case("variant.orthogonality", {}, "weights"),
            "Variant.jumprelu": Case(
                "variant.jumprelu",
                {"threshold": 1.0},
                "weights",
                variant(activation="jumprelu", l0={}),
            ),
            "Variant.l0": Case("variant.l0", {"coefficient": 9.0}, "weights", JUMP),
            "Variant.tilt": Case("variant.tilt", {"t": 5.0}, "weights"),
            "Variant.error_of": Case(
                "variant.error_of", {"source": "folder", "path": "base"}, "weights"
            ),
            "Variant.init_from": Case(
                "variant.init_from",
                {"source": "folder", "path": "base"},
                "weights",
                variant(activation="topk"),
            ),
            "Variant.extend": Case("variant.extend", {"latents": 16}, "weights", FURTHER),
            "Extension.latents": Case("variant.extend.latents", 24, "weights", EXTENDED),
            "Extension.initialise": Case(
                "variant.extend.initialise", "random", "weights", EXTENDED
            ),
            "Extension.noise": Case("variant.extend.noise", 0.1, "weights", EXTENDED),
            "Extension.frozen": Case("variant.extend.frozen", False, "weights", EXTENDED),
            "Training.snapshots": Case("training.snapshots", [0.5], "snapshots"),
            "Variant.decoder_norm": Case("variant.decoder_norm", "free", "weights", RELU),
            "Variant.decoder_bias": Case("variant.decoder_bias", False, "weights"),
            "Variant.apply_b_dec_to_input": Case("variant.apply_b_dec_to_input", False, "weights"),
            "FolderBase.path": Case("variant.error_of.path", "other", "weights", RESIDUAL),
            "JumpReLU.threshold": Case("variant.jumprelu.threshold", 1.0, "weights", JUMP),
            "JumpReLU.bandwidth": Case("variant.jumprelu.bandwidth", 1.0, "weights", JUMP),
            "L0.coefficient": Case("variant.l0.coefficient", 9.0, "weights", JUMP),
            "L0.warmup": Case("variant.l0.warmup", 0.9, "weights", JUMP),
            "Tilt.t": Case("variant.tilt.t", 1e9, "weights", TILTED),
            "Tilt.over": Case("variant.tilt.over", "sequence", "weights", TILTED),
            "Tilt.of": Case(
                "variant.tilt.of", "loss", "weights", {**RELU, **{"variant.tilt": {"t": 5.0}}}
            ),
            "Tilt.running": Case("variant.tilt.running", 0.1, "weights", TILTED),
            "Tilt.warmup": Case("variant.tilt.warmup", 0.9, "weights", TILTED),
            "L1.warmup": Case(
                "variant.l1.warmup", 0.9, "weights", {**RELU, "variant.l1.match_l0": False}
            ),
            "AuxK.normalise": Case("variant.auxk.normalise", False, "weights", DEAD),
            "Matryoshka.weights": Case("variant.matryoshka.weights", [9, 1], "weights", NESTED),
            "Training.selection": Case("training.selection", "bfloat16", "weights"),
            "L1.coefficient": Case("variant.l1.coefficient", 1.0, "weights", RELU),
            "L1.match_l0": Case("variant.l1.match_l0", False, "log", RELU),
            "L1.match_gain": Case("variant.l1.match_gain", 1.0, "log", RELU),
            "AuxK.coefficient": Case("variant.auxk.coefficient", 0.5, "weights", DEAD),
            "AuxK.k": Case("variant.auxk.k", 2, "weights", DEAD),
            "Matryoshka.fractions": Case(
                "variant.matryoshka.fractions", [0.5, 0.5], "weights", NESTED
            ),
            "Orthogonality.gamma": Case("variant.orthogonality.gamma", 1.0, "weights", ORTHOGONAL),
            "Orthogonality.chunks": Case(
                "variant.orthogonality.chunks", 3, "weights", variant(orthogonality={})
            ),
            "Orthogonality.chunk_size": Case(
                "variant.orthogonality.chunk_size", 8, "weights", ORTHOGONAL
            ),
            "Orthogonality.every": Case("variant.orthogonality.every", 5, "weights", ORTHOGONAL),
            "Orthogonality.search": Case(
                "variant.orthogonality.search", "bfloat16", "weights", WIDE
            ),
            # A floor: it acts on norm products below it, and those of unit vectors are 1.
            "Orthogonality.delta": Case("variant.orthogonality.delta", 2.0, "weights", ORTHOGONAL),
        },
        prepare,
    )
}
