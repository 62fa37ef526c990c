"""Markdown and LaTeX of a table of cells: one part for each block, under one caption."""

from __future__ import annotations

from typing import NamedTuple

import pandas as pd

_MARKDOWN = {"\\": "\\\\", "|": r"\|", "_": r"\_", "*": r"\*", "<": "&lt;", "&": "&amp;"}
_PARAGRAPH = r"p{0.3\linewidth}"
_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "±": r"$\pm$",
    "–": "--",
}


class Block(NamedTuple):
    """One block of a table."""

    name: str
    columns: list[str]
    rows: dict[str, list[tuple[str, bool]]]
    """Per row, (text, best) a column."""
    words: list[bool]
    """Per column, whether it holds words, which stand on the left and are broken, not numbers."""


def blocks(cells: pd.DataFrame) -> list[Block]:
    """Return the blocks of a table; rows and columns keep the order in which cells name them."""
    found = []
    for name, part in cells.groupby("block", sort=False):
        rows, columns = part["row"].astype(str), part["column"].astype(str)
        printed = zip(part["text"].astype(str), part["best"].astype(bool), strict=True)
        at = dict(zip(zip(rows, columns, strict=True), printed, strict=True))
        headings = list(dict.fromkeys(columns))
        numbers = set(columns[part["mean"].notna()])
        found.append(
            Block(
                name=str(name),
                columns=headings,
                rows={row: [at[row, column] for column in headings] for row in dict.fromkeys(rows)},
                words=[heading not in numbers for heading in headings],
            )
        )
    return found


def markdown(cells: pd.DataFrame, caption: str) -> str:
    """Return the caption and a Markdown table a block."""
    parts = [_markdown_text(caption)]
    for name, columns, rows, words in blocks(cells):
        lines = [
            "| " + " | ".join(_markdown_text(text) for text in (name, *columns)) + " |",
            "|---|" + "".join("---|" if word else "---:|" for word in words),
        ]
        for row, texts in rows.items():
            printed = [
                _markdown_text(text) if word else f"**{text}**" if best else text
                for (text, best), word in zip(texts, words, strict=True)
            ]
            lines.append("| " + " | ".join([_markdown_text(row), *printed]) + " |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def latex(cells: pd.DataFrame, caption: str, label: str) -> str:
    """Return a LaTeX table environment (needs booktabs), a block between rules each."""
    found = blocks(cells)
    width = max(len(part.columns) for part in found)
    widest = next(part.words for part in found if len(part.columns) == width)
    kinds = "".join(_PARAGRAPH if word else "r" for word in widest)
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_latex_text(caption)}}}",
        rf"\label{{{label}}}",
        rf"\begin{{tabular}}{{l{kinds}}}",
        r"\toprule",
    ]
    for index, (name, columns, rows, _) in enumerate(found):
        if index:
            lines.append(r"\midrule")
        lines.append(rf"\multicolumn{{{width + 1}}}{{l}}{{\textit{{{_latex_text(name)}}}}} \\")
        lines.append(" & ".join(["", *map(_latex_text, columns)]).strip() + r" \\")
        lines.append(r"\midrule")
        for row, texts in rows.items():
            printed = [
                rf"\textbf{{{_latex_text(t)}}}" if best else _latex_text(t) for t, best in texts
            ]
            lines.append(" & ".join([_latex_text(row), *printed]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}"]) + "\n"


def _latex_text(text: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in text)


def _markdown_text(text: str) -> str:
    return "".join(_MARKDOWN.get(letter, letter) for letter in text)
