"""A circuit of latents: sites from the bottom to the top, edges as wide as their effects.

After Fig. 16 of Marks et al. 2024 (Sparse Feature Circuits), as SSAE draws its Figs. 15 and 16.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyBboxPatch, Patch, PathPatch
from matplotlib.path import Path

from saeflow.figures.circuit_layout import LABEL_SIZE, LINE, placed
from saeflow.figures.circuit_settings import CircuitStyle
from saeflow.figures.frame import legend_above
from saeflow.figures.rows import FigureError
from saeflow.figures.style import FAINT_INK, INK, TWO_COLUMNS

_ROW = 0.4
_MARKER = 0.1
"""Heights of a row and of a marker with the space around it, in inches."""
_NODE_COLUMNS = ("node", "site", "order", "layer", "kind", "part", "latent", "effect", "label",
                 "judged")  # fmt: skip
_EDGE_COLUMNS = ("source", "target", "effect")
_MARK_COLUMNS = {
    "mark": "string",
    "node": "string",
    "target": "string",
    "kind": "string",
    "layer": "Int64",
    "part": "string",
    "latent": "Int64",
    "label": "string",
    "text": "string",
    "judged": "string",
    "effect": "Float64",
    "drawn": "bool",
    "row": "Int64",
    "x": "Float64",
    "width": "Float64",
}


class _Look(NamedTuple):
    color: str
    corners: str
    label: str


# Red and blue differ in luminance and in the corners of the box as well.
_LATENTS = {
    "gender": _Look("#b0142d", "round,pad=0,rounding_size=0.05", "latent judged to be of gender"),
    "profession": _Look("#2f7ab8", "square,pad=0", "latent judged not to be of gender"),
    "": _Look("#6b6b6b", "square,pad=0", "latent not judged"),
}
_ERROR = "#8a8a8a"


def circuit_marks(nodes: pd.DataFrame, edges: pd.DataFrame, settings: CircuitStyle) -> pd.DataFrame:
    """Return the marks: all nodes and all edges of a circuit, and where those drawn are (inches).

    `nodes` and `edges` are those of `find_circuit`, nodes with the columns `label` (tokens, with
    spaces between them) and `judged` (gender, profession or empty). Drawn are the strongest nodes,
    errors and output among them, and the strongest edges between drawn nodes. Raises FigureError
    for a missing column, an unknown judgement, and an edge of a node that is not there.
    """
    _check(nodes, edges)
    nodes = nodes.assign(size=nodes["effect"].abs().fillna(float("inf")))
    shown = nodes.nlargest(settings.max_nodes, "size").sort_index()
    both = edges["source"].isin(shown["node"]) & edges["target"].isin(shown["node"])
    kept = edges[both]
    strongest = kept.assign(size=kept["effect"].abs()).nlargest(settings.max_edges, "size")
    at = placed(shown, strongest, settings)
    node_marks = nodes.assign(mark="node", drawn=nodes.index.isin(at.index)).join(
        at[["row", "x", "width", "text"]]
    )
    edge_marks = edges.assign(
        mark="edge", node=edges["source"], drawn=edges.index.isin(strongest.index)
    )
    marks = pd.concat([node_marks, edge_marks], ignore_index=True)
    return marks.reindex(columns=list(_MARK_COLUMNS)).astype(_MARK_COLUMNS)


def _check(nodes: pd.DataFrame, edges: pd.DataFrame) -> None:
    for what, table, columns in (("nodes", nodes, _NODE_COLUMNS), ("edges", edges, _EDGE_COLUMNS)):
        missing = [column for column in columns if column not in table]
        if missing:
            raise FigureError(f"the circuit's {what} lack the columns {missing}")
    foreign = sorted(set(nodes["judged"].dropna()) - set(_LATENTS))
    if foreign:
        raise FigureError(f"the circuit's nodes are judged {foreign}, expected {list(_LATENTS)}")
    loose = sorted({*edges["source"], *edges["target"]} - set(nodes["node"]))
    if loose:
        raise FigureError(f"edges of the circuit end at {loose[:5]}, which are no nodes")
    if nodes["node"].duplicated().any():
        raise FigureError("the circuit names a node twice: draw the SAEs of one kind at a time")


def draw_circuit(marks: pd.DataFrame, settings: CircuitStyle) -> Figure:
    """Draw what `circuit_marks` returned."""
    nodes = marks[(marks["mark"] == "node") & marks["drawn"]]
    edges = marks[(marks["mark"] == "edge") & marks["drawn"]]
    rows = int(nodes["row"].max()) + 1
    box_height = settings.label_tokens * LINE + 0.03
    height = rows * _ROW * max(1.0, (box_height + 0.16) / _ROW) + 0.1
    figure = Figure(figsize=(TWO_COLUMNS, height))
    axes = figure.add_subplot()
    axes.set(xlim=(0, TWO_COLUMNS), ylim=(-0.5, rows - 0.5))
    axes.set_axis_off()
    heights = _heights(nodes, box_height) * rows / height
    _name_rows(axes, nodes)
    _draw_edges(axes, nodes.assign(half=heights / 2), edges)
    _draw_nodes(axes, nodes.assign(height=heights))
    _explain(axes, marks, rows)
    legend_above(figure, *_legend(nodes))
    return figure


def _heights(nodes: pd.DataFrame, box_height: float) -> pd.Series:
    """Return how high each node is drawn, in inches."""
    heights = nodes["text"].map(lambda text: box_height if text else box_height / 3)
    return heights.astype(float).where(nodes["part"] == "latent", _MARKER)


def _name_rows(axes: Axes, nodes: pd.DataFrame) -> None:
    for _, node in nodes.drop_duplicates("row").iterrows():
        name = {"embed": "embed", "output": "probe"}.get(
            node["kind"], f"{node['kind']} {node['layer']}"
        )
        axes.text(0.02, node["row"], name, fontsize=6, color=INK, va="center")
        if node["kind"] == "resid":
            axes.axhline(node["row"] + 0.5, color="#e4e4e4", linewidth=0.5, zorder=0)


def _draw_edges(axes: Axes, nodes: pd.DataFrame, edges: pd.DataFrame) -> None:
    """Draw edges as curves, weak ones first, in the colour of their source."""
    at = nodes.set_index("node")
    largest = float(edges["effect"].abs().max()) if len(edges) else 1.0
    for _, edge in edges.sort_values("effect", key=abs).iterrows():
        source, target = at.loc[edge["node"]], at.loc[edge["target"]]
        low, high = source["row"] + source["half"], target["row"] - target["half"]
        bend = (high - low) / 2
        points = [
            (source["x"], low), (source["x"], low + bend),
            (target["x"], high - bend), (target["x"], high),
        ]  # fmt: skip
        share = abs(edge["effect"]) / largest
        color = _ERROR if source["part"] == "error" else _look(source).color
        axes.add_patch(
            PathPatch(
                Path(points, [Path.MOVETO, Path.CURVE4, Path.CURVE4, Path.CURVE4]),
                facecolor="none",
                edgecolor=color,
                alpha=0.3 + 0.4 * share**0.5,
                linewidth=0.25 + 2.2 * share**0.5,
                linestyle="-" if edge["effect"] > 0 else (0, (3, 1.5)),
                zorder=1,
            )
        )


def _draw_nodes(axes: Axes, nodes: pd.DataFrame) -> None:
    latents = nodes[nodes["part"] == "latent"]
    largest = float(latents["effect"].abs().max()) if len(latents) else 1.0
    for _, node in latents.iterrows():
        look, strength = _look(node), (abs(node["effect"]) / largest) ** 0.5
        fill = _tint(look.color, 0.08 + 0.55 * strength)
        axes.add_patch(
            FancyBboxPatch(
                (node["x"] - node["width"] / 2, node["row"] - node["height"] / 2),
                node["width"],
                node["height"],
                boxstyle=look.corners,
                mutation_aspect=2.0,
                facecolor=fill,
                edgecolor=look.color,
                linewidth=0.5,
                zorder=3,
            )
        )
        axes.text(
            node["x"], node["row"], node["text"], fontsize=LABEL_SIZE, color=INK,
            ha="center", va="center", linespacing=1.05, zorder=4,
        )  # fmt: skip
    errors, output = nodes[nodes["part"] == "error"], nodes[nodes["part"] == "output"]
    axes.plot(errors["x"], errors["row"], **_marker("error"), zorder=3)
    axes.plot(output["x"], output["row"], **_marker("output"), zorder=3)


def _marker(part: str) -> dict[str, Any]:
    shape, color, size = {"error": ("^", _ERROR, 6.0), "output": ("D", INK, 6.5)}[part]
    return {
        "linestyle": "none",
        "marker": shape,
        "markersize": size,
        "markerfacecolor": color,
        "markeredgecolor": "white",
    }


def _look(node: pd.Series) -> _Look:
    judged = node["judged"]
    return _LATENTS["" if pd.isna(judged) else judged]


def _tint(color: str, strength: float) -> tuple[float, float, float]:
    red, green, blue = (1 - strength * (1 - part) for part in to_rgb(color))
    return red, green, blue


def _explain(axes: Axes, marks: pd.DataFrame, rows: int) -> None:
    """Say how edges are to be read, and what is left out."""
    parts = ["Edges: upwards, coloured as their source, wide by the square root of the effect."]
    if (marks.loc[marks["mark"] == "edge", "effect"] < 0).any():
        parts.append("Dashed: negative.")
    if not (marks["part"] == "latent").any():
        parts = ["No latent's effect exceeds the threshold."]
    left = marks[~marks["drawn"]]["mark"].value_counts()
    counts = [f"{left[mark]:,} {mark}s" for mark in ("node", "edge") if mark in left]
    if counts:
        parts.append(f"Not drawn: {' and '.join(counts)} of smaller effect.")
    text = "\n".join(parts)
    axes.text(TWO_COLUMNS, rows - 0.6, text, fontsize=5, color=FAINT_INK, ha="right", va="top")


def _legend(nodes: pd.DataFrame) -> tuple[list[Any], list[str]]:
    latents = nodes[nodes["part"] == "latent"]
    found = {_look(node).label: _look(node).color for _, node in latents.iterrows()}
    handles: list[Any] = [
        Patch(facecolor=_tint(look.color, 0.4), edgecolor=look.color, linewidth=0.5)
        for look in _LATENTS.values()
        if look.label in found
    ]
    labels = [look.label for look in _LATENTS.values() if look.label in found]
    if (nodes["part"] == "error").any():
        handles.append(Line2D([], [], **_marker("error")))
        labels.append("error of the SAE")
    handles.append(Line2D([], [], **_marker("output")))
    labels.append("probe")
    return handles, labels
