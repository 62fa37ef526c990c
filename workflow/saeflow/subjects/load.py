"""Load a subject from its artefact folder, wherever its weights lie."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from saeflow.artifacts import ArtifactError, read_manifest

POINTER = "subject.json"


@dataclass
class Subject:
    """A causal language model ready to be read: evaluation mode, no gradients asked for."""

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    context: int
    """Longest window in tokens, the begin token included."""
    prepend_bos: bool
    skips: dict[str, bool] = field(default_factory=dict)
    """Sites after which the rest of the model can run alone, as found by trial."""

    @property
    def config(self) -> PreTrainedConfig:
        """The model's configuration."""
        return self.model.config

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.device

    @property
    def bos_id(self) -> int | None:
        """Id of the begin token; of the end token where the tokenizer has no begin token."""
        begin = self.tokenizer.bos_token_id
        return self.tokenizer.eos_token_id if begin is None else begin

    @property
    def special_ids(self) -> frozenset[int]:
        """Ids that stand for no text: the tokenizer's special tokens."""
        return frozenset(self.tokenizer.all_special_ids)


def load_subject(folder: str | Path, device: str = "cpu") -> Subject:
    """Load the subject of the artefact folder `folder`.

    Raises ArtifactError if the folder is unfinished or damaged.
    """
    folder = Path(folder)
    settings = read_manifest(folder, kind="subject")["settings"]
    model = AutoModelForCausalLM.from_pretrained(
        **location(folder, settings),
        dtype=getattr(torch, settings["dtype"]),
        use_safetensors=True,
    )
    model.requires_grad_(False)
    model.eval().to(device)
    return Subject(
        name=folder.name,
        model=model,
        tokenizer=load_tokenizer(folder),
        context=settings["context"],
        prepend_bos=settings["prepend_bos"],
    )


def load_tokenizer(folder: str | Path) -> PreTrainedTokenizerFast:
    """Load the tokenizer alone; raises ArtifactError where it has no fast implementation."""
    folder = Path(folder)
    settings = read_manifest(folder, kind="subject")["settings"]
    tokenizer = AutoTokenizer.from_pretrained(**location(folder, settings))
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ArtifactError(f"{folder}: the tokenizer has no fast implementation (tokenizer.json)")
    return tokenizer


def location(folder: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the `from_pretrained` arguments that say where a subject's files lie."""
    pointer = folder / POINTER
    if not pointer.is_file():
        return {"pretrained_model_name_or_path": str(folder), "local_files_only": True}
    target = json.loads(pointer.read_text())
    return {
        "pretrained_model_name_or_path": target["path"],
        "revision": target["revision"],
        "trust_remote_code": settings.get("trust_remote_code", False),
    }
