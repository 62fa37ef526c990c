from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import single_l0_planted as planted
from matplotlib.figure import Figure
from pydantic import ValidationError
from test_figures_draw import ENDINGS, SHOWN, _check_text

from saeflow.figures.ablation import ablation_marks, draw_ablation
from saeflow.figures.bars import bar_marks, draw_bars
from saeflow.figures.captions import caption_of
from saeflow.figures.draw import draw_figure
from saeflow.figures.drawn import notes_in
from saeflow.figures.frame import footer
from saeflow.figures.grid_settings import Context
from saeflow.figures.origin import footer_parts
from saeflow.figures.paired import draw_paired, paired_marks
from saeflow.figures.rows import FigureError, mean_on, read_rows
from saeflow.figures.settings import parse_figure, parse_table
from saeflow.figures.style import house_style, looks_of, looks_of_lines
from saeflow.figures.tables import write_table
from saeflow.measures import measure_of_grid

ABLATION: dict[str, Any] = SHOWN | {
    "kind": "ablation",
    "lines": {"every step": planted.EVERY_STEP, "every 5th step": planted.EVERY_5TH},
    "levels": ["batchtopk", "matryoshka"],
    "x_label": "Chunks K",
    "panels": [
        {"metric": "explained_variance", "y_label": "Explained variance"},
        {
            "metric": "mean_decoder_cosine",
            "y_label": "Mean decoder cosine",
            "reference": {"metric": "mean_decoder_cosine_random", "label": "random vectors"},
        },
        {"metric": "absorption_fraction", "y_label": "Absorption fraction"},
        {"metric": "composition_rate", "y_label": "Composition rate"},
    ],
}
PAIRED: dict[str, Any] = SHOWN | {
    "kind": "paired",
    "variants": ["relu", "batchtopk", "matryoshka", "ortsae"],
    "x": "edge_density",
    "y": "clustering_coefficient",
    "x_label": "Edge density",
    "y_label": "Clustering coefficient",
    "x_scale": "log",
}
BARS: dict[str, Any] = SHOWN | {
    "kind": "bars",
    "panels": [
        {
            "label": "Share of latents",
            "bars": [
                {
                    "variant": "ortsae",
                    "metric": "unique_share@0.2",
                    "label": "OrtSAE, not in BatchTopK",
                },
                {
                    "variant": "ortsae",
                    "metric": "baseline_unique_share@0.2",
                    "label": "BatchTopK, not in OrtSAE",
                    "look": "batchtopk",
                },
            ],
        }
    ],
}
TABLE: dict[str, Any] = SHOWN | {
    "kind": "metrics",
    "variants": ["relu", "batchtopk", "matryoshka", "ortsae"],
    "columns": [
        {"metric": "explained_variance", "label": "Expl. var.", "best": "max"},
        {"metric": "scr@20", "label": "SCR", "decimals": 2, "best": "max"},
    ],
    "published": {
        "label": "paper, Gemma-2-2B",
        "columns": ["Expl. var.", "SCR"],
        "decimals": [3, 3],
        "rows": {"ReLU": [0.784, 0.144], "OrtSAE": [0.836, 0.322]},
    },
}
FOUR_BARS = BARS | {"panels": 4 * BARS["panels"]}
SIDES = {
    ABLATION["kind"]: (ablation_marks, draw_ablation),
    PAIRED["kind"]: (paired_marks, draw_paired),
    BARS["kind"]: (bar_marks, draw_bars),
}
T_OF_3 = 4.302652729696142


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return planted.plant(tmp_path_factory.mktemp("rows"))


def marks_of(rows: list[Path], section: dict[str, Any], **changes: Any) -> pd.DataFrame:
    settings, context = parse_figure(section), Context(**planted.context(**changes))
    marks, _ = SIDES[section["kind"]]
    return marks(read_rows(rows, settings, context), settings, context)  # type: ignore[arg-type]


def drawing_of(rows: list[Path], section: dict[str, Any], **changes: Any) -> Figure:
    _, draw = SIDES[section["kind"]]
    return draw(marks_of(rows, section, **changes), parse_figure(section))  # type: ignore[operator]


def half_width(mean: float) -> float:
    return T_OF_3 * mean * planted.SPREAD / np.sqrt(3)


