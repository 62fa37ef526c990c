"""Planted tables of latents that are sums, for the tests of what shows them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import figures_planted as planted
import pyarrow as pa
import pyarrow.parquet as pq

from saeflow.evaluation.decomposed_latents_table import SCHEMA
from saeflow.evaluation.rows import make_row, write_rows

FIGURE: dict[str, Any] = {
    "title": "A title",
    "source": "after OrtSAE Fig. 5",
    "statement": "What the paper says.",
    "caption": "What is shown.",
    "grid": "main",
    "variant": "ortsae",
    "baseline": "batchtopk",
    "kind": "decomposition",
    "example": 0,
}
TABLE: dict[str, Any] = {name: value for name, value in FIGURE.items() if name != "example"} | {
    "kind": "decompositions",
    "source": "after OrtSAE Figs. 5, 8",
    "examples": [0, 1],
    "published": [
        {
            "label": "paper, Gemma-2-2B",
            "latent": "Queen",
            "parts": ["Queen token", "royal titles"],
        }
    ],
}
MEANINGS = {
    3: (["queen", " Queen", " crown"], [("the old ", "queen", " of\nSpain")]),
    8: ([" Queen", "Queen", " QUEEN"], [("said the ", "Queen", ", off"), ("a ", "queen", " ant")]),
    9: ([" Princess of", " duke", " lord"], [("and the ", "Duke", " of Y$o$rk <b>|")]),
}


def plant(folder: Path, *changes: dict[str, Any]) -> Path:
    """Write the same sums for each change of their origin, each with another word; return the rows.

    Of two examples, the first has two parts and the second has no sum.
    """
    members, rows = [], []
    for number, change in enumerate(changes or ({},)):
        origin = {
            "split": "test", "selection": "all", "variant": "ortsae", "baseline": "batchtopk",
            "l0_target": 32, "seed": 0, **change,
        }  # fmt: skip
        members += [{**origin, **member} for member in _members(number)]
        point = planted.point(origin["variant"], 32)._replace(selection=origin["selection"])
        rows.append(
            make_row(
                point, split=origin["split"], seed=0, metric="decomposed_examples", value=1, n=2
            )
        )
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(members, SCHEMA), folder / "decomposed_latents.parquet")
    write_rows(folder / "decomposed_cofiring.parquet", dict.fromkeys(rows))
    return folder / "decomposed_cofiring.parquet"


def _members(number: int) -> list[dict[str, Any]]:
    counts = {"example": 0, "parts": 2, "found": 7, "eligible": 5, "cosine": 0.972}
    shown = [
        ("latent", 3, None, 40, 0.9), ("part", 8, 0.81, 25, 0.6), ("part", 9, 0.43, 60, 0.35),
    ]  # fmt: skip
    members = []
    for role, latent, coefficient, tokens, share in shown:
        words, contexts = MEANINGS[latent]
        seen = [
            {"before": before, "token": token, "after": after, "activation": 2.0}
            for before, token, after in contexts
        ]
        members.append(
            {
                **counts, "role": role, "latent": latent, "coefficient": coefficient,
                "tokens": tokens, "cofiring": share, "contexts": seen,
                "words": [*words, *(f"word{i}" for i in range(number))],
            }
        )  # fmt: skip
    none = {"example": 1, "parts": 3, "found": 2 + number, "eligible": 0, "role": "none"}
    return [*members, {**none, "words": [], "contexts": []}]
