from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError
from scipy import stats

from saeflow.artifacts import ArtifactError
from saeflow.claims import ClaimError, ClaimSettings, Judgement, judge
from saeflow.claims_rows import claim_rows, judges_of
from saeflow.claims_table import number, to_markdown, write_claims
from saeflow.evaluation.rows import Point, Row, make_row, write_rows

Values = dict[tuple[str, int], list[float]]
"""Values over seeds 0, 1, … by variant and L0."""


def planted(
    values: Values, metric: str = "l0", split: str = "test", corpus: str = "docs"
) -> pd.DataFrame:
    rows = []
    for (variant, l0), by_seed in values.items():
        point = Point("ortsae", "desk", "layers.3", corpus, "all", variant, 64, l0)
        for seed, value in enumerate(by_seed):
            rows.append(make_row(point, split=split, seed=seed, metric=metric, value=value, n=10))
    return pd.DataFrame(rows)


def claim(*comparisons: dict[str, object], **keys: object) -> ClaimSettings:
    defaults = {"metric": "l0", "variant": "a", "baseline": "b"}
    parts = [defaults | comparison for comparison in comparisons]
    entry = {"id": "c", "grid": "main", "statement": "A is more than B", "source": "Fig. 1"}
    return ClaimSettings.model_validate({**entry, "comparisons": parts, **keys})


def judged(settings: ClaimSettings, values: Values, reference_l0: int = 8) -> Judgement:
    return judge([settings], planted(values), reference_l0=reference_l0)[0]


OTHER_PAIR = {"variant": "c", "baseline": "d"}
ABOVE = claim({"expect": {"above": 0}})


@pytest.mark.parametrize(
    ("a", "b", "verdict"),
    [
        ([2.0, 2.1, 1.9], [1.0, 1.1, 1.0], "reproduced"),
        ([1.0, 1.1, 1.0], [2.0, 2.1, 1.9], "not reproduced"),
        ([1.0, 2.0, 1.1], [1.1, 1.0, 1.3], "inconclusive"),
        ([2.0], [1.0], "inconclusive"),
        ([1.0, 1.0], [1.0, 1.0], "not reproduced"),  # equal is not more
    ],
)
def test_every_verdict_can_come_out(a: list[float], b: list[float], verdict: str) -> None:
    assert judged(ABOVE, {("a", 8): a, ("b", 8): b}).verdict == verdict


def test_one_seed_says_why_there_is_no_verdict() -> None:
    found = judged(ABOVE, {("a", 8): [2.0], ("b", 8): [1.0]})
    assert found.reason == "fewer than 2 seeds: no interval"
    assert found.deciding.effect == 1 and found.deciding.low is None


def test_effects_are_paired_by_seed() -> None:
    """Seeds that differ far more than the variants do not hide a difference within each."""
    values = {("a", 8): [1.010, 5.012, 9.011], ("b", 8): [1.0, 5.0, 9.0]}
    found = judged(ABOVE, values)
    assert found.verdict == "reproduced"
    assert found.deciding.effect == pytest.approx(0.011)


def test_ratios_are_averaged_on_the_log_scale() -> None:
    settings = claim({"expect": {"above": 1.5}, "compare": "ratio"})
    found = judged(settings, {("a", 8): [2.0, 8.0, 4.0], ("b", 8): [1.0, 2.0, 2.0]}).deciding
    logs = [math.log(2), math.log(4), math.log(2)]
    low, high = stats.t.interval(0.95, 2, loc=sum(logs) / 3, scale=stats.sem(logs))
    assert found.effect == pytest.approx((2 * 4 * 2) ** (1 / 3))
    assert (found.low, found.high) == pytest.approx((math.exp(low), math.exp(high)))


@pytest.mark.parametrize(
    ("a", "verdict"),
    [(1.10, "reproduced"), (1.30, "not reproduced"), (0.90, "not reproduced")],
)
def test_relative_change_about_a_value(a: float, verdict: str) -> None:
    settings = claim({"expect": {"about": 0.1, "margin": 0.05}, "compare": "relative_change"})
    found = judged(settings, {("a", 8): [a, a + 0.01, a - 0.01], ("b", 8): [1.0] * 3})
    assert found.verdict == verdict
    assert found.deciding.effect == pytest.approx(a - 1, abs=1e-3)


