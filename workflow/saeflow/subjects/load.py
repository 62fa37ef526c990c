"""Load a subject from its artefact folder, wherever its weights lie."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import (
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from saeflow.subjects.folder import checked_settings, load_tokenizer, location


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
    def special_ids(self) -> frozenset[int]:
        """Ids that stand for no text: the tokenizer's special tokens."""
        return frozenset(self.tokenizer.all_special_ids)

    @property
    def begin_tokens(self) -> list[int]:
        """What precedes a text: the begin token where the subject has one, else nothing."""
        if not self.prepend_bos:
            return []
        begin = self.tokenizer.bos_token_id
        return [self.tokenizer.eos_token_id if begin is None else begin]


def load_subject(folder: str | Path, device: str = "cpu") -> Subject:
    """Load the subject of the artefact folder `folder`.

    Raises ArtifactError if the folder is unfinished or damaged, or points at files that have
    changed since.
    """
    folder = Path(folder)
    settings = checked_settings(folder)
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
