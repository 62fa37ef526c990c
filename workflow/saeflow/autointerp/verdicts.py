"""What a judge makes of each latent, and how well it predicts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from typing import NamedTuple, TypeVar

import numpy as np

from saeflow.autointerp.contexts import Latent
from saeflow.autointerp.judges import Judge, JudgeError, Status, Stopped
from saeflow.progress import Progress, say

Found = TypeVar("Found")
Item = TypeVar("Item")


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

    explanation: str | None = None
    diversity: float | None = None
    justification: str | None = None
    scores: Scores | None = None
    explanation_status: Status = "unasked"
    diversity_status: Status = "unasked"
    detection_status: Status = "unasked"

    @property
    def status(self) -> Status:
        """`ok` where all three came, else that of the first that did not."""
        found = (self.explanation_status, self.diversity_status, self.detection_status)
        return next((status for status in found if status != "ok"), "ok")


def verdicts(judge: Judge, latents: Sequence[Latent]) -> Iterator[Verdict]:
    """Yield the verdicts in the order of the latents; see `judged_each`."""
    return judged_each(judge, latents, verdict)


def judged_each(
    judge: Judge, items: Sequence[Item], ask: Callable[[Judge, Item], Found]
) -> Iterator[Found]:
    """Yield what `ask` finds of each item in their order, however many are asked about at a time.

    Raises JudgeRefused once the judge will answer nothing. Then, and after any other error or an
    interrupt, what has not begun is not asked, and what is under way is waited for.
    """
    with (
        Progress(total=len(items), unit="latents", what="explaining") as progress,
        _workers(judge) as pool,
    ):
        futures = [pool.submit(_or_stop, judge, item, ask) for item in items]
        for future in as_completed(futures):
            if not isinstance(future.exception(), Stopped):  # by an error that comes as well
                future.result()
                progress.update(1)
    yield from (future.result() for future in futures)


@contextmanager
def _workers(judge: Judge) -> Iterator[ThreadPoolExecutor]:
    """Threads that judge latents; an error of the block, or an interrupt, empties their queue."""
    pool = ThreadPoolExecutor(judge.concurrency)
    try:
        yield pool
    except BaseException:
        judge.stop()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _or_stop(judge: Judge, item: Item, ask: Callable[[Judge, Item], Found]) -> Found:
    """Return what `ask` finds; an error stops the judge before a thread takes the next item."""
    try:
        return ask(judge, item)
    except BaseException:
        judge.stop()
        raise


def verdict(judge: Judge, latent: Latent) -> Verdict:
    """Return what `judge` makes of one latent; what one question fails on, another may have."""
    where = f"seed {latent.seed}, latent {latent.latent}"
    explanation, explained = asked(where, judge.explain, latent.examples, latent.contrast)
    if explanation is None:
        return Verdict(explanation_status=explained)
    diversity, rated = asked(where, judge.diversity, explanation, latent.examples)
    predicted, detected = asked(where, judge.detect, explanation, latent.held_out)
    return Verdict(
        explanation=explanation,
        diversity=diversity.score if diversity else None,
        justification=diversity.justification if diversity else None,
        scores=None if predicted is None else score(np.array(predicted), latent.active_c),
        explanation_status=explained,
        diversity_status=rated,
        detection_status=detected,
    )


def asked(
    where: str, question: Callable[..., Found], *given: object
) -> tuple[Found | None, Status]:
    """Return the answer to a question about `where` and `ok`, or null and what it failed on."""
    try:
        return question(*given), "ok"
    except JudgeError as error:
        say(f"{where}: {error}")
        return None, error.status


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