def test_about_equal_needs_an_interval_within_the_margin() -> None:
    settings = claim({"expect": {"about": 0, "margin": 0.5}})
    noisy = {("a", 8): [1.0, 3.0, 2.0], ("b", 8): [2.0, 2.0, 2.0]}
    assert judged(settings, noisy).verdict == "inconclusive"
    equal = {("a", 8): [2.5, 2.5], ("b", 8): [2.0, 2.0]}
    assert judged(settings, equal).verdict == "reproduced"  # the margin itself is within it


def test_a_value_alone_needs_no_baseline() -> None:
    settings = claim({"baseline": None, "compare": "value", "expect": {"below": 3, "above": 1}})
    assert judged(settings, {("a", 8): [2.0, 2.1]}).verdict == "reproduced"
    assert judged(settings, {("a", 8): [4.0, 4.0]}).verdict == "not reproduced"


def test_another_metric_may_be_the_baseline() -> None:
    settings = claim(
        {"baseline": "a", "baseline_metric": "l0_random", "compare": "ratio",
         "expect": {"below": 1.5}}
    )  # fmt: skip
    rows = pd.concat(
        [planted({("a", 8): [1.2, 1.3]}), planted({("a", 8): [1.0, 1.0]}, metric="l0_random")]
    )
    found = judge([settings], rows, reference_l0=8)[0].deciding
    assert found.effect == pytest.approx(math.sqrt(1.2 * 1.3))


def test_at_every_l0_all_must_hold() -> None:
    values = {("a", 4): [2.0, 2.1], ("b", 4): [1.0, 1.1], ("a", 8): [3.0, 3.0], ("b", 8): [1, 1]}
    found = judged(ABOVE, values)
    assert (found.verdict, found.reason) == ("reproduced", "2 of 2 comparisons hold")
    values[("b", 8)] = [3.5, 2.5]
    found = judged(ABOVE, values)
    assert (found.verdict, found.reason) == ("inconclusive", "1 of 2 comparisons hold")
    assert found.deciding.l0 == "8"
    values[("b", 8)] = [4.0, 4.0]
    found = judged(ABOVE, values)
    assert (found.verdict, found.reason) == ("not reproduced", "1 of 2 comparisons hold, 1 fail")


def test_more_chances_to_fail_ask_for_stronger_evidence_of_failure() -> None:
    """A difference against the claim at 95% alone, which Bonferroni's correction withholds."""
    against = [-1.0, -1.3, -0.9]
    alone = judged(ABOVE, {("a", 8): against, ("b", 8): [0.0] * 3})
    assert alone.verdict == "not reproduced"
    fine = {("a", l0): [2.0, 2.0, 2.0] for l0 in range(9, 29)}
    zero = {("b", l0): [0.0] * 3 for l0 in range(8, 29)}
    among = judged(ABOVE, {("a", 8): against} | fine | zero)
    assert among.verdict == "inconclusive"
    assert among.deciding.l0 == "8" and among.deciding.verdict == "not reproduced"


def test_levels_are_chosen_and_averaged_within_a_seed() -> None:
    values = {("a", 4): [0.0, 1.0], ("b", 4): [1.0, 2.0], ("a", 8): [5.0, 7.0], ("b", 8): [2, 4]}
    reference = judged(claim({"expect": {"above": 0}, "at_l0": "reference"}), values)
    assert [o.l0 for o in reference.outcomes] == ["8"]
    listed = judged(claim({"expect": {"above": 0}, "at_l0": [4]}), values)
    assert listed.verdict == "not reproduced"
    mean = judged(claim({"expect": {"above": 0}, "over_l0": "mean"}), values)
    assert mean.deciding.effect == pytest.approx((-1 + 3) / 2)
    assert mean.deciding.l0 == "mean of 4, 8"


