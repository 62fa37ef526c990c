"""Write judged claims: Parquet for machines, Markdown for readers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from saeflow.artifacts import atomic_path
from saeflow.claims import Judgement, Outcome

_RULE = """\
Measured is the mean effect over n seeds (rounds, for training time) with its 95% t-interval, paired
by seed; ratios are averaged on the log scale. Shares of test items (accuracies, recall of concepts)
have an interval at least as wide as that of so many items, as all seeds have the same ones:
Wilson's, combined as in Newcombe (1998) for differences. A claim of several comparisons shows the
one with the least slack, in half-widths of its interval. *Reproduced*: every interval lies wholly
within what is expected. *Not reproduced*: an interval lies wholly outside it, at 95% after
Bonferroni's correction for the number of comparisons. *Inconclusive*: anything else, and two sides
that differ too much in measured L0 (by more than 10% of the larger, unless a claim sets another
`l0_tolerance`): they are paired by L0 target, and a sparser SAE rebuilds less. What is related to a
baseline at the same measured L0 (`perplexity_ratio`) needs no such tolerance, and is not measured
where the baseline has no such L0.
"""
_CLAIMS = pa.schema(
    [
        ("id", pa.string()),
        ("statement", pa.string()),
        ("source", pa.string()),
        ("paper_value", pa.float64()),
        ("paper_note", pa.string()),
        ("comparison", pa.string()),
        ("l0", pa.string()),
        ("expectation", pa.string()),
        ("seeds", pa.int64()),
        ("effect", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("comparisons", pa.int64()),
        ("verdict", pa.string()),
        ("reason", pa.string()),
        ("judge", pa.string()),
    ]
)
_COMPARISONS = pa.schema(
    [
        ("claim", pa.string()),
        ("comparison", pa.string()),
        ("split", pa.string()),
        ("l0", pa.string()),
        ("l0_variant", pa.float64()),
        ("l0_baseline", pa.float64()),
        ("expectation", pa.string()),
        ("seeds", pa.int64()),
        ("items", pa.int64()),
        ("effect", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("verdict", pa.string()),
        ("reason", pa.string()),
        ("corrected_low", pa.float64()),
        ("corrected_high", pa.float64()),
        ("corrected_verdict", pa.string()),
    ]
)


def write_claims(
    judgements: Sequence[Judgement],
    stem: Path,
    *,
    title: str,
    judges: Mapping[str, str] | None = None,
) -> list[Path]:
    """Write `stem`.parquet (a row a claim), `stem`.comparisons.parquet and `stem`.md, atomically.

    The claim's comparison, effect and interval are those of its deciding comparison. `judges` says
    by claim who explained the latents that it rests on. Returns the paths written.
    """
    judges = judges or {}
    outcomes = [outcome for judgement in judgements for outcome in judgement.outcomes]
    tables = {
        ".parquet": pa.Table.from_pylist([_claim_row(j, judges) for j in judgements], _CLAIMS),
        ".comparisons.parquet": pa.Table.from_pylist([o._asdict() for o in outcomes], _COMPARISONS),
    }
    paths = [stem.with_name(stem.name + suffix) for suffix in (*tables, ".md")]
    for path, table in zip(paths, tables.values(), strict=False):
        with atomic_path(path) as temporary:
            pq.write_table(table, temporary)
    with atomic_path(paths[-1]) as temporary:
        temporary.write_text(to_markdown(judgements, title, judges))
    return paths


def _claim_row(judgement: Judgement, judges: Mapping[str, str]) -> dict[str, object]:
    deciding = judgement.deciding._asdict()
    return {
        **{name: getattr(judgement.claim, name) for name in _CLAIMS.names[:5]},
        **{name: deciding[name] for name in _CLAIMS.names[5:12]},
        "comparisons": len(judgement.outcomes),
        "verdict": judgement.verdict,
        "reason": judgement.reason,
        "judge": judges.get(judgement.claim.id),
    }


def to_markdown(
    judgements: Sequence[Judgement], title: str, judges: Mapping[str, str] | None = None
) -> str:
    """Return the ledger as Markdown: a table of claims, then every comparison."""
    claims = _table(
        ("Claim", "Source", "Paper", "Measured", "Expected", "n", "Verdict"),
        (_claim_cells(j, (judges or {}).get(j.claim.id)) for j in judgements),
    )
    comparisons = _table(
        (
            "Claim",
            "Comparison",
            "Text",
            "L0",
            "Measured L0",
            "Expected",
            "Measured",
            "n",
            "Items",
            "Verdict",
        ),
        (_comparison_cells(o) for judgement in judgements for o in judgement.outcomes),
    )
    return f"# {title}\n\n{_RULE}\n{claims}\n## Every comparison\n\n{comparisons}"


def _claim_cells(judgement: Judgement, judge: str | None) -> list[str]:
    claim, deciding = judgement.claim, judgement.deciding
    value = "" if claim.paper_value is None else f"{claim.paper_value:g}"
    measured = f"{at_l0(deciding.comparison, deciding.l0)}: {interval(deciding)}{judged(judge)}"
    verdict = f"**{judgement.verdict}**" + (f": {judgement.reason}" if judgement.reason else "")
    note = f" ({claim.paper_note})" if value and claim.paper_note else claim.paper_note
    return [
        claim.statement,
        claim.source,
        value + note,
        measured,
        deciding.expectation,
        str(deciding.seeds),
        verdict,
    ]


def _comparison_cells(o: Outcome) -> list[str]:
    sides = [number(l0) for l0 in (o.l0_variant, o.l0_baseline) if l0 is not None]
    verdict = f"{o.verdict}: {o.reason}" if o.reason else o.verdict
    return [
        o.claim, o.comparison, o.split, o.l0, ", ".join(sides),
        o.expectation, interval(o), str(o.seeds), "" if o.items is None else str(o.items), verdict,
    ]  # fmt: skip


def judged(judge: str | None) -> str:
    """Return what the measured value adds on who explained the latents that it rests on."""
    return f"; {judge}" if judge else ""


def at_l0(comparison: str, l0: str) -> str:
    """Return the comparison with its L0 targets, where it has any."""
    return f"{comparison} (L0 {l0})" if l0 else comparison


def interval(outcome: Outcome) -> str:
    """Return `effect [low, high]`, or the effect alone where there is no interval."""
    if math.isnan(outcome.effect):
        return "not measured"
    if outcome.low is None or outcome.high is None:
        return f"{number(outcome.effect)} (no interval)"
    return f"{number(outcome.effect)} [{number(outcome.low)}, {number(outcome.high)}]"


def number(value: float) -> str:
    """Return three significant digits, at most four decimals."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:.{min(digits, 4)}f}"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join("| " + " | ".join(map(_escape, line)) + " |\n" for line in lines)


def _escape(cell: str) -> str:
    return cell.replace("|", "\\|").replace("\n", " ")
