"""Cases of the keys of autointerp: latents of no plain rule, each kind of judge, a real server."""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pyarrow.parquet as pq
import torch
from autointerp_planted import POINT, VOCAB, make_world, write_small_model
from autointerp_server import Served, serving
from keys_case import Case, Result, Stage, watched
from safetensors.numpy import load_file, save_file
from torch.nn.functional import normalize

from saeflow.artifacts import read_manifest, write_manifest
from saeflow.autointerp.answers import ANSWERS
from saeflow.autointerp.score import explain_latents
from saeflow.autointerp.settings import Autointerp, Endpoint
from saeflow.sae.activation_functions import TopK
from saeflow.sae.formats import save_sae
from saeflow.sae.model import SAE

SITE, D_SAE = "gpt_neox.layers.0", 24
HUB = "huggingface_hub.constants"
COMMITS = ("0" * 40, "1" * 40)
SERVED = "http://served"
ENDPOINT = {
    "kind": "endpoint", "url": f"{SERVED}/v1", "model": "planted", "timeout_seconds": 20.0,
    "retries": 2, "backoff_seconds": 0.0, "concurrency": 1,
    "price_per_million": {"input": 1.0, "output": 1.0},
}  # fmt: skip
LOCAL = {
    "kind": "local", "path": "model", "dtype": "float32", "max_new_tokens": 8, "retries": 0,
}  # fmt: skip
HELD = LOCAL | {"path": None, "id": "owner/one", "revision": COMMITS[0]}


def prepare(world: Path) -> None:
    make_world(world)
    write_noisy_sae(world / "sae", world / "cache")
    write_small_model(world / "model")
    shutil.copytree(world / "model", world / "other_model")
    weights = load_file(world / "other_model" / "model.safetensors")
    weights["embed_out.weight"] = weights["embed_out.weight"][::-1].copy()
    save_file(weights, world / "other_model" / "model.safetensors", metadata={"format": "pt"})
    kept = (("one", 0, "model"), ("one", 1, "other_model"), ("other", 0, "other_model"))
    for name, commit, model in kept:
        snapshot = world / "hub" / f"models--owner--{name}" / "snapshots" / COMMITS[commit]
        shutil.copytree(world / model, snapshot)


def write_noisy_sae(folder: Path, cache: Path) -> None:
    """Write random directions behind a layer that mixes tokens: no word tells where they fire."""
    w_dec = normalize(torch.randn(D_SAE, VOCAB, generator=torch.Generator().manual_seed(0)), dim=1)
    sae = SAE(w_dec.T.clone(), w_dec, torch.zeros(D_SAE), torch.zeros(VOCAB), TopK(1))
    folder.mkdir()
    write_manifest(
        folder,
        kind="sae",
        settings={"d_sae": D_SAE, "l0": 1, "seed": 0},
        files=save_sae(sae, folder, {}),
        inputs={"activations": cache},
        stats={"site": SITE},
    )


def run(settings: Autointerp, world: Path, out: Path) -> Result:
    """Explain the latents, with the judge's address put in."""
    with ExitStack() as stack:
        stack.enter_context(patch.dict("os.environ", {"KEY_OF_A_TEST": "secret"}))
        stack.enter_context(patch(f"{HUB}.HF_HUB_CACHE", str(world / "hub")))
        stack.enter_context(patch(f"{HUB}.HF_HUB_OFFLINE", True))
        served = None
        judge = settings.judge
        if isinstance(judge, Endpoint):
            # The first request is turned down, the second is answered late.
            faults = {"faults": ["429", "slow"], "seconds": 0.6, "pause": 0.02}
            served = stack.enter_context(serving(**faults))
            here = judge.url.replace(f"{SERVED}/v1", served.url)
            judge = judge.model_copy(update={"url": here})
        passes = stack.enter_context(watched("saeflow.autointerp.firing.run_to_sites"))
        decoded = stack.enter_context(watched("saeflow.autointerp.local._decoded"))
        explain_latents(
            settings.model_copy(update={"judge": judge}),
            {0: world / "sae"},
            subject=world / "subject",
            tokens=world / "tokens",
            split="test",
            activations=world / "cache",
            point=POINT._replace(site=SITE, d_sae=D_SAE, l0_target=1),
            out=out,
            root=world,
        )
        asked = {} if served is None else what_was_asked(served)
    answers = out / ANSWERS
    return {
        "scores": pq.read_table(out / "scores.parquet").to_pylist(),
        "summary": pq.read_table(out / "explained.parquet").to_pylist(),
        "answers": sorted(pq.read_table(answers)["answer"].to_pylist()) if answers.exists() else [],
        "cost": read_manifest(out, kind="metrics")["stats"]["cost"],
        "largest pass": max(tokens_bt.numel() for _, tokens_bt, _ in passes),
        "dtypes": {str(model.dtype) for model, *_ in decoded},
        **asked,
    }


