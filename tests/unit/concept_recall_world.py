"""A corpus whose words are the axes of a tiny subject's embedding, and SAEs that read it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from test_evaluation_core import write_cache_manifest
from torch import nn
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM
from worded_subject import write_worded_subject

from saeflow.artifacts import write_manifest
from saeflow.corpora.spool import SCHEMA
from saeflow.sae.formats import save_sae
from saeflow.sae.model import SAE
from saeflow.subjects.settings import WindowSettings
from saeflow.subjects.tokenise import tokenise

D_IN, CONTEXT = 16, 24
EMBEDDING, BLOCK = "gpt_neox.embed_in", "gpt_neox.layers.1"
FILLER = ["w12", "w13", "w14", "w15"]

Sentence = tuple[str, str]
"""A concept (or `background`) and the words that are planted."""


def make_world(root: Path, planted: dict[str, Sequence[Sentence]], plain: int = 6) -> None:
    """Write subject, corpus, tokens, the manifest of a cache and an SAE (seed 0) below `root`.

    `planted` holds the sentences of each split, one a document, amid filler words; each split has
    `plain` documents of filler words besides. The SAE's latents are the axes of the embedding.
    """
    make_subject(root / "subject")
    write_corpus(root / "corpus", planted, plain)
    windows = WindowSettings(context=CONTEXT, min_window=1, prepend_bos=True)
    tokenise(windows, root / "subject", root / "corpus", root / "tokens")
    write_cache_manifest(root / "cache", None)
    write_sae(root / "sae", axes_sae(), EMBEDDING, root / "cache")


def make_subject(folder: Path) -> None:
    """A GPT-NeoX whose embedding of token i is the axis i."""
    torch.manual_seed(0)
    config = GPTNeoXConfig(
        vocab_size=D_IN, hidden_size=D_IN, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=CONTEXT, initializer_range=0.3,
    )  # fmt: skip
    model = GPTNeoXForCausalLM(config).eval()
    with torch.no_grad():
        model.gpt_neox.embed_in.weight.copy_(torch.eye(D_IN))
    words = ["<|endoftext|>", *(f"w{i}" for i in range(1, D_IN))]
    write_worded_subject(folder, model, words, CONTEXT)


def axes_sae() -> SAE:
    """An SAE whose latent i is the coordinate i, where it is positive."""
    eye, zero = torch.eye(D_IN), torch.zeros(D_IN)
    return SAE(eye, eye.clone(), zero, zero.clone(), nn.ReLU())


def random_sae() -> SAE:
    """An SAE of 40 latents along random directions."""
    w_fd = torch.randn(40, D_IN, generator=torch.Generator().manual_seed(0))
    w_fd = w_fd / w_fd.norm(dim=1, keepdim=True)
    return SAE(w_fd.T.clone(), w_fd, torch.zeros(40), torch.zeros(D_IN), nn.ReLU())


def write_sae(folder: Path, sae: SAE, site: str, cache: Path, seed: int = 0) -> None:
    """Write a checkpoint that was trained on the cache."""
    write_manifest(
        folder,
        kind="sae",
        settings={"d_sae": sae.d_sae, "l0": 4, "seed": seed},
        files=save_sae(sae, folder, {}),
        inputs={"activations": cache},
        stats={"site": site},
    )


def write_corpus(folder: Path, planted: dict[str, Sequence[Sentence]], plain: int) -> None:
    """Write the documents; in the order in which they first come, concepts have the frequencies
    0.1 and 0.01 in turn."""
    folder.mkdir()
    rows = []
    for split, sentences in planted.items():
        for i, (concept, words) in enumerate(sentences):
            before = " ".join(FILLER[: 1 + i % 4])
            where = f"{len(before) + 1}:{len(before) + 1 + len(words)}"
            label = {"background": where} if concept == "background" else {
                "planted": f"{concept}:{where}"
            }  # fmt: skip
            rows.append((split, f"{before} {words} {FILLER[i % 4]}", json.dumps(label)))
        rows += [
            (split, " ".join(FILLER[(i + j) % 4] for j in range(8)), None) for i in range(plain)
        ]
    columns = {
        "document": range(len(rows)),
        "domain": ["d"] * len(rows),
        "split": [row[0] for row in rows],
        "name": [f"n{i}" for i in range(len(rows))],
        "text": [row[1] for row in rows],
        "labels": [row[2] for row in rows],
    }
    pq.write_table(pa.table(columns, schema=SCHEMA), folder / "documents.parquet")
    names = dict.fromkeys(
        concept for of in planted.values() for concept, _ in of if concept != "background"
    )
    concepts = [
        {
            "concept": name,
            "kind": "k",
            "frequency": 0.1 if i % 2 == 0 else 0.01,
            "achieved": 0.05,
            "instances": {"train": 2},
        }
        for i, name in enumerate(names)
    ]
    write_manifest(
        folder,
        kind="corpus",
        settings={},
        files=["documents.parquet"],
        stats={"concepts": concepts},
    )
