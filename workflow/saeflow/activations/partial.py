"""What a killed caching job leaves to go on from: its finished shards and the place behind them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from saeflow.activations.rows import Cursor
from saeflow.artifacts import MANIFEST, clear_folder, write_json
from saeflow.progress import say

PARTIAL = "partial.json"


@dataclass
class Partial:
    """Finished shards of an unfinished cache, and how to produce the row that follows them."""

    identity: dict[str, Any]
    """Everything that determines the rows; a cache of another identity is no start."""
    shards: dict[str, dict[str, int]] = field(default_factory=dict)
    """Rows and bytes of each finished shard, in order."""
    cursor: Cursor = field(default_factory=Cursor)
    """The batch that holds the next row."""
    skip: int = 0
    """Rows of that batch which the finished shards already hold."""
    thresholds: dict[str, float] | None = None
    """Largest kept norm of each site."""
    widths: dict[str, int] = field(default_factory=dict)
    """d_in of each site."""

    @property
    def rows(self) -> int:
        """Rows in finished shards."""
        return sum(shard["rows"] for shard in self.shards.values())

    def save(self, folder: Path) -> None:
        """Write the state atomically; shards must be on disk before."""
        write_json(folder / PARTIAL, asdict(self))


def resume(folder: Path, identity: dict[str, Any]) -> Partial:
    """Return the state to go on from in `folder`, and remove there what does not belong to it.

    An absent, unreadable or foreign state, or one whose shards are not as recorded, is a fresh
    start in an empty folder.
    """
    identity = json.loads(json.dumps(identity))
    partial = _read(folder, identity)
    if partial is None:
        clear_folder(folder)
        return Partial(identity)
    for path in folder.iterdir():
        if path.name not in partial.shards and path.name != PARTIAL:
            path.unlink()
    if partial.shards:
        say(f"going on after {len(partial.shards)} finished shards ({partial.rows:,} rows)")
    return partial


def _read(folder: Path, identity: dict[str, Any]) -> Partial | None:
    if not (folder / PARTIAL).exists():
        return None
    try:
        found = json.loads((folder / PARTIAL).read_text())
        cursor = Cursor(**found.pop("cursor"))
        partial = Partial(cursor=cursor, **found)
        sizes = {name: (folder / name).stat().st_size for name in partial.shards}
    except (ValueError, TypeError, AttributeError, KeyError, OSError) as error:
        say(f"{folder / PARTIAL} cannot be used ({error}): starting anew")
        return None
    if partial.identity != identity:
        changed = sorted(k for k in identity if partial.identity.get(k) != identity[k])
        say(f"{folder} was begun with other {', '.join(changed)}: starting anew")
        return None
    if any(sizes[name] != shard["bytes"] for name, shard in partial.shards.items()):
        say(f"{folder} holds shards of other sizes than recorded: starting anew")
        return None
    return partial


def finish(folder: Path) -> None:
    """Remove the state of a cache that has its manifest."""
    assert (folder / MANIFEST).is_file()
    (folder / PARTIAL).unlink(missing_ok=True)
