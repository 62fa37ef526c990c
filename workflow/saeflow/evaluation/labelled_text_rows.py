"""Tidy rows of what was measured class by class, and of what was skipped."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from saeflow.evaluation.labelled_text import TEST, ClassDocuments
from saeflow.evaluation.origin import Key
from saeflow.evaluation.rows import Point, Row, make_row


def mean_rows(
    found: Iterable[Mapping[str, Any]], metrics: Mapping[str, str], at: str, point: Point
) -> list[Row]:
    """Return, of each SAE and each value of the column `at`, the mean over sets of their means.

    `found` holds `l0_target`, `seed`, `dataset`, `at` and the columns that `metrics` (metric ->
    column) names, once for each class; a metric is called `metric@at`, and `n` counts the classes.
    """
    groups: defaultdict[tuple[Key, str, Any], defaultdict[str, list[float]]]
    groups = defaultdict(lambda: defaultdict(list))
    for one in found:
        key = Key(one["l0_target"], one["seed"])
        for metric, column in metrics.items():
            groups[key, metric, one[at]][one["dataset"]].append(one[column])
    return [
        row_of(
            point,
            key,
            f"{metric}@{where}",
            float(np.mean([np.mean(values) for values in by_set.values()])),
            sum(map(len, by_set.values())),
        )
        for (key, metric, where), by_set in groups.items()
    ]


def row_of(point: Point, key: Key, metric: str, value: float, n: int) -> Row:
    """Return the row of one SAE, which says its L0 target in place of the point's."""
    at = point._replace(l0_target=key.l0_target)
    return make_row(at, split=TEST, seed=key.seed, metric=metric, value=value, n=n)


def measured_sets(sets: Mapping[str, ClassDocuments]) -> dict[str, ClassDocuments]:
    """Return the sets with two classes or more: one alone has nothing to be told from."""
    return {name: documents for name, documents in sets.items() if len(documents.train) > 1}


def skipped_classes(sets: Mapping[str, ClassDocuments]) -> list[dict[str, str]]:
    """Return `dataset`, `class` and why it was `skipped`, of each class that is not measured.

    Raises ValueError where no set has two classes left.
    """
    skipped = []
    for name, documents in sets.items():
        reasons = dict(documents.skipped)
        if len(documents.train) < 2:
            reasons |= dict.fromkeys(documents.train, "all other classes of its set are skipped")
        skipped += [{"dataset": name, "class": of, "skipped": why} for of, why in reasons.items()]
    if not measured_sets(sets):
        why = "; ".join(f"{of['dataset']}, {of['class']}: {of['skipped']}" for of in skipped)
        raise ValueError(
            f"no set has two classes with enough documents ({why}); lower train_documents and "
            "test_documents, or give the corpora more documents"
        )
    return skipped


def skipped_rows(
    metric: str, skipped: int, sets: Mapping[str, ClassDocuments], keys: Iterable[Key], point: Point
) -> list[Row]:
    """Return for each SAE how many of all classes were skipped."""
    classes = sum(len(of.train) + len(of.skipped) for of in sets.values())
    return [row_of(point, key, metric, skipped, classes) for key in keys]
