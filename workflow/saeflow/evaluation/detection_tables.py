"""What is written about detection: a row for each latent and protocol, and their tidy summary."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import fmean
from typing import Any, NamedTuple

import pyarrow as pa

from saeflow.autointerp.judges import Judge
from saeflow.autointerp.tables import definition
from saeflow.autointerp.verdicts import Scores
from saeflow.evaluation.detection_latents import DrawnSAE
from saeflow.evaluation.origin import Key
from saeflow.evaluation.rows import Point, Row, make_row

SUFFIXES = {"ortsae": "", "saebench": "_saebench"}
"""What the names of a protocol's metrics end with."""
DETAILS = pa.schema(
    [
        ("l0_target", pa.int64()),
        ("seed", pa.int64()),
        ("protocol", pa.string()),
        ("latent", pa.int64()),
        ("firings", pa.int64()),
        ("explanation", pa.string()),
        ("accuracy", pa.float64()),
        ("precision", pa.float64()),
        ("recall", pa.float64()),
        ("f1", pa.float64()),
        ("active", pa.int64()),
        ("silent", pa.int64()),
        ("not_scored", pa.string()),
        ("judge", pa.string()),
        ("judge_definition", pa.string()),
    ]
)
"""A row for each SAE, protocol and sampled latent. `firings` counts the tokens on which the latent
is active, `active` and `silent` the sequences that it was scored on. Of a latent without scores
there is the reason: too few sequences, or what the judge failed on. `judge` and `judge_definition`
say who explained and predicted, and how."""


class Outcome(NamedTuple):
    """What came of one latent by one protocol."""

    latent: int
    protocol: str
    firings: int
    explanation: str | None = None
    scores: Scores | None = None
    active: int = 0
    silent: int = 0
    not_scored: str | None = None

    def details(self, key: Key, judge: Judge) -> dict[str, Any]:
        """Return its row of the table."""
        row = {**key._asdict(), **self._asdict(), **(self.scores._asdict() if self.scores else {})}
        row |= {"judge": judge.name, "judge_definition": definition(judge)}
        return {name: row.get(name) for name in DETAILS.names}


def summary(
    drawn: DrawnSAE, outcomes: Sequence[Outcome], key: Key, *, point: Point, split: str
) -> Iterator[Row]:
    """Yield the tidy rows of one SAE.

    `detection_accuracy` and, as its level, `detection_accuracy_always_no`, that of calling every
    sequence silent (n latents scored; no rows where there are none); `detection_not_scored`, the
    share of the sampled latents without scores (n latents sampled; no row where there are none),
    each of both protocols; `detection_live`, the share of the candidates that are live (n
    candidates).
    """
    values = [("detection_live", drawn.live / drawn.candidates, drawn.candidates)]
    for protocol, suffix in SUFFIXES.items():
        own = [of for of in outcomes if of.protocol == protocol]
        scored = [(of, scores) for of in own if (scores := of.scores) is not None]
        if scored:
            name, n = f"detection_accuracy{suffix}", len(scored)
            accuracy = fmean(scores.accuracy for _, scores in scored)
            always_no = fmean(of.silent / (of.active + of.silent) for of, _ in scored)
            values += [(name, accuracy, n), (f"{name}_always_no", always_no, n)]
        if own:
            share = 1 - len(scored) / len(own)
            values.append((f"detection_not_scored{suffix}", share, len(own)))
    here = point._replace(l0_target=key.l0_target)
    for metric, value, n in values:
        yield make_row(here, split=split, seed=key.seed, metric=metric, value=value, n=n)
