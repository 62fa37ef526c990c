from __future__ import annotations

import pytest
import sweeps_planted as planted
from test_figures_sweeps import LINES, SCATTER
from test_figures_tables_folders import LATENTS, METHODS

from saeflow.figures.draw_folders import draw_from_folders
from saeflow.figures.tables_folders import write_table_from_folders
from saeflow.report.build import build_report


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("results")
    folders = planted.plant_all(root / "metrics")
    contexts = {"methods": planted.debias_context()}
    figures, tables = {"fig1": LINES, "fig19": SCATTER}, {"table1": METHODS, "table2": LATENTS}
    shown: dict[str, list] = {"figures": [], "tables": []}
    for kind, sections in (("figures", figures), ("tables", tables)):
        make = draw_from_folders if kind == "figures" else write_table_from_folders
        for name, section in sections.items():
            context = contexts.get(section["kind"], planted.context())
            stem = root / kind / name
            make(section, folders, context, stem)
            shown[kind].append(
                {"name": name, "settings": section, "context": context, "stem": stem}
            )
    paper = {"name": "ssae", "title": "SSAE", "reference": "", "claims": None, **shown}
    report = {"scale": "desk", "seeds": planted.SEEDS, "papers": [paper], "subjects": {}}
    empty = {"corpora": {}, "artefacts": [], "benchmarks": root / "none"}
    build_report({**report, **empty}, root / "report.html")
    return (root / "report.html").read_text(encoding="utf-8")


def test_what_the_data_adds_stands_in_the_caption(page: str) -> None:
    assert "Not drawn: 1 point of “Perplexity relative to the GSAE”" in page
    assert "Trained, or fine-tuned: GSAE on docs (600,000 tokens); BM25 on physics_bm25" in page


def test_points_are_an_image_within_the_page(page: str) -> None:
    assert page.count('href="data:image/png;base64,') == 2
    assert page.count('role="img"') == 2


def test_words_stand_on_the_left_and_rows_have_a_name(page: str) -> None:
    assert '<th scope="col">Method</th>' in page and '<th scope="col">Latent</th>' in page
    assert '<th scope="col" class="words">Explanation</th><th scope="col" class="words">' in page
    assert '<td class="words">the &lt;&lt;momentum&gt;&gt; of a body' in page
    assert '<th scope="col">paper: Worst ↑</th>' in page
    assert "<strong>88.5</strong>" in page
