"""What a judge is: it explains a latent from examples and predicts from the explanation alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Protocol

from saeflow.autointerp.examples import Contexts, Examples

Status = Literal["ok", "nonsense", "timeout", "error", "unasked"]
"""`nonsense`: answers came, and none was what was asked for; `error`: none could be had; `unasked`:
there was no explanation to ask about."""


class JudgeError(RuntimeError):
    """A judge gave no usable answer to one question; `status` says in which way."""

    def __init__(self, status: Status, message: str) -> None:
        super().__init__(message)
        self.status: Status = status


class JudgeRefused(RuntimeError):
    """No question will be answered: a wrong key, address or model; the message says which."""


class Stopped(RuntimeError):
    """A judge was told to stop before this question was answered."""


class Diversity(NamedTuple):
    """How varied a latent's contexts are."""

    score: float
    """0 to 100."""
    justification: str


class Sampled(Protocol):
    """A latent with what a judge is shown of it."""

    @property
    def examples(self) -> Examples:
        """What it is explained from."""
        ...

    @property
    def held_out(self) -> Contexts:
        """What it is predicted on."""
        ...


class Judge(Protocol):
    """Explains latents and predicts where they are active.

    Questions raise JudgeError, JudgeRefused, and Stopped after `stop`.
    """

    name: str
    """As figures and tables show it."""
    definition: str
    """What it does, to be read behind its name: how it explains, predicts and rates."""
    contrast: int
    """Silent contexts that `explain` compares with."""
    concurrency: int
    """Latents that it can judge at the same time."""
    files: tuple[str, ...]
    """What it leaves in the stage's folder once it is finished."""

    def explain(self, examples: Examples, contrast: Contexts) -> str:
        """Return what makes the latent active, in words."""
        ...

    def detect(self, explanation: str, contexts: Contexts) -> list[bool]:
        """Return for each context whether the latent is active in it, going by the words alone."""
        ...

    def diversity(self, explanation: str, examples: Examples) -> Diversity:
        """Return how varied the examples are."""
        ...

    def stop(self) -> None:
        """Ask nothing more: from now on questions that need an answer raise Stopped.

        What is under way is waited for, and kept. Any thread may call this.
        """
        ...

    def forecast(self, latents: Sequence[Sampled], *, diversity: bool = True) -> str:
        """Return in a sentence what judging `latents`, with or without diversity, will take."""
        ...

    def finish(self) -> dict[str, Any]:
        """Write what the judge keeps and return what it took, for the manifest."""
        ...
