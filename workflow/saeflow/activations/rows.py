"""From windows of tokens to the rows of a cache: one forward pass a batch, then the rule."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from saeflow.activations.exclude import is_special, keep_mask, sink_mask, sink_thresholds
from saeflow.activations.settings import ActivationSettings
from saeflow.activations.windows import Window, group_by_length, pad, read_windows
from saeflow.subjects.load import Subject
from saeflow.subjects.sites import run_to_sites

LOOKAHEAD_ROWS = 131_072
"""Rows whose windows are grouped by length together."""
CALIBRATION_ROWS = 8192
"""Rows from which the sites' median norms are taken."""


@dataclass(frozen=True)
class Rows:
    """Rows of one batch, ids on the host and activations (n, d_in) float32 on the device."""

    ids: dict[str, np.ndarray]
    """`document`, `position` (offset of the token in its document) and `token`, each (n,)."""
    acts: dict[str, Tensor]
    norms: dict[str, Tensor]
    """Euclidean norm (n,) of every row of every site."""
    counts: dict[str, int]
    """Windows and tokens read, and tokens left out by reason."""

    def __len__(self) -> int:
        return len(self.ids["token"])

    def select(self, index_n: Tensor) -> Rows:
        """Return the rows at `index_n`."""
        host = index_n.cpu().numpy()
        return replace(
            self,
            ids={name: values[host] for name, values in self.ids.items()},
            acts={site: values[index_n] for site, values in self.acts.items()},
            norms={site: values[index_n] for site, values in self.norms.items()},
        )

    def without(self, reason: str, keep_n: Tensor) -> Rows:
        """Return the rows where `keep_n` is true, the others counted under `reason`."""
        index_n = keep_n.nonzero()[:, 0]
        counts = {**self.counts, reason: len(self) - len(index_n)}
        kept = self if len(index_n) == len(self) else self.select(index_n)
        return replace(kept, counts=counts)


@dataclass(frozen=True)
class Cursor:
    """A place between two batches from which the same rows follow again."""

    window: int = 0
    """First window of the look-ahead that the next batch belongs to."""
    kept_before: int = 0
    """Rows kept before that look-ahead."""
    batch: int = 0
    """Batches of the look-ahead that lie behind."""
    kept: int = 0
    """Rows kept in all."""
    counts: dict[str, int] = field(default_factory=dict)

    def after(self, rows: Rows) -> Cursor:
        """Return the place behind the batch `rows`."""
        counts = {k: self.counts.get(k, 0) + n for k, n in rows.counts.items()}
        return replace(self, batch=self.batch + 1, kept=self.kept + len(rows), counts=counts)

    def next_lookahead(self, windows: int) -> Cursor:
        """Return the same place, told from the look-ahead that follows one of `windows`."""
        return replace(self, window=self.window + windows, kept_before=self.kept, batch=0)