@pytest.mark.parametrize("section", [ABLATION, PAIRED, BARS], ids=lambda s: s["kind"])
def test_every_file_is_written_and_settings_survive_a_trip(
    section: dict[str, Any], rows: list[Path], tmp_path: Path
) -> None:
    settings = parse_figure(section)
    plain = settings.model_dump(mode="json")
    assert parse_figure(plain) == settings
    draw_figure(plain, rows, [], planted.context(), tmp_path / "a")
    assert {p.name for p in tmp_path.iterdir()} == {f"a.{ending}" for ending in ENDINGS}
    parquet = pd.read_parquet(tmp_path / "a.parquet")
    csv = pd.read_csv(tmp_path / "a.csv").fillna({"panel": ""}).astype(parquet.dtypes)
    pd.testing.assert_frame_equal(parquet, csv)
    assert "L0\u00a032" in (tmp_path / "a.svg").read_text()


def test_lines_of_an_ablation_are_means_of_the_variants_they_name(rows: list[Path]) -> None:
    marks = marks_of(rows, ABLATION)
    assert set(marks["panel"]) == {
        "1: explained_variance",
        "2: mean_decoder_cosine",
        "3: absorption_fraction",
        "4: composition_rate",
    }
    panel = marks[marks["panel"] == "2: mean_decoder_cosine"]
    for label, line in ABLATION["lines"].items():
        points = panel[panel["label"] == label].set_index("x")
        assert list(points["variant"]) == [line[k] for k in planted.CHUNKS]
        for k in planted.CHUNKS:
            expected = planted.mean("mean_decoder_cosine", line[k], 32)
            assert points.loc[k, "y"] == pytest.approx(expected)
            half = points.loc[k, "y_high"] - points.loc[k, "y"]
            assert half == pytest.approx(half_width(expected))
    level = panel[(panel["kind"] == "level") & (panel["variant"] == "matryoshka")].iloc[0]
    assert level["y"] == pytest.approx(0.17) and pd.isna(level["x"])
    assert level["y_low"] == pytest.approx(0.17 - half_width(0.17))
    assert panel[panel["kind"] == "reference"]["y"].iloc[0] == pytest.approx(0.089)


def test_variants_and_metrics_of_a_figure_are_all_that_its_keys_name() -> None:
    ablation = parse_figure(ABLATION)
    named = {*planted.EVERY_STEP.values(), *planted.EVERY_5TH.values(), "batchtopk", "matryoshka"}
    assert set(ablation.variants) == named and len(ablation.variants) == len(named)  # type: ignore[union-attr]
    assert parse_figure(BARS).variants == ("ortsae",)  # type: ignore[union-attr]
    measures = {
        kind: {measure_of_grid(metric) for metric in shown.metrics}  # type: ignore[union-attr]
        for kind, shown in (
            ("ablation", ablation),
            ("paired", parse_figure(PAIRED)),
            ("bars", parse_figure(BARS)),
            ("metrics", parse_table(TABLE)),
        )
    }
    assert measures == {
        "ablation": {"core", "absorption", "composition"},
        "paired": {"clustering"},
        "bars": {"uniqueness"},
        "metrics": {"core", "scr"},
    }


def test_a_variant_may_lie_on_two_lines(rows: list[Path]) -> None:
    lines = {"chunks": {4: "ortsae_k4", 8: "ortsae"}, "other": {8: "ortsae", 16: "ortsae_k16"}}
    marks = marks_of(rows, ABLATION | {"lines": lines, "panels": ABLATION["panels"][:1]})
    shared = marks[marks["variant"] == "ortsae"]
    assert list(shared["label"]) == ["chunks", "other"]
    assert shared["y"].nunique() == 1


def test_lines_and_levels_have_looks_of_their_own() -> None:
    on_lines = {"a": ("ortsae_k4", "ortsae"), "b": ("ortsae", "x"), "c": ("batchtopk", "y")}
    looks = looks_of_lines(on_lines, beside=["batchtopk"])
    fixed = looks_of(("ortsae", "batchtopk"))
    assert looks["a"] == fixed["ortsae"]
    assert len({look.color for look in (*looks.values(), fixed["batchtopk"])}) == 4


