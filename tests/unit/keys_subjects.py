"""Cases of the subjects' keys: a tiny model from each source, and a pretraining of four steps."""

from __future__ import annotations

import json
import shutil
import struct
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow.parquet as pq
from keys_case import Case, Result, Stage, watched
from pydantic import TypeAdapter
from safetensors.numpy import load_file, save_file
from subjects_tiny import write_folder
from test_subjects_pretrain import settings as pretraining
from test_subjects_pretrain import subject, write_corpus

from saeflow.artifacts import MANIFEST, read_manifest, write_manifest
from saeflow.subjects.llama2c import Header
from saeflow.subjects.load import load_subject
from saeflow.subjects.materialise import make_subject
from saeflow.subjects.pretrain import pretrain
from saeflow.subjects.settings import PretrainSettings, SubjectSettings
from saeflow.subjects.sites import resolve_sites
from saeflow.subjects.tokenise import tokenise

STEPS = 4
TRAINING = pretraining(tokens=STEPS * 8 * 16)
COMMITS = ("0" * 40, "1" * 40)
HUB = "huggingface_hub.constants"


def write_corpora(world: Path) -> None:
    for seed, name in enumerate("ab"):
        write_corpus(world / name, seed)


def run_pretraining(settings: PretrainSettings, world: Path, out: Path) -> Result:
    corpora = {name: world / name for name in settings.mixture}
    room = "saeflow.subjects.pretrain"
    with watched(f"{room}._backward") as passes, watched(f"{room}._checkpoint") as checkpoints:
        stats = pretrain(settings, corpora, out, out / "trainer")
    return {
        "weights": (out / "model.safetensors").read_bytes(),
        "curve": pq.read_table(out / "pretraining.parquet").to_pydict(),
        "validation": stats["validation"],
        "windows in a pass": {len(ids) for _, ids, _ in passes},
        "workers": len({id(replica) for replica, _, _ in passes}),
        "checkpoints": len(checkpoints),
    }


PRETRAINING = Stage(
    PretrainSettings.model_validate,
    TRAINING.model_dump(mode="json"),
    run_pretraining,
    {
        "PretrainSettings.mixture": Case("mixture", {"a": 0.25, "b": 0.75}, "weights"),
        "PretrainSettings.tokens": Case("tokens", 6 * 8 * 16, "weights"),
        "PretrainSettings.vocab_size": Case("vocab_size", 310, "weights"),
        "PretrainSettings.context": Case("context", 8, "weights"),
        "PretrainSettings.d_model": Case("d_model", 32, "weights"),
        "PretrainSettings.layers": Case("layers", 3, "weights"),
        "PretrainSettings.heads": Case("heads", 4, "weights"),
        "PretrainSettings.d_mlp": Case("d_mlp", 48, "weights"),
        "PretrainSettings.batch_windows": Case("batch_windows", 4, "weights"),
        "PretrainSettings.micro_batch": Case("micro_batch", 4, "windows in a pass"),
        "PretrainSettings.workers": Case("workers", 1, "workers"),
        "PretrainSettings.optimiser": Case("optimiser", "adamw", "weights"),
        "PretrainSettings.lr": Case("lr", 1e-3, "weights"),
        "PretrainSettings.warmup": Case("warmup", 0.5, "weights"),
        "PretrainSettings.decay": Case("decay", 0.9, "weights"),
        "PretrainSettings.weight_decay": Case("weight_decay", 0.0, "weights"),
        "PretrainSettings.clip": Case("clip", 0.01, "weights"),
        "PretrainSettings.precision": Case("precision", "bfloat16", "weights"),
        "PretrainSettings.validation_tokens": Case("validation_tokens", 64, "validation"),
        "PretrainSettings.log_every": Case("log_every", 1, "curve"),
        "PretrainSettings.checkpoint_minutes": Case("checkpoint_minutes", 1e-9, "checkpoints"),
        "PretrainSettings.seed": Case("seed", 1, "weights"),
    },
    write_corpora,
)


def prepare(world: Path) -> None:
    """Write the corpora, and two models of each source that differ in their weights."""
    write_corpora(world)
    write_folder("gpt_neox", world / "model")
    doubled(world / "model", world / "other_model")
    corpora = {name: world / name for name in "ab"}
    make_subject(subject(TRAINING), corpora, world / "shipped", world)
    manifest = read_manifest(world / "shipped", kind="subject")
    doubled(world / "shipped", world / "other_shipped")
    (world / "other_shipped" / MANIFEST).unlink()
    names = list(manifest["files"])
    write_manifest(
        world / "other_shipped", kind="subject", settings=manifest["settings"], files=names
    )
    for name in ("one", "other"):
        for commit, model in zip(COMMITS, ("model", "other_model"), strict=True):
            write_to_hub_cache(world, f"owner/{name}", commit, model)
    doubled(world / "model", world / "hub" / "models--owner--other" / "snapshots" / COMMITS[0])
    write_llama2c(world)


def doubled(model: Path, copy: Path) -> None:
    """Copy a model's folder with twice the weights."""
    shutil.copytree(model, copy, dirs_exist_ok=True)
    weights = load_file(copy / "model.safetensors")
    twice = {name: weight * np.asarray(2, weight.dtype) for name, weight in weights.items()}
    save_file(twice, copy / "model.safetensors", metadata={"format": "pt"})


