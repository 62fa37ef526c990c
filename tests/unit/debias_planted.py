"""A tiny world of biographies in which gender and profession are known directions.

The subject is a real GPT-NeoX whose attention and MLP write nothing, so that its residual stream is
the embedding: `she` and `he` point along two axes, `ward` and `lecture` along two others, all other
words along the rest. A biography names the gender three times and the profession once, so that a
probe of ambiguous people goes by gender. The SAEs' latents are the axes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, PreTrainedTokenizerFast

from saeflow.artifacts import write_manifest
from saeflow.corpora.spool import SCHEMA
from saeflow.debias.settings import DebiasSettings
from saeflow.sae.formats import save_sae
from saeflow.sae.model import SAE
from saeflow.subjects.load import Subject, load_subject

WORDS = ("he", "she", "lecture", "ward", "and", "then", "often", "today")
D_IN = len(WORDS)
HE, SHE, LECTURE, WARD = range(4)
SITES = {
    "embed": "gpt_neox.embed_in",
    "attn_0": "gpt_neox.layers.0.attention",
    "resid_0": "gpt_neox.layers.0",
}
PROBE_SITE = "gpt_neox.layers.1"
GENDER, PROFESSION = ("male", "female"), ("professor", "nurse")


def planted_settings(**changes: Any) -> DebiasSettings:
    return DebiasSettings.model_validate({**BASE, **changes})


BASE: dict[str, Any] = {
    "sites": SITES,
    "probe_site": PROBE_SITE,
    "probe": {"epochs": 5, "batch_size": 8, "learning_rate": 0.05},
    "attribution": {"examples": 40, "batch_size": 20, "steps": 2, "threshold": 0.05},
    "circuit": {"examples": 4},
    "skyline": {"count": 4, "steps": 1},
    "slice": {"share": 0.5},
    "judge": {"min_activations": 1},
    "cbp": {"keywords": ["he", "she", "ward", "lecture"]},
    "top_tokens": 1,
}


def planted_subject(folder: Path, noise: float = 0.0) -> Subject:
    """Write the subject's folder and return it loaded.

    With `noise`, the deviation of their weights, attention and MLP write something after all.
    """
    torch.manual_seed(0)
    config = GPTNeoXConfig(
        vocab_size=D_IN + 1, hidden_size=D_IN, num_hidden_layers=3, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=16,
    )  # fmt: skip
    model = GPTNeoXForCausalLM(config).eval()
    with torch.no_grad():
        for layer in model.gpt_neox.layers:
            for part in (layer.attention.dense, layer.mlp.dense_4h_to_h):
                nn.init.normal_(part.weight, std=noise)
                nn.init.zeros_(part.bias)
        model.gpt_neox.embed_in.weight[0] = 3.0  # the begin token is far from all text
        model.gpt_neox.embed_in.weight[1:] = torch.eye(D_IN)
    model.save_pretrained(folder)
    words = {"<|endoftext|>": 0, **{word: 1 + i for i, word in enumerate(WORDS)}}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<|endoftext|>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<|endoftext|>")
    fast.save_pretrained(folder)
    settings = {"dtype": "float32", "context": 16, "prepend_bos": True}
    files = [path.name for path in folder.iterdir()]
    write_manifest(folder, kind="subject", settings=settings, files=files)
    return load_subject(folder)


def biography(gender: int, profession: int, rng: Random) -> str:
    words = [WORDS[HE + gender]] * 3 + [WORDS[LECTURE + profession]]
    words += rng.choices(WORDS[4:], k=rng.choice((1, 2, 3)))
    rng.shuffle(words)
    return " ".join(words)


def rows(counts: Mapping[tuple[str, int, int], int]) -> list[dict[str, Any]]:
    """Documents by split, gender and profession."""
    rng = Random(0)
    found = [
        {
            "split": split,
            "text": biography(gender, profession, rng),
            "labels": {"gender": GENDER[gender], "profession": PROFESSION[profession]},
        }
        for (split, gender, profession), n in counts.items()
        for _ in range(n)
    ]
    rng.shuffle(found)
    return found


def write_corpus(folder: Path, documents: list[dict[str, Any]]) -> Path:
    """Write documents, each with split, text and labels (or None)."""
    folder.mkdir(parents=True, exist_ok=True)
    full = [
        {
            "document": i,
            "domain": "biographies",
            "split": document["split"],
            "name": f"biography-{i}",
            "text": document["text"],
            "labels": json.dumps(document["labels"]) if document["labels"] else None,
        }
        for i, document in enumerate(documents)
    ]
    pq.write_table(pa.Table.from_pylist(full, schema=SCHEMA), folder / "documents.parquet")
    write_manifest(folder, kind="corpus", settings={}, files=["documents.parquet"])
    return folder


def planted_corpus(folder: Path) -> Path:
    counts = {("train", g, p): 24 for g in (0, 1) for p in (0, 1)}
    counts |= {("test", 0, 0): 10, ("test", 1, 0): 9, ("test", 0, 1): 6, ("test", 1, 1): 8}
    counts |= {("validation", g, p): 6 for g in (0, 1) for p in (0, 1)}
    return write_corpus(folder, rows(counts))


def axes_sae(bias: float = 0.0, copies: int = 1) -> SAE:
    """Return the SAE whose latents are the axes, `copies` times over, each with its share."""
    eye = torch.eye(D_IN).repeat(copies, 1)
    return SAE(
        eye.T.contiguous(),
        eye / copies,
        torch.full((len(eye),), bias),
        torch.zeros(D_IN),
        nn.ReLU(),
    )


def write_saes(folder: Path, sae: SAE, sites: Mapping[str, str] = SITES) -> dict[str, Path]:
    """Write the same SAE for each site, and return the folders."""
    folders = {}
    for site in sites:
        folders[site] = folder / site
        folders[site].mkdir(parents=True)
        files = save_sae(sae, folders[site], {})
        write_manifest(folders[site], kind="sae", settings={}, files=files)
    return folders
