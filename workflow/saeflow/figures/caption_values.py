"""Captions that say the settings in force: `{evaluation.concepts.bar:g}` stands for a key's value.

What a placeholder may name, beside the keys of the configuration: those of its paper, and `shown`,
the figure's or table's own. After the colon stands Python's format, or words for each value, the
last without one for any other: `{shown.layout:panels=side by side|in one}`.
"""

from __future__ import annotations

from string import Formatter
from typing import TYPE_CHECKING, Any, TypeVar

from saeflow.figures.common_settings import Described

if TYPE_CHECKING:
    from saeflow.config import Config

Item = TypeVar("Item", bound=Described)


class CaptionError(ValueError):
    """A caption's placeholder cannot be filled; the message says which caption and why."""


class _Words(Formatter):
    def format_field(self, value: Any, format_spec: str) -> str:
        if "=" not in format_spec:
            return format(value, format_spec)
        *named, last = (part.partition("=") for part in format_spec.split("|"))
        words = {key.strip(): said for key, _, said in named}
        if not last[1]:
            return words.get(str(value), last[0])
        words[last[0].strip()] = last[2]
        return words[str(value)]


def filled(shown: Item, config: Config, paper: str) -> Item:
    """Return a figure or table of a paper whose caption has values in place of placeholders.

    Raises CaptionError for one that names no key or has no words for its value, and for braces that
    are no placeholder.
    """
    known = {**dict(config), **dict(config.paper(paper)), "shown": shown}
    try:
        caption = _Words().vformat(shown.caption, (), known)
    except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
        raise CaptionError(
            f"{shown.caption!r} cannot be filled with the settings: {type(error).__name__}: "
            f"{error}; braces that stand for themselves are doubled"
        ) from error
    return shown.model_copy(update={"caption": caption})
