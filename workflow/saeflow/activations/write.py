"""Cache the activations of a subject at several sites, from one forward pass of each window.

Rows are permuted within a buffer of `shuffle_rows` before they are written, one shard a buffer. A
job that is killed goes on after its last finished shard and ends with the same bytes.
"""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from saeflow.activations.buffer import ShuffleBuffer
from saeflow.activations.partial import Partial, finish, resume
from saeflow.activations.rows import Cursor, Rows, RowSource
from saeflow.activations.settings import ActivationSettings
from saeflow.activations.shards import group_rows, row_bytes
from saeflow.activations.windows import count_tokens
from saeflow.artifacts import (
    MANIFEST,
    ArtifactError,
    Clock,
    file_digest,
    read_manifest,
    write_manifest,
)
from saeflow.fingerprint import fingerprint
from saeflow.preempt import EXIT_CODE, StopRequest, preemptible
from saeflow.progress import Progress, say
from saeflow.subjects.load import load_subject
from saeflow.subjects.sites import resolve_sites


def cache_activations(
    settings: ActivationSettings,
    subject_folder: str | Path,
    tokens_folder: str | Path,
    split: str,
    sites: Sequence[str],
    out: str | Path,
    *,
    device: str = "cpu",
) -> None:
    """Write the cache of one split into `out`: shards of rows (see `shards`) and a manifest.

    `sites` are names or globs of the subject's modules. Holds `settings.tokens[split]` rows, or
    as many as the split has. On SIGTERM the process ends with 143; started again it goes on.

    Raises ArtifactError for an empty split, a full or too small disk, and activations that are
    not finite or that float16 cannot hold; SiteError for a site that the subject does not have;
    ValueError for a split without a budget.
    """
    clock, out = Clock(), Path(out)
    tokens = _tokens_file(Path(tokens_folder), split)
    if split not in settings.tokens:
        raise ValueError(f"activations.tokens has no entry for split {split!r}")
    subject = load_subject(subject_folder, device)
    sites = resolve_sites(subject.model, sites)
    rows_wanted = min(settings.tokens[split], count_tokens(tokens))
    identity = _identity(settings, Path(subject_folder), tokens, sites, device)
    with preemptible() as stop, _full_disk_named(out):
        out.mkdir(parents=True, exist_ok=True)
        (out / MANIFEST).unlink(missing_ok=True)
        partial = resume(out, identity)
        source = RowSource(settings, subject, sites, tokens, rows_wanted, partial.thresholds)
        writer = CacheWriter(settings, source, partial, out)
        writer.run(stop)
        write_manifest(
            out,
            kind="activations",
            settings={"activations": settings.model_dump(), "split": split, "sites": sites},
            files=partial.shards,
            inputs={"subject": subject_folder, "tokens": tokens_folder},
            stats=writer.stats(),
            seed=settings.seed,
            device=device,
            code=fingerprint(__name__),
            clock=clock,
        )
        finish(out)


def _tokens_file(folder: Path, split: str) -> Path:
    read_manifest(folder, kind="tokens")
    path = folder / f"{split}.parquet"
    if not path.is_file():
        raise ArtifactError(f"{folder} holds no split {split!r}: no {path.name}")
    if count_tokens(path) == 0:
        raise ArtifactError(
            f"{path} holds no tokens: the split is empty; give the corpus more text, a larger "
            f"share for {split!r}, or a smaller min_window"
        )
    return path


def _identity(
    settings: ActivationSettings, subject: Path, tokens: Path, sites: list[str], device: str
) -> dict[str, Any]:
    """Everything that determines the bytes of the shards, as far as a folder can tell."""
    return {
        "settings": settings.model_dump(),
        "sites": sites,
        "subject": file_digest(subject / MANIFEST),
        "tokens": file_digest(tokens),
        "device": device,
        "code": fingerprint(__name__),
    }


