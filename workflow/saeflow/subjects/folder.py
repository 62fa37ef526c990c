"""What a subject's artefact folder says: its settings, where its files lie, and its tokenizer.

Apart from `load`, whose import of model code takes longer than many a job that needs no model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerFast

from saeflow.artifacts import ArtifactError, is_unchanged, read_manifest, rebuild_command

POINTER = "subject.json"


def load_tokenizer(folder: str | Path) -> PreTrainedTokenizerFast:
    """Load the tokenizer alone; raises ArtifactError as `load_subject` does."""
    folder = Path(folder)
    tokenizer = AutoTokenizer.from_pretrained(**location(folder, checked_settings(folder)))
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ArtifactError(f"{folder}: the tokenizer has no fast implementation (tokenizer.json)")
    return tokenizer


def checked_settings(folder: Path) -> dict[str, Any]:
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
