"""Sources `biographies`, `facts` and `exercises`: text made up by a generator of that name."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from saeflow.corpora.documents import Document, Tally
from saeflow.corpora.settings import Biographies, Exercises, Facts


def documents(
    settings: Biographies | Exercises | Facts, root: Path, tally: Tally
) -> Iterator[Document]:
    """Yield the generator's documents; `root` is of no use to it."""
    tally.facts["seed"] = settings.seed
    yield from import_module(f"saeflow.corpora.{settings.source}").generate(settings)
