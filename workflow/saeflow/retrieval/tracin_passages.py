"""Activations of chosen documents, by the rule of an activation cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from saeflow.activations.exclusion import read_exclusion
from saeflow.activations.windows import Window, group_by_length, pad, read_windows
from saeflow.artifacts import ArtifactError, read_manifest
from saeflow.subjects.load import Subject
from saeflow.subjects.sites import run_to_sites

_LOOKAHEAD_WINDOWS = 1024
"""Windows that are grouped by length together; more are never in memory."""


class Passages(NamedTuple):
    """Documents of one split of a tokens artefact."""

    tokens: Path
    split: str
    documents: Sequence[int]

    def token_count(self) -> int:
        """Return the tokens of all windows, without running anything; raises as `windows`."""
        return sum(len(window.tokens) for window in self.windows())

    def windows(self) -> Iterator[Window]:
        """Yield the windows of the documents.

        Raises ArtifactError for unfinished or damaged tokens and for documents that have none.
        """
        path = self.tokens / f"{self.split}.parquet"
        if path.name not in read_manifest(self.tokens, kind="tokens")["files"]:
            raise ArtifactError(f"{self.tokens} has no split {self.split}")
        missing = set(self.documents)
        wanted = frozenset(missing)
        for window in read_windows(path):
            if window.document in wanted:
                missing.discard(window.document)
                yield window
        if missing:
            raise ArtifactError(
                f"{path} has no windows of {len(missing)} of {len(wanted)} documents, the first is "
                f"{min(missing)}: leave out documents without tokens, or tokenise their corpus anew"
            )


class Rows(NamedTuple):
    """Tokens of one batch."""

    passage_n: Tensor
    """Place of each token's document among the passages, int64 (n,)."""
    x_nd: Tensor
    """Its activations, float32."""
    read: int
    """Tokens read, with those that the rule leaves out."""


class Reader:
    """Runs a subject over passages and keeps what the cache in `activations` would hold."""

    def __init__(self, subject: Subject, site: str, activations: Path) -> None:
        """Raise ArtifactError if the cache is unfinished, damaged or without the site."""
        manifest = read_manifest(activations, kind="activations")
        settings, stats = manifest["settings"]["activations"], manifest["stats"]
        if site not in stats["sites"]:
            known = ", ".join(stats["sites"])
            raise ArtifactError(f"{activations} has no site {site}: it holds {known}")
        self.subject, self.site, self.width = subject, site, stats["sites"][site]
        self.rule = read_exclusion(activations, subject.special_ids)
        self.batch_tokens: int = settings["batch_tokens"]
        self.bfloat16: bool = stats["bfloat16_forward"]

    def rows(self, passages: Passages) -> Iterator[Rows]:
        """Yield the kept tokens of all windows, in batches of windows of similar length."""
        places = {document: place for place, document in enumerate(passages.documents)}
        windows = passages.windows()
        while part := list(islice(windows, _LOOKAHEAD_WINDOWS)):
            for batch in group_by_length(part, self.batch_tokens, np.random.default_rng(0)):
                place_b = torch.tensor([places[window.document] for window in batch])
                yield self._kept(place_b, *pad(batch))

    def _kept(self, place_b: Tensor, tokens_bt: Tensor, lengths_b: Tensor) -> Rows:
        subject, device = self.subject, self.subject.device
        tokens_bt = tokens_bt.to(device)
        sites = sorted({self.site, *self.rule.thresholds})
        with torch.autocast(device.type, torch.bfloat16, enabled=self.bfloat16):
            acts = run_to_sites(subject, tokens_bt, sites)
        keep_bt = self.rule.kept(tokens_bt, lengths_b, acts)
        place_bt = place_b.to(device)[:, None].expand(keep_bt.shape)
        return Rows(place_bt[keep_bt], acts[self.site][keep_bt].float(), int(lengths_b.sum()))
