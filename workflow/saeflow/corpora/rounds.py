"""Deals items in rounds, so that each comes up as often as every other."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Generic, TypeVar

T = TypeVar("T")


class Rounds(Generic[T]):
    """Deals all items in a random order, then all again in another."""

    def __init__(self, rng: Random, items: Sequence[T]) -> None:
        self._rng = rng
        self._items = items
        self._left: list[T] = []

    def next(self) -> T:
        """The next item."""
        if not self._left:
            self._left = self._rng.sample(self._items, len(self._items))
        return self._left.pop()

    def take(self, n: int) -> list[T]:
        """The next n different items; n is at most the number of items."""
        picked: list[T] = []
        while len(picked) < n:
            item = self.next()
            if item not in picked:  # the last of one round can be the first of the next
                picked.append(item)
        return picked
