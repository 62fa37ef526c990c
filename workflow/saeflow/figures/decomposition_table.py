"""A table of latents that are sums of another SAE's, with what each stands for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from saeflow.figures.cells import Cell, number_text, word_cell
from saeflow.figures.decomposed import Member, listed, read_example, visible
from saeflow.figures.decomposition_settings import Decompositions
from saeflow.figures.grid_settings import Context
from saeflow.figures.rows import label_of

_STANDS_FOR = "Stands for"


def decomposition_cells(
    rows: Sequence[Path], settings: Decompositions, context: Context
) -> list[Cell]:
    """Return a block an example and one for each of the paper's; a row is a latent.

    `rows` are metric files, beside which the tables lie. Raises FigureError where an example is
    missing.
    """
    cells: list[Cell] = []
    for number in settings.examples:
        members = read_example(rows, number, settings, context)
        drawn = members[0]["role"] != "none"
        among = (
            f"drawn from {members[0]['eligible']:,}"
            if drawn
            else f"none of {members[0]['found']:,}"
        )
        block = f"this run, {number + 1}: {among} sums of {members[0]['parts']} latents"
        for member in members:
            cells.extend(_row(block, member, settings, context))
    for published in settings.published:
        named = [f"part {i}" for i, _ in enumerate(published.parts, 1)]
        for name, meaning in zip(
            ["latent", *named], [published.latent, *published.parts], strict=True
        ):
            cells.append(word_cell(published.label, name, _STANDS_FOR, meaning))
    return cells


def _row(block: str, member: Member, settings: Decompositions, context: Context) -> Iterator[Cell]:
    if member["role"] == "none":
        yield word_cell(block, "–", _STANDS_FOR, "–")
        return
    sae = settings.baseline if member["role"] == "latent" else settings.variant
    name = f"{label_of(sae, context)} {member['latent']}"
    numbers = {
        "Coefficient": member["coefficient"],
        "Cosine": member["cosine"] if member["role"] == "latent" else None,
        "Fires with it": member["cofiring"],
    }
    for heading, value in numbers.items():
        yield Cell(block, name, heading, value, None, None, None, False, number_text(value, 2))
    yield word_cell(block, name, _STANDS_FOR, listed(member["words"]))
    seen = (
        f"{visible(one['before'])}<<{visible(one['token'])}>>{visible(one['after'])}"
        for one in member["contexts"][: settings.contexts]
    )
    yield word_cell(block, name, "Fires most in", " / ".join(seen))
