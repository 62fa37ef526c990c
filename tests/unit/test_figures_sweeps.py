from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sweeps_planted as planted
from pydantic import ValidationError
from test_figures_draw import ENDINGS, _check_text

from saeflow.figures.captions import caption_of
from saeflow.figures.densities import density_marks
from saeflow.figures.draw_folders import _of_sweep, draw_from_folders
from saeflow.figures.drawn import notes_in
from saeflow.figures.frame import footer
from saeflow.figures.kernel import kernel_density
from saeflow.figures.lines import line_marks
from saeflow.figures.origin import footer_parts
from saeflow.figures.rows import FigureError
from saeflow.figures.settings import Densities, Lines, SweepContext, parse_context, parse_figure
from saeflow.figures.style import house_style, looks_of
from saeflow.figures.sweep_rows import read_sweep_rows
from saeflow.figures.ticks import plain, scientific
from saeflow.intervals import t_interval

SHOWN = {
    "title": "A title",
    "source": "after SSAE Fig. 1",
    "statement": "What the paper says.",
    "caption": "What is shown.",
    "sweep": "physics",
    "tested": "physics",
}
LINES: dict[str, Any] = SHOWN | {
    "kind": "lines",
    "series": ["gsae", "bm25", "dense_tracin"],
    "shade": {"low": 21, "high": 25, "label": "the paper's window"},
    "panels": [
        {
            "file": "pareto",
            "metric": "perplexity_ratio",
            "y_label": "Perplexity relative to the GSAE",
            "x_scale": "log",
            "reference": {"value": 1.0, "label": "as the GSAE"},
        },
        {
            "file": "core",
            "metric": "perplexity_sae",
            "y_label": "Perplexity with the SAE spliced in",
            "x_scale": "log",
            "y_scale": "log",
            "series": ["gsae", "dense_tracin"],
            "reference": {"metric": "perplexity_clean", "label": "model without SAE"},
        },
    ],
}
CURVES: dict[str, Any] = SHOWN | {
    "kind": "lines",
    "series": ["gsae", "dense_t500"],
    "panels": [
        {
            "file": "curves",
            "metric": "latent_count_by_rank",
            "title": "counts",
            "x_label": "Latent rank",
            "y_label": "Activation count",
            "x_scale": "log",
            "y_scale": "log",
        },
        {
            "file": "curves",
            "metric": "decoder_cosine_density",
            "x_label": "Cosine similarity",
            "y_label": "Density",
            "x_from": -0.5,
            "x_to": 0.5,
        },
    ],
}
CONCEPTS: dict[str, Any] = SHOWN | {
    "kind": "lines",
    "series": ["gsae", "dense"],
    "panels": [
        {
            "file": "concept_recall",
            "metric": "concept_recall",
            "x_label": "Frequency",
            "y_label": "Recall",
            "x_scale": "log",
        }
    ],
}
DENSITIES: dict[str, Any] = SHOWN | {
    "kind": "densities",
    "series": ["gsae", "dense_t500"],
    "panels": [
        {"file": "types", "column": "entropy", "label": "Entropy"},
        {
            "file": "ratios",
            "column": "log_ratio",
            "label": "Log ratio",
            "low": -1,
            "high": 2,
            "reference": {"value": 0, "label": "as often"},
        },
    ],
}
SCORES: dict[str, Any] = SHOWN | {
    "kind": "densities",
    "series": ["gsae", "dense"],
    "panels": [{"file": "scores", "column": "f1", "label": "F1", "low": 0, "high": 1}],
}
SCATTER: dict[str, Any] = SHOWN | {"kind": "scatter", "series": ["gsae", "dense_t500"]}
CIRCUIT: dict[str, Any] = {
    **{key: SHOWN[key] for key in ("title", "source", "statement", "caption")},
    "kind": "circuit",
    "sae": "gsae",
}
ALL = {"lines": LINES, "curves": CURVES, "concepts": CONCEPTS, "densities": DENSITIES,
       "scores": SCORES, "scatter": SCATTER}  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> planted.Folders:
    return planted.plant_all(tmp_path_factory.mktemp("planted"))


