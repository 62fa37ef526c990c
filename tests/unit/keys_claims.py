"""Cases of the ledger's keys: claims judged on planted rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from keys_case import Case, Result, Stage
from test_claims import planted

from saeflow.claims import ClaimSettings, judge
from saeflow.claims_table import to_markdown

VALUES = {
    ("a", 8): [2.0, 2.2, 2.1],
    ("a", 16): [3.0, 3.3, 3.1],
    ("b", 8): [1.0, 1.1, 0.9],
    ("b", 16): [1.5, 1.2, 1.4],
    ("c", 8): [1.9, 2.6, 2.0],
    ("c", 16): [0.9, 1.0, 1.2],
}


def scaled(factor: float) -> dict[tuple[str, int], list[float]]:
    return {key: [factor * value for value in values] for key, values in VALUES.items()}


ROWS = pd.concat(
    [
        planted(VALUES),
        planted(scaled(3.0), metric="other"),
        planted(scaled(5.0), split="validation"),
        planted(scaled(7.0), corpus="poems"),
    ]
)


def run(settings: ClaimSettings, world: Path, out: Path) -> Result:
    judgement = judge([settings], ROWS, reference_l0=8)[0]
    return {
        "effects": [(o.l0, o.effect, o.low, o.high) for o in judgement.outcomes],
        "verdicts": [(o.verdict, o.slack) for o in judgement.outcomes],
        "ledger": to_markdown([judgement], "Claims"),
    }


def compared(key: str, value: Any) -> Case:
    return Case(f"comparisons.0.{key}", value, "effects")


def expected(key: str, value: float, **expect: float) -> Case:
    return Case(f"comparisons.0.expect.{key}", value, "verdicts", {"comparisons.0.expect": expect})


COMPARISON = {"metric": "l0", "variant": "a", "baseline": "b", "expect": {"above": 0.5}}
PAIR = {"variant": "c", "baseline": "a"}
THAN = {"comparisons.0.than": PAIR}
CHAINED = {"comparisons": [], "chain": {"metric": "l0", "ascending": ["b", "a"]}}
STAGES = {
    "claims": Stage(
        ClaimSettings.model_validate,
        {
            "id": "one",
            "grid": "main",
            "corpus": "docs",
            "statement": "A is more than B",
            "source": "Fig. 1",
            "comparisons": [COMPARISON],
        },
        run,
        {
            "ClaimSettings.id": Case("id", "other", "ledger"),
            "ClaimSettings.statement": Case("statement", "Something else", "ledger"),
            "ClaimSettings.source": Case("source", "Fig. 2", "ledger"),
            "ClaimSettings.paper_value": Case("paper_value", 2.7, "ledger"),
            "ClaimSettings.paper_note": Case("paper_note", "at layer 20", "ledger"),
            "ClaimSettings.l0_tolerance": Case(
                "l0_tolerance", None, "verdicts", {"comparisons.0.metric": "other"}
            ),
            "ClaimSettings.corpus": Case("corpus", "poems", "effects"),
            "ClaimSettings.comparisons": Case("comparisons", [COMPARISON] * 2, "effects"),
            "ClaimSettings.chain": Case("chain", CHAINED["chain"], "effects"),
            "Comparison.metric": compared("metric", "other"),
            "Comparison.variant": compared("variant", "c"),
            "Comparison.baseline": compared("baseline", "c"),
            "Comparison.baseline_metric": compared("baseline_metric", "other"),
            "Comparison.compare": compared("compare", "ratio"),
            "Comparison.than": compared("than", PAIR),
            "Pair.variant": Case("comparisons.0.than.variant", "b", "effects", THAN),
            "Pair.baseline": Case("comparisons.0.than.baseline", "b", "effects", THAN),
            "Comparison.split": compared("split", "validation"),
            "Comparison.at_l0": compared("at_l0", "reference"),
            "Comparison.over_l0": compared("over_l0", "mean"),
            "Expect.above": expected("above", 100, above=0.5),
            "Expect.below": expected("below", 0.6, above=0.5),
            "Expect.about": expected("about", 100, about=1, margin=5),
            "Expect.margin": expected("margin", 0.001, about=1, margin=5),
            "Chain.metric": Case("chain.metric", "other", "effects", CHAINED),
            "Chain.ascending": Case("chain.ascending", ["a", "b"], "effects", CHAINED),
            "Chain.split": Case("chain.split", "validation", "effects", CHAINED),
            "Chain.at_l0": Case("chain.at_l0", [8], "effects", CHAINED),
        },
    )
}
