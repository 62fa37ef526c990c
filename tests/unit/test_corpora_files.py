"""Source `files`: each format, and what is wrong with a file, with its place."""

from __future__ import annotations

import gzip
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from saeflow.corpora.documents import CorpusError, Document, Tally
from saeflow.corpora.files import documents
from saeflow.corpora.settings import Files

GZIPPED = gzip.compress(b"x" * 999, mtime=0)  # part of a test's name, so the same each time


def read(root: Path, paths: Any = "*", **changed: Any) -> list[Document]:
    settings = Files(**{"source": "files", "paths": paths, "domain": "d", **changed})
    return list(documents(settings, root, Tally()))


def test_formats_give_the_same_documents(tmp_path: Path) -> None:
    jsonl = '{"text": "one, é", "kind": "a", "n": 1}\n\n{"text": "two", "kind": "b", "n": 2}\n'
    (tmp_path / "f.jsonl").write_text(jsonl, encoding="utf-8")
    (tmp_path / "g.jsonl.gz").write_bytes(gzip.compress(jsonl.encode()))
    (tmp_path / "f.csv").write_text('text,kind,n\n"one, é",a,1\ntwo,b,2\n', encoding="utf-8-sig")
    (tmp_path / "f.tsv").write_text("text\tkind\tn\none, é\ta\t1\ntwo\tb\t2\n", encoding="utf-8")
    table = pa.table({"n": [1, 2], "text": ["one, é", "two"], "kind": ["a", "b"]})
    pq.write_table(table, tmp_path / "f.parquet")
    for name in ("f.jsonl", "g.jsonl.gz", "f.csv", "f.tsv", "f.parquet"):
        found = read(tmp_path, name, domain={"column": "kind"}, labels=["n"])
        assert [(d.text, d.domain, d.labels) for d in found] == [
            ("one, é", "a", {"n": "1"}),
            ("two", "b", {"n": "2"}),
        ]
    assert [d.name for d in read(tmp_path, "f.jsonl")] == ["f.jsonl:1", "f.jsonl:3"]


def test_csv_rows_of_many_lines_are_named_by_their_first(tmp_path: Path) -> None:
    (tmp_path / "f.csv").write_text('text,n\n"a\n""b"" c",1\n\nd,2\n')
    found = read(tmp_path)
    assert [(d.text, d.name) for d in found] == [('a\n"b" c', "f.csv:2"), ("d", "f.csv:5")]


def test_tsv_takes_quotes_and_backslashes_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "f.txt").write_text('text\ts\n"open\tC\\\\C\nb\t"\n')
    found = read(tmp_path, format="tsv", labels=["s"])
    assert [(d.text, d.labels) for d in found] == [('"open', {"s": "C\\\\C"}), ("b", {"s": '"'})]


TEXT = "\n = First = \n\nAlpha.\n = = Part = = \n\nBeta.\n\n = Second = \n\nGamma = delta = x\n"


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("file", [("f.txt:1", TEXT)]),
        (
            "paragraph",
            [
                ("f.txt:2", " = First = \n"),
                ("f.txt:4", "Alpha.\n = = Part = = \n"),
                ("f.txt:7", "Beta.\n"),
                ("f.txt:9", " = Second = \n"),
                ("f.txt:11", "Gamma = delta = x\n"),
            ],
        ),
        (
            "wikitext-title",
            [
                ("f.txt:2", " = First = \n\nAlpha.\n = = Part = = \n\nBeta.\n\n"),
                ("f.txt:9", " = Second = \n\nGamma = delta = x\n"),
            ],
        ),
    ],
)
def test_documents_of_a_text_file(
    tmp_path: Path, rule: str, expected: list[tuple[str, str]]
) -> None:
    (tmp_path / "f.txt").write_text(TEXT)
    assert [(d.name, d.text) for d in read(tmp_path, document=rule)] == expected


def test_domain_from_path_and_joined_columns(tmp_path: Path) -> None:
    for folder in ("law", "art"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "f.jsonl").write_text('{"title": "T", "body": "B", "none": null}\n')
    found = read(
        tmp_path,
        "**/*.jsonl",
        text=["title", "none", "body"],
        domain={"pattern": "^([^/]+)/"},
        labels=["none"],
    )
    assert [(d.text, d.domain, d.labels) for d in found] == [
        ("T\n\nB", "art", None),
        ("T\n\nB", "law", None),
    ]