def what_was_asked(served: Served) -> Result:
    """Return what the server saw; the times only as whether it was left in peace for a while."""
    log = served.log()
    requests = log["requests"]
    same = [(a, b) for a, b in pairwise(requests) if a["body"] == b["body"]]
    return {
        "requests": len(requests),
        "paths": {request["path"] for request in requests},
        "keys": {request["authorization"] for request in requests},
        "models": {request["body"]["model"] for request in requests},
        "temperatures": {request["body"]["temperature"] for request in requests},
        "lengths": {request["body"]["max_tokens"] for request in requests},
        "paused": any(b["time"] - a["time"] > 0.3 for a, b in same),
        "at once": log["at_once"] > 1,
    }


def asked(path: str, value: Any, looks: str, **base: Any) -> Case:
    return Case(f"judge.{path}", value, looks, {"judge": ENDPOINT, "latents": 1, **base})


def locally(path: str, value: Any, looks: str, judge: dict[str, Any] = LOCAL) -> Case:
    return Case(f"judge.{path}", value, looks, {"judge": judge, "latents": 1})


def lexically(path: str, value: Any) -> Case:
    return Case(f"judge.{path}", value, "scores")


STAGES = {
    "autointerp": Stage(
        Autointerp.model_validate,
        {
            "judge": {"kind": "lexical", "contrast": 50},
            "tokens": 3000,
            "example_tokens": 10,
            "min_activations": 3,
            "quantiles": 4,
            "train_examples": 8,
            "test_examples": 8,
        },
        run,
        {
            "Autointerp.judge": Case("judge", ENDPOINT, "scores"),
            "Autointerp.tokens": Case("tokens", 1500, "scores"),
            "Autointerp.batch_tokens": Case("batch_tokens", 100, "largest pass"),
            "Autointerp.latents": Case("latents", 2, "scores"),
            "Autointerp.candidates": Case("candidates", 4, "summary", {"latents": 4}),
            "Autointerp.min_activations": Case("min_activations", 50, "summary"),
            "Autointerp.example_tokens": Case("example_tokens", 8, "scores"),
            "Autointerp.train_examples": Case("train_examples", 4, "scores"),
            "Autointerp.test_examples": Case("test_examples", 4, "scores"),
            "Autointerp.negatives_per_positive": Case("negatives_per_positive", 0.5, "scores"),
            "Autointerp.quantiles": Case("quantiles", 2, "scores"),
            "Autointerp.active_share": Case("active_share", 1.0, "scores"),
            "Autointerp.seed": Case("seed", 1, "scores"),
            "Autointerp.examples_per_prompt": Case(
                "examples_per_prompt", 4, "requests", {"judge": ENDPOINT, "latents": 1}
            ),
            "Lexical.max_terms": lexically("max_terms", 1),
            "Lexical.max_ngram": lexically("max_ngram", 1),
            "Lexical.min_gain": lexically("min_gain", 0.3),
            "Lexical.contrast": lexically("contrast", 2),
            "Endpoint.url": asked("url", f"{SERVED}/v1/other", "paths"),
            "Endpoint.model": asked("model", "other", "models"),
            "Endpoint.api_key_env": asked("api_key_env", "KEY_OF_A_TEST", "keys"),
            "Endpoint.timeout_seconds": asked("timeout_seconds", 0.3, "requests"),
            "Endpoint.retries": asked("retries", 0, "scores"),
            "Endpoint.backoff_seconds": asked("backoff_seconds", 0.4, "paused"),
            "Endpoint.concurrency": asked("concurrency", 2, "at once", latents=3),
            "Endpoint.temperature": asked("temperature", 0.7, "temperatures"),
            "Endpoint.max_tokens": asked("max_tokens", 100, "lengths"),
            "Endpoint.price_per_million": asked("price_per_million", None, "cost"),
            "Price.input": asked("price_per_million.input", 2.0, "cost"),
            "Price.output": asked("price_per_million.output", 2.0, "cost"),
            "Local.path": locally("path", "other_model", "answers"),
            "Local.id": locally("id", "owner/other", "answers", HELD),
            "Local.revision": locally("revision", COMMITS[1], "answers", HELD),
            "Local.dtype": locally("dtype", "bfloat16", "dtypes"),
            "Local.max_new_tokens": locally("max_new_tokens", 4, "answers"),
            "Local.retries": locally("retries", 1, "answers"),
        },
        prepare,
    )
}