@contextmanager
def _full_disk_named(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise ArtifactError(
            f"the disk is full at {out} ({_size(_free_bytes(out))} free): free some space or "
            f"lower activations.tokens, then run again; finished shards are kept ({error})"
        ) from error


class CacheWriter:
    """Moves rows from their source into shards and records after each how to go on."""

    def __init__(
        self, settings: ActivationSettings, source: RowSource, partial: Partial, out: Path
    ) -> None:
        self.settings, self.source, self.partial, self.out = settings, source, partial, out
        self.end = partial.cursor

    def run(self, stop: StopRequest) -> None:
        """Write all shards that are left; on `stop` leave with 143 and the last saved state."""
        partial = self.partial
        skip = partial.skip
        what = f"caching {', '.join(self.source.sites)}"
        with Progress(self.source.budget, "tok", what, done=partial.rows) as progress:
            buffer: ShuffleBuffer | None = None
            for cursor, rows in self.source.batches(partial.cursor):
                buffer = buffer or self._start(rows)
                self._store(buffer, cursor, rows, skip)
                progress.update(len(rows) - skip)
                skip = 0
                self.end = cursor.after(rows)
                if stop.requested:
                    say(f"stopped on SIGTERM with {partial.rows:,} rows in finished shards")
                    raise SystemExit(EXIT_CODE)
            if buffer is not None and buffer.filled:
                self._flush(buffer, self.end, 0)
        if not partial.rows:
            raise ArtifactError(f"{self.source.tokens}: no token is left by the exclusion rule")

    def _start(self, rows: Rows) -> ShuffleBuffer:
        """Say what the cache costs, refuse it where the disk is too small, and make the buffer."""
        self.partial.widths = {site: acts.shape[1] for site, acts in rows.acts.items()}
        left = self.source.budget - self.partial.rows
        a_row = row_bytes(self.partial.widths, self.settings.dtype)
        need, free = int(left * a_row * 1.01), _free_bytes(self.out)
        size = min(self.settings.shuffle_rows, max(left, 1))
        say(
            f"caching up to {left:,} rows of {len(rows.acts)} sites in {self.settings.dtype} "
            f"({a_row:,} bytes a row): {_size(need)} on disk ({_size(free)} free), a buffer of "
            f"{_size(size * a_row)}, about {left * self.source.seconds_per_token:,.0f} s"
        )
        if need > free:
            raise ArtifactError(
                f"{self.out} needs {_size(need)} but its disk has {_size(free)} free: free some "
                f"space, or lower activations.tokens"
            )
        return ShuffleBuffer(self.partial.widths, self.settings.dtype, size)

    def _store(self, buffer: ShuffleBuffer, cursor: Cursor, rows: Rows, start: int) -> None:
        while start < len(rows):
            start += buffer.add(rows, start, self._shard_name())
            if buffer.full:
                self._flush(buffer, cursor, start)

    def _flush(self, buffer: ShuffleBuffer, cursor: Cursor, skip: int) -> None:
        """Write a shard, then record that the rows behind it start at `skip` after `cursor`."""
        partial, name, rows = self.partial, self._shard_name(), buffer.filled
        buffer.write(self.out / name, self.settings.seed, len(partial.shards))
        partial.shards[name] = {"rows": rows, "bytes": (self.out / name).stat().st_size}
        partial.cursor, partial.skip, partial.thresholds = cursor, skip, self.source.thresholds
        partial.save(self.out)

    def _shard_name(self) -> str:
        return f"shard-{len(self.partial.shards):05d}.parquet"

    def stats(self) -> dict[str, Any]:
        """What the manifest says of the rows: how many, of which sites, and what was left out."""
        partial = self.partial
        return {
            "rows": partial.rows,
            "sites": partial.widths,
            "shards": {name: shard["rows"] for name, shard in partial.shards.items()},
            "group_rows": group_rows(partial.widths, self.settings.dtype),
            "bytes": sum(shard["bytes"] for shard in partial.shards.values()),
            "bfloat16_forward": self.source.bfloat16,
            "sink_thresholds": partial.thresholds,
            **self.end.counts,
        }


def _free_bytes(folder: Path) -> int:
    return shutil.disk_usage(folder).free


def _size(n: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if n < 1024:
            return f"{n:,.1f} {unit}" if unit != "B" else f"{n:,.0f} B"
        n /= 1024
    return f"{n:,.1f} GiB"