def lines_of(folders: planted.Folders, section: dict[str, Any], **changes: Any) -> pd.DataFrame:
    settings, context = parse_figure(section), SweepContext(**planted.context(**changes))
    assert isinstance(settings, Lines)
    files = {panel.file for panel in settings.panels}
    tables = {file: read_sweep_rows(folders, file, settings, context) for file in files}
    return line_marks(tables, settings, context)


def densities_of(values: list[dict[str, dict[int, pd.Series]]], **panel: Any) -> pd.DataFrame:
    section = DENSITIES | {"panels": [DENSITIES["panels"][0] | panel]}
    settings = parse_figure(section)
    assert isinstance(settings, Densities)
    return density_marks(values, settings, SweepContext(**planted.context()))


def of(marks: pd.DataFrame, panel: str, series: str) -> pd.DataFrame:
    return marks[(marks["panel"] == panel) & (marks["variant"] == series).fillna(False)]


@pytest.mark.parametrize("name", ALL)
def test_every_file_is_written(name: str, folders: planted.Folders, tmp_path: Path) -> None:
    draw_from_folders(ALL[name], folders, planted.context(), tmp_path / "fig")
    assert {path.name for path in tmp_path.iterdir()} == {f"fig.{ending}" for ending in ENDINGS}
    parquet = pd.read_parquet(tmp_path / "fig.parquet")
    assert set(parquet["variant"].dropna()) == set(ALL[name]["series"])


def test_points_as_an_image_have_the_same_bytes_again(
    folders: planted.Folders, tmp_path: Path
) -> None:
    for stem in ("one", "other"):
        draw_from_folders(SCATTER, folders, planted.context(), tmp_path / stem / "fig")
    for ending in ENDINGS:
        one, other = (tmp_path / stem / f"fig.{ending}" for stem in ("one", "other"))
        assert one.read_bytes() == other.read_bytes(), ending


@pytest.mark.parametrize("name", ALL)
def test_no_text_leaves_the_figure_or_covers_other_text(
    name: str, folders: planted.Folders
) -> None:
    settings, context = parse_figure(ALL[name]), parse_context(planted.context())
    assert isinstance(context, SweepContext)
    with house_style():
        _, figure = _of_sweep(settings, folders, context)
        footer(figure, footer_parts(settings, context, "a judge with quite a long name"))
        _check_text(figure)


def test_points_are_means_over_seeds_at_the_measured_l0(folders: planted.Folders) -> None:
    point = of(lines_of(folders, LINES), "1: perplexity_ratio", "dense_tracin").iloc[1]
    rows = [r for r in planted.core_rows("dense_tracin") if r.l0_target == 24]
    ratio = t_interval([r.value for r in rows if r.metric == "perplexity_ratio"])
    l0 = t_interval([r.value for r in rows if r.metric == "l0"])
    assert (point["y"], point["y_low"], point["y_high"]) == pytest.approx(ratio[:3])
    assert (point["x"], point["x_low"]) == pytest.approx(l0[:2])
    assert (point["l0_target"], point["n"]) == (24, 3)


def test_means_on_a_log_axis_are_geometric(folders: planted.Folders) -> None:
    point = of(lines_of(folders, LINES), "2: perplexity_sae", "gsae").iloc[0]
    rows = [r for r in planted.core_rows("gsae") if r.l0_target == 8]
    logs = [math.log(r.value) for r in rows if r.metric == "perplexity_sae"]
    assert point["y"] == pytest.approx(math.exp(sum(logs) / 3))


def test_only_the_tested_text_counts(folders: planted.Folders) -> None:
    """The file of relations holds two texts with the same values, so that both would clash."""
    here = lines_of(folders, LINES | {"panels": LINES["panels"][:1]})
    there = lines_of(folders, LINES | {"panels": LINES["panels"][:1]}, corpus="exercises")
    pd.testing.assert_frame_equal(here, there)
    with pytest.raises(FigureError, match=r"measured on poems test; there are \['exercises test'"):
        lines_of(folders, LINES | {"panels": LINES["panels"][:1]}, corpus="poems")