def test_a_chain_is_its_neighbouring_pairs() -> None:
    settings = claim(chain={"metric": "l0", "ascending": ["a", "b", "c"]})
    values = {("a", 8): [1.0, 1.1], ("b", 8): [2.0, 2.2], ("c", 8): [3.0, 3.1]}
    found = judged(settings, values)
    assert [o.comparison for o in found.outcomes] == ["l0: b - a", "l0: c - b"]
    assert found.verdict == "reproduced"
    assert settings.variants == ["a", "b", "c"]
    values[("c", 8)] = [1.0, 1.2]
    assert judged(settings, values).verdict == "not reproduced"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({("b", 8): [1.0]}, r"claim c: no rows of metric l0 on split test for variant a .*: b\)"),
        ({("a", 8): [1.0]}, r"no rows of metric l0 on split test for variant b"),
        ({("a", 8): [1.0], ("b", 4): [1.0]}, r"claim c: no rows of l0 of a at L0 4"),
        ({("a", 8): [1.0, 2.0], ("b", 8): [1.0]}, r"cannot be paired: seeds \[0, 1\] of a, \[0\]"),
        ({("a", 4): [1.0], ("b", 4): [1.0], ("a", 8): [1.0]}, r"\[0\] of a, none of b"),
    ],
)
def test_missing_rows_are_named(values: Values, message: str) -> None:
    with pytest.raises(ClaimError, match=message):
        judged(ABOVE, values)


def scr_rows(a: list[float], b: list[float], measured: int) -> pd.DataFrame:
    """SCR of both variants and, of `measured` seeds, how many pairs were skipped."""
    none_skipped = {(name, 8): [0.0] * measured for name in "ab"}
    values = {("a", 8): a, ("b", 8): b}
    counts = planted(none_skipped, "scr_pairs_skipped")
    return pd.concat([planted(values, "scr@20"), counts, planted({("a", 8): [8.0]})])


@pytest.mark.parametrize("over_l0", ["each", "mean"])
@pytest.mark.parametrize("compare", ["difference", "ratio"])
@pytest.mark.parametrize(
    ("a", "b", "lacks"), [([], [0.1, 0.2], "a"), ([0.1, 0.2], [], "b"), ([0.1, 0.2], [0.1], "b")]
)
def test_what_a_measure_lacks_of_a_variant_is_inconclusive(
    a: list[float], b: list[float], lacks: str, compare: str, over_l0: str
) -> None:
    part = {"metric": "scr@20", "compare": compare, "expect": {"above": 0.5}, "over_l0": over_l0}
    found = judge([claim(part)], scr_rows(a, b, 2), reference_l0=8)[0]
    assert (found.verdict, found.reason) == ("inconclusive", f"scr@20 of {lacks} was not measured")
    assert math.isnan(found.deciding.effect)


def test_what_was_measured_of_nothing_is_an_error() -> None:
    """Rows of other measures, or of none of the variants, say nothing of the metric."""
    settings = claim({"metric": "scr@20", "expect": {"above": 0}})
    with pytest.raises(ClaimError, match=r"no rows of metric scr@20 .* variant a .*: none\)"):
        judge([settings], scr_rows([], [], 2), reference_l0=8)
    with pytest.raises(ClaimError, match=r"no rows of metric scr@20 .* variant a .*: b\)"):
        judge([settings], scr_rows([], [0.1, 0.2], 0), reference_l0=8)


def test_an_l0_that_was_not_measured_is_named() -> None:
    settings = claim({"expect": {"above": 0}, "at_l0": "reference"})
    with pytest.raises(ClaimError, match="no rows of l0 of a at L0 16"):
        judged(settings, {("a", 8): [1.0], ("b", 8): [1.0]}, reference_l0=16)


def test_rows_of_two_sites_are_not_mixed() -> None:
    rows = planted({("a", 8): [1.0, 2.0], ("b", 8): [0.0, 0.0]})
    other = rows.assign(site="layers.5")
    with pytest.raises(ClaimError, match=r"several values of site \(layers.3, layers.5\)"):
        judge([ABOVE], pd.concat([rows, other]), reference_l0=8)