@pytest.mark.parametrize("scale", ["log", "linear"])
def test_ticks_of_an_ablation_stand_at_its_numbers_where_these_have_room(
    scale: str, rows: list[Path]
) -> None:
    line = {"line": dict(zip((4, 4.1, 16, 32), planted.EVERY_STEP.values(), strict=False))}
    with house_style():
        section = ABLATION | {"lines": line, "x_scale": scale, "panels": ABLATION["panels"][:1]}
        [axes] = drawing_of(rows, section).axes
    at = [float(tick) for tick in axes.get_xticks()]
    assert (at == [4, 16, 32]) == (scale == "log")


def test_paired_points_are_means_of_both_metrics_at_a_level(rows: list[Path]) -> None:
    marks = marks_of(rows, PAIRED | {"x_scale": "linear"})
    points = marks[marks["variant"] == "matryoshka"].set_index("kind")
    assert list(points.index) == [f"{level:g}" for level in planted.LEVELS]
    point = points.loc["0.002"]
    assert point["x"] == pytest.approx(0.002)
    assert point["x_high"] == pytest.approx(0.002 + half_width(0.002))
    assert point["y"] == pytest.approx(0.17 * (0.4 + 0.2 * 3))
    assert point["y_high"] == pytest.approx(point["y"] + 5 * half_width(point["y"]))


def test_levels_that_lack_a_seed_are_left_out_and_said(rows: list[Path]) -> None:
    marks = marks_of(rows, PAIRED)
    assert len(marks[marks["variant"] == "relu"]) == len(planted.LEVELS) - 1
    [said] = notes_in(marks)
    assert said == "Not drawn, as not every seed has a value: 1 of 7 levels of ReLU."
    caption = caption_of(parse_figure(PAIRED), Context(**planted.context()), notes=[said])
    assert said in caption and "L0 target 32." in caption
    assert not notes_in(marks_of(rows, PAIRED | {"variants": ["ortsae"]}))


def test_on_log_axes_means_are_geometric_and_zero_has_no_place(rows: list[Path]) -> None:
    assert mean_on("log", [1.0, 100.0]).mean == pytest.approx(10)  # type: ignore[union-attr]
    assert mean_on("linear", [1.0, 100.0]).mean == pytest.approx(50.5)  # type: ignore[union-attr]
    table = pd.read_parquet(rows[0])
    zero = (table["metric"] == "clustering_coefficient@0.02") & (table["variant"] == "ortsae")
    table.loc[zero & (table["seed"] == 1), "value"] = 0.0
    section = PAIRED | {"y_scale": "log", "variants": ["ortsae"]}
    settings, context = parse_figure(section), Context(**planted.context())
    kept = read_rows(rows, settings, context)  # type: ignore[arg-type]
    changed = kept.assign(value=table.loc[kept.index, "value"])
    marks = paired_marks(changed, settings, context)  # type: ignore[arg-type]
    assert list(notes_in(marks)) == [
        "Not drawn, as a log axis has no place for it: 1 of 7 levels of ortsae."
    ]
    assert "Mean (geometric on log axes) with 95%" in caption_of(settings, context)


def test_bars_are_of_their_own_variant_and_metric(rows: list[Path]) -> None:
    marks = marks_of(rows, BARS)
    assert list(marks["kind"]) == ["unique_share@0.2", "baseline_unique_share@0.2"]
    assert marks["x"].tolist() == pytest.approx([0.088, 0.015])
    assert marks["x_high"].tolist() == pytest.approx([x + half_width(x) for x in (0.088, 0.015)])
    looks = looks_of(("ortsae", "batchtopk"))
    with house_style():
        [axes] = drawing_of(rows, BARS).axes
    colors = [bar.get_facecolor() for bar in axes.patches]
    assert len(colors) == 2 and colors[0] != colors[1]
    assert [bar.get_hatch() or "" for bar in axes.patches] == [
        looks["ortsae"].hatch,
        looks["batchtopk"].hatch,
    ]


