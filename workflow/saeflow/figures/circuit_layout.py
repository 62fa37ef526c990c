"""Where the nodes of a circuit go: a row a site, and near what they are connected to."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.optimize import isotonic_regression

from saeflow.figures.circuit_settings import CircuitStyle
from saeflow.figures.style import TWO_COLUMNS
from saeflow.figures.text import width_in_inches

LABEL_SIZE = 4.6
LINE = 0.072
MARGIN = 0.05
LEFT = 0.5
"""Space for the names of the rows; lengths are inches."""
RIGHT = TWO_COLUMNS - 0.28
ERROR_X = TWO_COLUMNS - 0.2
"""The errors stand in a column of their own: they hang together along all sites."""
_GAP = 0.05
_BARE = 0.09
_SWEEPS = 12
_HOMEWARD = 0.15


class Box(NamedTuple):
    """A node's text, and the size of what is drawn around it."""

    text: str
    width: float


def box_of(label: str, style: CircuitStyle) -> Box:
    """Return the box of a latent with this label: one token a line."""
    lines = [_short(token, style.label_chars) for token in label.split()[: style.label_tokens]]
    if not lines:
        return Box("", _BARE)
    return Box("\n".join(lines), max(width_in_inches(line, LABEL_SIZE) for line in lines) + MARGIN)


def _short(token: str, chars: int) -> str:
    return token if len(token) <= chars else token[: max(1, chars - 1)] + "…"


def placed(nodes: pd.DataFrame, edges: pd.DataFrame, style: CircuitStyle) -> pd.DataFrame:
    """Return drawn nodes with `row`, `x`, `width` and `text` (empty where there is no room).

    Rows are sites in the order of the pass. Latents of gender start on the left and the others on
    the right; then each moves to where it is connected, the strong edges counting most.
    """
    nodes = nodes.copy()
    sites = {order: row for row, order in enumerate(sorted(set(nodes["order"])))}
    nodes["row"] = nodes["order"].map(sites)
    labelled = nodes[nodes["part"] == "latent"].nlargest(style.max_labels, "size").index
    boxes = [
        box_of(label if index in labelled else "", style) for index, label in nodes["label"].items()
    ]
    nodes["text"], nodes["width"] = [b.text for b in boxes], [b.width for b in boxes]
    for _, row in nodes[nodes["part"] == "latent"].groupby("row"):
        _make_room(nodes, row)
    nodes["x"] = _positions(nodes, edges)
    return nodes


def _make_room(nodes: pd.DataFrame, row: pd.DataFrame) -> None:
    """Take labels from the weakest latents of a row until all fit; then pack them closer."""
    room = RIGHT - LEFT
    widths = row["width"] + _GAP
    for index in row.sort_values("size").index.tolist():
        if widths.sum() <= room:
            return
        nodes.loc[index, "text"] = ""
        nodes.loc[index, "width"] = _BARE
        widths[index] = _BARE + _GAP
    if widths.sum() > room:
        nodes.loc[row.index, "width"] = max(room / len(row) - _GAP, 0.01)


def _positions(nodes: pd.DataFrame, edges: pd.DataFrame) -> pd.Series:
    """Return x of every node, after sweeps up and down over the rows."""
    home = nodes["judged"].map(lambda judged: 0.3 if judged == "gender" else 0.75)
    home = LEFT + home * (RIGHT - LEFT)
    x = home.astype(float).copy()
    x[nodes["part"] == "error"] = ERROR_X
    x[nodes["part"] == "output"] = (LEFT + RIGHT) / 2
    rows = [
        row.sort_values("size", ascending=False).index
        for _, row in nodes[nodes["part"] == "latent"].groupby("row")
    ]
    for row in rows:
        x[row] = _spread(home[row], nodes.loc[row, "width"])
    pull = _pulls(nodes, edges)
    for sweep in range(_SWEEPS):
        for row in rows if sweep % 2 == 0 else reversed(rows):
            wanted = pull[nodes.index.get_indexer(row)]
            total = wanted.sum(1)
            near = np.where(total > 0, wanted @ x.to_numpy() / np.maximum(total, 1e-12), x[row])
            towards = _HOMEWARD * home[row] + (1 - _HOMEWARD) * near
            x[row] = _spread(towards, nodes.loc[row, "width"])
    return x


def _pulls(nodes: pd.DataFrame, edges: pd.DataFrame) -> np.ndarray:
    """Return how strongly (node, node) each pulls on each; errors, in their column, do not."""
    number = {name: i for i, name in enumerate(nodes["node"])}
    pull = np.zeros((len(nodes), len(nodes)))
    for source, target, effect in zip(
        edges["source"], edges["target"], edges["effect"], strict=True
    ):
        i, j = number[source], number[target]
        pull[i, j] = pull[j, i] = abs(effect) ** 0.5
    pull[:, (nodes["part"] != "latent").to_numpy()] = 0
    return pull


def _spread(wanted: pd.Series, widths: pd.Series) -> pd.Series:
    """Return positions as near to the wanted ones as no overlap allows, in the wanted order.

    Least squares under minimal distances is an isotonic regression of what is left after the
    distances are taken off.
    """
    order = wanted.sort_values(kind="stable").index
    widths = widths[order] + _GAP
    offset = widths.cumsum() - widths / 2
    free = isotonic_regression((wanted[order] - offset).to_numpy(dtype=float)).x
    low, high = LEFT, max(LEFT, RIGHT - float(widths.sum()))
    return (pd.Series(np.clip(free, low, high), index=order) + offset)[wanted.index]
