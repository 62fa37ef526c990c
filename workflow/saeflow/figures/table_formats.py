"""Markdown and LaTeX of a table of cells: one part for each block, under one caption."""

from __future__ import annotations

from typing import NamedTuple

import pandas as pd

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
    """One block of a table: its name, column headings and, per row, (text, best) a column."""

    name: str
    columns: list[str]
    rows: dict[str, list[tuple[str, bool]]]


def blocks(cells: pd.DataFrame) -> list[Block]:
    """Return the blocks of a table; rows and columns keep the order in which cells name them."""
    found = []
    for name, part in cells.groupby("block", sort=False):
        rows, columns = part["row"].astype(str), part["column"].astype(str)
        printed = zip(part["text"].astype(str), part["best"].astype(bool), strict=True)
        at = dict(zip(zip(rows, columns, strict=True), printed, strict=True))
        headings = list(dict.fromkeys(columns))
        found.append(
            Block(
                name=str(name),
                columns=headings,
                rows={row: [at[row, column] for column in headings] for row in dict.fromkeys(rows)},
            )
        )
    return found


def markdown(cells: pd.DataFrame, caption: str) -> str:
    """Return the caption and a Markdown table a block."""
    parts = [_markdown_text(caption)]
    for name, columns, rows in blocks(cells):
        lines = [
            "| " + " | ".join(_markdown_text(text) for text in (name, *columns)) + " |",
            "|---|" + "---:|" * len(columns),
        ]
        for row, texts in rows.items():
            printed = [f"**{text}**" if best else text for text, best in texts]
            lines.append("| " + " | ".join([_markdown_text(row), *printed]) + " |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def latex(cells: pd.DataFrame, caption: str, label: str) -> str:
    """Return a LaTeX table environment (needs booktabs), a block between rules each."""
    found = blocks(cells)
    width = max(len(columns) for _, columns, _ in found)
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_latex_text(caption)}}}",
        rf"\label{{{label}}}",
        rf"\begin{{tabular}}{{l{'r' * width}}}",
        r"\toprule",
    ]
    for index, (name, columns, rows) in enumerate(found):
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
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("_", "\\_").replace("*", "\\*")
