"""What is written about explained latents: a row for each, and the tidy rows of their summary."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from saeflow.artifacts import atomic_path
from saeflow.autointerp.contexts import Collected, Latent
from saeflow.autointerp.judges import Judge
from saeflow.autointerp.verdicts import Verdict, score
from saeflow.evaluation.rows import Point, Row, make_row

SHOWN = 3
"""Examples kept of each latent, the strongest: Tables 2 and 3 print three."""
SCHEMA = pa.schema(
    [
        ("seed", pa.int64()),
        ("latent", pa.int64()),
        ("explanation", pa.string()),
        ("f1", pa.float64()),
        ("precision", pa.float64()),
        ("recall", pa.float64()),
        ("accuracy", pa.float64()),
        ("diversity", pa.float64()),
        ("justification", pa.string()),
        ("n_positive", pa.int64()),
        ("n_negative", pa.int64()),
        ("activating", pa.int64()),
        ("status", pa.string()),
        ("diversity_status", pa.string()),
        ("detection_status", pa.string()),
        ("judge", pa.string()),
        ("judge_definition", pa.string()),
        ("examples", pa.string()),
    ]
)
"""`n_positive` and `n_negative` are the contexts scored on; `activating` counts all contexts of the
text in which the latent is active. `status` is `ok` where explanation, diversity and detection
came, else that of the first that did not; the two that need an explanation have their own as well.
`judge_definition` says what the judge does; `examples` is a JSON list of texts with marked
tokens."""
_AVERAGED = ("f1", "precision", "recall", "accuracy")


def write_scores(
    path: Path, judge: Judge, latents: Sequence[Latent], verdicts: Sequence[Verdict]
) -> None:
    """Write one row a latent; scores that there are not are null."""
    rows = []
    for latent, verdict in zip(latents, verdicts, strict=True):
        shown = [latent.examples.marked(i) for i in range(min(SHOWN, len(latent.examples)))]
        positive = int(latent.active_c.sum())
        rows.append(
            {
                "seed": latent.seed,
                "latent": latent.latent,
                "explanation": verdict.explanation,
                **(verdict.scores._asdict() if verdict.scores else {}),
                "diversity": verdict.diversity,
                "justification": verdict.justification,
                "n_positive": positive,
                "n_negative": len(latent.active_c) - positive,
                "activating": latent.activating,
                "status": verdict.status,
                "diversity_status": verdict.diversity_status,
                "detection_status": verdict.detection_status,
                "judge": judge.name,
                "judge_definition": definition(judge),
                "examples": json.dumps(shown, ensure_ascii=False),
            }
        )
    with atomic_path(path) as temporary:
        pq.write_table(pa.Table.from_pylist(rows, SCHEMA), temporary)


def definition(judge: Judge) -> str:
    """Return who judges and what that does, as captions and claims say it."""
    return f"{judge.name}, which {judge.definition}"


def summary(
    found: Collected, verdicts: Sequence[Verdict], point: Point, split: str
) -> Iterator[Row]:
    """Yield the tidy rows of each seed; a mean is over the latents that have the score.

    Where none has, there is no row. `diversity_sd` is the standard deviation over latents;
    `f1_always_active` the mean F1 of calling every context active, which is 2/3 where as many are
    silent; `share_failed` the share of latents without explanation, diversity or scores;
    `share_eligible` the share of the latents looked at that are active often enough to be
    explained.
    """
    for seed, candidates in found.candidates.items():
        pairs = zip(found.latents, verdicts, strict=True)
        own = [(latent, verdict) for latent, verdict in pairs if latent.seed == seed]
        scores = [verdict.scores for _, verdict in own if verdict.scores is not None]
        columns: dict[str, list[float]] = {
            f"mean_{name}": [v for s in scores if (v := getattr(s, name)) is not None]
            for name in _AVERAGED
        }
        columns["f1_always_active"] = [
            score(np.ones_like(latent.active_c), latent.active_c).f1 for latent, _ in own
        ]
        columns["mean_diversity"] = [v.diversity for _, v in own if v.diversity is not None]
        columns["share_failed"] = [float(verdict.status != "ok") for _, verdict in own]
        rows = [
            (name, float(np.mean(values)), len(values))
            for name, values in columns.items()
            if values
        ]
        if diversities := columns["mean_diversity"]:
            rows.append(("diversity_sd", float(np.std(diversities)), len(diversities)))
        rows.append(("share_eligible", found.eligible[seed] / candidates, candidates))
        for metric, value, n in rows:
            yield make_row(point, split=split, seed=seed, metric=metric, value=value, n=n)