@pytest.mark.parametrize("low", [0.0, -1.0])
def test_a_ratio_of_what_is_not_positive_is_inconclusive(low: float) -> None:
    settings = claim({"expect": {"above": 1}, "compare": "ratio"})
    found = judged(settings, {("a", 8): [low, 2.0], ("b", 8): [1.0, 1.0]})
    assert found.verdict == "inconclusive"
    assert "not positive everywhere" in found.reason


@pytest.mark.parametrize(
    ("comparison", "message"),
    [
        ({"expect": {}}, "either above and/or below"),
        ({"expect": {"about": 1}}, "belong together"),
        ({"expect": {"above": 1, "about": 1, "margin": 1}}, "either above and/or below"),
        ({"expect": {"above": 2, "below": 1}}, "must be less than"),
        ({"expect": {"above": 0}, "baseline": None}, "need a baseline"),
        ({"expect": {"above": 0}, "baseline": "a"}, "compared with itself"),
        ({"expect": {"above": -1}, "compare": "ratio"}, "always above 0"),
        ({"expect": {"above": 0}, "at_l0": "some"}, "at_l0"),
        ({"expect": {"above": 0}, "unknown": 1}, "unknown"),
        (
            {"expect": {"above": 0}, "compare": "relative_change", "than": OTHER_PAIR},
            "difference or ratio",
        ),
    ],
)
def test_meaningless_entries_are_refused(comparison: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        claim(comparison)


def test_a_claim_measures_something() -> None:
    with pytest.raises(ValidationError, match="give comparisons, a chain, or both"):
        claim()


def test_the_ledger_is_written_as_parquet_and_markdown(tmp_path: Path) -> None:
    values = {("a", 4): [2.0, 2.1], ("b", 4): [1.0, 1.1], ("a", 8): [2.0, 2.0], ("b", 8): [3, 2.5]}
    settings = claim(
        {"expect": {"above": 0}},
        statement="A | B",
        paper_value=2.7,
        paper_note="at layer 20",
    )
    single = claim({"expect": {"above": 0}, "at_l0": [4]}, id="single")
    judgements = judge([settings, single], planted(values), reference_l0=8)
    paths = write_claims(judgements, tmp_path / "ortsae", title="OrtSAE")
    assert [p.name for p in paths] == ["ortsae.parquet", "ortsae.comparisons.parquet", "ortsae.md"]
    claims = pq.read_table(paths[0]).to_pylist()
    assert [c["verdict"] for c in claims] == ["inconclusive", "reproduced"]
    assert (claims[0]["l0"], claims[0]["comparisons"], claims[0]["paper_value"]) == ("8", 2, 2.7)
    assert pq.read_table(paths[1]).num_rows == 3
    lines = paths[2].read_text().splitlines()
    assert lines[0] == "# OrtSAE"
    table = [line for line in lines if line.startswith("| A ")]
    assert table[0].startswith(
        r"| A \| B | Fig. 1 | 2.7 (at layer 20) | l0: a - b (L0 8): -0.750 ["
    )
    assert table[1].endswith("| above 0 | 2 | **reproduced** |")
    assert len({line.replace(r"\|", "").count("|") for line in lines if "Fig. 1" in line}) == 1


def of_sparsity(a: list[float], b: list[float], **keys: object) -> Judgement:
    """Judge a gain of 1 in explained variance between SAEs of these measured L0s."""
    gain = planted({("a", 8): [2.0] * len(a), ("b", 8): [1.0] * len(b)}, "explained_variance")
    settings = claim({"expect": {"above": 0}, "metric": "explained_variance"}, **keys)
    rows = pd.concat([gain, planted({("a", 8): a, ("b", 8): b})])
    return judge([settings], rows, reference_l0=8)[0]


def test_sides_of_unlike_sparsity_are_not_judged() -> None:
    found = of_sparsity([6.5, 6.7], [7.4, 7.6])
    assert found.verdict == "inconclusive"
    assert found.reason == "measured L0 differs by 12%: 6.6 against 7.5"
    assert found.deciding.effect == 1 and found.deciding.corrected_verdict == "inconclusive"
    assert of_sparsity([6.5, 6.7], [7.4, 7.6], l0_tolerance=0.13).verdict == "reproduced"
    assert of_sparsity([1.0, 1.0], [9.0, 9.0], l0_tolerance=None).verdict == "reproduced"


def test_sides_of_like_sparsity_are_judged_and_their_l0_is_printed(tmp_path: Path) -> None:
    found = of_sparsity([7.0, 7.2], [7.4, 7.6])
    assert found.verdict == "reproduced" and found.deciding.reason == ""
    _, comparisons, _ = write_claims([found], tmp_path / "x", title="OrtSAE")
    [row] = pq.read_table(comparisons).to_pylist()
    assert (row["l0_variant"], row["l0_baseline"]) == pytest.approx((7.1, 7.5))
    assert "| 8 | 7.10, 7.50 | above 0 |" in to_markdown([found], "OrtSAE")


def test_one_unlike_level_among_many_decides() -> None:
    values = {(v, l0): [x, x + 0.1] for v, x in (("a", 2.0), ("b", 1.0)) for l0 in (4, 8)}
    sparsity = {("a", 4): [4.0, 4.0], ("b", 4): [4.0, 4.0], ("a", 8): [6.0, 6.0], ("b", 8): [8, 8]}
    rows = pd.concat([planted(values, "explained_variance"), planted(sparsity)])
    each = claim({"expect": {"above": 0}, "metric": "explained_variance"})
    found = judge([each], rows, reference_l0=8)[0]
    assert (found.verdict, found.deciding.l0) == ("inconclusive", "8")
    assert found.reason == "1 of 2 comparisons hold; measured L0 differs by 25%: 6 against 8"
    mean = claim({"expect": {"above": 0}, "metric": "explained_variance", "over_l0": "mean"})
    found = judge([mean], rows, reference_l0=8)[0]
    assert (found.verdict, found.deciding.l0_variant) == ("inconclusive", 5)
    fails = claim(
        {"expect": {"above": 0}, "metric": "explained_variance"},
        {"expect": {"above": 5}, "metric": "explained_variance", "at_l0": [4]},
    )
    found = judge([fails], rows, reference_l0=8)[0]
    assert (found.verdict, found.deciding.l0) == ("not reproduced", "4")


def test_timings_have_no_l0_and_are_judged() -> None:
    rows = planted({("a", 8): [2.0, 2.0], ("b", 8): [1.0, 1.0]}, "step_seconds")
    timed = claim({"expect": {"above": 0}, "metric": "step_seconds"})
    found = judge([timed], rows, reference_l0=8)[0]
    assert (found.verdict, found.deciding.l0_variant) == ("reproduced", None)


def test_a_claim_is_of_one_experiment() -> None:
    assert claim({"expect": {"above": 0}}, grid=None, sweep="physics").sweep == "physics"
    assert claim({"expect": {"above": 0}}, grid=None, debias=True).debias
    for wrong in ({"sweep": "physics"}, {"grid": None}, {"debias": True}):
        with pytest.raises(ValidationError, match="one of grid, sweep and debias"):
            claim({"expect": {"above": 0}}, **wrong)


def test_a_claim_is_judged_on_its_own_text() -> None:
    here = planted({("a", 8): [2.0, 2.1], ("b", 8): [1.0, 1.1]})
    there = planted({("a", 8): [1.0, 1.0], ("b", 8): [2.0, 2.1]}, corpus="poems")
    rows = pd.concat([here, there])
    for corpus, verdict in (("docs", "reproduced"), ("poems", "not reproduced")):
        found = judge([claim({"expect": {"above": 0}}, corpus=corpus)], rows, reference_l0=8)[0]
        assert (found.verdict, found.deciding.split) == (verdict, f"{corpus} test")
    with pytest.raises(ClaimError, match=r"several values of corpus \(docs, poems\)"):
        judge([ABOVE], rows, reference_l0=8)
    with pytest.raises(ClaimError, match=r"no rows on corpus songs \(there are docs, poems\)"):
        judge([claim({"expect": {"above": 0}}, corpus="songs")], rows, reference_l0=8)


def test_one_loss_is_judged_against_another() -> None:
    """a loses 3 of 5 and c 1 of 4: as differences 3 - 1, as ratios (5/2) / (4/3)."""
    values = {("a", 0): [5.0, 5.1], ("b", 0): [2.0, 2.1], ("c", 0): [4.0, 4.0], ("d", 0): [3, 3.0]}
    other = {"than": {"variant": "c", "baseline": "d"}}
    found = judged(claim({"expect": {"above": 0}, **other}), values)
    assert found.verdict == "reproduced" and found.deciding.effect == pytest.approx(2)
    assert found.deciding.comparison == "l0: (a - b) - (c - d)"
    ratio = judged(claim({"expect": {"above": 1}, "compare": "ratio", **other}), values).deciding
    assert ratio.effect == pytest.approx(math.sqrt(2.5 * 5.1 / 2.1) / (4 / 3))
    assert found.claim.variants == ["a", "b", "c", "d"]
    assert "l0: (a - b) - (c - d): 2.00 [" in to_markdown([found], "SSAE")  # no L0 to print
    with pytest.raises(ClaimError, match="the two pairs have other seeds or L0"):
        judged(claim({"expect": {"above": 0}, **other}), values | {("c", 0): [4.0], ("d", 0): [3]})


def related(a: Values, **keys: object) -> Judgement:
    """Judge a ratio of perplexities at matched L0, whose rows may be absent."""
    part = {"metric": "perplexity_ratio", "compare": "ratio", "expect": {"below": 1}}
    settings = claim(part | keys, l0_tolerance=None)
    base = planted({("b", 8): [1.0, 1.1], ("b", 16): [1.0, 1.0]}, "perplexity_ratio")
    sparsity = planted({("a", 8): [8.0, 8.0], ("b", 8): [99.0, 99.0]})
    rows = pd.concat([planted(a, "perplexity_ratio"), base, sparsity])
    return judge([settings], rows, reference_l0=8)[0]


def test_what_is_not_related_to_a_baseline_has_no_verdict(tmp_path: Path) -> None:
    found = related({("a", 8): [0.8, 0.9]})
    assert found.verdict == "inconclusive"
    assert found.reason == (
        "1 of 2 comparisons hold; perplexity_ratio is undefined: measured L0 beyond the baseline's"
    )
    assert [o.seeds for o in found.outcomes] == [2, 0]
    assert related({("a", 8): [0.8, 0.9]}, at_l0="reference").verdict == "reproduced"
    assert related({("a", 8): [0.8, 0.9]}, over_l0="mean").verdict == "inconclusive"
    assert related({("a", 99): [0.8]}, at_l0=[8]).deciding.seeds == 0
    paths = write_claims([found], tmp_path / "x", title="SSAE")
    assert "not measured" in paths[-1].read_text()
    assert pq.read_table(paths[1]).num_rows == 2


def test_rows_that_two_files_hold_alike_are_read_once(tmp_path: Path) -> None:
    rows = [Row(**one) for one in planted({("a", 8): [2.0, 2.1]}).to_dict("records")]
    write_rows(tmp_path / "core.parquet", rows)
    write_rows(tmp_path / "pareto.parquet", rows[:1])
    paths = [tmp_path / "core.parquet", tmp_path / "pareto.parquet"]
    assert len(claim_rows(paths)) == 2
    write_rows(tmp_path / "pareto.parquet", [rows[0]._replace(value=3.0)])
    with pytest.raises(ArtifactError, match="two values of l0 of a, seed 0, on docs"):
        claim_rows(paths)


def test_a_claim_on_explained_latents_names_the_judge(tmp_path: Path) -> None:
    """Each file of tidy rows has its judge in the scores beside it."""

    def measured(name: str, definition: str) -> Path:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        pd.DataFrame({"judge_definition": [definition] * 2}).to_parquet(folder / "scores.parquet")
        return folder / "explained.parquet"

    part = {"metric": "mean_f1", "expect": {"above": 0}}
    explained = claim(part, id="explained", sweep="physics", grid=None, l0_tolerance=None)
    paths = [measured("a", "lexical, which counts"), measured("b", "lexical, which counts")]
    judges = judges_of([ABOVE, explained], [*paths, tmp_path / "core.parquet"])
    said = "latents explained and scored by: lexical, which counts"
    assert judges == {"explained": said}
    assert judges_of([ABOVE, explained], [tmp_path / "core.parquet"]) == {}
    values: Values = {("a", 8): [2.0], ("b", 8): [1.0]}
    rows = pd.concat([planted(values), planted(values, "mean_f1")])
    both = judge([ABOVE, explained], rows, reference_l0=8)
    table, _, page = write_claims(both, tmp_path / "x", title="SSAE", judges=judges)
    assert pq.read_table(table)["judge"].to_pylist() == [None, said]
    assert page.read_text().count(f"1.00 (no interval); {said} |") == 1
    measured("b", "somebody else")
    with pytest.raises(ArtifactError, match=r"several judges .*somebody else"):
        judges_of([explained], paths)


def test_a_claim_on_detection_names_the_judge(tmp_path: Path) -> None:
    said = pd.DataFrame({"judge_definition": ["lexical, which counts"] * 2})
    said.to_parquet(tmp_path / "detection_details.parquet")
    part = {"metric": "detection_accuracy", "expect": {"above": 0}}
    judges = judges_of([ABOVE, claim(part, id="told")], [tmp_path / "detection.parquet"])
    assert judges == {"told": "latents explained and scored by: lexical, which counts"}


def test_a_missing_interval_is_said_in_words() -> None:
    judgements = judge([ABOVE], planted({("a", 8): [2.0], ("b", 8): [1.0]}), reference_l0=8)
    assert "1.00 (no interval)" in to_markdown(judgements, "OrtSAE")


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (2.7, "2.70"), (-0.01234, "-0.0123"), (0.00071, "0.0007"), (361.4, "361")],
)
def test_numbers_have_three_significant_digits(value: float, text: str) -> None:
    assert number(value) == text


