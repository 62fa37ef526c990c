from __future__ import annotations

from pathlib import Path
from typing import Any

import figures_planted as planted
import numpy as np
import pandas as pd
import pytest

from saeflow.evaluation.rows import Row, make_row, write_rows
from saeflow.figures.captions import caption_of
from saeflow.figures.draw import draw_figure
from saeflow.figures.drawn import notes_in
from saeflow.figures.origin import footer_parts
from saeflow.figures.rows import FigureError, read_rows
from saeflow.figures.scaling import scaling_marks
from saeflow.figures.settings import Context, parse_figure

SIZES = (512, 1024, 2048)
SCALING: dict[str, Any] = {
    "title": "A title",
    "source": "after OrtSAE Sec. 3.2",
    "statement": "What the paper says.",
    "caption": "What is shown.",
    "grid": "main",
    "kind": "scaling",
    "timing": "widths",
    "variants": ["ortsae", "matryoshka"],
    "baseline": "batchtopk",
    "y_label": "Penalty, s a step",
}
POWERS = {"ortsae": 1, "matryoshka": 2}


def plant(folder: Path, rounds: int = 3) -> Path:
    """Write steps that cost the baseline a share of d_sae, and others a power of it on top.

    All take twice as long in every second round.
    """
    rows = []
    for d_sae in SIZES:
        for variant in ("batchtopk", *POWERS):
            for number in range(rounds):
                power = POWERS.get(variant)
                extra = 0 if power is None else 0.01 * (d_sae / SIZES[0]) ** power
                value = (0.02 * d_sae / SIZES[0] + extra) * (1 + number % 2)
                point = planted.point(variant, 32)._replace(d_sae=d_sae)
                rows.append(
                    make_row(
                        point, split="train", seed=number, metric="step_seconds", value=value, n=3
                    )
                )
    path = folder / "timing.parquet"
    write_rows(path, rows)
    return path


def rewrite(path: Path, rows: pd.DataFrame) -> None:
    write_rows(path, [Row(**row) for row in rows.to_dict("records")])


def marks_of(path: Path, **changes: Any) -> pd.DataFrame:
    settings, context = parse_figure(SCALING | changes), Context(**planted.context())
    return scaling_marks(read_rows([path], settings, context), settings, context)


def test_the_extra_cost_and_its_exponent_are_those_planted(tmp_path: Path) -> None:
    marks = marks_of(plant(tmp_path), factor=1000)
    points = marks[marks["kind"] == "point"].set_index(["variant", "x"])
    mean = 2 ** (1 / 3)  # geometric, one round of three takes twice as long
    for variant, power in POWERS.items():
        for d_sae in SIZES:
            cost = 10 * (d_sae / SIZES[0]) ** power
            assert points.loc[(variant, d_sae), "y"] == pytest.approx(cost * mean)
    fitted = marks[marks["kind"] == "exponent"].set_index("variant")
    assert list(fitted["y"]) == pytest.approx([1, 2])
    assert list(fitted["y_high"] - fitted["y_low"]) == pytest.approx([0, 0], abs=1e-9)
    guide = marks[marks["kind"] == "guide"]
    assert list(guide["y"]) == pytest.approx([10 * mean, 40 * mean])
    assert "OrtSAE 1.00 [1.00, 1.00]; Matryoshka 2.00 [2.00, 2.00]" in notes_in(marks)[0]


def test_without_a_baseline_steps_are_whole(tmp_path: Path) -> None:
    marks = marks_of(plant(tmp_path, rounds=1), baseline=None, variants=["batchtopk", "ortsae"])
    first = marks[(marks["kind"] == "point") & (marks["x"] == SIZES[0])]
    assert list(first["y"]) == pytest.approx([0.02, 0.03])
    assert first["y_low"].isna().all()
    assert notes_in(marks)[0].endswith("BatchTopK 1.00; OrtSAE 1.00.")


def test_sizes_without_a_cost_are_left_out_and_said(tmp_path: Path) -> None:
    path = plant(tmp_path)
    rows = pd.read_parquet(path)
    slow = (rows["variant"] == "batchtopk") & (rows["d_sae"] == 512) & (rows["seed"] == 1)
    rows.loc[slow, "value"] = 9.0
    rewrite(path, rows)
    marks = marks_of(path)
    points = marks[marks["kind"] == "point"]
    assert set(points["x"]) == {1024, 2048}
    assert "Not drawn: OrtSAE at 512, where no cost could be told." in notes_in(marks)
    rows["value"] = np.where(rows["variant"] == "batchtopk", 9.0, rows["value"])
    rewrite(path, rows)
    with pytest.raises(FigureError, match=r"nothing to draw: at no size .*'batchtopk'"):
        marks_of(path)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    path = plant(tmp_path)
    rows = pd.read_parquet(path)
    with pytest.raises(FigureError, match=r"of 'relu' at two dictionary sizes"):
        marks_of(path, variants=["relu"])
    lost = (rows["variant"] == "ortsae") & (rows["d_sae"] == 1024) & (rows["seed"] == 2)
    rewrite(path, rows[~lost])
    with pytest.raises(FigureError, match=r"rounds of 'step_seconds' of 'ortsae' at d_sae 1024"):
        marks_of(path)
    rewrite(path, rows[(rows["variant"] != "batchtopk") | (rows["seed"] < 2)])
    with pytest.raises(FigureError, match="'ortsae' and 'batchtopk' were not timed at the same"):
        marks_of(path)
    with pytest.raises(ValueError, match="less itself is nothing"):
        parse_figure(SCALING | {"baseline": "ortsae"})


def test_it_is_drawn_and_says_what_it_averages(tmp_path: Path) -> None:
    draw_figure(SCALING, [plant(tmp_path)], [], planted.context(), tmp_path / "cost")
    picture = (tmp_path / "cost.svg").read_text()
    assert "1,024" in picture and "in proportion to the size" in picture
    settings, context = parse_figure(SCALING), Context(**planted.context())
    footer = footer_parts(settings, context)
    assert "geometric mean and 95% t-interval over rounds" in footer
    assert not any("d_sae" in part or "training tokens" in part for part in footer)
    assert "over rounds. L0 target 32." in caption_of(settings, context)
