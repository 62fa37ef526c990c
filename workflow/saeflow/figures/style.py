"""The look of every figure: sizes, one fixed look a variant, and how files are written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.style
from matplotlib.figure import Figure

from saeflow.artifacts import atomic_path

ONE_COLUMN = 3.35
TWO_COLUMNS = 6.9
# Between panels that each have labels of their own, as a share of a panel's width.
PANEL_GAP = 0.1
INK = "#1a1a1a"
FAINT_INK = "#595959"
_STYLE_FILE = Path(__file__).with_name("saeflow.mplstyle")
# A date or a version in a file would change its bytes without a change of the figure.
_METADATA: dict[str, dict[str, Any]] = {
    "svg": {"Date": None, "Creator": None, "Format": None, "Type": None},
    "png": {"Software": None},
    "pdf": {"Creator": None, "Producer": None, "CreationDate": None},
}


class Look(NamedTuple):
    """How one variant or series is drawn; colour, marker, line and hatch each tell it apart."""

    color: str
    marker: str
    line: Any
    hatch: str


# Safe for the colour-blind and ordered by luminance (L* 19, 36, 50, 62, 74), so that print in
# grey keeps five shades.
_LOOKS = {
    "batchtopk": Look("#1d2b66", "o", (0, (4, 1.4)), ""),
    "ortsae": Look("#b0142d", "*", "-", "////"),
    "topk": Look("#2f7ab8", "^", (0, (5, 1.2, 1, 1.2)), "...."),
    "matryoshka": Look("#3aa58a", "D", (0, (5, 1.2, 1, 1.2, 1, 1.2)), "xxxx"),
    "relu": Look("#e3ab2f", "s", (0, (1, 1.1)), "----"),
}
# Families of hue: grey without a domain, yellow for BM25, blue for dense retrieval, red for tilts
# (the darker, the stronger), green and violet for the domain itself.
_SERIES = {
    "gsae": Look("#1a1a1a", "o", (0, (1, 1.1)), ""),
    "all": Look("#6b6b6b", "s", (0, (5, 1.2, 1, 1.2)), "...."),
    "random": Look("#a8a8a8", "X", (0, (2, 2)), "oo"),
    "bm25": Look("#e3ab2f", "^", (0, (4, 1.4)), "----"),
    "bm25_tracin": Look("#a9620c", "v", "-", "////"),
    "dense": Look("#5aa2d6", "D", (0, (4, 1.4)), "xxxx"),
    "dense_tracin": Look("#1d2b66", "*", "-", "++++"),
    "validation": Look("#8a55b0", "P", (0, (3, 1, 1, 1)), "||||"),
    "domain": Look("#3aa58a", "p", (0, (7, 1.5)), "**"),
    "dense_t5": Look("#e88a76", "<", (0, (5, 1.2, 1, 1.2, 1, 1.2)), "\\\\\\\\"),
    "dense_t500": Look("#d0342c", ">", (0, (6, 1, 2, 1)), "\\\\"),
    "dense_t1e9": Look("#6d0a1c", "d", (0, (1, 2)), "OO"),
    "gsae_t500": Look("#c77d8e", "h", (0, (2, 1)), ".."),
    "erm": Look("#2f7ab8", "o", (0, (4, 1.4)), ""),
    "term": Look("#b0142d", "s", "-", "////"),
}
_OTHERS = (
    Look("#6a3d9a", "v", (0, (7, 1.5)), "\\\\\\\\"),
    Look("#8c6d46", "P", (0, (3, 1, 1, 1)), "++++"),
    Look("#7f7f7f", "X", (0, (2, 2)), "oo"),
    Look("#d98cc0", "<", (0, (6, 1, 2, 1)), "||||"),
    Look("#111111", ">", (0, (1, 2)), "**"),
)


def looks_of(variants: tuple[str, ...]) -> dict[str, Look]:
    """Return a look a variant or series: the fixed one where it has one, else the next free one."""
    fixed = _LOOKS | _SERIES
    others = [name for name in variants if name not in fixed]
    if len(others) > len(_OTHERS):
        raise ValueError(f"at most {len(_OTHERS)} variants of your own fit a figure, got {others}")
    own = dict(zip(others, _OTHERS, strict=False))
    return {name: fixed.get(name) or own[name] for name in variants}


def looks_of_lines(
    lines: Mapping[str, Sequence[str]], beside: Sequence[str] = ()
) -> dict[str, Look]:
    """Return a look a line through several variants: a fixed one of these, else a free one.

    No two lines have that of one variant, and none has that of a variant drawn `beside` them.
    """
    owners: dict[str, str] = {}
    for number, (line, variants) in enumerate(lines.items()):
        taken = {*beside, *owners.values()}
        own = (name for name in variants if name in _LOOKS and name not in taken)
        owners[line] = next(own, f"line {number}")
    looks = looks_of((*owners.values(), *beside))
    return {line: looks[owner] for line, owner in owners.items()}


@contextmanager
def house_style() -> Iterator[None]:
    """Draw inside with the house style on matplotlib's defaults, whatever the user's rc file."""
    with matplotlib.style.context(["default", _STYLE_FILE]):
        yield


def save(figure: Figure, stem: Path) -> None:
    """Write `stem`.svg, .png (300 dpi) and .pdf, each atomically and with the same bytes always."""
    for ending, metadata in _METADATA.items():
        with atomic_path(stem.with_name(f"{stem.name}.{ending}")) as path:
            figure.savefig(path, format=ending, metadata=metadata)
