"""Notice SIGTERM (a cluster's preemption) without dying, so that a stage can save and leave."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

EXIT_CODE = 143
"""What a process that ended on SIGTERM returns (128 + 15); schedulers requeue on it."""


class StopRequest:
    """Becomes true once the process was asked to end."""

    def __init__(self) -> None:
        self.requested = False

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.requested = True


@contextmanager
def preemptible() -> Iterator[StopRequest]:
    """Turn SIGTERM into `stop.requested` inside the block; the caller saves and exits with 143.

    Works in the main thread only (Python delivers signals nowhere else; ValueError otherwise).
    """
    stop = StopRequest()
    before = signal.signal(signal.SIGTERM, stop._note)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGTERM, before)
