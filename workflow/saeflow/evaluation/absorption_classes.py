"""The classes of a concept that a subject knows: each has a linear probe that finds it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from saeflow.evaluation.absorption_rows import LabelledRows
from saeflow.evaluation.absorption_settings import ClassBars, DirectionProbe
from saeflow.evaluation.linear_probes import f1_c, train_probes


class Probed(NamedTuple):
    """A class, and what its one-vs-rest probe says."""

    name: str
    column: int
    """Its place among the rows' classes."""
    train_rows: int
    test_rows: int
    f1: float
    """On held-out rows."""
    direction_d: Tensor
    """The probe's weights."""
    found: Tensor
    """Held-out rows of the class that the probe takes for it, as indices of all rows."""


class Skipped(NamedTuple):
    """A class that does not count."""

    name: str
    train_rows: int
    test_rows: int
    f1: float | None
    """None where there are too few rows for a probe."""
    reason: str


class Classes(NamedTuple):
    """The classes of a concept, by name."""

    counted: list[Probed]
    skipped: list[Skipped]


@torch.no_grad()
def probe_classes(
    bars: ClassBars, training: DirectionProbe, rows: LabelledRows, seed: int
) -> Classes:
    """Train a probe for each class with enough rows, and judge it on held-out ones.

    Raises ValueError if fewer than `min_classes` count, with the reasons.
    """
    label_nc = one_hot(rows.class_n, len(rows.classes)).bool()
    counts = [
        (int(train), int(test))
        for train, test in zip(
            label_nc[~rows.held_out_n].sum(0), label_nc[rows.held_out_n].sum(0), strict=True
        )
    ]
    skipped = [
        Skipped(name, *counts[c], None, f"{min(counts[c])} rows, {bars.min_rows} are needed")
        for c, name in enumerate(rows.classes)
        if min(counts[c]) < bars.min_rows
    ]
    _check(bars, len(rows.classes), skipped)
    enough = [c for c in range(len(rows.classes)) if min(counts[c]) >= bars.min_rows]
    counted = []
    for of in _probe(training, rows, label_nc, counts, enough, seed):
        if of.f1 > bars.min_f1:
            counted.append(of)
        else:
            reason = f"F1 {of.f1:.2f}, more than {bars.min_f1:g} is needed"
            skipped.append(Skipped(of.name, of.train_rows, of.test_rows, of.f1, reason))
    _check(bars, len(rows.classes), skipped)
    return Classes(counted, sorted(skipped))


def _probe(
    training: DirectionProbe,
    rows: LabelledRows,
    label_nc: Tensor,
    counts: Sequence[tuple[int, int]],
    classes: Sequence[int],
    seed: int,
) -> list[Probed]:
    device, label_nc = rows.x_nd.device, label_nc[:, classes]
    train_n, test_n = ~rows.held_out_n, rows.held_out_n
    probes = train_probes(
        training, rows.x_nd[train_n.to(device)], label_nc[train_n].to(device), seed=seed
    )
    predicted_nc = probes.predict(rows.x_nd).cpu()
    f1s = f1_c(predicted_nc[test_n], label_nc[test_n]).tolist()
    found_nc = predicted_nc & label_nc & test_n[:, None]
    return [
        Probed(
            rows.classes[c], c, *counts[c], f1s[at], probes.weight_cd[at],
            found_nc[:, at].nonzero()[:, 0],
        )
        for at, c in enumerate(classes)
    ]  # fmt: skip


def _check(bars: ClassBars, n: int, skipped: Sequence[Skipped]) -> None:
    left = n - len(skipped)
    if left < bars.min_classes:
        names: defaultdict[str, list[str]] = defaultdict(list)
        for of in skipped:
            names[of.reason].append(of.name)
        reasons = "; ".join(f"{', '.join(of)}: {reason}" for reason, of in names.items())
        raise ValueError(
            f"{left} of {n} classes count, {bars.min_classes} are needed ({reasons}). Take a site "
            "or position where the subject knows the classes, or more rows of them, or lower "
            "`min_classes`"
        )
