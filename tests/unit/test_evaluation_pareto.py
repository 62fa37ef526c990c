"""Series against a baseline at matched L0, in closed form."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from saeflow.artifacts import ArtifactError, read_manifest, write_manifest
from saeflow.evaluation.pareto import Line, line, mean_gap, relate_series, write_pareto
from saeflow.evaluation.rows import Point, Row, make_row, read_rows, write_rows
from saeflow.evaluation.settings import PARETO_METRICS, ParetoSettings

Levels = dict[int, tuple[float, float]]
"""Measured L0 and perplexity by L0 target."""


def power_law(scale: float, *l0s: float) -> Levels:
    """PPL = scale / sqrt(L0): a straight line in log L0 and log perplexity."""
    return {round(l0): (l0, scale / math.sqrt(l0)) for l0 in l0s}


def core_rows(
    series: str, levels: Levels, seed: int = 0, corpus: str = "physics", n: int = 100
) -> list[Row]:
    rows = []
    for target, (l0, perplexity) in levels.items():
        point = Point("ssae", "desk", "site", corpus, f"of_{series}", series, 64, target)
        values = {"l0": l0, "perplexity_sae": perplexity, "perplexity_clean": 2.0, "fvu": 0.1}
        rows += [
            make_row(point, split="test", seed=seed, metric=m, value=v, n=n)
            for m, v in values.items()
        ]
    return rows


def related(rows: list[Row], **settings_of: float) -> tuple[pd.DataFrame, dict[str, int]]:
    settings = ParetoSettings(**settings_of)
    found, absent = relate_series(pd.DataFrame(rows), "gsae", settings)
    return pd.DataFrame(found), dict(absent)


def values(found: pd.DataFrame, series: str, metric: str) -> dict[int, float]:
    of = found[(found["variant"] == series) & (found["metric"] == metric)]
    return dict(zip(of["l0_target"], of["value"], strict=True))


def test_a_parallel_curve_has_the_same_ratio_at_every_l0() -> None:
    rows = core_rows("gsae", power_law(100, 4, 9, 16, 40))
    rows += core_rows("bm25", power_law(80, 5, 11, 30))
    found, absent = related(rows)
    assert absent == {}
    assert values(found, "bm25", "perplexity_ratio") == pytest.approx({5: 0.8, 11: 0.8, 30: 0.8})
    assert values(found, "bm25", "perplexity_difference")[5] == pytest.approx(-20 / math.sqrt(5))
    assert values(found, "bm25", "perplexity_ratio_overlap") == pytest.approx({0: 0.8})
    assert values(found, "bm25", "l0") == {5: 5, 11: 11, 30: 30}
    assert set(found["metric"]) == set(PARETO_METRICS)
    assert set(found[found["variant"] == "bm25"]["selection"]) == {"of_bm25"}


def test_the_baseline_equals_itself() -> None:
    found, _ = related(core_rows("gsae", power_law(100, 4, 9, 16)))
    assert values(found, "gsae", "perplexity_ratio") == pytest.approx({4: 1, 9: 1, 16: 1})
    assert values(found, "gsae", "perplexity_difference") == pytest.approx({4: 0, 9: 0, 16: 0})
    assert values(found, "gsae", "perplexity_ratio_overlap") == pytest.approx({0: 1})


def test_targets_do_not_matter_but_measured_l0() -> None:
    """At the same targets a series that is denser than asked gains nothing by it."""
    rows = core_rows("gsae", power_law(100, 4, 16))
    rows += core_rows("bm25", {4: (8.0, 100 / math.sqrt(8)), 16: (15.0, 100 / math.sqrt(15))})
    found, _ = related(rows)
    assert values(found, "bm25", "perplexity_ratio") == pytest.approx({4: 1, 16: 1})


def test_beyond_the_margin_nothing_is_invented() -> None:
    rows = core_rows("gsae", power_law(100, 4, 16))
    rows += core_rows("bm25", power_law(80, 3.4, 4.1, 17, 18))
    found, absent = related(rows, extrapolate=0.1)
    assert values(found, "bm25", "perplexity_ratio") == pytest.approx({4: 0.8, 17: 0.8})
    assert absent == {"bm25 on physics": 2}
    assert set(values(found, "bm25", "perplexity_sae")) == {3, 4, 17, 18}
    wider, absent = related(rows, extrapolate=0.2)
    assert set(values(wider, "bm25", "perplexity_ratio")) == {3, 4, 17, 18} and absent == {}
    overlap = found[found["metric"] == "perplexity_ratio_overlap"].set_index("variant")
    assert overlap.loc["bm25", "n"] == 0  # 4.1 and 17 lie on either side of 5 to 12.8
    assert overlap.loc["bm25", "value"] == pytest.approx(0.8)


def bent(*l0s: float) -> Levels:
    """As good as PPL = 100 / sqrt(L0) up to L0 10, and worse above, the more the denser."""
    return {round(l0): (l0, 100 / math.sqrt(l0) * max(1, l0 / 10)) for l0 in l0s}


def test_all_series_are_averaged_over_one_range_of_l0() -> None:
    """Two series of one curve have one number, however far their ends lie from each other."""
    rows = core_rows("gsae", power_law(100, 5, 50))
    rows += core_rows("bm25", bent(5, 10, 50)) + core_rows("dense", bent(6, 10, 42))
    rows += core_rows("all", bent(7.5, 10, 50)) + core_rows("random", bent(5, 10, 30))
    found, absent = related(rows)
    ratios = {s: values(found, s, "perplexity_ratio_overlap") for s in ("bm25", "dense")}
    low, middle, high = (math.log(x) for x in (5 * 1.25, 10, 50 / 1.25))
    expected = math.exp((high - middle) ** 2 / 2 / (high - low))
    assert ratios["bm25"] == pytest.approx({0: expected}) == ratios["dense"]
    for series in ("all", "random"):  # they end more than a tenth inside 6.25 to 40
        assert values(found, series, "perplexity_ratio_overlap") == {}
        assert absent[f"perplexity_ratio_overlap of {series} on physics"] == 1
    wider, _ = related(rows, overlap_margin=0)
    assert values(wider, "dense", "perplexity_ratio_overlap") == {}
    assert values(wider, "bm25", "perplexity_ratio_overlap")[0] > expected


def test_a_margin_that_leaves_no_range_leaves_no_number() -> None:
    rows = core_rows("gsae", power_law(100, 8, 10)) + core_rows("bm25", power_law(80, 8, 10))
    assert "perplexity_ratio_overlap" not in set(related(rows)[0]["metric"])


def test_curves_that_share_no_l0_have_no_overlap() -> None:
    rows = core_rows("gsae", power_law(100, 4, 16)) + core_rows("bm25", power_law(80, 20, 40))
    found, absent = related(rows)
    assert values(found, "bm25", "perplexity_ratio_overlap") == {}
    assert absent == {"bm25 on physics": 2, "perplexity_ratio_overlap of bm25 on physics": 1}


def test_an_sae_that_never_fires_has_no_place_on_the_curve() -> None:
    dead = {4: (0.0, 50.0)}
    rows = core_rows("gsae", power_law(100, 4, 16)) + core_rows("bm25", dead)
    found, absent = related(rows)
    assert values(found, "bm25", "perplexity_ratio") == {} and absent == {"bm25 on physics": 1}
    with pytest.raises(ValueError, match="measured L0 above zero"):
        related(core_rows("gsae", dead))


def test_the_mean_gap_is_the_integral_between_broken_lines() -> None:
    tent = Line(np.array([0.0, 1, 2]), np.array([0.0, 1, 0]))
    floor = Line(np.array([-1.0, 5]), np.array([0.0, 0]))
    assert mean_gap(tent, floor, 0, 2, 0) == pytest.approx(0.5)
    assert mean_gap(floor, tent, 0, 2, 0) == pytest.approx(-0.5)
    assert mean_gap(tent, floor, 0.5, 1.5, 0) == pytest.approx(0.75)
    assert mean_gap(tent, floor, 0, 2.5, 0.4) is None
    assert mean_gap(tent, floor, 0, 2.5, 0.5) == pytest.approx((1 - 0.125) / 2.5)
    assert mean_gap(tent, floor, 1, 1, 0) is None


def test_a_line_is_sorted_and_averages_points_of_equal_l0() -> None:
    found = line(pd.Series([16.0, 4, 4]), pd.Series([math.e, math.e**2, math.e**4]))
    assert np.exp(found.x).tolist() == pytest.approx([4, 16])
    assert found.y.tolist() == pytest.approx([3, 1])
    assert found.at(math.log(8), 0) == pytest.approx(2)
    assert found.at(math.log(17), 0) is None
    assert found.at(math.log(17), 0.1) == pytest.approx(1 - math.log(17 / 16) * 2 / math.log(4))
    single = line(pd.Series([4.0]), pd.Series([math.e]))
    assert single.at(math.log(4.2), 0.1) == pytest.approx(1)


def test_seeds_and_texts_are_compared_with_their_own_baseline() -> None:
    rows = core_rows("gsae", power_law(100, 4, 16)) + core_rows("bm25", power_law(80, 4, 16))
    rows += core_rows("gsae", power_law(50, 4, 16), seed=1)
    rows += core_rows("bm25", power_law(50, 4, 16), seed=1)
    rows += core_rows("gsae", power_law(10, 4, 16), corpus="docs", n=7)
    rows += core_rows("bm25", power_law(20, 4, 16), corpus="docs", n=7)
    found, _ = related(rows)
    of = found[(found["variant"] == "bm25") & (found["metric"] == "perplexity_ratio_overlap")]
    ratios = {(r["corpus"], r["seed"]): r["value"] for r in of.to_dict("records")}
    assert ratios == pytest.approx({("physics", 0): 0.8, ("physics", 1): 1, ("docs", 0): 2})


def test_what_cannot_be_compared_is_named() -> None:
    gsae, bm25 = core_rows("gsae", power_law(100, 4)), core_rows("bm25", power_law(80, 4))
    with pytest.raises(ValueError, match="'gsae' is none of the series bm25"):
        related(bm25)
    with pytest.raises(ValueError, match=r"'gsae' was not measured at .*corpus=docs"):
        related(gsae + bm25 + core_rows("bm25", power_law(80, 4), corpus="docs"))
    with pytest.raises(ValueError, match=r"different numbers of predictions \(99, 100\)"):
        related(gsae + core_rows("bm25", power_law(80, 4), n=99))
    with pytest.raises(ValueError, match="lack perplexity_sae"):
        related(gsae + [row for row in bm25 if row.metric != "perplexity_sae"])


def test_the_files_of_a_sweep_become_one(tmp_path: Path, capsys) -> None:
    paths = {name: tmp_path / name / "core.parquet" for name in ("gsae", "bm25")}
    write_rows(paths["gsae"], core_rows("gsae", power_law(100, 4, 16)))
    write_rows(paths["bm25"], core_rows("bm25", power_law(80, 4, 40)))
    for path in paths.values():
        write_manifest(path.parent, kind="metrics", settings={}, files=[path.name])
    write_pareto(paths, "bm25", "gsae", ParetoSettings(), tmp_path / "out")
    found = read_rows([tmp_path / "out" / "pareto.parquet"])
    assert set(found["variant"]) == {"bm25"}
    assert values(found, "bm25", "perplexity_ratio") == pytest.approx({4: 0.8})
    manifest = read_manifest(tmp_path / "out", kind="metrics", deep=True)
    assert manifest["stats"]["absent"] == {"bm25 on physics": 1}
    assert "bm25 on physics: 1 times not within the L0 of gsae" in capsys.readouterr().err
    with pytest.raises(ArtifactError, match=r"out: the baseline 'dense' is none"):
        write_pareto(paths, "bm25", "dense", ParetoSettings(), tmp_path / "out")
    assert not (tmp_path / "out" / "manifest.json").exists()
    paths["bm25"].write_bytes(b"cut")
    with pytest.raises(ArtifactError, match=r"core\.parquet is not a readable"):
        write_pareto(paths, "bm25", "gsae", ParetoSettings(), tmp_path / "out")