def write_to_hub_cache(world: Path, name: str, commit: str, model: str) -> None:
    """Put a model, with code of its own beside it, where a download of it would lie."""
    folder = world / "hub" / f"models--{name.replace('/', '--')}" / "snapshots" / commit
    shutil.copytree(world / model, folder)
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "own.OwnForCausalLM"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(
        "from transformers import GPTNeoXForCausalLM\n\n\n"
        "class OwnForCausalLM(GPTNeoXForCausalLM):\n    pass\n"
    )


def write_llama2c(world: Path) -> None:
    """Write two checkpoints and two tokenizers of bytes and a few words."""
    pieces = ["<unk>", "\n<s>\n", "\n</s>\n", *(f"<0x{byte:02X}>" for byte in range(256))]
    letters = [" ", *"acdehlnorstw"]
    for name, words in (("tokenizer", ["at", "he"]), ("other_tokenizer", ["on", "sa"])):
        raw = struct.pack("<i", 9)
        for piece in [*pieces, *letters, *words]:
            raw += struct.pack("<fi", 0.0, len(piece.encode())) + piece.encode()
        (world / f"{name}.bin").write_bytes(raw)
    header = Header(16, 24, 2, 2, 1, len(pieces) + len(letters) + 2, 32, True)
    for seed, name in enumerate(("checkpoint", "other_checkpoint")):
        rng = np.random.default_rng(seed)
        arrays = [rng.normal(size=shape).astype("<f4") for shape in header.shapes().values()]
        raw = struct.pack("<7i", *header[:7]) + b"".join(array.tobytes() for array in arrays)
        (world / f"{name}.bin").write_bytes(raw)


def run(settings: Any, world: Path, out: Path) -> Result:
    """Make the subject, cut a corpus into its tokens, and load it."""
    corpora = {name: world / name for name in "ab"}
    with (
        patch(f"{HUB}.HF_HUB_CACHE", str(world / "hub")),
        patch(f"{HUB}.HF_HUB_OFFLINE", True),
        patch("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(out / "modules")),
        patch("sys.path", [*sys.path]),
    ):
        make_subject(settings, corpora, out / "subject", world)
        tokenise(settings, out / "subject", world / "a", out / "tokens")
        loaded = load_subject(out / "subject")
    state = loaded.model.state_dict()
    return {
        "weights": {name: weight.float().numpy().tobytes() for name, weight in state.items()},
        "class": type(loaded.model).__name__,
        "dtype": str(loaded.model.dtype),
        "sites": resolve_sites(loaded.model, settings.sites),
        "windows": pq.read_table(out / "tokens" / "train.parquet").to_pylist(),
    }


def stage(kind: str, blocks: str, settings: dict[str, Any], cases: dict[str, Case]) -> Stage:
    base = {"sites": [f"{blocks}.*"], "context": 16, "min_window": 3}
    common = {
        f"{kind}.sites": Case("sites", [f"{blocks}.1"], "sites"),
        f"{kind}.context": Case("context", 12, "windows"),
        f"{kind}.prepend_bos": Case("prepend_bos", False, "windows"),
        f"{kind}.min_window": Case("min_window", 12, "windows"),
        f"{kind}.dtype": Case("dtype", "bfloat16", "dtype"),
    }
    parse = TypeAdapter(SubjectSettings).validate_python
    return Stage(parse, base | settings, run, common | cases, prepare)


SHIPPED = {
    "source": "pretrain",
    "shipped": "other_shipped",
    "training": TRAINING.model_dump(mode="json"),
}
FROM_HUB = {"source": "hub", "id": "owner/one", "revision": COMMITS[0]}
FROM_LLAMA2C = {
    "source": "llama2c",
    "checkpoint": "checkpoint.bin",
    "tokenizer": "tokenizer.bin",
}
STAGES = {
    "pretraining": PRETRAINING,
    "subject trained here": stage(
        "PretrainedHere",
        "gpt_neox.layers",
        SHIPPED,
        {
            "PretrainedHere.pretrain": Case("pretrain", True, "weights"),
            "PretrainedHere.shipped": Case("shipped", "shipped", "weights"),
        },
    ),
    "subject in a folder": stage(
        "FromFolder",
        "gpt_neox.layers",
        {"source": "folder", "path": "model"},
        {"FromFolder.path": Case("path", "other_model", "weights")},
    ),
    "subject of the hub": stage(
        "FromHub",
        "gpt_neox.layers",
        FROM_HUB,
        {
            "FromHub.id": Case("id", "owner/other", "weights"),
            "FromHub.revision": Case("revision", COMMITS[1], "weights"),
            "FromHub.trust_remote_code": Case("trust_remote_code", True, "class"),
        },
    ),
    "subject of llama2.c": stage(
        "FromLlama2c",
        "model.layers",
        FROM_LLAMA2C,
        {
            "FromLlama2c.checkpoint": Case("checkpoint", "other_checkpoint.bin", "weights"),
            "FromLlama2c.tokenizer": Case("tokenizer", "other_tokenizer.bin", "windows"),
        },
    ),
}
