"""A subject whose tokens are unit vectors, and SAEs whose latents are active on planted words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import nn
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM
from worded_subject import write_worded_subject

from saeflow.artifacts import write_manifest
from saeflow.evaluation.rows import Point
from saeflow.sae.formats import save_sae
from saeflow.sae.model import SAE
from saeflow.subjects.tokenizer import train_tokenizer

SITE, VOCAB = "gpt_neox.embed_in", 64
LATENTS: Sequence[Mapping[int, float]] = (
    {7: 1.0},
    {7: 1.0, 9: 2.0},
    dict.fromkeys(range(20, 30), 1.0),
    {},
    {40: 1.0, 41: 0.2},
    {11: 1.0},
)
"""By latent: the words that it is active on, with how strongly."""
POINT = Point("ssae", "subject", SITE, "physics", "docs", "gsae", len(LATENTS), 4)


def make_world(root: Path) -> Path:
    """Write subject, tokens, cache manifest and SAEs of seeds 0 and 1 below `root`."""
    write_subject(root / "subject")
    generator = np.random.default_rng(0)
    words = generator.integers(1, VOCAB, (80, 40))
    for split in ("test", "validation"):
        write_tokens(root / "tokens", split, words if split == "test" else words[::-1])
    write_manifest(
        root / "tokens",
        kind="tokens",
        settings={},
        files=["test.parquet", "validation.parquet"],
    )
    (root / "cache").mkdir()
    write_manifest(
        root / "cache",
        kind="activations",
        settings={"activations": {"skip_positions": 1}},
        files=[],
        stats={"sink_thresholds": None},
    )
    for seed in (0, 1):
        write_sae(root / f"seed{seed}", LATENTS, seed, root / "cache")
    return root


def write_small_model(folder: Path) -> Path:
    """Write a causal model that knows nothing but has room for a prompt."""
    torch.manual_seed(0)
    config = GPTNeoXConfig(
        vocab_size=300, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=4096, initializer_range=0.3,
    )  # fmt: skip
    GPTNeoXForCausalLM(config).save_pretrained(folder)
    train_tokenizer(["a latent is active on some tokens " * 3], 290, 64).save_pretrained(folder)
    return folder


def write_subject(folder: Path) -> None:
    config = GPTNeoXConfig(
        vocab_size=VOCAB, hidden_size=VOCAB, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=8, max_position_embeddings=64, initializer_range=0.5,
    )  # fmt: skip
    torch.manual_seed(0)
    model = GPTNeoXForCausalLM(config)
    model.gpt_neox.embed_in.weight.data.copy_(torch.eye(VOCAB))
    words = ["<|endoftext|>", *(f"w{i}" for i in range(1, VOCAB))]
    write_worded_subject(folder, model, words, context=64)


def write_tokens(folder: Path, split: str, words_dt: np.ndarray) -> None:
    """Write a document of one window for each row, behind a begin token."""
    n = len(words_dt)
    folder.mkdir(exist_ok=True)
    table = pa.table(
        {
            "window": pa.array(range(n), pa.int64()),
            "document": pa.array(range(n), pa.int64()),
            "start": pa.array([0] * n, pa.int32()),
            "tokens": pa.array([[0, *row] for row in words_dt.tolist()], pa.list_(pa.int32())),
        }
    )
    pq.write_table(table, folder / f"{split}.parquet")


def write_sae(folder: Path, latents: Sequence[Mapping[int, float]], seed: int, cache: Path) -> None:
    w_enc = torch.zeros(VOCAB, len(latents))
    for latent, words in enumerate(latents):
        for word, strength in words.items():
            w_enc[word, latent] = strength
    w_dec = torch.eye(VOCAB)[: len(latents)]
    sae = SAE(w_enc, w_dec, torch.zeros(len(latents)), torch.zeros(VOCAB), nn.ReLU())
    folder.mkdir(exist_ok=True)
    write_manifest(
        folder,
        kind="sae",
        settings={"d_sae": len(latents), "l0": 4, "seed": seed},
        files=save_sae(sae, folder, {}),
        inputs={"activations": cache},
        stats={"site": SITE},
    )
