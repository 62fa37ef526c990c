"""The published accuracies of the methods (`data/table1.json`), beside those measured here."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from saeflow.debias.methods import Outcome

_TABLE = Path(__file__).parent / "data" / "table1.json"


def published() -> dict[str, dict[str, float]]:
    """Return percentages by method and metric: SSAE's Table 1, and two rows of Marks et al."""
    table = json.loads(_TABLE.read_text(encoding="utf-8"))
    return {
        method: dict(zip(table["columns"], values, strict=True))
        for source in ("ssae", "marks")
        for method, values in table[source].items()
    }


def comparison(outcomes: Iterable[Outcome]) -> Iterator[str]:
    """Yield a line a method: measured percentages, the published ones in parentheses."""
    paper = published()
    yield "accuracy in % (published): profession, gender, worst group"
    for outcome in outcomes:
        cells = []
        for metric in ("profession_accuracy", "gender_accuracy", "worst_group_accuracy"):
            known = paper.get(outcome.method, {}).get(metric)
            cells.append(f"{100 * outcome.metrics[metric].value:.1f} ({known or 'none'})")
        yield f"  {outcome.method}: {', '.join(cells)}"
