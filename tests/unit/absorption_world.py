"""Words planted along axes, dictionaries that absorb some of them, and a subject that reads them.

Word w of letter c is the activation 4 e_c + e_w, with an axis for each letter and each token.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from concept_recall_world import write_sae
from test_evaluation_core import write_cache_manifest
from torch import Tensor, nn
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM
from worded_subject import write_worded_subject

from saeflow.artifacts import write_manifest
from saeflow.corpora.spool import SCHEMA
from saeflow.evaluation.absorption_rows import LabelledRows, Place, labelled
from saeflow.sae.model import SAE

LETTERS = "abc"
WORDS = [letter + chr(ord("a") + i) for letter in LETTERS for i in range(20)]
TOKENS = ["<|endoftext|>", ":", *LETTERS.upper(), *WORDS]
D_IN = len(LETTERS) + len(TOKENS)
EMBEDDING, BLOCK = "gpt_neox.embed_in", "gpt_neox.layers.0"
CONTEXT = 24
HELD_OUT = ["aa", "af", "ak", "ap"]
"""Of letter a; every fifth word is held out."""
ABSORBED = ["aa", "ab", "af"]


def activation(token: str) -> Tensor:
    x_d = torch.zeros(D_IN)
    x_d[axis(token)] = 1
    if token[0].lower() in LETTERS:
        x_d[LETTERS.index(token[0].lower())] = 4
    return x_d


def axis(token: str) -> int:
    return len(LETTERS) + TOKENS.index(token)


def word_rows(words: Sequence[str] = WORDS, classes: str = "") -> LabelledRows:
    places = [Place([], word[0], word, i % 5 == 0) for i, word in enumerate(words)]
    return labelled(torch.stack([activation(word) for word in words]), places, classes)


def letters_sae() -> SAE:
    """A latent for each letter, which fires on all of its words."""
    return _sae(torch.eye(D_IN)[:, : len(LETTERS)], torch.eye(D_IN)[: len(LETTERS)])


def absorbing_sae(words: Sequence[str] = ABSORBED) -> SAE:
    """The same, but silent on `words`, each of which a latent of its own reconstructs whole."""
    enc_df, dec_fd = torch.eye(D_IN)[:, : len(LETTERS)], torch.eye(D_IN)[: len(LETTERS)]
    own_fd = torch.stack([activation(word) for word in words])
    norm_f1 = own_fd.norm(dim=1, keepdim=True)
    axes_df = torch.stack([torch.eye(D_IN)[axis(word)] for word in words], dim=1)
    enc_df = enc_df - 100 * axes_df.sum(1, keepdim=True)
    return _sae(torch.cat([enc_df, axes_df * norm_f1.T], 1), torch.cat([dec_fd, own_fd / norm_f1]))


def split_sae() -> SAE:
    """Letter a has two latents, for the first and third held-out word, and for the other two."""
    odd = [word for i, word in enumerate(WORDS) if i % 2 and word[0] == "a"]
    even = [word for i, word in enumerate(WORDS) if i % 2 == 0 and word[0] == "a"]
    eye = torch.eye(D_IN)
    halves = [eye[0] - 100 * sum(eye[axis(word)] for word in half) for half in (odd, even)]
    dec_fd = eye[[0, 0, 1, 2]]
    return _sae(torch.stack([*halves, eye[1], eye[2]], dim=1), dec_fd)


def _sae(enc_df: Tensor, dec_fd: Tensor) -> SAE:
    return SAE(
        enc_df.clone(), dec_fd.clone(), torch.zeros(len(dec_fd)), torch.zeros(D_IN), nn.ReLU()
    )


def make_world(root: Path) -> None:
    """Write subject, corpus, the manifest of a cache and an SAE (`sae`) at the embedding."""
    make_subject(root / "subject")
    write_corpus(root / "corpus")
    write_cache_manifest(root / "cache", None)
    write_sae(root / "sae", absorbing_sae(), EMBEDDING, root / "cache")


def make_subject(folder: Path) -> None:
    """A GPT-NeoX whose embedding of a token is its activation; words are split at spaces."""
    torch.manual_seed(0)
    config = GPTNeoXConfig(
        vocab_size=len(TOKENS), hidden_size=D_IN, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=CONTEXT, initializer_range=0.2,
    )  # fmt: skip
    model = GPTNeoXForCausalLM(config).eval()
    with torch.no_grad():
        model.gpt_neox.embed_in.weight.copy_(torch.stack([activation(token) for token in TOKENS]))
    write_worded_subject(folder, model, TOKENS, CONTEXT)


def write_corpus(folder: Path) -> None:
    """Documents of domain `<letter>.<first word>`, of five words; a third are test."""
    folder.mkdir()
    rows = [
        ("test" if i % 3 == 0 else "train", f"{word[0]}.{word}", word, " ".join(
            WORDS[(WORDS.index(word) + j) % 20 + 20 * LETTERS.index(word[0])] for j in range(5)
        ))
        for i, word in enumerate(WORDS)
    ]  # fmt: skip
    columns = {
        "document": range(len(rows)),
        "domain": [row[1] for row in rows],
        "split": [row[0] for row in rows],
        "name": [row[2] for row in rows],
        "text": [row[3] for row in rows],
        "labels": [None] * len(rows),
    }
    pq.write_table(pa.table(columns, schema=SCHEMA), folder / "documents.parquet")
    write_manifest(folder, kind="corpus", settings={}, files=["documents.parquet"])
