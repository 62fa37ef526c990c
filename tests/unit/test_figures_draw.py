from __future__ import annotations

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import figures_planted as planted
import numpy as np
import pandas as pd
import pytest
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text
from pydantic import ValidationError

from saeflow.artifacts import ArtifactError
from saeflow.evaluation.rows import Row, write_rows
from saeflow.figures.bars_and_density import (
    bar_and_density_marks,
    density,
    draw_bars_and_density,
)
from saeflow.figures.captions import caption_of
from saeflow.figures.curves import curve_points, draw_curve
from saeflow.figures.draw import draw_figure
from saeflow.figures.drawn import notes_in
from saeflow.figures.frame import footer
from saeflow.figures.origin import footer_parts, short_count
from saeflow.figures.rows import FigureError, read_latents, read_rows
from saeflow.figures.settings import Context, Density, parse_figure
from saeflow.figures.style import house_style, looks_of
from saeflow.figures.text import width_in_inches, wrap

SHOWN = {
    "title": "A title",
    "source": "after OrtSAE Fig. 3",
    "statement": "What the paper says.",
    "caption": "What is shown.",
    "grid": "main",
}
CURVE: dict[str, Any] = SHOWN | {
    "kind": "curve",
    "variants": ["relu", "batchtopk", "ortsae"],
    "metric": "mean_decoder_cosine",
    "y_label": "Mean decoder cosine",
    "x_scale": "log",
    "reference": {"metric": "mean_decoder_cosine_random", "label": "random vectors"},
}
BARS: dict[str, Any] = SHOWN | {
    "kind": "bars_and_density",
    "variants": ["relu", "batchtopk", "ortsae"],
    "panels": [
        {"metric": "explained_variance", "label": "Explained variance"},
        {"metric": "ce_loss_score", "label": "CE loss score"},
    ],
    "density": {
        "column": "max_decoder_cosine",
        "label": "Largest cosine to another decoder vector",
        "low": -0.25,
        "high": 1.0,
        "bandwidth": 0.02,
        "reference": {"metric": "mean_decoder_cosine_random", "label": "random vectors"},
    },
    "not_measured": ["absorption rate"],
}
ENDINGS = ("svg", "png", "pdf", "parquet", "csv")


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return planted.plant_rows(tmp_path_factory.mktemp("rows"))


