"""SAEs of other libraries, one file a layout; each is found by the name of its file of weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from saeflow.sae.foreign import dictionary_learning, gemma_scope, sparsify
from saeflow.sae.model import SAE

READERS: dict[str, Callable[[Path], SAE]] = {
    module.WEIGHTS: module.load for module in (sparsify, dictionary_learning, gemma_scope)
}
"""Name of the file of weights to the function that reads its folder."""
