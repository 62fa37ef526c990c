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

from saeflow.artifacts import ArtifactError, is_unchanged, read_manifest, rebuild_command

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
    def special_ids(self) -> frozenset[int]:
        """Ids that stand for no text: the tokenizer's special tokens."""
        return frozenset(self.tokenizer.all_special_ids)


def load_subject(folder: str | Path, device: str = "cpu") -> Subject:
    """Load the subject of the artefact folder `folder`.

    Raises ArtifactError if the folder is unfinished or damaged, or points at files that have
    changed since.
    """
    folder = Path(folder)
    settings = _checked_settings(folder)
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
        tokenizer=_tokenizer(folder, settings),
        context=settings["context"],
        prepend_bos=settings["prepend_bos"],
    )


def load_tokenizer(folder: str | Path) -> PreTrainedTokenizerFast:
    """Load the tokenizer alone; raises ArtifactError as `load_subject` does."""
    folder = Path(folder)
    return _tokenizer(folder, _checked_settings(folder))


def _tokenizer(folder: Path, settings: Mapping[str, Any]) -> PreTrainedTokenizerFast:
    tokenizer = AutoTokenizer.from_pretrained(**location(folder, settings))
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ArtifactError(f"{folder}: the tokenizer has no fast implementation (tokenizer.json)")
    return tokenizer


def _checked_settings(folder: Path) -> dict[str, Any]:
    """Return the settings of a whole subject; what it points at must be what it was made from.

    A folder of the user's may be written anew at any time, and SAEs of the old weights say nothing
    about the new ones. The hub's files cannot change: their pointer names a commit.
    """
    manifest = read_manifest(folder, kind="subject")
    if manifest["settings"].get("source") == "folder":
        target = Path(json.loads((folder / POINTER).read_text())["path"])
        recorded = manifest["inputs"]
        added = sorted(p.name for p in target.glob("*.safetensors*") if p.name not in recorded)
        changed = [
            name for name, entry in recorded.items() if not is_unchanged(target / name, entry)
        ]
        if added or changed:
            raise ArtifactError(
                f"{target}: {', '.join(changed + added)} changed after {folder} was made from it: "
                "SAEs of the old model do not fit the new one; "
                f"make the subject anew with: {rebuild_command(folder)}"
            )
    return manifest["settings"]


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
