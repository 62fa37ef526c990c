"""The processes that share one training, and what a step has to ask of the others.

Every rank holds the whole SAE and takes its own equal slice of each batch. It minimises the mean
over its slice, and gradients are averaged: those of a mean over the batch. What enters a loss in
another way than as a mean over tokens (a count to be squared, a normaliser, a cut) goes through
`sum` or `gather`, whose values are the batch's on every rank and whose gradients are scaled so that
the average over ranks is again the batch's. All ranks must make the same calls in the same order,
so no decision between calls may depend on a rank's own tokens.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor


class Ranks:
    """This process alone: nothing to ask. `parallel.Processes` is several."""

    rank = 0
    size = 1

    def check(self, batch_size: int) -> None:
        """Raise ValueError for a batch that cannot be cut into equal slices."""
        if batch_size % self.size:
            raise ValueError(
                f"batch_size {batch_size} is no multiple of the {self.size} processes that share "
                "it: change training.batch_size or the number of processes"
            )

    def share(self, entries_b: Tensor) -> Tensor:
        """Return this rank's slice of a whole batch."""
        rows = len(entries_b) // self.size
        return entries_b[self.rank * rows : (self.rank + 1) * rows]

    def sum(self, entries: Tensor) -> Tensor:
        """Return the sum over ranks, entry by entry, with gradient to this rank's part."""
        return entries

    def mean(self, entries: Tensor) -> Tensor:
        """Return the mean over ranks, entry by entry, with gradient to this rank's part."""
        return self.sum(entries) / self.size

    def gather(self, entries_n: Tensor) -> tuple[Tensor, slice]:
        """Return all ranks' entries in their order, and where this rank's are among them.

        Ranks may have different numbers of entries. Gradient flows to this rank's own.
        """
        return entries_n, slice(0, len(entries_n))

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """Return for each flag whether it is set on any rank; all ranks wait for one another."""
        return flags

    def any_of(self, mask_f: Tensor) -> Tensor:
        """Return for each entry of a bool tensor whether it is set on any rank."""
        return mask_f

    def average_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Replace the gradients of `parameters` by their means over ranks."""

    def adopt(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite `tensors` with those of the first rank."""


ALONE = Ranks()
