"""Read examples of latents that are sums of another SAE's, and how their words are printed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from saeflow.figures.decomposition_settings import Decomposition, Decompositions
from saeflow.figures.grid_settings import Context
from saeflow.figures.rows import FigureError

_TABLE = "decomposed_latents.parquet"
Member = Mapping[str, Any]
"""A row of the table: a latent or one of its parts."""


def read_example(
    rows: Sequence[Path],
    number: int,
    settings: Decomposition | Decompositions,
    context: Context,
) -> list[Member]:
    """Return the latent and the parts of an example from the tables beside metric files.

    An example for which there was no sum has one row, of role `none`. Raises FigureError where the
    table or the example is missing, or is of another L0 or seed.
    """
    paths = [table for path in rows if (table := path.with_name(_TABLE)).is_file()]
    wanted = {
        "split": settings.split,
        "selection": settings.selection,
        "variant": settings.variant,
        "baseline": settings.baseline,
        "l0_target": context.reference_l0,
        "seed": context.seeds[0],
        "example": number,
    }
    members = [
        row
        for path in paths
        for row in pq.read_table(path).to_pylist()
        if all(row[column] == value for column, value in wanted.items())
    ]
    if not members:
        asked = ", ".join(f"{column} {value}" for column, value in wanted.items())
        raise FigureError(f"{settings.source}: no decomposed latents of {asked}")
    return members


def draw_of(member: Member) -> str:
    """Return how an example was chosen, as a sentence."""
    sums = f"{member['found']:,} sums of {member['parts']} latents"
    eligible = f"{member['eligible']:,} have only latents that fire often enough on the text"
    if member["role"] == "none":
        return f"No example: of {sums} {eligible}, and other examples show these."
    return f"Drawn at random: of {sums} {eligible}, all with the same chance."


def visible(text: str) -> str:
    """Return text on one line, line breaks as signs."""
    return re.sub(r"[^\S\n]+", " ", re.sub(r"[^\S\n]*\n\s*", "⏎", text))


def listed(words: Iterable[str]) -> str:
    """Return words as they are printed, without those that look like one before."""
    return " · ".join(dict.fromkeys(visible(word).strip() or "␣" for word in words))