class RowSource:
    """The rows of one cache in a fixed order, from any cursor on.

    Windows are read in order until `budget` rows are kept or they end. Within a look-ahead,
    windows of similar length share a batch.
    """

    def __init__(
        self,
        settings: ActivationSettings,
        subject: Subject,
        sites: Sequence[str],
        tokens: Path,
        budget: int,
        thresholds: dict[str, float] | None = None,
    ) -> None:
        self.settings, self.subject, self.sites = settings, subject, sites
        self.tokens, self.budget = tokens, budget
        self.thresholds = thresholds
        """Norm above which a row of a site is a sink; set from the first rows where None."""
        self.seconds_per_token = math.inf
        """Of the fastest batch so far."""
        device = subject.device.type
        self.bfloat16 = settings.precision == "bfloat16" or (
            settings.precision == "auto" and has_bfloat16(device)
        )

    def batches(self, cursor: Cursor) -> Iterator[tuple[Cursor, Rows]]:
        """Yield the rows of each batch with the cursor in front of it."""
        windows = read_windows(self.tokens, cursor.window)
        while cursor.kept < self.budget:
            taken = self._take(windows, min(LOOKAHEAD_ROWS, self.budget - cursor.kept_before))
            if not taken:
                return
            generator = np.random.default_rng([self.settings.seed, cursor.window])
            plan = group_by_length(taken, self.settings.batch_tokens, generator)
            for rows in self._drop_sinks(self._run(batch) for batch in plan[cursor.batch :]):
                within = torch.arange(len(rows)) < self.budget - cursor.kept
                rows = rows.without("surplus", within.to(self.subject.device))
                yield cursor, rows
                cursor = cursor.after(rows)
            cursor = cursor.next_lookahead(len(taken))

    def _take(self, windows: Iterator[Window], wanted: int) -> list[Window]:
        """Take windows until they hold `wanted` rows, as far as is known before sinks are."""
        taken: list[Window] = []
        while wanted > 0 and (window := next(windows, None)) is not None:
            taken.append(window)
            wanted -= int(self._keep(*pad([window])).sum())
        return taken

    def _keep(self, tokens_bt: Tensor, lengths_b: Tensor) -> Tensor:
        special, skip = self.subject.special_ids, self.settings.skip_positions
        return keep_mask(tokens_bt, lengths_b, special, skip)

    def _run(self, batch: Sequence[Window]) -> Rows:
        started = time.perf_counter()
        tokens_bt, lengths_b = pad(batch)
        device = self.subject.device
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.bfloat16):
            outputs = run_to_sites(self.subject, tokens_bt.to(device), self.sites)
        keep_bt = self._keep(tokens_bt, lengths_b)
        index_n = keep_bt.flatten().nonzero()[:, 0]
        acts = {
            site: out.flatten(0, 1)[index_n.to(device)].float() for site, out in outputs.items()
        }
        inside_bt = keep_mask(tokens_bt, lengths_b, (), 0)
        special_bt = inside_bt & is_special(tokens_bt, self.subject.special_ids)
        tokens, special = int(inside_bt.sum()), int(special_bt.sum())
        rows = Rows(
            ids=self._ids(batch, tokens_bt, index_n),
            acts=acts,
            norms={site: torch.linalg.vector_norm(a, dim=1) for site, a in acts.items()},
            counts={
                "windows": len(batch),
                "tokens": tokens,
                "special": special,
                "first_positions": tokens - special - len(index_n),
                "sinks": 0,
            },
        )
        seconds = time.perf_counter() - started
        self.seconds_per_token = min(self.seconds_per_token, seconds / tokens)
        return rows

    def _ids(
        self, batch: Sequence[Window], tokens_bt: Tensor, index_n: Tensor
    ) -> dict[str, np.ndarray]:
        row_n, column_n = np.divmod(index_n.numpy(), tokens_bt.shape[1])
        document_b = np.array([w.document for w in batch], dtype=np.int64)
        # A prepended begin token is no text: the window's text starts one column later.
        start_b = np.array([w.start for w in batch]) - int(self.subject.prepend_bos)
        return {
            "document": document_b[row_n],
            "position": (start_b[row_n] + column_n).astype(np.int32),
            "token": tokens_bt.flatten()[index_n].numpy().astype(np.int32),
        }

    def _drop_sinks(self, batches: Iterable[Rows]) -> Iterator[Rows]:
        if self.settings.sink_norm is None:
            yield from batches
            return
        if self.thresholds is None:
            batches = self._calibrate(iter(batches))
        assert self.thresholds is not None
        for rows in batches:
            yield rows.without("sinks", ~sink_mask(rows.norms, self.thresholds))

    def _calibrate(self, batches: Iterator[Rows]) -> Iterator[Rows]:
        """Set the thresholds from the first rows and return all of `batches` again."""
        seen: list[Rows] = []
        for rows in batches:
            seen.append(rows)
            if sum(map(len, seen)) >= CALIBRATION_ROWS:
                break
        norms = {site: torch.cat([r.norms[site] for r in seen]) for site in self.sites}
        self.thresholds = sink_thresholds(norms, self.settings.sink_norm)
        return chain(seen, batches)


def has_bfloat16(device: str) -> bool:
    """Return whether the device computes in bfloat16 rather than emulating it."""
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def describe(ids: Mapping[str, np.ndarray], site: str, row: int) -> str:
    """Return where a row comes from, for an error message."""
    return (
        f"site {site}, document {ids['document'][row]}, position {ids['position'][row]} "
        f"(token {ids['token'][row]})"
    )
