"""Tiny models of every family, as subjects, for tests."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from saeflow.subjects.load import Subject, load_subject
from saeflow.subjects.materialise import make_subject
from saeflow.subjects.settings import FromFolder
from saeflow.subjects.tokenizer import train_tokenizer

VOCAB = 300
BLOCKS = {
    "gpt_neox": "gpt_neox.layers",
    "gpt2": "transformer.h",
    "llama": "model.layers",
    "qwen2": "model.layers",
    "gemma2": "model.layers",
}
"""By family: the list of its residual blocks."""


def build(family: str) -> PreTrainedModel:
    torch.manual_seed(0)
    if family == "gpt2":
        return GPT2LMHeadModel(
            GPT2Config(vocab_size=VOCAB, n_positions=32, n_embd=16, n_layer=3, n_head=2)
        )
    shape = {
        "vocab_size": VOCAB,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "max_position_embeddings": 32,
    }
    if family == "gpt_neox":
        return GPTNeoXForCausalLM(GPTNeoXConfig(**shape))
    grouped = shape | {"num_key_value_heads": 1}
    if family == "llama":
        return LlamaForCausalLM(LlamaConfig(**grouped))
    if family == "qwen2":
        return Qwen2ForCausalLM(Qwen2Config(**grouped))
    # A soft cap low enough, and a window short enough, that leaving either out would show.
    return Gemma2ForCausalLM(
        Gemma2Config(**grouped, head_dim=8, sliding_window=4, final_logit_softcapping=0.05)
    )


def write_folder(family: str, folder: Path) -> PreTrainedModel:
    """Write a Hugging Face folder of a tiny model and a byte-level tokenizer."""
    model = build(family).eval()
    model.save_pretrained(folder)
    texts = ["the cat sat on the mat and the dog lay on the rug, " * 3]
    train_tokenizer(texts, 280, 32).save_pretrained(str(folder))
    return model


def make(family: str, root: Path) -> Subject:
    """Return a loaded subject of a tiny model whose folder lies below `root`."""
    write_folder(family, root / family)
    settings = FromFolder(source="folder", path=family, sites=(f"{BLOCKS[family]}.*",), context=32)
    make_subject(settings, {}, root / "subjects" / family, root)
    return load_subject(root / "subjects" / family)
