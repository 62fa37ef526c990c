"""Cleaning, duplicates, splits, budgets and the written artefact."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from pydantic import TypeAdapter, ValidationError

from saeflow.artifacts import ArtifactError, read_manifest
from saeflow.corpora import spool as spool_module
from saeflow.corpora.documents import SOURCES, CorpusError, make_corpus
from saeflow.corpora.settings import Biographies, Corpus, Facts, Files
from saeflow.corpora.spool import Row, Spool
from saeflow.corpora.text import clean, duplicate_key, fraction_of, integer_of


def write_jsonl(folder: Path, texts: Iterable[str]) -> None:
    lines = (json.dumps({"text": text, "topic": f"t{i % 3}"}) for i, text in enumerate(texts))
    (folder / "a.jsonl").write_text("".join(line + "\n" for line in lines))


def files(**changed: Any) -> Files:
    return Files(
        **{"source": "files", "paths": "*.jsonl", "domain": "d", "min_chars": 1, **changed}
    )


def rows(folder: Path) -> list[dict[str, Any]]:
    return pq.read_table(folder / "documents.parquet").to_pylist()


WORDS = "apple birch cedar dune ember fjord grove heath isle jetty knoll ledge".split()  # noqa: SIM905
TEXTS = [
    f"{a} {b} {c} and nothing more" for a in WORDS for b in WORDS for c in WORDS if a < b < c
]  # 220 texts


def test_clean() -> None:
    assert clean("\ufeffa \r\nb\x00\u00a0\r\n\r\n\r\n\r\nc\u2028d\te\u0301 ") == "a\nb\n\nc\nd\té"
    assert clean("x\ud83dy") == "x\ufffdy"


@pytest.mark.parametrize(
    ("a", "b", "same_under"),
    [
        ("one  two\nthree", "one two three", {"exact", "letters", "prose"}),
        ("in version 2: see it.", "in version 14, see it", {"letters", "prose"}),
        ("Builds a BertModel from it", "Builds a GPT2Model from it", {"prose"}),
        ("the np.sum of all", "the np.prod of all", {"prose"}),
        ("the sum of all", "the product of all", set()),
        ("12 34", "12 35", set()),
        ("", "12 35", set()),
    ],
)
def test_duplicate_rules(a: str, b: str, same_under: set[str]) -> None:
    rules = ("exact", "letters", "prose")
    assert {r for r in rules if duplicate_key(a, r) == duplicate_key(b, r)} == same_under


def test_hashes_are_fixed_and_independent() -> None:
    assert integer_of("text", "document") == 516369804025480728
    assert integer_of("text", "document") != integer_of("text", "split")
    fractions = [fraction_of(text, "split") for text in TEXTS]
    assert 0 <= min(fractions) < 0.05 and 0.95 < max(fractions) < 1


def test_rows_manifest_and_determinism(tmp_path: Path) -> None:
    write_jsonl(tmp_path, TEXTS)
    settings = files(domain={"column": "topic"}, labels=["topic"], validation=0.2, test=0.2)
    for out in ("one", "two"):
        make_corpus(settings, tmp_path / out, tmp_path)
    first, second = (tmp_path / out / "documents.parquet" for out in ("one", "two"))
    assert first.read_bytes() == second.read_bytes()
    table = rows(tmp_path / "one")
    ids = [row["document"] for row in table]
    assert ids == sorted(set(ids)) and ids[0] >= 0 and ids[-1] < 2**63
    row = table[0]
    number = int(row["name"].removeprefix("a.jsonl:"))
    assert TEXTS[number - 1] == row["text"]
    assert json.loads(row["labels"]) == {"topic": row["domain"]}
    manifest = read_manifest(tmp_path / "one", kind="corpus", deep=True)
    stats = manifest["stats"]
    assert stats["documents"] == 220 == sum(d["documents"] for d in stats["domains"].values())
    assert stats["characters"] == sum(map(len, TEXTS))
    assert {name: split["documents"] for name, split in stats["splits"].items()} == {
        name: sum(row["split"] == name for row in table) for name in ("train", "validation", "test")
    }
    assert 24 < stats["splits"]["test"]["documents"] < 64  # 44 expected, 3.5 standard deviations
    assert list(manifest["inputs"]) == ["a.jsonl"]


def test_added_documents_move_no_other(tmp_path: Path) -> None:
    write_jsonl(tmp_path, TEXTS[:100])
    make_corpus(files(test=0.3), tmp_path / "few", tmp_path)
    write_jsonl(tmp_path, reversed(TEXTS))
    make_corpus(files(test=0.3, validation=0.2), tmp_path / "all", tmp_path)
    few = {row["text"]: (row["document"], row["split"]) for row in rows(tmp_path / "few")}
    after = {row["text"]: (row["document"], row["split"]) for row in rows(tmp_path / "all")}
    moved = [text for text in few if few[text] != after[text]]
    assert all(after[text][1] == "validation" for text in moved)  # only the widened share grows
    assert few.keys() < after.keys()


def test_duplicates_keep_the_first_and_share_a_split(tmp_path: Path) -> None:
    copies = [text.upper() + " 7." for text in TEXTS]
    write_jsonl(tmp_path, TEXTS + copies)
    make_corpus(files(), tmp_path / "letters", tmp_path)
    assert {row["text"] for row in rows(tmp_path / "letters")} == set(TEXTS)
    stats = read_manifest(tmp_path / "letters", kind="corpus")["stats"]
    assert stats["dropped"] == {"duplicate": 220}
    write_jsonl(tmp_path, copies)
    make_corpus(files(), tmp_path / "copies", tmp_path)
    split_of = {row["text"].upper() + " 7.": row["split"] for row in rows(tmp_path / "letters")}
    assert split_of == {row["text"]: row["split"] for row in rows(tmp_path / "copies")}


def test_budgets_take_the_first_in_document_order(tmp_path: Path) -> None:
    write_jsonl(tmp_path, TEXTS)
    make_corpus(files(), tmp_path / "all", tmp_path)
    make_corpus(files(max_documents=10), tmp_path / "ten", tmp_path)
    make_corpus(files(max_chars=1000), tmp_path / "chars", tmp_path)
    everything = rows(tmp_path / "all")
    assert rows(tmp_path / "ten") == everything[:10]
    cut = rows(tmp_path / "chars")
    assert cut == everything[: len(cut)]
    chars = sum(len(row["text"]) for row in cut)
    assert chars <= 1000 < chars + len(everything[len(cut)]["text"])
    dropped = read_manifest(tmp_path / "ten", kind="corpus")["stats"]["dropped"]
    assert dropped == {"over budget": 210}


def test_spilling_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_jsonl(tmp_path, TEXTS)
    make_corpus(files(), tmp_path / "memory", tmp_path)
    spills = []
    original = Spool._spill
    monkeypatch.setattr(Spool, "_spill", lambda self: (spills.append(1), original(self)))
    monkeypatch.setattr(
        "saeflow.corpora.documents.Spool", lambda folder: Spool(folder, spill_chars=500)
    )
    make_corpus(files(), tmp_path / "disk", tmp_path)
    assert len(spills) > 5
    one, two = (tmp_path / out / "documents.parquet" for out in ("memory", "disk"))
    assert one.read_bytes() == two.read_bytes()
    assert sorted(p.name for p in (tmp_path / "disk").iterdir()) == [
        "documents.parquet",
        "manifest.json",
    ]


def test_spool_drops_leftovers_of_a_killed_run(tmp_path: Path) -> None:
    killed = Spool(tmp_path / "spool", spill_chars=1)
    killed.add(Row(5, "d", "train", "n", "left over", None))
    again = Spool(tmp_path / "spool", spill_chars=1)
    again.add(Row(spool_module.BUCKETS, "d", "train", "n", "new", None))
    again.add(Row(3, "d", "train", "n", "newer", None))
    assert [row.text for row in again.in_order()] == ["newer", "new"]
    again.close()
    assert not (tmp_path / "spool").exists()


def test_failed_source_leaves_no_whole_artefact(tmp_path: Path) -> None:
    write_jsonl(tmp_path, TEXTS)
    with (tmp_path / "a.jsonl").open("a") as handle:
        handle.write('{"text": "cut off')
    with pytest.raises(CorpusError, match=r"a\.jsonl:221: malformed JSON"):
        make_corpus(files(), tmp_path / "out", tmp_path)
    with pytest.raises(ArtifactError):
        read_manifest(tmp_path / "out", kind="corpus")
    assert not (tmp_path / "out" / "documents.parquet").exists()


def test_empty_corpus_names_corpus_source_and_reasons(tmp_path: Path) -> None:
    write_jsonl(tmp_path, ["short", "brief"])
    with pytest.raises(CorpusError, match=r"'mine' is empty: source 'files'.*2 short") as error:
        make_corpus(files(min_chars=100), tmp_path / "mine", tmp_path)
    assert "a.jsonl" in str(error.value)


@pytest.mark.parametrize("settings", [Biographies(n=40, seed=3), Facts(n=40, seed=3)])
def test_generated_sources(settings: Biographies | Facts, tmp_path: Path) -> None:
    make_corpus(settings, tmp_path, tmp_path)
    table = rows(tmp_path)
    assert len(table) == 40
    assert all(row["domain"].startswith(settings.source + ".") for row in table)


def test_settings_are_chosen_by_source() -> None:
    adapter: TypeAdapter[Corpus] = TypeAdapter(Corpus)
    extra: dict[str, dict[str, Any]] = {
        "files": {"paths": "*.txt", "domain": "d"},
        "hub": {"folder": "f", "domain": "d"},
        "domain": {"corpus": "c", "domains": "d"},
        "planted": {"corpus": "c"},
        "mixture": {"parts": {"c": 0.5, "d": 0.5}},
    }
    for source in SOURCES:
        settings = adapter.validate_python({"source": source, **extra.get(source, {})})
        assert settings.source == source
    with pytest.raises(ValidationError, match="union_tag_invalid"):
        adapter.validate_python({"source": "web"})
    with pytest.raises(ValidationError, match="below 1"):
        files(validation=0.5, test=0.5)
    with pytest.raises(ValidationError, match="extra_forbidden"):
        files(max_docs=3)
