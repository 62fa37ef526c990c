"""What a judge makes of each latent, and how well it predicts."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import NamedTuple

import numpy as np

from saeflow.autointerp.contexts import Latent
from saeflow.autointerp.judges import Judge, JudgeError, JudgeRefused, Status
from saeflow.progress import Progress, say


class Scores(NamedTuple):
    """Predictions of a latent's activity against what it does."""

    f1: float
    """2 TP / (2 TP + FP + FN); 0 where nothing is predicted active."""
    precision: float | None
    """Null where nothing is predicted active."""
    recall: float
    accuracy: float


class Verdict(NamedTuple):
    """What a judge made of one latent; null is what it gave no usable answer to."""

    status: Status = "ok"
    explanation: str | None = None
    diversity: float | None = None
    justification: str | None = None
    scores: Scores | None = None


def verdicts(judge: Judge, latents: list[Latent]) -> Iterator[Verdict]:
    """Yield the verdicts in the order of the latents, however many are judged at a time.

    Raises JudgeRefused once the judge will answer nothing; what has not begun is then not asked.
    """
    refusals: list[JudgeRefused] = []

    def judged(latent: Latent) -> Verdict:
        if refusals:
            raise refusals[0]
        try:
            return verdict(judge, latent)
        except JudgeRefused as refused:
            refusals.append(refused)
            raise

    with (
        Progress(total=len(latents), unit="latents", what="explaining") as progress,
        ThreadPoolExecutor(judge.concurrency) as pool,
    ):
        futures = [pool.submit(judged, latent) for latent in latents]
        for future in as_completed(futures):
            future.result()
            progress.update(1)
    yield from (future.result() for future in futures)


def verdict(judge: Judge, latent: Latent) -> Verdict:
    """Return what `judge` makes of one latent; where it fails, as far as it came."""
    found = Verdict()
    try:
        explanation = judge.explain(latent.examples, latent.contrast)
        found = found._replace(explanation=explanation)
        diversity = judge.diversity(explanation, latent.examples)
        found = found._replace(diversity=diversity.score, justification=diversity.justification)
        predicted = np.array(judge.detect(explanation, latent.held_out))
    except JudgeError as error:
        say(f"seed {latent.seed}, latent {latent.latent}: {error}")
        return found._replace(status=error.status)
    return found._replace(scores=score(predicted, latent.active_c))


def score(predicted_c: np.ndarray, active_c: np.ndarray) -> Scores:
    """Return how well predictions (contexts,) bool fit; at least one context is active."""
    hits = int((predicted_c & active_c).sum())
    claimed, active = int(predicted_c.sum()), int(active_c.sum())
    return Scores(
        f1=2 * hits / (claimed + active),
        precision=hits / claimed if claimed else None,
        recall=hits / active,
        accuracy=float((predicted_c == active_c).mean()),
    )
