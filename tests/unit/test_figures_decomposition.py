"""Figures and tables of latents that are sums of another SAE's."""

from __future__ import annotations

from pathlib import Path

import figures_planted as planted
import pandas as pd
import pytest
from decomposed_planted import FIGURE, TABLE, plant

from saeflow.figures.captions import caption_of
from saeflow.figures.decomposed import listed, visible
from saeflow.figures.draw import draw_figure
from saeflow.figures.drawn import notes_in
from saeflow.figures.rows import FigureError
from saeflow.figures.settings import parse_context, parse_figure
from saeflow.figures.tables import write_table
from saeflow.figures.text import drawable, trimmed, width_in_inches


def test_a_figure_shows_the_latent_its_parts_and_where_they_fire(tmp_path: Path) -> None:
    draw_figure(FIGURE, [plant(tmp_path / "m")], [], planted.context(), tmp_path / "fig")
    drawn = pd.read_parquet(tmp_path / "fig.parquet")
    members = drawn[drawn["kind"].isin(["latent", "part"])]
    assert list(members["label"]) == [
        "BatchTopK, latent 3", "OrtSAE, latent 8", "OrtSAE, latent 9",
    ]  # fmt: skip
    assert members["words"].iloc[1] == "Queen · QUEEN"
    assert list(members["coefficient"])[1:] == [0.81, 0.43]
    assert (
        "cosine to the sum 0.97; some part fires on 90% of its 40 tokens"
        in members["detail"].iloc[0]
    )
    assert "fires on 35% of the latent's tokens" in members["detail"].iloc[2]
    contexts = drawn[drawn["kind"] == "context"]
    assert list(contexts["member"]) == [0, 1, 1, 2]
    assert contexts["after"].iloc[0] == " of⏎Spain"
    picture = (tmp_path / "fig.svg").read_text()
    for said in ("≈ 0.81 ×", "+ 0.43 ×", "Princess of", "Y$o$rk", "seed\u00a00"):
        assert said in picture
    caption = caption_of(
        parse_figure(FIGURE), parse_context(planted.context()), notes=notes_in(drawn)
    )
    assert "Drawn at random: of 7 sums of 2 latents 5 have only latents that fire" in caption
    assert "One seed (0)." in caption and "L0 target 32." in caption


def test_an_example_without_a_sum_is_drawn_as_a_sentence(tmp_path: Path) -> None:
    draw_figure(
        FIGURE | {"example": 1}, [plant(tmp_path / "m")], [], planted.context(), tmp_path / "fig"
    )
    [note] = pd.read_parquet(tmp_path / "fig.parquet")["label"]
    assert note.startswith("No example: of 2 sums of 3 latents 0 have only latents that fire")
    assert "No example: of 2 sums" in (tmp_path / "fig.svg").read_text()


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    rows = [plant(tmp_path / "m")]
    for change, message in (
        ({"example": 4}, "example 4"),
        ({"split": "test", "variant": "matryoshka"}, "variant matryoshka"),
    ):
        with pytest.raises(FigureError, match=f"no decomposed latents of .*{message}"):
            draw_figure(FIGURE | change, rows, [], planted.context(), tmp_path / "fig")
    with pytest.raises(FigureError, match="seed 1"):
        draw_figure(FIGURE, rows, [], planted.context(seeds=(1, 0)), tmp_path / "fig")


def test_a_table_has_a_block_an_example_and_the_papers(tmp_path: Path) -> None:
    write_table(TABLE, [plant(tmp_path / "m")], planted.context(), tmp_path / "t")
    cells = pd.read_parquet(tmp_path / "t.parquet")
    by_row = cells[cells["row"] == "OrtSAE 9"].set_index("column")
    assert by_row.loc["Coefficient", "mean"] == 0.43
    assert by_row.loc["Stands for", "text"] == "Princess of · duke · lord"
    assert by_row.loc["Fires most in", "text"] == "and the <<Duke>> of Y$o$rk <b>|"
    latent = cells[cells["row"] == "BatchTopK 3"].set_index("column")
    assert latent.loc["Cosine", "text"] == "0.97" and latent.loc["Fires with it", "mean"] == 0.9
    assert cells[cells["row"] == "–"]["block"].iloc[0] == "this run, 2: none of 2 sums of 3 latents"
    papers = cells[cells["block"] == "paper, Gemma-2-2B"]
    assert list(papers["row"]) == ["latent", "part 1", "part 2"]
    assert list(papers["text"]) == ["Queen", "Queen token", "royal titles"]
    assert "Queen token" in (tmp_path / "t.md").read_text()
    assert r"Y\$o\$rk" in (tmp_path / "t.tex").read_text()


def test_words_are_printed_on_one_line_and_once() -> None:
    assert visible("a \n\n  b\tc") == "a⏎b c"
    assert listed([" a", "a", "\n", " "]) == "a · ⏎ · ␣"


def test_text_is_cut_to_a_width_and_to_known_characters() -> None:
    text = "a long line of text that is cut"
    assert trimmed(text, 6, 9) == text
    for at_start in (False, True):
        short = trimmed(text, 6, 0.6, at_start=at_start)
        assert short.startswith("…") == at_start and short.endswith("…") != at_start
        assert 0.5 < width_in_inches(short, 6) <= 0.6
        assert (text.endswith if at_start else text.startswith)(short.strip("…"))
    assert trimmed(text, 6, 0.001) == "…"
    assert drawable("a\u4e2d⏎␣") == "a□⏎␣"