@pytest.mark.parametrize(
    ("name", "content", "changed", "message"),
    [
        ("f.doc", b"x", {}, r"f\.doc: unknown file type '\.doc'; known are \.txt, \.jsonl"),
        ("f.csv", b"body,n\nx,1\n", {}, r"f\.csv: no column 'text'; it has body, n"),
        ("f.jsonl", b'{"body": "x"}\n', {}, r"f\.jsonl:1: no column 'text'; it has body"),
        ("f.txt", b"x", {"labels": ["n"]}, r"f\.txt:1: no column 'n'; it has text"),
        ("f.csv", b"text,n\nx,1\ny\n", {}, r"f\.csv:3: malformed row of 1 fields"),
        ("f.tsv", b"text\tn\nx\ty\tz\n", {}, r"f\.tsv:2: malformed row of 3 fields"),
        ("f.csv", b'text,n\n"x,1\n', {}, r"f\.csv:2: malformed row"),
        ("f.jsonl", b'{"text": "x"}\n{"text"\n', {}, r"f\.jsonl:2: malformed JSON"),
        ("f.jsonl", b"[1]\n", {}, r"f\.jsonl:1: a JSON list, expected an object"),
        ("f.jsonl", b'{"text": ["x"]}\n', {}, r"f\.jsonl:1: column 'text' holds a list"),
        ("f.parquet", b"x", {}, r"f\.parquet: not a readable Parquet file"),
        ("f.txt.gz", GZIPPED[:-9], {}, r"f\.txt\.gz: damaged or truncated gzip"),
        ("f.txt.gz", b"plain", {}, r"f\.txt\.gz: damaged or truncated gzip"),
        ("f.txt", b"\xff\xfe", {"on_undecodable": "strict"}, r"f\.txt:1: bytes that are not UTF-8"),
        ("f.jsonl", b'{"text": "x"}', {"domain": {"column": "k"}}, r"f\.jsonl:1: no column 'k'"),
        (
            "f.jsonl",
            b'{"text": "x", "k": "y"}',
            {"domain": {"column": "k", "pattern": "(z)"}},
            r"f\.jsonl:1: the domain's pattern '\(z\)' finds nothing in 'y'",
        ),
    ],
)
def test_errors_name_the_place(
    tmp_path: Path, name: str, content: bytes, changed: dict[str, Any], message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CorpusError, match=message):
        read(tmp_path, **changed)


def test_missing_column_of_parquet_and_glob_without_files(tmp_path: Path) -> None:
    pq.write_table(pa.table({"body": ["x"]}), tmp_path / "f.parquet")
    with pytest.raises(CorpusError, match=r"f\.parquet: no column 'text'; it has body"):
        read(tmp_path)
    with pytest.raises(CorpusError, match=r"'\*\.csv' finds no file under"):
        read(tmp_path, ["f.parquet", "*.csv"])


@pytest.mark.parametrize("paths", ["../x.txt", "/etc/*.txt", "a/../../x.txt", []])
def test_globs_stay_inside_the_root(paths: Any) -> None:
    with pytest.raises(ValidationError):
        Files(source="files", paths=paths, domain="d")


def test_bad_domain_patterns_are_refused() -> None:
    for pattern in ("(", "no group"):
        with pytest.raises(ValidationError):
            Files(source="files", paths="*", domain={"pattern": pattern})


def _undecodable_files(folder: Path) -> None:
    (folder / "f.jsonl").write_bytes(b'{"text": "caf\xe9"}\n{"text": "lone \\ud83d"}\n')
    raw = pa.array([b"caf\xe9", b"fine"], pa.binary())
    strings = pa.StringArray.from_buffers(2, raw.buffers()[1], raw.buffers()[2])
    pq.write_table(pa.table({"text": strings}), folder / "f.parquet")


def test_undecodable_bytes_are_counted_or_skipped(tmp_path: Path) -> None:
    from saeflow.corpora.documents import make_corpus

    _undecodable_files(tmp_path)
    settings = Files(source="files", paths="f.*", domain="d", min_chars=1)
    make_corpus(settings, tmp_path / "replace", tmp_path)
    table = pq.read_table(tmp_path / "replace" / "documents.parquet")
    assert sorted(table["text"].to_pylist()) == ["caf\ufffd", "fine", "lone \ufffd"]
    tally = Tally()
    list(documents(settings, tmp_path, tally))
    assert tally.facts == {"documents_with_replaced_bytes": 3}
    skip = settings.model_copy(update={"on_undecodable": "skip-document"})
    tally = Tally()
    assert [d.text for d in documents(skip, tmp_path, tally)] == ["fine"]
    assert tally.dropped == {"undecodable": 3}


def test_rows_without_text_are_counted(tmp_path: Path) -> None:
    (tmp_path / "f.csv").write_text("text,n\n,1\nx,2\n")
    tally = Tally()
    settings = Files(source="files", paths="*", domain="d")
    assert [d.text for d in documents(settings, tmp_path, tally)] == ["x"]
    assert tally.dropped == {"no text": 1}


def test_a_field_longer_than_csv_likes(tmp_path: Path) -> None:
    (tmp_path / "f.csv").write_text("text\n" + "x" * 300_000 + "\n")
    assert len(read(tmp_path)[0].text) == 300_000


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "txt", "parquet"])
def test_files_are_streamed(tmp_path: Path, suffix: str) -> None:
    text, rows = "word " * 2000, 1500  # 15 MB
    path = tmp_path / f"f.{suffix}"
    if suffix == "parquet":
        table = pa.table({"text": [text] * rows})
        pq.write_table(table, path, row_group_size=100, use_dictionary=False, compression="none")
    else:
        line = {"jsonl": f'{{"text": "{text}"}}\n', "csv": f"{text}\n", "txt": f"{text}\n\n"}
        path.write_text(("text\n" if suffix == "csv" else "") + line[suffix] * rows)
    settings = Files(source="files", paths="*", domain="d", document="paragraph")
    tracemalloc.start()
    try:
        assert sum(1 for _ in documents(settings, tmp_path, Tally())) == rows
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8_000_000
