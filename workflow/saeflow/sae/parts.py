"""Whose the latents are of an SAE that is made of several, or that was given more than it had.

The base's come first, what was added to them after it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

PARTS = "stitched"
"""Key of `metadata` and of a manifest's `stats` that tells whose the latents are, of an SAE that
was put together."""
EXTENDED = "extended"
"""The same key of an SAE that was trained further with latents beside its own."""
BASE = "base"
"""Role of the part that the others were added to."""


class Part(NamedTuple):
    """Latents from `start` to before `stop`, and what they came from."""

    role: str
    start: int
    stop: int
    path: str | None = None
    """Where their SAE lies; null where they were trained in place."""

    def __str__(self) -> str:
        return f"{self.role} {self.path}" if self.path else self.role


def listed(parts: Iterable[tuple[int, Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Return parts of so many latents each, one after the other, as manifests list them."""
    found, stop = [], 0
    for latents, of in parts:
        start, stop = stop, stop + latents
        found.append({**of, "start": start, "stop": stop})
    return found


def read_parts(stats: Mapping[str, Any], d_sae: int) -> list[Part]:
    """Return the parts that a manifest's `stats` list, or none for an SAE that is one.

    Raises ValueError unless the base's latents come first, others after them, and all are the
    `d_sae` that there are.
    """
    key = next((key for key in (PARTS, EXTENDED) if key in stats), None)
    if key is None:
        return []
    try:
        parts = [
            Part(part["role"], int(part["start"]), int(part["stop"]), part.get("path"))
            for part in stats[key]
        ]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{key} tells no role, start and stop of each part") from error
    ends = [0, *(part.stop for part in parts)]
    follow = [part.start for part in parts] == ends[:-1] and sorted(set(ends)) == ends
    roles = [part.role == BASE for part in parts]
    if not follow or ends[-1] != d_sae or roles != [True] + [False] * max(1, len(parts) - 1):
        said = ", ".join(f"{part} {part.start} to {part.stop}" for part in parts)
        raise ValueError(
            f"{key} does not divide the {d_sae} latents into a base and what was added to it, "
            f"one after the other: {said or 'no part'}"
        )
    return parts
