"""What turns texts into vectors, and where each kind of encoder lives."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from saeflow.artifacts import MANIFEST
from saeflow.retrieval.settings import LSA, HuggingFace

ENCODERS = {"lsa": "saeflow.retrieval.lsa", "huggingface": "saeflow.retrieval.huggingface"}
"""Kind -> module with `fit` and `load`; imported when used."""

MODEL_FILES = ("*.safetensors", "*.json", "vocab.txt", "merges.txt", "*.model")
"""What decides the vectors of a model in a folder: weights, configuration, vocabulary."""


class Encoder(Protocol):
    """Turns texts into vectors whose dot products say how alike the texts are."""

    width: int
    """Entries of a vector."""
    files: tuple[str, ...]
    """What `fit` wrote into the index's folder."""
    inputs: dict[str, Path]
    """Files outside that folder which decide the vectors, by name."""

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return one row a text, (texts, width)."""
        ...


def fit_encoder(
    settings: LSA | HuggingFace, texts: Iterable[str], out: Path, *, root: Path, device: str
) -> Encoder:
    """Return the encoder for an index in folder `out`, fitted to `texts` where its kind is fitted.

    `root` is what a folder in the settings is relative to. A fitted model that is in `out` is
    read and not fitted again.
    """
    return import_module(ENCODERS[settings.kind]).fit(settings, texts, out, root, device)


def encoder_files(settings: LSA | HuggingFace, root: Path) -> list[Path]:
    """Return the files that decide an encoder's vectors, in order of name; imports no model.

    `root` is what a folder in the settings is relative to. A pinned model of the hub has none here,
    nor has a kind that is fitted.
    """
    if isinstance(settings, LSA) or settings.folder is None:
        return []
    place = root / settings.folder
    found = {path for pattern in MODEL_FILES for path in place.glob(pattern)}
    return sorted(path for path in found if path.name != MANIFEST)


def load_encoder(settings: LSA | HuggingFace, folder: Path, *, root: Path, device: str) -> Encoder:
    """Return the encoder of a finished index in `folder`."""
    return import_module(ENCODERS[settings.kind]).load(settings, folder, root, device)