def test_settings_load_without_heavy_imports() -> None:
    code = (
        "import sys, saeflow.claims, saeflow.evaluation.settings, saeflow.figures.settings\n"
        "print([m for m in ('torch', 'pandas', 'scipy', 'pyarrow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


WINDOWED = {"metric": "perplexity_ratio", "compare": "ratio", "expect": {"below": 1}}
AT_8_AND_16: Values = {
    ("a", 8): [0.8, 0.81, 0.8],
    ("b", 8): [1.0, 1.0, 1.0],
    ("a", 16): [1.2, 1.21, 1.2],
    ("b", 16): [1.0, 1.0, 1.0],
}


def windowed(at_l0: str, **scale: object) -> Judgement:
    settings = claim(WINDOWED | {"at_l0": at_l0}, l0_tolerance=None)
    rows = planted(AT_8_AND_16, "perplexity_ratio")
    return judge([settings], rows, reference_l0=8, **scale)[0]  # type: ignore[arg-type]


def test_a_window_divides_the_targets() -> None:
    scale = {"l0s": (8, 16), "window": (5.0, 10.0)}
    assert windowed("inside", **scale).verdict == "reproduced"
    assert windowed("outside", **scale).verdict == "not reproduced"


def test_a_target_without_a_value_is_not_measured_and_not_left_out() -> None:
    found = windowed("inside", l0s=(4, 8, 16), window=(3.0, 10.0))
    assert found.verdict == "inconclusive" and len(found.outcomes) == 2
    nowhere = windowed("inside", l0s=(8, 16), window=(20.0, 30.0))
    assert nowhere.verdict == "inconclusive"
    assert nowhere.reason == "no L0 target is inside the window"


def test_a_claim_about_a_window_needs_one() -> None:
    with pytest.raises(ClaimError, match="at_l0 inside needs the window of its sweep"):
        windowed("inside", l0s=(8, 16))