@pytest.fixture(scope="module")
def latents(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return planted.plant_latents(tmp_path_factory.mktemp("latents"))


def points_of(rows: list[Path], section: dict[str, Any], **changes: Any) -> pd.DataFrame:
    settings, context = parse_figure(section), Context(**planted.context(**changes))
    return curve_points(read_rows(rows, settings, context), settings, context)  # type: ignore[arg-type]


def test_every_file_is_written_and_the_data_is_what_was_drawn(
    rows: list[Path], tmp_path: Path
) -> None:
    draw_figure(CURVE, rows, [], planted.context(), tmp_path / "a.b")
    assert {p.name for p in tmp_path.iterdir()} == {f"a.b.{ending}" for ending in ENDINGS}
    parquet = pd.read_parquet(tmp_path / "a.b.parquet")
    csv = pd.read_csv(tmp_path / "a.b.csv").astype(parquet.dtypes)
    pd.testing.assert_frame_equal(parquet, csv)
    assert len(parquet) == 3 * len(planted.L0S) + 1


def test_the_judge_of_detection_is_named(rows: list[Path], tmp_path: Path) -> None:
    raw = pd.concat([pd.read_parquet(p) for p in rows])
    told = raw[raw["metric"] == "explained_variance"].assign(metric="detection_accuracy")
    write_rows(tmp_path / "detection.parquet", [Row(**one) for one in told.to_dict("records")])
    said = {"judge": ["lexical"], "judge_definition": ["lexical, which counts"]}
    pd.DataFrame(said).to_parquet(tmp_path / "detection_details.parquet")
    curve = CURVE | {"metric": "detection_accuracy", "reference": None}
    files = [*rows, tmp_path / "detection.parquet"]
    draw_figure(curve, files, [], planted.context(), tmp_path / "a")
    assert "judge: lexical" in (tmp_path / "a.svg").read_text().replace("\u00a0", " ")
    notes = notes_in(pd.read_parquet(tmp_path / "a.parquet"))
    assert notes == ("Latents explained and scored by: lexical, which counts.",)


def test_points_are_means_and_intervals_over_seeds(rows: list[Path]) -> None:
    points = points_of(rows, CURVE)
    raw = pd.concat([pd.read_parquet(p) for p in rows])
    raw = raw[(raw["variant"] == "ortsae") & (raw["l0_target"] == 16)]
    cosine = raw[raw["metric"] == "mean_decoder_cosine"]["value"]
    l0 = raw[raw["metric"] == "l0"]["value"]
    point = points[(points["variant"] == "ortsae") & (points["l0_target"] == 16)].iloc[0]
    half = 4.302652729696142 * cosine.std() / np.sqrt(3)
    assert point["y"] == pytest.approx(cosine.mean())
    assert point["y_high"] - point["y"] == pytest.approx(half)
    assert point["x"] == pytest.approx(l0.mean())
    assert point["n"] == 3
    random = points[points["variant"].isna()].iloc[0]
    assert random["y"] == pytest.approx(0.262, abs=1e-3)


def test_one_seed_has_no_interval_and_says_so(tmp_path: Path) -> None:
    rows = planted.plant_rows(tmp_path / "rows", seeds=(4,))
    points = points_of(rows, CURVE, seeds=(4,))
    assert points[["x_low", "x_high", "y_low", "y_high"]].isna().all().all()
    draw_figure(CURVE, rows, [], planted.context(seeds=(4,)), tmp_path / "one")
    assert "no interval" in (tmp_path / "one.svg").read_text().replace("\u00a0", " ")


def test_same_input_gives_the_same_bytes_in_another_process(
    rows: list[Path], latents: list[Path], tmp_path: Path
) -> None:
    draw_figure(BARS, rows, latents, planted.context(), tmp_path / "here")
    code = (
        "import json\n"
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1])\n"
        "import figures_planted as planted\n"
        "from saeflow.figures.draw import draw_figure\n"
        "section, rows, latents = json.loads(sys.argv[2])\n"
        "paths = [Path(p) for p in rows], [Path(p) for p in latents]\n"
        "draw_figure(section, *paths, planted.context(), Path(sys.argv[3]))\n"
        "assert 'torch' not in sys.modules, 'figures must not import torch'\n"
    )
    given = json.dumps([BARS, [str(p) for p in rows], [str(p) for p in latents]])
    here = str(Path(__file__).parent)
    command = [sys.executable, "-c", code, here, given, str(tmp_path / "there")]
    subprocess.run(command, check=True)
    for ending in ENDINGS:
        one, other = tmp_path / f"here.{ending}", tmp_path / f"there.{ending}"
        assert one.read_bytes() == other.read_bytes(), ending


def test_what_is_missing_is_named(rows: list[Path], latents: list[Path], tmp_path: Path) -> None:
    kept = [p for p in rows if "ortsae/l0_16/" not in str(p)]
    out = tmp_path / "never"
    with pytest.raises(FigureError, match=r"'ortsae' at L0 16"):
        draw_figure(CURVE, kept, [], planted.context(), out)
    with pytest.raises(FigureError, match=r"'no_such_metric'"):
        draw_figure(CURVE | {"metric": "no_such_metric"}, rows, [], planted.context(), out)
    with pytest.raises(FigureError, match=r"seeds \[9\].*'relu'"):
        draw_figure(CURVE, rows, [], planted.context(seeds=(0, 1, 9)), out)
    with pytest.raises(FigureError, match="l0 \\[7\\] is not in the grid"):
        draw_figure(CURVE | {"l0": [7]}, rows, [], planted.context(), out)
    with pytest.raises(FigureError, match="split 'validation'"):
        draw_figure(CURVE | {"split": "validation"}, rows, [], planted.context(), out)
    with pytest.raises(FigureError, match="site"):
        draw_figure(CURVE, rows, [], planted.context(site="gpt_neox.layers.4"), out)
    with pytest.raises(FigureError, match="per-latent 'max_decoder_cosine' of variant 'ortsae'"):
        draw_figure(BARS, rows, latents[:-1], planted.context(), out)
    with pytest.raises(FigureError, match="label"):
        draw_figure(CURVE, rows, [], planted.context(labels={"relu": "ReLU"}), out)
    assert not list(tmp_path.iterdir())


