from __future__ import annotations

import json
import re
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import figures_planted as planted
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from saeflow.artifacts import ArtifactError, write_manifest
from saeflow.claims import ClaimSettings, judge
from saeflow.claims_table import write_claims
from saeflow.evaluation.rows import read_rows
from saeflow.figures.draw import draw_figure
from saeflow.figures.tables import write_table
from saeflow.report.build import build_report
from saeflow.report.provenance import read_artefacts, software
from saeflow.report.runtimes import rule_times
from saeflow.report.svg import inline_svg

NASTY = '<script>alert("x")</script> & "quoted"'
SHOWN = {"source": "after OrtSAE Fig. 3a", "caption": "What is shown.", "grid": "main"}
FIGURE: dict[str, Any] = SHOWN | {
    "kind": "curve",
    "title": "Explained variance against sparsity",
    "statement": f"What the paper says. {NASTY}",
    "variants": ["relu", "ortsae"],
    "metric": "explained_variance",
    "y_label": "Explained variance",
}
TABLE: dict[str, Any] = SHOWN | {
    "kind": "sweep",
    "title": "Log loss",
    "statement": "What the paper says.",
    "variants": ["relu", "ortsae"],
    "metric": "ce_sae",
    "best": "min",
    "levels": {"model without SAE": "ce_clean"},
    "published": {
        "label": "paper, Gemma-2-2B",
        "columns": ["L0 = 40"],
        "decimals": [4],
        "rows": {"ReLU": [2.7657]},
    },
}


def _claim(name: str, below: float) -> ClaimSettings:
    expect = {"below": below}
    comparison = {"metric": "ce_sae", "variant": "ortsae", "baseline": "relu", "expect": expect}
    return ClaimSettings.model_validate(
        {
            "id": name,
            "grid": "main",
            "statement": f"Claim {name}",
            "source": "Table 4",
            "paper_value": 0.003,
            "paper_note": "largest gap",
            "comparisons": [comparison | {"at_l0": "reference"}],
        }
    )


def plant_report(root: Path) -> dict[str, Any]:
    rows = planted.plant_rows(root / "rows")
    figures, tables = root / "figures" / "ortsae", root / "tables" / "ortsae"
    for name in ("fig3a", "fig3b"):
        draw_figure(FIGURE, rows, [], planted.context(), figures / name)
    write_table(TABLE, rows, planted.context(), tables / "table4")
    claims = [_claim("good", 0.0), _claim("bad", -0.5), _claim("open", -0.0945)]
    judged = judge(claims, read_rows(rows), reference_l0=32)
    write_claims(judged, root / "claims" / "ortsae", title="Claims")
    corpus, subject = root / "corpora" / "docs", root / "subjects" / "desk"
    for folder in (corpus, subject):
        folder.mkdir(parents=True)
        (folder / "data.txt").write_text("x")
    counts = {"documents": 81_234, "characters": 30_500_000, "domains": {"a": {}, "b": {}}}
    write_manifest(
        corpus, kind="corpus", settings={"note": NASTY}, files=["data.txt"], stats=counts
    )
    losses = {"docs": {"nats_per_token": 2.4533, "nats_per_byte": 0.7, "tokens": 1000}}
    write_manifest(
        subject,
        kind="subject",
        settings={"source": "pretrain"},
        files=["data.txt"],
        inputs={"docs": corpus},
        stats={"validation": losses, "parameters": 4_300_000},
        seed=0,
    )
    for rule, job, row in (
        ("train_sae", "a/b-seed0", "12.5\t0:00:12\t812.4\t20.5"),
        ("train_sae", "a/b-seed1", "10.5\t0:00:10\t900.0\t19.5"),
        ("figure", "ortsae-fig3a", "0.4\t0:00:00\tNA\tNA"),
    ):
        path = root / "benchmarks" / rule / f"{job}.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"s\th:m:s\tmax_rss\tcpu_time\n{row}\n")
    common = {"context": planted.context()}
    return {
        "scale": "desk",
        "seeds": [0, 1, 2],
        "papers": [
            {
                "name": "ortsae",
                "title": "OrtSAE",
                "reference": "Korznikov et al. 2025, arXiv 2509.22033",
                "figures": [
                    common | {"name": name, "settings": FIGURE, "stem": figures / name}
                    for name in ("fig3a", "fig3b")
                ],
                "tables": [
                    common | {"name": "table4", "settings": TABLE, "stem": tables / "table4"}
                ],
                "claims": root / "claims" / "ortsae",
            }
        ],
        "subjects": {"desk": subject},
        "corpora": {"docs": corpus},
        "artefacts": [corpus, subject],
        "benchmarks": root / "benchmarks",
    }