def test_a_table_of_metrics_marks_the_best_of_each_column(rows: list[Path], tmp_path: Path) -> None:
    write_table(TABLE, rows, planted.context(), tmp_path / "t")
    cells = pd.read_parquet(tmp_path / "t.parquet")
    own = cells[cells["block"].str.startswith("this run")].set_index(["row", "column"])
    cell = own.loc[("Matryoshka", "SCR")]
    assert cell["mean"] == pytest.approx(0.385)
    assert cell["text"] == f"0.39 ± {half_width(0.385):.2f}"
    # The intervals of BatchTopK's and OrtSAE's explained variance overlap.
    assert list(own.index[own["best"]]) == [("Matryoshka", "SCR")]
    assert list(cells[cells["block"] == "paper, Gemma-2-2B"]["text"]) == [
        "0.784",
        "0.144",
        "0.836",
        "0.322",
    ]
    text = (tmp_path / "t.md").read_text()
    assert "Bold: the best of its column" in text and "L0 target 32." in text
    unmarked = parse_table(TABLE | {"columns": [{"metric": "scr@20", "label": "SCR"}]})
    assert "Bold" not in caption_of(unmarked, Context(**planted.context()))


def test_what_is_missing_is_named(rows: list[Path], tmp_path: Path) -> None:
    out, context = tmp_path / "never", planted.context()
    absent = [{"metric": "l0", "y_label": ""}]
    with pytest.raises(FigureError, match="'l0' of variant 'ortsae_k4' at L0 32"):
        draw_figure(ABLATION | {"panels": absent}, rows, [], context, out)
    with pytest.raises(FigureError, match="levels of metric 'edge_cosine' of variant 'relu'"):
        draw_figure(PAIRED | {"x": "edge_cosine"}, rows, [], context, out)
    with pytest.raises(FigureError, match=r"'edge_density' .* seeds \[7\]"):
        draw_figure(PAIRED, rows, [], context | {"seeds": (0, 7)}, out)
    with pytest.raises(FigureError, match="nothing to draw: 'scr' against 'edge_density'"):
        draw_figure(PAIRED | {"y": "scr"}, rows, [], context, out)
    bars = [{"label": "", "bars": [BARS["panels"][0]["bars"][0] | {"variant": "batchtopk"}]}]
    with pytest.raises(FigureError, match=r"'unique_share@0\.2' of variant 'batchtopk'"):
        draw_figure(BARS | {"panels": bars}, rows, [], context, out)
    columns = [{"metric": "l0", "label": "L0"}]
    with pytest.raises(FigureError, match="'l0' of variant 'relu'"):
        write_table(TABLE | {"columns": columns}, rows, context, out)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("section", "named"),
    [
        (ABLATION | {"lines": {"gamma": {0: "batchtopk", 1: "ortsae"}}}, "0 has no place"),
        (ABLATION | {"lines": {}}, "lines"),
        (ABLATION | {"lines": {"empty": {}}}, "lines"),
        (ABLATION | {"levels": ["relu", "relu"]}, "twice"),
        (ABLATION | {"panels": 5 * ABLATION["panels"][:1]}, "panels"),
        (PAIRED | {"x": "edge_density@0.01"}, "is of one level"),
        (BARS | {"panels": []}, "panels"),
        (TABLE | {"columns": 2 * TABLE["columns"]}, "label twice"),
    ],
)
def test_wrong_settings_are_refused(section: dict[str, Any], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        (parse_table if section["kind"] == "metrics" else parse_figure)(section)


LONG = {
    name: f"{label} of a kind that has a very long name" for name, label in planted.LABELS.items()
}


@pytest.mark.parametrize("seeds", [(0, 1, 2), (1,)], ids=["seeds", "one seed"])
@pytest.mark.parametrize("labels", [planted.LABELS, LONG], ids=["short", "long"])
@pytest.mark.parametrize(
    "section",
    [
        *(ABLATION | {"panels": ABLATION["panels"][:count]} for count in (1, 2, 3, 4)),
        PAIRED | {"y_scale": "log"},
        BARS,
        FOUR_BARS,
    ],
    ids=["one panel", "two", "three", "four", "paired", "bars", "four bars"],
)
def test_no_text_leaves_the_figure_or_covers_other_text(
    section: dict[str, Any], labels: dict[str, str], seeds: tuple[int, ...], rows: list[Path]
) -> None:
    changes = {"labels": labels, "seeds": seeds}
    with house_style():
        figure = drawing_of(rows, section, **changes)
        context = Context(**planted.context(**changes))
        footer(figure, footer_parts(parse_figure(section), context))
        _check_text(figure)
