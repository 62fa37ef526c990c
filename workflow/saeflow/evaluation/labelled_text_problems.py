"""One class against the rest, as often the one as the other."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor

from saeflow.evaluation.labelled_text import Documents


class Problems(NamedTuple):
    """A balanced problem for each of c classes: its documents and as many of the other classes."""

    names: list[str]
    """The classes."""
    documents: Documents
    """All documents, class by class."""
    rows_cn: Tensor
    """Of each class (c, n) the documents of its problem, those of the class first."""
    label_n: Tensor
    """Of each document of a problem whether it is of the class, 1 or 0: half of them are."""


def balanced_problems(documents: Mapping[str, Documents]) -> Problems:
    """Return the problems of classes with equally many documents.

    The documents against a class are the first ones of the others, of each as many up to one.
    SAEBench draws them at random from all others. Raises ValueError for less than two classes and
    for classes that differ in number.
    """
    sizes = {name: len(of) for name, of in documents.items()}
    if len(sizes) < 2 or len(set(sizes.values())) > 1 or 0 in sizes.values():
        raise ValueError(f"two classes or more with equally many documents are needed, not {sizes}")
    size, classes = next(iter(sizes.values())), range(len(sizes))
    rows = []
    for c in classes:
        others = (j * size + i for i in range(size) for j in classes if j != c)
        rows.append([*range(c * size, (c + 1) * size), *islice(others, size)])
    return Problems(
        list(documents),
        [tokens for of in documents.values() for tokens in of],
        torch.tensor(rows),
        (torch.arange(2 * size) < size).float(),
    )