def test_a_point_that_is_not_related_in_every_seed_is_left_out_and_said(
    folders: planted.Folders,
) -> None:
    marks = lines_of(folders, LINES)
    assert list(of(marks, "1: perplexity_ratio", "bm25")["l0_target"]) == [8, 24]
    [note] = notes_in(marks)
    assert note == (
        "Not drawn: 1 point of “Perplexity relative to the GSAE”, whose L0 lies beyond the "
        "baseline's."
    )
    settings = parse_figure(LINES)
    caption = caption_of(settings, SweepContext(**planted.context()), notes=[note])
    assert note in caption and "BM25 on physics_bm25 (60,000 tokens)" in caption


def test_zeros_have_no_place_on_a_log_axis(folders: planted.Folders) -> None:
    marks = lines_of(folders, CURVES)
    drawn = of(marks, "1: latent_count_by_rank", "gsae")
    raw = pd.read_parquet(folders["tokens"]["gsae"] / "curves.parquet")
    raw = raw[(raw["metric"] == "latent_count_by_rank") & (raw["seed"] == 0)]
    assert 0 < len(drawn) == int((raw["value"] > 0).sum()) < len(raw)
    assert any("log axis" in note for note in notes_in(marks))


def test_the_words_say_where_means_are_geometric() -> None:
    figure, context = parse_figure(LINES), SweepContext.model_validate(planted.context())
    linear = parse_figure(LINES | {"panels": LINES["panels"][:1]})
    assert "Mean (geometric on log axes) with 95%" in caption_of(figure, context)
    assert any("mean (geometric on log axes)" in part for part in footer_parts(figure, context))
    assert "geometric" not in caption_of(linear, context)
    assert "geometric" not in " ".join(footer_parts(linear, context))


def test_recall_is_drawn_against_the_frequency_in_the_name(folders: planted.Folders) -> None:
    drawn = of(lines_of(folders, CONCEPTS), "1: concept_recall", "dense")
    assert list(drawn["x"]) == pytest.approx([1e-5, 3e-5, 1e-4, 3e-4, 1e-3])
    assert drawn["y"].is_monotonic_increasing


def test_references_are_levels(folders: planted.Folders) -> None:
    marks = lines_of(folders, LINES)
    levels = marks[marks["variant"].isna() & marks["kind"].isna()].set_index("label")["y"]
    assert levels.to_dict() == {"as the GSAE": 1.0, "model without SAE": pytest.approx(8.4)}


def test_density_is_the_mean_over_seeds_and_counts_what_it_leaves_out() -> None:
    near, far = pd.Series([0.5, 0.5]), pd.Series([0.5, np.nan, 3.0])
    values = {"gsae": {0: near, 1: far}, "dense_t500": {0: near, 1: near}}
    marks = densities_of([values], low=0, high=1, bandwidth=0.05)
    one, other = (of(marks, "1: entropy", name) for name in ("gsae", "dense_t500"))
    width = one["x"].iloc[1] - one["x"].iloc[0]
    assert other["y"].sum() * width == pytest.approx(1)
    assert one["y"].sum() * width == pytest.approx(0.75)  # half of the second seed lies beyond
    assert list(notes_in(marks)) == [
        "Undefined, so left out of “Entropy”: 1 of 5 values of GSAE.",
        "Beyond the axis of “Entropy”: 1 of 4 values of GSAE.",
    ]
    free = densities_of([values], beyond=0)
    assert of(free, "1: entropy", "gsae")["x"].max() == pytest.approx(3, abs=0.01)
    assert len(notes_in(free)) == 1


def test_a_few_extremes_do_not_make_the_axis() -> None:
    """Of 2,000 values half a per cent at each end, of both series together, may lie beyond it."""
    even, extreme = pd.Series(np.arange(1000) / 1000), pd.Series([*np.arange(998) / 1000, -90, 90])
    values = {"gsae": {0: even}, "dense_t500": {0: extreme}}
    marks = densities_of([values], bandwidth=0.05)
    x = of(marks, "1: entropy", "gsae")["x"]
    assert (x.min(), x.max()) == pytest.approx((0.0045, 0.9935), abs=2e-3)
    [note] = notes_in(marks)
    assert note == (
        "Beyond the axis of “Entropy”: 9 of 1,000 values of GSAE, 9 of 1,000 values of "
        "Dense, t = 500."
    )
    one_end = densities_of([values], low=-100)
    x = of(one_end, "1: entropy", "gsae")["x"]
    assert (x.min(), x.max()) == pytest.approx((-100, 0.9935), abs=0.2)


