from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import sweeps_planted as planted
from pydantic import ValidationError

from saeflow.figures.rows import FigureError
from saeflow.figures.settings import parse_table
from saeflow.figures.tables_folders import write_table_from_folders

DESCRIBED = {
    "title": "A title",
    "source": "after SSAE Table 1",
    "statement": "What the paper says.",
    "caption": "What is shown.",
}
METHODS: dict[str, Any] = DESCRIBED | {
    "kind": "methods",
    "columns": [
        {"metric": "worst_group_accuracy", "label": "Worst ↑", "best": "max"},
        {"metric": "gender_accuracy", "label": "Gen. ↓", "best": "min"},
    ],
    "groups": [
        {"label": "baselines", "methods": {"original": "Original", "cbp": "CBP"}},
        {"label": "SHIFT", "methods": {"gsae_shift": "GSAE SHIFT", "ssae_shift": "SSAE SHIFT"}},
        {"label": "skyline", "methods": {"oracle": "Oracle"}},
    ],
    "published": {
        "label": "paper",
        "columns": ["Worst ↑"],
        "decimals": [1],
        "rows": {"GSAE SHIFT": [76.0], "SSAE SHIFT": [88.5], "Oracle": [91.9]},
    },
}
LATENTS: dict[str, Any] = DESCRIBED | {
    "kind": "latents",
    "sweep": "gsae",
    "tested": "docs",
    "series": ["gsae"],
    "published": [{"label": "paper", "rows": {"h.7_feature3": ["stories | morals", 71]}}],
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> planted.Folders:
    root = tmp_path_factory.mktemp("planted")
    return {**planted.plant_debias(root), **planted.plant_scores(root)}


def methods(folders: Any, tmp_path: Path, section: Any = METHODS, **changes: Any) -> pd.DataFrame:
    context = planted.debias_context(**changes)
    write_table_from_folders(section, folders, context, tmp_path / "t")
    return pd.read_parquet(tmp_path / "t.parquet")


def latents(folders: Any, tmp_path: Path, section: Any = LATENTS, **changes: Any) -> pd.DataFrame:
    write_table_from_folders(section, folders, planted.context(**changes), tmp_path / "t")
    return pd.read_parquet(tmp_path / "t.parquet")


def test_methods_are_means_in_percent_beside_the_papers(
    folders: planted.Folders, tmp_path: Path
) -> None:
    cells = methods(folders, tmp_path).set_index(["row", "column"])
    rows = pd.concat(pd.read_parquet(f / "debias.parquet") for f in folders["debias"].values())
    rows = rows[(rows["variant"] == "cbp") & (rows["metric"] == "worst_group_accuracy")]
    cell = cells.loc["CBP", "Worst ↑"]
    assert cell["mean"] == pytest.approx(100 * rows["value"].mean()) and cell["n"] == 3
    assert cells.loc["SSAE SHIFT", "paper: Worst ↑"]["text"] == "88.5"
    assert cells.loc["CBP", "paper: Worst ↑"]["text"] == "–"
    names = [label for group in METHODS["groups"] for label in group["methods"].values()]
    assert list(dict.fromkeys(cells.index.get_level_values("row"))) == names


def test_the_best_of_each_category_is_marked(folders: planted.Folders, tmp_path: Path) -> None:
    best = methods(folders, tmp_path).query("best")
    assert {(r, c) for r, c in zip(best["row"], best["column"], strict=True)} == {
        ("CBP", "Worst ↑"),
        ("CBP", "Gen. ↓"),
        ("SSAE SHIFT", "Worst ↑"),
        ("SSAE SHIFT", "Gen. ↓"),
        ("SSAE SHIFT", "paper: Worst ↑"),
    }
    text = (tmp_path / "t.md").read_text()
    assert "Bold: the best mean of its category (baselines; SHIFT; skyline)." in text
    assert "| **88.5** |" in text and r"\textbf{88.5}" in (tmp_path / "t.tex").read_text()


def test_missing_methods_and_seeds_are_named(folders: planted.Folders, tmp_path: Path) -> None:
    group = {"label": "more", "methods": {"prayer": "Prayer"}}
    with pytest.raises(FigureError, match=r"seeds \[0, 1, 2\] .* of method 'prayer'"):
        methods(folders, tmp_path, METHODS | {"groups": [group], "published": None})
    with pytest.raises(FigureError, match="folders of measure 'debias' of 9"):
        methods(folders, tmp_path, seeds=(0, 9))
    one = folders["debias"]["0"]
    with pytest.raises(FigureError, match=r"seeds \[1\] of metric 'worst_group_accuracy'"):
        copies = {"0": one, "1": folders["debias"]["2"]}
        methods({"debias": copies}, tmp_path, seeds=(0, 1))


def test_latents_are_drawn_by_seed_and_not_by_looks(
    folders: planted.Folders, tmp_path: Path
) -> None:
    here = "block.str.startswith('this run')"
    own = latents(folders, tmp_path).query(here)
    chosen = list(dict.fromkeys(own["row"]))
    scores = pd.read_parquet(folders["explained"]["gsae"] / "scores.parquet")
    scored = scores[(scores["seed"] == 0) & (scores["status"] == "ok")].set_index("latent")
    numbers = [int(name.removeprefix("latent ")) for name in chosen]
    assert len(numbers) == 4 and numbers == sorted(numbers) and set(numbers) <= set(scored.index)
    again = latents(folders, tmp_path).query(here)
    assert list(dict.fromkeys(again["row"])) == chosen
    other = latents(folders, tmp_path, LATENTS | {"sampling_seed": 1}).query(here)
    assert list(dict.fromkeys(other["row"])) != chosen
    diversity = own[own["column"] == "Diversity"]["mean"]
    assert list(diversity) == pytest.approx(list(scored.loc[numbers, "diversity"]))


def test_words_are_escaped_and_stand_on_the_left(folders: planted.Folders, tmp_path: Path) -> None:
    latents(folders, tmp_path)
    text = (tmp_path / "t.md").read_text()
    assert r"the &lt;&lt;momentum>> of a body / its &lt;&lt;spin>> \| state / a" in text
    assert "|---|---|---|---|---:|---:|" in text
    assert "judge: lexical" in text and "latents drawn at random" in text
    judge = "Latents explained and scored by: lexical, which explains by tokens."
    assert judge in text and judge in (tmp_path / "t.tex").read_text()
    assert r"| h.7\_feature3 | stories \| morals | 71 |" in text
    assert r"p{0.3\linewidth}" in (tmp_path / "t.tex").read_text()


def test_too_few_scored_latents_are_said(folders: planted.Folders, tmp_path: Path) -> None:
    with pytest.raises(FigureError, match=r"57 latents of series 'gsae', seed 0, .* asks for 60"):
        latents(folders, tmp_path, LATENTS | {"rows": 60})
    with pytest.raises(FigureError, match="0 latents of series 'gsae', seed 5"):
        latents(folders, tmp_path, seeds=(5,))
    with pytest.raises(FigureError, match="needs other inputs"):
        methods(folders, tmp_path, LATENTS)


@pytest.mark.parametrize(
    ("section", "named"),
    [
        (METHODS | {"groups": METHODS["groups"][:1] * 2, "published": None}, "twice"),
        (METHODS | {"groups": METHODS["groups"][:1]}, "are not rows of the table"),
        (METHODS | {"groups": []}, "groups"),
        (LATENTS | {"rows": 0}, "rows"),
    ],
)
def test_wrong_settings_are_refused(section: dict[str, Any], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        parse_table(section)
