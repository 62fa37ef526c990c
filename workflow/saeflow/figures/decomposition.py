"""One latent as a sum of another SAE's: boxes with words, beside the contexts that activate them.

After OrtSAE Figs. 5 and 8-10. Contexts stand as in a concordance, the tokens on which a latent
fires below one another.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle

from saeflow.figures.decomposed import Member, draw_of, listed, read_example, visible
from saeflow.figures.decomposition_settings import Decomposition
from saeflow.figures.drawn import NOTE
from saeflow.figures.grid_settings import Context
from saeflow.figures.rows import label_of
from saeflow.figures.style import FAINT_INK, INK, TWO_COLUMNS, looks_of
from saeflow.figures.text import drawable, trimmed, width_in_inches, wrap

_COLUMNS = {
    "kind": "string",
    "member": "Int64",
    "variant": "string",
    "label": "string",
    "words": "string",
    "detail": "string",
    "coefficient": "Float64",
    "before": "string",
    "token": "string",
    "after": "string",
    "activation": "Float64",
}
# Inches. Contexts are centred on the token in what is left beside the boxes.
_PAD = 0.04
_BOX, _BOX_WIDTH = 0.72, 2.05
_INSET = 0.06
_TOKEN, _LEFT, _RIGHT = 4.83, 2.88, TWO_COLUMNS - _PAD
_TITLE_LINE, _WORD_LINE, _DETAIL_LINE, _CONTEXT_LINE = 0.13, 0.13, 0.095, 0.13
_GAP, _HEADING = 0.1, 0.14
_TITLE_SIZE, _WORD_SIZE, _DETAIL_SIZE, _CONTEXT_SIZE = 6.0, 7.5, 5.0, 5.8


class _Box(NamedTuple):
    title: str
    words: list[str]
    detail: list[str]
    height: float
    """Of the box, or of the contexts beside it where these need more."""


def decomposition_marks(
    rows: Sequence[Path], settings: Decomposition, context: Context
) -> pd.DataFrame:
    """Return what is drawn: a row for the latent, each part and each context, and how it was drawn.

    `rows` are metric files, beside which the tables lie. Raises FigureError where the example is
    missing.
    """
    members = read_example(rows, settings.example, settings, context)
    marks: list[dict[str, Any]] = [{"kind": NOTE, "label": draw_of(members[0])}]
    for number, member in enumerate(members):
        if member["role"] != "none":
            marks.extend(_marks_of(number, member, settings, context))
    return pd.DataFrame(marks, columns=list(_COLUMNS)).astype(_COLUMNS)


def _marks_of(
    number: int, member: Member, settings: Decomposition, context: Context
) -> Iterator[dict[str, Any]]:
    of_latent = member["role"] == "latent"
    variant = settings.baseline if of_latent else settings.variant
    yield {
        "kind": member["role"],
        "member": number,
        "variant": variant,
        "label": f"{label_of(variant, context)}, latent {member['latent']}",
        "words": listed(member["words"]),
        "detail": (
            f"cosine to the sum {member['cosine']:.2f}; some part fires on "
            f"{member['cofiring']:.0%} of its {member['tokens']:,} tokens"
            if of_latent
            else f"fires on {member['cofiring']:.0%} of the latent's tokens, on "
            f"{member['tokens']:,} in all"
        ),
        "coefficient": member["coefficient"],
    }
    for seen in member["contexts"][: settings.contexts]:
        texts = {part: visible(seen[part]) for part in ("before", "token", "after")}
        yield {
            "kind": "context",
            "member": number,
            "variant": variant,
            "activation": seen["activation"],
            **texts,
        }


def draw_decomposition(marks: pd.DataFrame) -> Figure:
    """Draw what `decomposition_marks` returned; an example without a sum says so."""
    members = marks[marks["kind"].isin(["latent", "part"])]
    contexts = marks[marks["kind"] == "context"]
    boxes = [
        _box(member, int((contexts["member"] == member["member"]).sum()))
        for _, member in members.iterrows()
    ]
    height = _HEADING + sum(box.height + _GAP for box in boxes) + (0 if boxes else 0.2)
    figure = Figure(figsize=(TWO_COLUMNS, height + 2 * _PAD))
    axes = figure.add_subplot()
    axes.set(xlim=(_PAD, TWO_COLUMNS - _PAD), ylim=(height, 0))
    axes.set_axis_off()
    if not boxes:
        [note] = marks["label"]
        axes.text(_PAD, height / 2, wrap(note, _WORD_SIZE, _RIGHT - _PAD), color=INK, va="center")
        return figure
    colors = {name: look.color for name, look in looks_of(tuple(members["variant"])).items()}
    _headings(axes)
    top = _HEADING
    for box, (_, member) in zip(boxes, members.iterrows(), strict=True):
        color = colors[member["variant"]]
        _draw_box(axes, box, member, color, top)
        of_member = contexts[contexts["member"] == member["member"]]
        _draw_contexts(axes, of_member, color, top + box.height / 2)
        top += box.height + _GAP
    return figure


def _box(member: pd.Series, contexts: int) -> _Box:
    width = _BOX_WIDTH - 2 * _INSET
    words = wrap(drawable(member["words"]) or "–", _WORD_SIZE, width).split("\n")
    detail = wrap(member["detail"], _DETAIL_SIZE, width).split("\n")
    lines = _TITLE_LINE + len(words) * _WORD_LINE + len(detail) * _DETAIL_LINE
    height = max(lines + 2 * _INSET, contexts * _CONTEXT_LINE)
    return _Box(member["label"], words, detail, height)


def _headings(axes: Axes) -> None:
    faint: dict[str, Any] = {"fontsize": _DETAIL_SIZE, "color": FAINT_INK, "va": "center"}
    axes.text(_BOX, _HEADING / 2, "what tells where it fires", **faint)
    axes.text(_TOKEN, _HEADING / 2, "where it fires most", ha="center", **faint)


def _draw_box(axes: Axes, box: _Box, member: pd.Series, color: str, top: float) -> None:
    place = ((_BOX, top), _BOX_WIDTH, box.height)
    style = "round,pad=0,rounding_size=0.05"
    axes.add_patch(
        FancyBboxPatch(*place, boxstyle=style, facecolor=color, edgecolor="none", alpha=0.08)
    )
    axes.add_patch(
        FancyBboxPatch(*place, boxstyle=style, facecolor="none", edgecolor=color, linewidth=0.7)
    )
    y = top + _INSET
    for lines, size, line, ink in (
        ([box.title], _TITLE_SIZE, _TITLE_LINE, color),
        (box.words, _WORD_SIZE, _WORD_LINE, INK),
        (box.detail, _DETAIL_SIZE, _DETAIL_LINE, FAINT_INK),
    ):
        for text in lines:
            axes.text(_BOX + _INSET, y + line / 2, text, fontsize=size, color=ink, va="center")
            y += line
    if member["kind"] == "part":
        sign = "≈" if member["member"] == 1 else "+"
        said = f"{sign} {member['coefficient']:.2f} ×"
        axes.text(_BOX - 0.07, top + box.height / 2, said, color=INK, ha="right", va="center")


def _draw_contexts(axes: Axes, contexts: pd.DataFrame, color: str, middle: float) -> None:
    first = middle - (len(contexts) - 1) / 2 * _CONTEXT_LINE
    for i, seen in enumerate(contexts.to_dict("records")):
        y = first + i * _CONTEXT_LINE
        token = trimmed(drawable(seen["token"]).strip() or "␣", _CONTEXT_SIZE, 1.0)
        half = width_in_inches(token, _CONTEXT_SIZE) / 2 + 0.025
        low, high = _TOKEN - half, _TOKEN + half
        axes.add_patch(
            Rectangle(
                (low, y - _CONTEXT_LINE * 0.42), 2 * half, _CONTEXT_LINE * 0.84,
                facecolor=color, edgecolor="none", alpha=0.2,
            )
        )  # fmt: skip
        before = trimmed(drawable(seen["before"]), _CONTEXT_SIZE, low - _LEFT, at_start=True)
        after = trimmed(drawable(seen["after"]), _CONTEXT_SIZE, _RIGHT - high)
        plain: dict[str, Any] = {"fontsize": _CONTEXT_SIZE, "va": "center_baseline"}
        axes.text(_TOKEN, y, token, color=INK, ha="center", **plain)
        axes.text(low - 0.02, y, before.rstrip(), color=FAINT_INK, ha="right", **plain)
        axes.text(high + 0.02, y, after.lstrip(), color=FAINT_INK, ha="left", **plain)