def test_files_of_another_kind_are_refused(rows: list[Path], tmp_path: Path) -> None:
    other = tmp_path / "other.parquet"
    pd.DataFrame({"a": [1]}).to_parquet(other)
    with pytest.raises(ArtifactError, match=r"other\.parquet"):
        draw_figure(CURVE, [other], [], planted.context(), tmp_path / "x")
    with pytest.raises(FigureError, match=r"other\.parquet lacks"):
        draw_figure(BARS, rows, [other], planted.context(), tmp_path / "x")


@pytest.mark.parametrize(
    ("section", "named"),
    [
        (CURVE | {"colour": "red"}, "colour"),
        (CURVE | {"kind": "pie"}, "kind"),
        (CURVE | {"variants": ["relu", "relu"]}, "twice"),
        (CURVE | {"variants": []}, "variants"),
        (BARS | {"density": BARS["density"] | {"low": 2.0}}, "below high"),
    ],
)
def test_wrong_settings_are_refused(section: dict[str, Any], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        parse_figure(section)


def test_settings_survive_a_trip_through_plain_values() -> None:
    for section in (CURVE, BARS):
        settings = parse_figure(section)
        assert parse_figure(settings.model_dump(mode="json")) == settings


def test_density_is_the_gaussian_kernel_estimate() -> None:
    shape = Density(column="firing_rate", label="", low=0, high=1, bandwidth=0.05)
    value = 0.5 + 1 / 1024  # the centre of a bin
    x, y = density([np.array([value])], shape)
    exact = np.exp(-(((x - value) / 0.05) ** 2) / 2) / (0.05 * np.sqrt(2 * np.pi))
    assert np.abs(y - exact).max() < 0.01 * exact.max()


def test_density_integrates_to_one_at_the_edge_too() -> None:
    shape = Density(column="firing_rate", label="", low=0, high=1, bandwidth=0.05)
    at_edge = np.ones(10), np.linspace(0, 1, 7)
    x, y = density(list(at_edge), shape)
    assert y.sum() * (x[1] - x[0]) == pytest.approx(1)


def test_values_beyond_the_axis_are_an_error_but_rounding_is_not() -> None:
    shape = Density(column="firing_rate", label="", low=0, high=1, bandwidth=0.05)
    density([np.array([1.000001])], shape)
    with pytest.raises(FigureError, match="1 values of 'firing_rate'"):
        density([np.array([0.5, 1.2])], shape)


LONG = {
    "subject": "an-organisation/a-language-model-with-a-very-long-name-7b-base-v0.3",
    "site": "model.language_model.layers.12.post_attention_layernorm.and_more_of_it",
    "corpus": "the_documentation_of_many_python_libraries",
    "labels": planted.VARIANTS
    | {"ortsae": "OrtSAE with the orthogonality penalty at every 5th step, K = 64 chunks"},
}


@pytest.mark.parametrize("changes", [{}, LONG], ids=["short", "long"])
def test_no_text_leaves_the_figure_or_covers_other_text(
    changes: dict[str, Any], latents: list[Path], tmp_path: Path
) -> None:
    context = Context(**planted.context(**changes))
    paths = []
    for variant in ("relu", "batchtopk", "ortsae"):
        for l0 in planted.L0S:
            place = {"subject": context.subject, "site": context.site, "corpus": context.corpus}
            rows = [row._replace(**place) for row in planted.rows_of(variant, l0)]
            write_rows(tmp_path / f"{variant}{l0}.parquet", rows)
            paths.append(tmp_path / f"{variant}{l0}.parquet")
    curve, bars = parse_figure(CURVE), parse_figure(BARS)
    table = read_rows(paths, curve, context)
    per_latent = read_latents(latents, "max_decoder_cosine", "test")
    with house_style():
        points = curve_points(table, curve, context)  # type: ignore[arg-type]
        marks = bar_and_density_marks(table, per_latent, bars, context)  # type: ignore[arg-type]
        figures = [draw_curve(points, curve), draw_bars_and_density(marks, bars)]  # type: ignore[arg-type]
        for figure in figures:
            footer(figure, footer_parts(curve, context))
            _check_text(figure)


def _beyond(axis: Axis) -> list[Text]:
    """Labels of ticks outside the view, which exist but are not drawn."""
    low, high = sorted(axis.get_view_interval())
    ticks = [t for t in axis.get_major_ticks() if not low <= t.get_loc() <= high]
    return [label for t in ticks for label in (t.label1, t.label2)]


def _check_text(figure: Figure) -> None:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    hidden = {
        id(t) for axes in figure.axes for axis in (axes.xaxis, axes.yaxis) for t in _beyond(axis)
    }
    found = [t for t in figure.findobj(Text) if id(t) not in hidden]
    texts = [t for t in found if t.get_visible() and t.get_text().strip()]
    boxes = [(t.get_text(), t.get_window_extent()) for t in texts]
    width, height = canvas.get_width_height()
    for text, box in boxes:
        assert box.x0 > -2 and box.x1 < width + 2 and box.y0 > -2 and box.y1 < height + 2, text
    for number, (text, box) in enumerate(boxes):
        for other, other_box in boxes[number + 1 :]:
            overlap_x = min(box.x1, other_box.x1) - max(box.x0, other_box.x0)
            overlap_y = min(box.y1, other_box.y1) - max(box.y0, other_box.y0)
            assert min(overlap_x, overlap_y) < 1, (text, other)


def test_wrap_keeps_to_the_width_and_loses_nothing() -> None:
    text = "a " * 40 + "module.with.a.very.long.name_" * 4 + "x" * 120
    wrapped = wrap(text, 7, 1.5)
    assert all(width_in_inches(line, 7) <= 1.5 for line in wrapped.split("\n"))
    assert wrapped.replace("\n", "").replace(" ", "") == text.replace(" ", "")


def test_looks_differ_in_grey_and_stay_the_same_everywhere() -> None:
    names = ("batchtopk", "ortsae", "topk", "matryoshka", "relu")
    looks = looks_of(names)
    greys = [_lightness(looks[name].color) for name in names]
    assert all(b - a > 10 for a, b in pairwise(greys))
    for attribute in ("marker", "line", "hatch"):
        assert len({str(getattr(look, attribute)) for look in looks.values()}) == len(names)
    assert looks_of(("mine", "relu"))["relu"] == looks["relu"]
    with pytest.raises(ValueError, match="variants of your own"):
        looks_of(tuple("abcdefg"))


def _lightness(color: str) -> float:
    """CIE L*, from 0 (black) to 100 (white)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(color)]
    return float(116 * np.cbrt(np.dot(linear, (0.2126, 0.7152, 0.0722))) - 16)


def test_caption_says_what_is_not_drawn_and_how_many_seeds() -> None:
    context = Context(**planted.context())
    caption = caption_of(parse_figure(BARS), context)
    assert "Not measured, so not drawn: absorption rate." in caption
    assert "3 seeds" in caption
    assert "1,536" in caption
    assert "One seed, so no interval." in caption_of(
        parse_figure(CURVE), Context(**planted.context(seeds=(0,)))
    )


@pytest.mark.parametrize(
    ("count", "text"), [(7, "7"), (20_000, "20k"), (1_500_000, "1.5M"), (500_000_000, "500M")]
)
def test_short_counts(count: int, text: str) -> None:
    assert short_count(count) == text