def test_an_axis_that_cuts_values_off_does_not_bend_the_density() -> None:
    values = np.linspace(-3, 3, 6001) ** 3 / 9
    x, whole = kernel_density([values], values.min(), values.max(), 0.2)
    assert whole.sum() * (x[1] - x[0]) == pytest.approx(1)  # nothing beyond: no mass leaves
    for low, high in ((-1.0, 0.5), (-3.0, 0.0), (0.0, 3.0)):
        at, part = kernel_density([values], low, high, 0.2)
        assert part == pytest.approx(np.interp(at, x, whole), rel=0.02)


def test_values_that_agree_but_for_a_few_are_all_drawn() -> None:
    spike = pd.Series([1.0] * 999 + [4.0])
    marks = densities_of([{name: {0: spike} for name in ("gsae", "dense_t500")}])
    assert of(marks, "1: entropy", "gsae")["x"].max() == pytest.approx(4, abs=0.01)
    assert not notes_in(marks)


def test_values_without_spread_cannot_be_drawn() -> None:
    same = {name: {0: pd.Series([2.0, 2.0])} for name in ("gsae", "dense_t500")}
    with pytest.raises(FigureError, match=r"no spread to draw, only 2 to 2"):
        densities_of([same])
    with pytest.raises(FigureError, match="no value of 'entropy' of series 'gsae', seed 0"):
        densities_of([{"gsae": {0: pd.Series([np.nan])}}])


def test_the_judge_is_named(folders: planted.Folders, tmp_path: Path) -> None:
    draw_from_folders(SCORES, folders, planted.context(), tmp_path / "a")
    assert "judge: lexical" in (tmp_path / "a.svg").read_text().replace("\u00a0", " ")
    assert "Latents explained and scored by: lexical, which explains by tokens." in notes_in(
        pd.read_parquet(tmp_path / "a.parquet")
    )
    other = dict(planted.plant_scores(tmp_path / "more", ["gsae", "dense"])["explained"])
    table = pd.read_parquet(other["dense"] / "scores.parquet").assign(judge_definition="another")
    table.to_parquet(other["dense"] / "scores.parquet")
    with pytest.raises(FigureError, match="one judge, got another; lexical, which explains"):
        draw_from_folders(SCORES, {"explained": other}, planted.context(), tmp_path / "b")


def test_the_circuit_of_one_kind_of_sae_and_of_the_first_seed_is_drawn(
    folders: planted.Folders, tmp_path: Path
) -> None:
    sizes = {}
    for sae in ("gsae", "ssae"):
        stem = tmp_path / sae
        draw_from_folders(CIRCUIT | {"sae": sae}, folders, planted.debias_context(), stem)
        marks = pd.read_parquet(stem.with_suffix(".parquet"))
        sizes[sae] = int((marks["mark"] == "node").sum())
        raw = pd.read_parquet(folders["debias"]["0"] / "nodes.parquet")
        drawn = marks.loc[marks["mark"] == "node", "effect"].sum()
        assert drawn == pytest.approx(raw.loc[raw["sae"] == sae, "effect"].sum())
    assert sizes == {"gsae": 21, "ssae": 51}
    caption = caption_of(parse_figure(CIRCUIT), parse_context(planted.debias_context()))
    assert "One seed (0)." in caption and "SAEs at 16 sites" in caption
    with pytest.raises(FigureError, match="no circuit of 'msae' at seed 0"):
        draw_from_folders(
            CIRCUIT | {"sae": "msae"}, folders, planted.debias_context(), tmp_path / "x"
        )
    with pytest.raises(FigureError, match="kind lines needs a sweep"):
        draw_from_folders(LINES, folders, planted.debias_context(), tmp_path / "x")


