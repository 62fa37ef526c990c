"""The drawing of a circuit: what is drawn, where, and that the data hold all of it."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, PathPatch

from saeflow.figures.circuit import circuit_marks, draw_circuit
from saeflow.figures.circuit_layout import LEFT, RIGHT
from saeflow.figures.circuit_settings import CircuitStyle
from saeflow.figures.rows import FigureError
from saeflow.figures.style import house_style

SITES = [("embed", -1, "embed"), ("mlp_0", 0, "mlp"), ("resid_0", 0, "resid")]


def circuit(latents: int = 3, label: str = "He His Mr") -> tuple[pd.DataFrame, pd.DataFrame]:
    """Latents at three sites, an error, the output; each latent leads to those of its number."""
    rows: list[tuple] = []
    for order, (site, layer, kind) in enumerate(SITES):
        for k in range(latents):
            judged = ("gender", "profession", "")[k % 3]
            rows.append(
                (f"{site}/{k}", site, order, layer, kind, "latent", k, 1 / (k + 1), label, judged)
            )
    rows.append(("mlp_0/error", "mlp_0", 1, 0, "mlp", "error", None, 0.45, "", ""))
    rows.append(("output", "output", 3, 1, "output", "output", None, np.nan, "", ""))
    columns = ["node", "site", "order", "layer", "kind", "part", "latent", "effect", "label",
               "judged"]  # fmt: skip
    nodes = pd.DataFrame(rows, columns=columns).astype({"latent": "Int64"})
    pairs = [
        (f"{a}/{k}", f"{b}/{k}", 0.5 / (k + 1))
        for (a, b) in (("embed", "mlp_0"), ("mlp_0", "resid_0"), ("embed", "resid_0"))
        for k in range(latents)
    ]
    pairs += [(f"resid_0/{k}", "output", 0.3) for k in range(latents)]
    pairs += [("embed/0", "mlp_0/error", -0.2)]
    return nodes, pd.DataFrame(pairs, columns=["source", "target", "effect"])


def drawn(nodes: pd.DataFrame, edges: pd.DataFrame, style: CircuitStyle | None = None) -> Figure:
    style = style or CircuitStyle()
    with house_style():
        figure = draw_circuit(circuit_marks(nodes, edges, style), style)
        figure.savefig(io.BytesIO(), format="svg")
    return figure


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def test_the_marks_are_all_nodes_and_edges_by_row() -> None:
    nodes, edges = circuit()
    marks = circuit_marks(nodes, edges, CircuitStyle())
    assert marks["drawn"].all()
    assert (marks["mark"] == "node").sum() == len(nodes)
    assert (marks["mark"] == "edge").sum() == len(edges)
    rows = marks[marks["mark"] == "node"].set_index("node")["row"]
    names = ["embed/1", "mlp_0/1", "mlp_0/error", "resid_0/2", "output"]
    assert rows[names].tolist() == [0, 1, 1, 2, 3]
    assert marks["text"].dropna().iloc[0] == "He\nHis\nMr"


def test_latents_of_a_row_neither_overlap_nor_leave_the_figure() -> None:
    for latents in (5, 14, 38):
        nodes, edges = circuit(latents, "Mademoiselle Professor")
        style = CircuitStyle(max_nodes=500, max_labels=500)
        marks = circuit_marks(nodes, edges, style)
        found = marks[(marks["mark"] == "node") & (marks["part"] == "latent")]
        for _, row in found.groupby("row"):
            row = row.sort_values("x")
            right, left = row["x"] + row["width"] / 2, row["x"] - row["width"] / 2
            assert (left.iloc[1:].to_numpy() >= right.iloc[:-1].to_numpy()).all()
            assert left.iloc[0] >= LEFT - 1e-6 and right.iloc[-1] <= RIGHT + 1e-6
    assert found["text"].str.contains("Mademois…").any()  # the strongest keep their labels
    assert (found["text"] == "").any()


def test_connected_nodes_stand_above_each_other() -> None:
    nodes, edges = circuit(6)
    nodes["judged"] = "gender"
    marks = circuit_marks(nodes, edges, CircuitStyle())
    at = marks[marks["mark"] == "node"].set_index("node")["x"].astype(float)
    for k in range(6):
        xs = [at[f"{site}/{k}"] for site, _, _ in SITES]
        assert max(xs) - min(xs) < 0.1


def test_the_weakest_are_left_out_of_the_drawing_and_not_of_the_data() -> None:
    nodes, edges = circuit(4)
    style = CircuitStyle(max_nodes=6, max_edges=2, max_labels=1)
    marks = circuit_marks(nodes, edges, style)
    shown = set(marks.loc[(marks["mark"] == "node") & marks["drawn"], "node"])
    assert shown == {"output", "embed/0", "mlp_0/0", "resid_0/0", "embed/1", "mlp_0/1"}
    found = marks[(marks["mark"] == "edge") & marks["drawn"]]
    assert len(found) == 2 and (found["effect"] == 0.5).all()
    assert len(marks) == len(nodes) + len(edges)
    labelled = marks[(marks["mark"] == "node") & (marks["text"].fillna("") != "")]
    assert len(labelled) == 1
    figure = drawn(nodes, edges, style)
    patches = figure.axes[0].patches
    assert sum(isinstance(patch, FancyBboxPatch) for patch in patches) == 5
    assert sum(isinstance(patch, PathPatch) for patch in patches) == 2
    assert any("Not drawn: 8 nodes and 15 edges" in text for text in texts(figure))


def test_what_is_drawn_is_named() -> None:
    figure = drawn(*circuit())
    assert {"embed", "mlp 0", "resid 0", "probe", "He\nHis\nMr"} <= set(texts(figure))
    assert any("Dashed: negative." in text for text in texts(figure))
    legend = [text.get_text().replace("\n", " ") for text in figure.legends[0].get_texts()]
    assert legend == [
        "latent judged to be of gender",
        "latent judged not to be of gender",
        "latent not judged",
        "error of the SAE",
        "probe",
    ]


@pytest.mark.parametrize(
    ("style", "text"),
    [
        (CircuitStyle(label_chars=3), "He\nHis\nMr"),
        (CircuitStyle(label_chars=2), "He\nH…\nMr"),
        (CircuitStyle(label_tokens=2), "He\nHis"),
    ],
)
def test_labels_are_cut(style: CircuitStyle, text: str) -> None:
    assert text in texts(drawn(*circuit(), style))


def test_a_circuit_without_latents_is_drawn_and_says_so() -> None:
    nodes, edges = circuit()
    figure = drawn(nodes[nodes["part"] == "output"], edges[:0])
    assert "No latent's effect exceeds the threshold." in texts(figure)


def test_the_same_circuit_gives_the_same_marks_in_any_order_of_edges() -> None:
    nodes, edges = circuit(5)
    marks = circuit_marks(nodes, edges, CircuitStyle())
    again = circuit_marks(nodes, edges.iloc[::-1].reset_index(drop=True), CircuitStyle())
    pd.testing.assert_frame_equal(marks[marks["mark"] == "node"], again[again["mark"] == "node"])


def test_refusals() -> None:
    nodes, edges = circuit()
    with pytest.raises(FigureError, match=r"nodes lack the columns \['label'\]"):
        circuit_marks(nodes.drop(columns="label"), edges, CircuitStyle())
    with pytest.raises(FigureError, match="judged"):
        circuit_marks(nodes.assign(judged="perhaps"), edges, CircuitStyle())
    with pytest.raises(FigureError, match="which are no nodes"):
        circuit_marks(nodes[nodes["node"] != "embed/0"], edges, CircuitStyle())
    with pytest.raises(FigureError, match="names a node twice"):
        circuit_marks(pd.concat([nodes, nodes], ignore_index=True), edges, CircuitStyle())