@pytest.fixture(scope="module")
def planted_report(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    root = tmp_path_factory.mktemp("results")
    settings = plant_report(root)
    build_report(settings, root / "report.html")
    return settings, root / "report.html"


class _Page(HTMLParser):
    """Collects what the tests ask about, and checks that elements are nested."""

    VOID = frozenset({"meta", "link", "br", "path", "use", "rect", "img"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.sources: list[str] = []
        self.headings: list[int] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._note(tag, dict(attrs))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._note(tag, dict(attrs))

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def _note(self, tag: str, attributes: dict[str, str | None]) -> None:
        self.tags.add(tag)
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        for name, value in attributes.items():
            if name == "id":
                self.ids.append(value or "")
            elif name in ("href", "xlink:href"):
                self.links.append(value or "")
            elif name == "src":
                self.sources.append(value or "")


@pytest.fixture(scope="module")
def page(planted_report: tuple[dict[str, Any], Path]) -> _Page:
    parsed = _Page()
    parsed.feed(planted_report[1].read_text(encoding="utf-8"))
    parsed.close()
    assert parsed.open == []
    return parsed


def test_ids_are_unique_and_every_link_within_the_page_leads_somewhere(page: _Page) -> None:
    assert len(page.ids) == len(set(page.ids))
    within = {link[1:] for link in page.links if link.startswith("#")}
    assert within and within <= set(page.ids)


def test_references_of_drawings_lead_to_their_own_ids(
    planted_report: tuple[dict[str, Any], Path], page: _Page
) -> None:
    used = set(re.findall(r"url\(#([^)]+)\)", planted_report[1].read_text(encoding="utf-8")))
    assert used and used <= set(page.ids)


def test_page_needs_nothing_else_and_links_to_files_that_exist(
    planted_report: tuple[dict[str, Any], Path], page: _Page
) -> None:
    assert page.sources == []
    assert "script" not in page.tags
    files = [link for link in page.links if not link.startswith(("#", "data:"))]
    assert len(files) == 2 * 5 + 4 + 2
    for link in files:
        assert not re.match(r"[a-z]+:|/", link), link
        assert (planted_report[1].parent / link).is_file(), link


def test_headings_do_not_skip_a_level(page: _Page) -> None:
    assert page.headings[0] == 1 and page.headings.count(1) == 1
    steps = zip(page.headings, page.headings[1:], strict=False)
    assert all(after - before <= 1 for before, after in steps)


def test_page_says_what_was_run_and_what_came_out(
    planted_report: tuple[dict[str, Any], Path],
) -> None:
    text = planted_report[1].read_text(encoding="utf-8")
    assert "2.453 nats per token" in text
    assert "81,234 documents in 2 domains, 30.5 M characters" in text
    assert "Model without SAE: 2.4533." in text
    assert text.count('class="verdict reproduced"') == 3  # tally, claim, comparison
    assert text.count('class="verdict not-reproduced"') == 3
    assert text.count('class="verdict inconclusive"') == 3
    assert text.count('role="img"') == 2
    assert "train_sae" in text and ">23.0<" in text and ">900<" in text


def test_what_some_claims_lack_is_left_out(tmp_path: Path) -> None:
    settings = plant_report(tmp_path)
    path = tmp_path / "claims" / "ortsae.parquet"
    rows = pq.read_table(path).to_pylist()
    told = [dict.fromkeys(("judge", "reason", "paper_note"))] * 2
    told.append({"judge": "explained by a judge", "reason": "of all", "paper_note": "a note"})
    more = [row | part for row, part in zip(rows, told, strict=True)]
    pq.write_table(pa.Table.from_pylist(more), path)
    build_report(settings, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert text.count("explained by a judge") == 1
    assert not re.search(r"\b(nan|None)\b", text)


def test_text_is_escaped(planted_report: tuple[dict[str, Any], Path]) -> None:
    text = planted_report[1].read_text(encoding="utf-8")
    assert NASTY not in text
    assert text.count("&lt;script&gt;alert(") >= 3


def test_same_input_gives_the_same_bytes(
    planted_report: tuple[dict[str, Any], Path], tmp_path: Path
) -> None:
    settings, made = planted_report
    before = made.read_bytes()
    build_report(settings, made)
    assert made.read_bytes() == before
    assert len(before) < 3_000_000


def test_missing_and_damaged_files_are_errors_that_name_them(
    planted_report: tuple[dict[str, Any], Path], tmp_path: Path
) -> None:
    planted_settings, made = planted_report
    shutil.copytree(made.parent, tmp_path, dirs_exist_ok=True)
    moved = json.dumps(planted_settings, default=str).replace(str(made.parent), str(tmp_path))
    settings, out = json.loads(moved), tmp_path / "again.html"
    drawing = tmp_path / "figures" / "ortsae" / "fig3b.svg"
    kept = drawing.read_text()
    drawing.write_text("no drawing")
    with pytest.raises(ArtifactError, match=r"fig3b\.svg is not a plain SVG"):
        build_report(settings, out)
    drawing.unlink()
    with pytest.raises(ArtifactError, match=r"fig3b\.svg is missing"):
        build_report(settings, out)
    drawing.write_text(kept)
    (tmp_path / "corpora" / "docs" / "data.txt").write_text("longer")
    with pytest.raises(ArtifactError, match=r"data\.txt has 6 bytes"):
        build_report(settings, out)
    assert not out.exists()


def test_unknown_keys_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="theme"):
        build_report({"theme": "dark"}, tmp_path / "report.html")


def test_rule_times_add_up_and_leave_open_what_was_not_measured(
    planted_report: tuple[dict[str, Any], Path],
) -> None:
    train, figure = rule_times(planted_report[0]["benchmarks"])
    assert train == ("train_sae", 2, 23.0, 12.5, 40.0, 900.0)
    assert figure == ("figure", 1, 0.4, 0.4, None, None)


def test_a_file_that_is_no_benchmark_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "rule").mkdir()
    (tmp_path / "rule" / "job.tsv").write_text("a\tb\n1\t2\n")
    with pytest.raises(ArtifactError, match=r"job\.tsv"):
        rule_times(tmp_path)
    assert rule_times(tmp_path / "nowhere") == []


def test_artefacts_tell_their_software(planted_report: tuple[dict[str, Any], Path]) -> None:
    settings, made = planted_report
    artefacts = read_artefacts(settings["artefacts"], made.parent)
    assert [a.path for a in artefacts] == ["corpora/docs", "subjects/desk"]
    assert "torch" in software(artefacts)
    artefacts[0].manifest["software"]["torch"] = "1.0"
    assert re.fullmatch(r"1\.0, 2\..*", software(artefacts)["torch"])


def test_inlined_drawing_is_well_formed(planted_report: tuple[dict[str, Any], Path]) -> None:
    stem = planted_report[0]["papers"][0]["figures"][0]["stem"]
    drawing = inline_svg(stem.with_name("fig3a.svg"), 'a "name" & more', "p-")
    found = ElementTree.fromstring(str(drawing))
    assert found.attrib["aria-label"] == 'a "name" & more'
    assert "<style" not in drawing


@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
def test_chromium_opens_the_page_without_a_word(
    planted_report: tuple[dict[str, Any], Path], tmp_path: Path
) -> None:
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync"
    quiet = "--disable-background-networking --disable-component-update --enable-logging=stderr"
    command = ["chromium", *flags.split(), *quiet.split(), f"--user-data-dir={tmp_path}"]
    address = planted_report[1].as_uri()
    done = subprocess.run(
        [*command, "--dump-dom", address], capture_output=True, text=True, timeout=120, check=True
    )
    assert "CONSOLE" not in done.stderr
    assert "Sparse autoencoders" in done.stdout