def test_what_is_missing_is_named(folders: planted.Folders, tmp_path: Path) -> None:
    def draw(section: dict[str, Any], given: Any = folders, **changes: Any) -> None:
        draw_from_folders(section, given, planted.context(**changes), tmp_path / "never")

    panel = LINES["panels"][1]
    fewer = {"core": {"gsae": folders["core"]["gsae"]}, "pareto": folders["pareto"]}
    with pytest.raises(FigureError, match="folders of measure 'core' of bm25, dense_tracin"):
        draw(LINES, fewer)
    with pytest.raises(FigureError, match="folders of measure 'pareto' of gsae"):
        draw(LINES, {"core": folders["core"]})
    with pytest.raises(FigureError, match="metric 'no_such' of variant 'gsae' at L0 8"):
        draw(LINES | {"panels": [panel | {"metric": "no_such"}]})
    with pytest.raises(FigureError, match=r"seeds \[7\] of metric 'l0', variant 'gsae'"):
        draw(LINES | {"panels": [panel]}, seeds=(0, 7))
    with pytest.raises(FigureError, match=r"l0 \[5\] is not in"):
        draw(LINES | {"panels": [panel | {"l0": [5]}]})
    with pytest.raises(FigureError, match="rows of site"):
        draw(LINES, site="elsewhere")
    with pytest.raises(FigureError, match="nothing to draw: 'perplexity_ratio' of series 'gsae'"):
        draw(LINES, seeds=(7,))
    with pytest.raises(FigureError, match=r"missing: seeds \[7\] of 'latent_count_by_rank'"):
        draw(CURVES, seeds=(0, 7))
    with pytest.raises(FigureError, match="metric 'nothing' of series 'gsae'"):
        draw(CURVES | {"panels": [CURVES["panels"][0] | {"metric": "nothing"}]})
    with pytest.raises(FigureError, match=r"'entropy' of types of series 'gsae', seeds \[7\]"):
        draw(DENSITIES, seeds=(0, 7))
    with pytest.raises(FigureError, match=r"types\.parquet lacks the columns \['colour'\]"):
        draw(DENSITIES | {"panels": [DENSITIES["panels"][0] | {"column": "colour"}]})
    with pytest.raises(FigureError, match="decoder directions of 'dense'"):
        draw(SCATTER | {"series": ["dense"]})
    with pytest.raises(FigureError, match="label"):
        draw(SCATTER, labels={"gsae": "GSAE"})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("section", "named"),
    [
        (LINES | {"series": ["gsae", "gsae"]}, "twice"),
        (LINES | {"series": ["dense_tracin"]}, "are not the figure's"),
        (LINES | {"shade": {"low": 3, "high": 2, "label": ""}}, "below high"),
        (CURVES | {"panels": [CURVES["panels"][1] | {"x_to": -2}]}, "below x_to"),
        (DENSITIES | {"panels": [DENSITIES["panels"][1] | {"low": 2}]}, "below high"),
        (LINES | {"panels": LINES["panels"] * 2}, "panels"),
    ],
)
def test_wrong_settings_are_refused(section: dict[str, Any], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        parse_figure(section)


@pytest.mark.parametrize("name", ALL)
def test_settings_survive_a_trip_through_plain_values(name: str) -> None:
    settings = parse_figure(ALL[name])
    assert parse_figure(settings.model_dump(mode="json")) == settings


def test_series_of_a_paper_differ_in_colour_line_and_marker() -> None:
    series = (
        "gsae", "all", "random", "bm25", "bm25_tracin", "dense", "dense_tracin", "validation",
        "domain", "dense_t5", "dense_t500", "dense_t1e9", "gsae_t500",
    )  # fmt: skip
    looks = looks_of(series)
    assert len({look.color for look in looks.values()}) == len(series)
    assert len({look.marker for look in looks.values()}) == len(series)
    assert looks_of(("dense",))["dense"] == looks["dense"]


def test_ticks_are_short() -> None:
    assert [plain(v) for v in (0.01, 1, 20000)] == ["0.01", "1", "20,000"]
    assert [scientific(v) for v in (1e-5, 1, 2e4)] == ["10⁻⁵", "10⁰", "2·10⁴"]
