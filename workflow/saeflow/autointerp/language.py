"""A judge that is a language model, wherever it runs: asks, reads, asks again, remembers."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from saeflow.autointerp.answers import ANSWERS, Answer, Answers
from saeflow.autointerp.examples import Contexts, Examples
from saeflow.autointerp.judges import Diversity, JudgeError, Sampled, Stopped
from saeflow.autointerp.prompts import (
    Unreadable,
    again_prompt,
    detect_prompt,
    diversity_prompt,
    explain_prompt,
    read_detection,
    read_diversity,
    read_explanation,
)
from saeflow.autointerp.settings import Price

_LETTERS_PER_TOKEN = 4
"""Of English text in common vocabularies; for estimates, and where an endpoint counts nothing."""
_ASSUMED_EXPLANATION = "x" * 120
"""In place of explanations that are not written yet, when the cost is estimated."""
Read = TypeVar("Read")


class Model(Protocol):
    """A language model that answers prompts. Raises JudgeError, JudgeRefused and Stopped."""

    name: str
    place: str
    """Where it runs, and how it is sampled."""
    identity: str
    """All that decides its answers; part of their key in the cache."""
    retries: int
    concurrency: int
    longest: int
    """Tokens of the longest answer."""
    price: Price | None
    stopping: threading.Event
    """Set once nothing more is to be asked; a pause between two tries ends with it."""

    def complete(self, prompt: str) -> Answer:
        """Return the answer to a prompt."""
        ...


class LanguageJudge:
    """Explains, predicts and rates by asking `model`; keeps every answer in `folder`."""

    contrast = 0
    files: tuple[str, ...] = (ANSWERS,)

    def __init__(self, model: Model, folder: Path, per_prompt: int) -> None:
        self.model, self.per_prompt = model, per_prompt
        self.name, self.concurrency = model.name, model.concurrency
        self.definition = f"asks a language model ({model.place}) to explain, predict and rate"
        self.answers = Answers(folder, model.identity)
        self.lock = threading.Lock()
        self.spent = {"requests": 0, "cached": 0, "prompt_tokens": 0, "answer_tokens": 0}

    def explain(self, examples: Examples, contrast: Contexts) -> str:
        """Return the model's explanation of the marked examples."""
        return self._ask(explain_prompt(examples), read_explanation)

    def detect(self, explanation: str, contexts: Contexts) -> list[bool]:
        """Return the model's predictions, a few contexts a question."""
        found: list[bool] = []
        for part in self._parts(contexts):
            found.extend(self._ask(detect_prompt(explanation, part), read_detection(len(part))))
        return found

    def diversity(self, explanation: str, examples: Examples) -> Diversity:
        """Return the model's rating of how varied the examples are."""
        return self._ask(diversity_prompt(explanation, examples), read_diversity)

    def _parts(self, contexts: Contexts) -> list[Contexts]:
        starts = range(0, len(contexts), self.per_prompt)
        return [contexts.take(np.arange(len(contexts))[s : s + self.per_prompt]) for s in starts]

    def _ask(self, prompt: str, read: Callable[[str], Read]) -> Read:
        """Return what `read` makes of the answer; an unusable one is told why and asked again."""
        asked, reason = prompt, ""
        for number in range(1, self.model.retries + 2):
            try:
                return read(self._answer(asked))
            except Unreadable as error:
                reason = str(error)
            asked = again_prompt(prompt, number, reason)
        raise JudgeError(
            "nonsense", f"{self.name} gave {self.model.retries + 1} unusable answers: {reason}"
        )

    def stop(self) -> None:
        """Ask nothing more; what is under way is waited for, and kept."""
        self.model.stopping.set()

    def _answer(self, prompt: str) -> str:
        with self.answers.asking(prompt):
            known = self.answers.get(prompt)
            if known is None and self.model.stopping.is_set():
                raise Stopped(f"{self.name} is asked nothing more")
            answer = known or self.model.complete(prompt)
            if known is None:
                self.answers.add(prompt, answer)
        with self.lock:
            self.spent["requests" if known is None else "cached"] += 1
            self.spent["prompt_tokens"] += answer.prompt_tokens or _tokens(len(prompt))
            self.spent["answer_tokens"] += answer.answer_tokens or _tokens(len(answer.text))
        return answer.text

    def forecast(self, latents: Sequence[Sampled], *, diversity: bool = True) -> str:
        """Return requests, tokens and cost of judging `latents`, as if nothing were cached."""
        questions = [
            question
            for latent in latents
            for question in (
                explain_prompt(latent.examples),
                *([diversity_prompt(_ASSUMED_EXPLANATION, latent.examples)] if diversity else []),
                *(
                    detect_prompt(_ASSUMED_EXPLANATION, part)
                    for part in self._parts(latent.held_out)
                ),
            )
        ]
        asked = sum(_tokens(len(question)) for question in questions)
        answered = len(questions) * self.model.longest
        cost = self.cost(asked, answered)
        return (
            f"{self.name} explains {len(latents):,} latents with {len(questions):,} requests, "
            f"about {asked:,} tokens in and at most {answered:,} out: "
            + ("no price is set" if cost is None else f"at most about {cost:,.2f}")
            + f", without retries; {len(self.answers.rows):,} answers are kept from before"
        )

    def cost(self, prompt_tokens: int, answer_tokens: int) -> float | None:
        """Return the price of so many tokens; None where no price is set."""
        price = self.model.price
        if price is None:
            return None
        return (prompt_tokens * price.input + answer_tokens * price.output) / 1e6

    def finish(self) -> dict[str, Any]:
        """Merge the kept answers; return how many were asked for and how many were kept before.

        Tokens and cost are those of all answers that were used, whenever they were paid.
        """
        self.answers.merge()
        cost = self.cost(self.spent["prompt_tokens"], self.spent["answer_tokens"])
        return {"identity": self.model.identity, **self.spent, "cost": cost}


def _tokens(letters: int) -> int:
    return math.ceil(letters / _LETTERS_PER_TOKEN)
