"""The kinds of judges: where the code of each lives, and the files of one that is in a folder."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from saeflow.artifacts import MANIFEST
from saeflow.autointerp.settings import Autointerp, Endpoint, Lexical, Local
from saeflow.fingerprint import fingerprint

if TYPE_CHECKING:
    from saeflow.autointerp.judges import Judge

JUDGES = {
    "endpoint": "saeflow.autointerp.endpoint",
    "lexical": "saeflow.autointerp.lexical",
    "local": "saeflow.autointerp.local",
}
"""Kind -> module with `make`; imported when used, so that a judge's code is in no other's hash."""

MODEL_FILES = ("*.safetensors", "*.json", "*.jinja", "vocab.txt", "merges.txt", "*.model")
"""What decides the answers of a model in a folder: weights, configuration, template, vocabulary."""


def make_judge(settings: Autointerp, folder: Path, *, root: Path, device: str) -> Judge:
    """Return the judge of the settings; a language model keeps its answers in `folder`.

    `root` is what a local model's path is relative to. Raises JudgeRefused for a judge that will
    answer nothing.
    """
    return import_module(JUDGES[settings.judge.kind]).make(settings, folder, root, device)


def judge_code(kind: str, stage: str = "saeflow.autointerp.score", *others: str) -> str:
    """Return the fingerprint of a stage that asks a judge of that kind, and of other modules."""
    return fingerprint(stage, JUDGES[kind], *others)


def judge_files(settings: Endpoint | Local | Lexical, root: Path) -> list[Path]:
    """Return the files whose change makes a judge another one, in order of name; imports no model.

    `root` is what a local model's path is relative to. A pinned model of the hub has none here.
    """
    if not isinstance(settings, Local) or settings.path is None:
        return []
    folder = root / settings.path
    found = {path for pattern in MODEL_FILES for path in folder.glob(pattern)}
    return sorted(path for path in found if path.name != MANIFEST)
