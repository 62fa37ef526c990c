"""What a case of `test_every_key` is: one key, changed on one real run of the stage that reads it.

A stage has a small base configuration, a world of inputs that is made once, and a function that
runs the real thing and returns what came out, in named parts. A case names the key by its place in
that configuration and gives it another value; some part of what comes out must differ.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_origin
from unittest.mock import patch

from saeflow.settings import Settings

Result = Mapping[str, Any]
"""What a run left, by part; parts can be compared."""


class Case(NamedTuple):
    """One changed key."""

    path: str
    """Dotted place of the key in the stage's configuration; numbers index lists."""
    value: Any
    looks: str | None = None
    """The part of the result that must differ; none: any."""
    base: Mapping[str, Any] = {}
    """Further keys by dotted place, set with and without the change."""


@dataclass
class Stage:
    """A stage, its base configuration and the cases of its keys (`Class.field`)."""

    parse: Callable[[Any], Settings]
    settings: dict[str, Any]
    run: Callable[[Any, Path, Path], Result]
    """From settings, the world's folder and an empty folder to what came out."""
    cases: dict[str, Case]
    prepare: Callable[[Path], object] = lambda world: None
    """Makes the world: what the runs read."""
    done: dict[str, Result] = field(default_factory=dict)
    """Results of base configurations."""

    def before(self, case: Case, world: Path, out: Path) -> Result:
        """Return the result without the change, run once for each base configuration."""
        tree = self.tree(case, changed=False)
        key = json.dumps(tree, sort_keys=True)
        if key not in self.done:
            self.done[key] = self.run(self.parse(tree), world, out)
        return self.done[key]

    def tree(self, case: Case, *, changed: bool) -> dict[str, Any]:
        """Return the configuration of a case, with or without its change."""
        tree = copy.deepcopy(self.settings)
        for path, value in (*case.base.items(), *([(case.path, case.value)] if changed else [])):
            place(tree, path, value)
        return tree


def place(tree: Any, path: str, value: Any) -> None:
    """Set what lies at the dotted `path` of nested mappings and lists."""
    *parents, last = path.split(".")
    for part in parents:
        tree = tree[int(part)] if isinstance(tree, list) else tree.setdefault(part, {})
    tree[int(last) if isinstance(tree, list) else last] = copy.deepcopy(value)


def owner(settings: Any, path: str) -> str:
    """Return `Class.field` of the key at the dotted `path` of validated settings."""
    *parents, last = path.split(".")
    for part in parents:
        if isinstance(settings, Settings):
            settings = getattr(settings, part)
        else:
            settings = settings[part if isinstance(settings, Mapping) else int(part)]
    return f"{type(settings).__name__}.{last}"


def keys_of(root: type[Settings]) -> set[str]:
    """Return `Class.field` of every key below `root`.

    Left out are fields that only hold other settings, whose keys count, and the tags of unions,
    which have one value in each class.
    """
    keys, seen, left = set(), {root}, [root]
    while left:
        settings = left.pop()
        for name, known in settings.model_fields.items():
            below = set(settings_in(known.annotation))
            left += below - seen
            seen |= below
            is_tag = get_origin(known.annotation) is Literal and len(get_args(known.annotation)) < 2
            if not is_tag and not only_holds(known.annotation):
                keys.add(f"{settings.__name__}.{name}")
    return keys


def settings_in(annotation: Any) -> Iterator[type[Settings]]:
    """Yield the settings classes that an annotation names."""
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        yield annotation
    for part in get_args(annotation):
        yield from settings_in(part)


def only_holds(annotation: Any) -> bool:
    """Whether a field is one section of settings, or a mapping from names to such sections."""
    if get_origin(annotation) is dict:
        return any(settings_in(get_args(annotation)[1]))
    return isinstance(annotation, type) and issubclass(annotation, Settings)


@contextmanager
def watched(*functions: str) -> Iterator[list[tuple[Any, ...]]]:
    """Record the positional arguments of every call of `functions` (dotted paths), which run."""
    calls: list[tuple[Any, ...]] = []
    with ExitStack() as stack:
        for path in functions:
            module, name = path.rsplit(".", 1)
            real = getattr(__import__(module, fromlist=[name]), name)

            def recording(*args: Any, real: Callable = real, **kwargs: Any) -> Any:
                calls.append(args)
                return real(*args, **kwargs)

            stack.enter_context(patch(path, recording))
        yield calls
