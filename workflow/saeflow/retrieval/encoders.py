"""What turns texts into vectors, and where each kind of encoder lives."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from saeflow.retrieval.settings import LSA, HuggingFace

ENCODERS = {"lsa": "saeflow.retrieval.lsa", "huggingface": "saeflow.retrieval.huggingface"}
"""Kind -> module with `fit` and `load`; imported when used."""


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


def load_encoder(settings: LSA | HuggingFace, folder: Path, *, root: Path, device: str) -> Encoder:
    """Return the encoder of a finished index in `folder`."""
    return import_module(ENCODERS[settings.kind]).load(settings, folder, root, device)
