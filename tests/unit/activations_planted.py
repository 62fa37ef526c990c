"""A tiny subject, tokens of random windows and caches of known rows, for the activation tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM
from worded_subject import write_worded_subject

from saeflow.activations.settings import ActivationSettings
from saeflow.activations.shards import group_rows, write_shard
from saeflow.artifacts import write_manifest

VOCAB, CONTEXT, WIDTH = 64, 24, 16
SITES = ["gpt_neox.layers.0", "gpt_neox.layers.1", "gpt_neox.layers.1.mlp"]
Windows = Sequence[tuple[int, int, list[int]]]
"""Document, start and tokens (the begin token first) of each window."""


def make_subject(folder: Path, massive_token: int | None = None, scale: float = 1000) -> Path:
    """Save a three-layer GPT-NeoX; the embedding of `massive_token` is a planted sink."""
    torch.manual_seed(0)
    model = GPTNeoXForCausalLM(
        GPTNeoXConfig(
            vocab_size=VOCAB, hidden_size=WIDTH, num_hidden_layers=3, num_attention_heads=2,
            intermediate_size=32, max_position_embeddings=CONTEXT,
        )
    )  # fmt: skip
    if massive_token is not None:
        with torch.no_grad():
            model.gpt_neox.embed_in.weight[massive_token] *= scale
    words = ["<eos>", *(f"w{i}" for i in range(1, VOCAB))]
    write_worded_subject(folder, model, words, CONTEXT)
    return folder


def random_windows(n: int, seed: int = 0) -> Windows:
    """Windows of 2 to CONTEXT tokens; every third continues the document of the one before."""
    rng = np.random.default_rng(seed)
    windows: list[tuple[int, int, list[int]]] = []
    document, start = 1000, 0
    for i in range(n):
        if i % 3 != 1:
            document, start = document + 7, 0
        text = rng.integers(1, VOCAB, rng.integers(1, CONTEXT)).tolist()
        windows.append((document, start, [0, *text]))
        start += len(text)
    return windows


def make_tokens(folder: Path, windows: Windows, split: str = "train") -> Path:
    """Write a tokens artefact of one split in small row groups."""
    folder.mkdir(parents=True, exist_ok=True)
    table = pa.table(
        {
            "window": pa.array(range(len(windows)), pa.int64()),
            "document": pa.array([w[0] for w in windows], pa.int64()),
            "start": pa.array([w[1] for w in windows], pa.int32()),
            "tokens": pa.array([w[2] for w in windows], pa.list_(pa.int32())),
        }
    )
    pq.write_table(table, folder / f"{split}.parquet", row_group_size=37)
    write_manifest(folder, kind="tokens", settings={}, files=[f"{split}.parquet"])
    return folder


def settings(**changes: object) -> ActivationSettings:
    """Settings for a small cache."""
    values: dict[str, object] = {
        "tokens": {"train": 10**6}, "dtype": "float32", "batch_tokens": 128, "shuffle_rows": 300,
    }  # fmt: skip
    return ActivationSettings.model_validate(values | changes)


def read_cache(folder: Path, site: str, dtype: str = "float32") -> dict[str, np.ndarray]:
    """Return a whole cache through plain pyarrow: ids and the site's rows (n, d)."""
    table = pa.concat_tables([pq.read_table(p) for p in sorted(folder.glob("shard-*.parquet"))])
    rows = b"".join(table[site].to_pylist())
    ids = {name: table[name].to_numpy() for name in ("document", "position", "token")}
    return {**ids, "acts": np.frombuffer(rows, dtype).reshape(len(table), -1)}


def make_cache(folder: Path, shards: Sequence[int], width: int = 8, dtype: str = "float16") -> Path:
    """Write a cache of counted rows: row i has document i and every entry i (mod 2048)."""
    folder.mkdir(parents=True, exist_ok=True)
    sites: Mapping[str, int] = {"a": width, "b": 2 * width}
    first, stats = 0, {}
    for number, rows in enumerate(shards):
        index = np.arange(first, first + rows)
        ids = {
            "document": index,
            "position": index.astype(np.int32),
            "token": (index % 50).astype(np.int32),
        }
        acts = {
            site: np.repeat((index % 2048)[:, None], d, axis=1).astype(
                f"<{np.dtype(dtype).str[1:]}"
            )
            for site, d in sites.items()
        }
        name = f"shard-{number:05d}.parquet"
        write_shard(folder / name, ids, acts, np.random.default_rng(number).permutation(rows))
        stats[name] = rows
        first += rows
    write_manifest(
        folder,
        kind="activations",
        settings={"activations": settings(dtype=dtype).model_dump()},
        files=stats,
        stats={"rows": first, "sites": sites, "shards": stats,
               "group_rows": group_rows(sites, dtype)},
    )  # fmt: skip
    return folder
