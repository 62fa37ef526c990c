"""Progress of long work: a bar on a terminal, plain lines with rate and time left in a log."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from tqdm import tqdm

_LOG_EVERY_SECONDS = 5.0


def say(message: str) -> None:
    """Print one line to standard error at once, beside any bar."""
    tqdm.write(message, file=sys.stderr)
    sys.stderr.flush()


class Progress:
    """Count `total` units of work; `update(n)` reports rate and time left."""

    def __init__(self, total: int, unit: str, what: str, done: int = 0) -> None:
        self.total, self.unit, self.what = total, unit, what
        self.done = self.resumed_from = done
        self.started = self.last = time.monotonic()
        self.bar = (
            tqdm(total=total, initial=done, unit=unit, desc=what, unit_scale=True)
            if sys.stderr.isatty()
            else None
        )

    def update(self, n: int, note: str = "") -> None:
        """Add `n` finished units; `note` is shown behind the rate."""
        self.done += n
        if self.bar is not None:
            self.bar.update(n)
            if note:
                self.bar.set_postfix_str(note)
        elif time.monotonic() - self.last >= _LOG_EVERY_SECONDS:
            self.last = time.monotonic()
            say(self._line(note))

    def _line(self, note: str) -> str:
        rate = (self.done - self.resumed_from) / max(time.monotonic() - self.started, 1e-9)
        left = (self.total - self.done) / rate if rate else float("inf")
        line = (
            f"{self.what}: {self.done:,} of {self.total:,} {self.unit}, "
            f"{rate:,.0f} {self.unit}/s, {left:,.0f} s left"
        )
        return f"{line}, {note}" if note else line

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.bar is not None:
            self.bar.close()
        elif kind is None:
            seconds = time.monotonic() - self.started
            say(f"{self.what}: {self.done:,} {self.unit} in {seconds:,.1f} s")
