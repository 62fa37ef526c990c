"""A small world for retrieval: documents whose words say what they are about, and their tokens."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from saeflow.artifacts import write_manifest
from saeflow.corpora.spool import SCHEMA, Row
from saeflow.corpora.text import fraction_of, integer_of

TOPICS = ("physics", "graphs", "frames", "tensors")
COMMON = [f"common{chr(97 + i)}" for i in range(20)]
CONTEXT = 16
WINDOWS = pa.schema(
    {
        "window": pa.int64(),
        "document": pa.int64(),
        "start": pa.int32(),
        "tokens": pa.list_(pa.int32()),
    }
)


def words_of(topic: str) -> list[str]:
    return [f"{topic}{chr(97 + i)}{chr(97 + j)}" for i in range(5) for j in range(5)]


def documents(n: int = 240, seed: int = 0) -> list[Row]:
    """Documents of four topics, two thirds of their words their topic's, in the order of ids."""
    rng = random.Random(seed)
    rows = []
    for i in range(n):
        topic = TOPICS[i % len(TOPICS)]
        length = rng.randint(10, 40)
        own = words_of(topic)
        chosen = (rng.choice(own if rng.random() < 0.67 else COMMON) for _ in range(length))
        text = " ".join(chosen)
        rows.append(row(text, topic, f"{topic}.{i}"))
    return sorted(rows)


def row(text: str, domain: str = "physics", name: str = "a", split: str | None = None) -> Row:
    fraction = fraction_of(text, "split")
    drawn = "test" if fraction < 0.15 else "validation" if fraction < 0.4 else "train"
    return Row(integer_of(text, "document"), domain, split or drawn, name, text, None)


def write_corpus(folder: Path, rows: Iterable[Row]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist([r._asdict() for r in rows], schema=SCHEMA)
    pq.write_table(table, folder / "documents.parquet", row_group_size=50)
    write_manifest(folder, kind="corpus", settings={}, files=["documents.parquet"])
    return folder


def write_tokens(folder: Path, rows: Iterable[Row], per_word: int = 1) -> Path:
    """Windows in which each word of a text is `per_word` tokens, after a begin token."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = list(rows)
    for split in ("train", "validation", "test"):
        windows = []
        for r in (r for r in rows if r.split == split):
            tokens = list(range(1, 1 + per_word * len(r.text.split())))
            for start in range(0, len(tokens), CONTEXT - 1):
                part = [0, *tokens[start : start + CONTEXT - 1]]
                windows.append((len(windows), r.document, start, part))
        columns = zip(*windows, strict=True) if windows else [[], [], [], []]
        arrays = [pa.array(c, f.type) for c, f in zip(columns, WINDOWS, strict=True)]
        table = pa.Table.from_arrays(arrays, schema=WINDOWS)
        pq.write_table(table, folder / f"{split}.parquet")
    files = [f"{split}.parquet" for split in ("train", "validation", "test")]
    write_manifest(folder, kind="tokens", settings={"prepend_bos": True}, files=files)
    return folder


def write_bert(folder: Path, seed: int = 0, width: int = 8) -> Path:
    """A tiny BERT with random weights, and a tokenizer that knows the world's words."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder.mkdir(parents=True, exist_ok=True)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *COMMON]
    words += [word for topic in TOPICS for word in words_of(topic)]
    (folder / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(vocab_file=str(folder / "vocab.txt")).save_pretrained(str(folder))
    torch.manual_seed(seed)
    shape = {"hidden_size": width, "intermediate_size": 16, "num_hidden_layers": 1}
    config = BertConfig(
        vocab_size=len(words), num_attention_heads=2, max_position_embeddings=48, **shape
    )
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder


def texts_of(rows: Sequence[Row], split: str) -> list[str]:
    return [r.text for r in rows if r.split == split]
