from __future__ import annotations

from pathlib import Path
from typing import Any

import figures_planted as planted
import numpy as np
import pandas as pd
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from saeflow.figures.rows import FigureError
from saeflow.figures.settings import parse_table
from saeflow.figures.tables import best_of, write_table
from saeflow.intervals import Interval

SHOWN = {
    "title": "A title",
    "source": "after OrtSAE Table 4",
    "statement": "What the paper says.",
    "caption": "What is shown.",
    "grid": "main",
}
PUBLISHED = {
    "label": "paper, Gemma-2-2B",
    "columns": ["L0 = 40", "L0 = 70"],
    "decimals": [4, 4],
    "rows": {"ReLU": [2.7657, None], "OrtSAE": [2.5646, 2.5319]},
}
SWEEP: dict[str, Any] = SHOWN | {
    "kind": "sweep",
    "variants": ["relu", "ortsae"],
    "metric": "ce_sae",
    "best": "min",
    "levels": {"model without SAE": "ce_clean"},
    "published": PUBLISHED,
}
RATIO: dict[str, Any] = SHOWN | {
    "kind": "ratio",
    "timing": "steps",
    "variants": ["batchtopk", "matryoshka"],
    "metric": "step_seconds",
    "unit": "s per 1,000 steps",
    "factor": 1000,
    "baseline": "batchtopk",
    "split": "train",
}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return planted.plant_rows(tmp_path_factory.mktemp("rows"))


def test_sweep_holds_means_intervals_and_the_papers_numbers(
    rows: list[Path], tmp_path: Path
) -> None:
    write_table(SWEEP, rows, planted.context(), tmp_path / "t")
    cells = pd.read_parquet(tmp_path / "t.parquet")
    csv = pd.read_csv(tmp_path / "t.csv").astype(cells.dtypes)
    pd.testing.assert_frame_equal(cells, csv)
    raw = pd.concat([pd.read_parquet(p) for p in rows])
    mine = (raw["variant"] == "relu") & (raw["l0_target"] == 16) & (raw["metric"] == "ce_sae")
    values = raw[mine]["value"]
    cell = cells[(cells["row"] == "ReLU") & (cells["column"] == "L0 = 16")].iloc[0]
    half = 4.302652729696142 * values.std() / np.sqrt(3)
    assert cell["mean"] == pytest.approx(values.mean())
    assert cell["high"] == pytest.approx(values.mean() + half)
    assert cell["text"] == f"{values.mean():.4f} ± {half:.4f}"
    paper = cells[cells["block"] == "paper, Gemma-2-2B"]
    assert list(paper["text"]) == ["2.7657", "–", "2.5646", "2.5319"]


def test_markdown_and_latex_show_both_blocks_and_the_level(
    rows: list[Path], tmp_path: Path
) -> None:
    write_table(SWEEP, rows, planted.context(), tmp_path / "t")
    markdown, latex = (tmp_path / "t.md").read_text(), (tmp_path / "t.tex").read_text()
    assert "| paper, Gemma-2-2B | L0 = 40 | L0 = 70 |" in markdown
    assert "Model without SAE: 2.4533." in markdown
    assert "**" in markdown and r"\textbf{" in latex
    assert r"\toprule" in latex and r"\bottomrule" in latex
    assert latex.count(r"\begin{tabular}") == latex.count(r"\end{tabular}") == 1
    assert r"gpt\_neox.layers.3" in latex and "±" not in latex
    body = [line for line in latex.splitlines() if line.endswith(r"\\") and "multi" not in line]
    assert {line.count("&") for line in body} <= {2, 4}


def test_ratio_pairs_the_rounds(tmp_path: Path) -> None:
    timing = planted.plant_timing(tmp_path)
    write_table(RATIO, [timing], planted.context(), tmp_path / "t")
    cells = pd.read_parquet(tmp_path / "t.parquet").set_index(["row", "column"])
    ratio = cells.loc[("Matryoshka", "ratio to BatchTopK")]
    cost = cells.loc[("Matryoshka", "s per 1,000 steps")]
    assert ratio["low"] < 1.16 < ratio["high"]
    # The machine's load, which rounds share, widens the cost but not the ratio.
    assert (ratio["high"] - ratio["low"]) / ratio["mean"] < 0.3 * (
        (cost["high"] - cost["low"]) / cost["mean"]
    )
    assert cells.loc[("BatchTopK", "ratio to BatchTopK")]["text"] == "1.00"


def test_best_needs_intervals_that_do_not_overlap() -> None:
    clear = {"a": Interval(1.0, 0.9, 1.1, 3), "b": Interval(2.0, 1.5, 2.5, 3)}
    unclear = clear | {"c": Interval(1.15, 1.05, 1.25, 3)}
    assert best_of(clear, "min") == "a"
    assert best_of(clear, "max") == "b"
    assert best_of(unclear, "min") is None
    assert best_of(unclear, "max") == "b"
    assert best_of(clear, None) is None
    alone = {"a": Interval(1.0, None, None, 1), "b": Interval(2.0, None, None, 1)}
    assert best_of(alone, "min") is None


def test_one_seed_prints_no_interval_and_marks_no_best(tmp_path: Path) -> None:
    rows = planted.plant_rows(tmp_path / "rows", seeds=(0,))
    write_table(SWEEP, rows, planted.context(seeds=(0,)), tmp_path / "t")
    text = (tmp_path / "t.md").read_text()
    assert "±" not in text and "**" not in text and "One seed, so no interval." in text


def test_what_is_missing_is_named(rows: list[Path], tmp_path: Path) -> None:
    kept = [p for p in rows if "ortsae/l0_8/" not in str(p)]
    with pytest.raises(FigureError, match="'ce_sae' of variant 'ortsae' at L0 8"):
        write_table(SWEEP, kept, planted.context(), tmp_path / "t")
    timing = planted.plant_timing(tmp_path)
    table = pq.read_table(timing)
    lost = pc.and_(pc.equal(table["variant"], "matryoshka"), pc.equal(table["seed"], 3))
    pq.write_table(table.filter(pc.invert(lost)), timing)
    with pytest.raises(FigureError, match=r"same rounds: \[3\]"):
        write_table(RATIO, [timing], planted.context(), tmp_path / "t")
    assert not list(tmp_path.glob("t.*"))


@pytest.mark.parametrize(
    ("section", "named"),
    [
        (SWEEP | {"best": "low"}, "best"),
        (RATIO | {"baseline": "relu"}, "baseline 'relu'"),
        (SWEEP | {"published": PUBLISHED | {"rows": {"ReLU": [1.0]}}}, "ReLU has 1 entries"),
    ],
)
def test_wrong_settings_are_refused(section: dict[str, Any], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        parse_table(section)
