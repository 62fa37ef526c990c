"""Cases of the corpora's keys: every source makes a small corpus of its own."""

from __future__ import annotations

import json
import sys
from importlib import invalidate_caches
from pathlib import Path
from typing import Any
from unittest.mock import patch

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from corpora_small import rows_of, write_corpus
from keys_case import Case, Result, Stage
from pydantic import TypeAdapter

from saeflow.artifacts import read_manifest
from saeflow.corpora.documents import CorpusError, make_corpus
from saeflow.corpora.settings import Corpus

FROM_FOLDER = datasets.load_dataset
REVISIONS = ("0" * 40, "1" * 40)
PACKAGES = ("keys_package", "keys_other_package")
SENTENCES = [
    f"This {noun} of the {place} is what it was when they {verb} it for the {number}. time."
    for noun in ("value", "copy", "name")
    for place in ("array", "model", "table", "list")
    for verb in ("made", "moved", "saved")
    for number in (1, 2)
]
"""72, in pairs that differ in a number."""


def prepare(world: Path) -> None:
    """Write rows in files, in parts of a data set, and as docstrings of packages."""
    rows = [
        {"text": text + " More." * (i % 3), "title": f"Title {i}", "topic": f"topic{i % 3}"}
        for i, text in enumerate(SENTENCES)
    ]
    lines = [json.dumps(row).encode() for row in rows]
    lines.append(b'{"text": "Some bytes are no text: \xff", "title": "a", "topic": "topic0"}')
    (world / "a.jsonl").write_bytes(b"\n".join(lines[:40]))
    (world / "b.jsonl").write_bytes(b"\n".join(lines[40:]))
    (world / "a.txt").write_text("text\ttopic\nOne line.\tx\n\nAnother line.\ty\n")
    for folder, some in (("set", rows[:50]), ("other_set", rows[20:])):
        parts = {"train": some, "validation": some[:5]}
        made = {part: datasets.Dataset.from_list(these) for part, these in parts.items()}
        datasets.DatasetDict(made).save_to_disk(str(world / folder))
    (world / "parquet").mkdir()
    bytes_ = pa.array([b"This is text.", b"Some bytes are no text: \xff"])
    text = pa.Array.from_buffers(pa.string(), 2, bytes_.buffers())
    pq.write_table(pa.table({"text": text}), world / "parquet" / "train.parquet")
    for package, these in zip(PACKAGES, (SENTENCES[:48], SENTENCES[48:]), strict=True):
        for module, some in (("a.py", these[:24]), ("b/c.py", these[24:])):
            path = world / package / module
            path.parent.mkdir(parents=True, exist_ok=True)
            (path.parent / "__init__.py").touch()
            functions = (f'def f{i}():\n    """{text}"""\n' for i, text in enumerate(some))
            path.write_text("".join(functions))


def load_dataset(dataset: str, config: str | None = None, **how: Any) -> Any:
    """Read a folder, and stand in for the hub: a data set whose row says what was asked for."""
    if Path(dataset).is_dir():
        return FROM_FOLDER(dataset, **how)
    revision = how["revision"]
    text = f"This row is of the data set {dataset}, of its part {config} at the commit {revision}."
    return datasets.DatasetDict({"train": datasets.Dataset.from_list([{"text": text}])})


def run(settings: Any, world: Path, out: Path) -> Result:
    sys.path.insert(0, str(world))
    invalidate_caches()
    try:
        with patch("datasets.load_dataset", load_dataset):
            make_corpus(settings, out, world)
    finally:
        sys.path.remove(str(world))
    return {
        "documents": pq.read_table(out / "documents.parquet").to_pylist(),
        "dropped": read_manifest(out, kind="corpus")["stats"]["dropped"],
    }


def prepare_parents(world: Path) -> None:
    """Write corpora to make others of: a small one, a larger one that has it, and another."""
    for name, documents in (("small", 120), ("larger", 150)):
        (world / name).mkdir()
        write_corpus(world / name, documents)
    biographies = {"source": "biographies", "n": 40, "validation": 0.2, "test": 0.2}
    make_corpus(TypeAdapter(Corpus).validate_python(biographies), world / "other" / "small", world)


def derive(settings: Any, world: Path, out: Path) -> Result:
    parents = {name: world / name / "small" for name in ("small", "larger", "other")}
    try:
        make_corpus(settings, out, world, parents)
    except CorpusError as error:
        return {"documents": [], "refused": str(error)}
    return {"documents": rows_of(out), "refused": None}


def common(kind: str, *, min_chars: int, max_chars: int, duplicates: str) -> dict[str, Case]:
    return {
        f"{kind}.min_chars": Case("min_chars", min_chars, "dropped"),
        f"{kind}.max_documents": Case("max_documents", 7, "dropped"),
        f"{kind}.max_chars": Case("max_chars", max_chars, "dropped"),
        f"{kind}.duplicates": Case("duplicates", duplicates, "documents"),
        f"{kind}.validation": Case("validation", 0.4, "documents"),
        f"{kind}.test": Case("test", 0.4, "documents"),
    }


def of_rows(kind: str, undecodable: dict[str, Any]) -> dict[str, Case]:
    return {
        f"{kind}.text": Case("text", ["title", "text"], "documents"),
        f"{kind}.domain": Case("domain", "another", "documents"),
        f"{kind}.labels": Case("labels", ["topic"], "documents"),
        f"{kind}.on_undecodable": Case("on_undecodable", "skip-document", "dropped", undecodable),
    }


def stage(settings: dict[str, Any], cases: dict[str, Case]) -> Stage:
    return Stage(TypeAdapter(Corpus).validate_python, settings, run, cases, prepare)


def derived(settings: dict[str, Any], cases: dict[str, Case]) -> Stage:
    parse = TypeAdapter(Corpus).validate_python
    return Stage(parse, settings, derive, cases, prepare_parents)


FROM_HUB = {"folder": None, "dataset": "owner/name", "revision": REVISIONS[0]}
TEXT_FILE = {"paths": "a.txt", "domain": "d"}
STAGES = {
    "files": stage(
        {"source": "files", "paths": "a.jsonl", "domain": "d", "min_chars": 1},
        {
            **common("Files", min_chars=75, max_chars=1000, duplicates="exact"),
            **of_rows("Files", undecodable={"paths": "b.jsonl"}),
            "Files.paths": Case("paths", "*.jsonl"),
            "Files.format": Case("format", "tsv", "documents", TEXT_FILE),
            "Files.document": Case("document", "paragraph", "documents", TEXT_FILE),
            "DomainRule.column": Case("domain.column", "title", "documents", {"domain": {}}),
            "DomainRule.pattern": Case("domain.pattern", r"(\w)\.", "documents", {"domain": {}}),
        },
    ),
    "hub": stage(
        {"source": "hub", "folder": "set", "part": "train", "domain": "d", "min_chars": 1},
        {
            **common("Hub", min_chars=75, max_chars=1000, duplicates="exact"),
            **of_rows("Hub", undecodable={"folder": "parquet", "part": None}),
            "Hub.folder": Case("folder", "other_set"),
            "Hub.part": Case("part", "validation"),
            "Hub.max_rows": Case("max_rows", 12),
            "Hub.dataset": Case("dataset", "owner/other", "documents", FROM_HUB),
            "Hub.revision": Case("revision", REVISIONS[1], "documents", FROM_HUB),
            "Hub.config_name": Case("config_name", "english", "documents", FROM_HUB),
        },
    ),
    "installed-docs": stage(
        {"source": "installed-docs", "packages": [PACKAGES[0]], "min_chars": 1},
        {
            **common("InstalledDocs", min_chars=73, max_chars=1000, duplicates="exact"),
            "InstalledDocs.packages": Case("packages", list(PACKAGES)),
            "InstalledDocs.domain_depth": Case("domain_depth", 1, "documents"),
        },
    ),
    "biographies": stage(
        {"source": "biographies", "n": 30},
        {
            **common("Biographies", min_chars=400, max_chars=1000, duplicates="prose"),
            "Biographies.n": Case("n", 40),
            "Biographies.seed": Case("seed", 1),
            "Biographies.correlation": Case("correlation", 1.0),
            "Biographies.mention_profession": Case("mention_profession", 1.0),
            "Biographies.detail": Case("detail", 1.0),
            "Biographies.professions": Case("professions", ["nurse", "poet"]),
        },
    ),
    "facts": stage(
        {"source": "facts", "n": 30},
        {
            **common("Facts", min_chars=300, max_chars=1000, duplicates="prose"),
            "Facts.n": Case("n", 40),
            "Facts.seed": Case("seed", 1),
            "Facts.spelling": Case("spelling", 1.0),
            "Facts.words": Case("words", ["zyzzyva", "quokka"], "documents", {"spelling": 1.0}),
        },
    ),
    "exercises": stage(
        {"source": "exercises", "n": 30},
        {
            **common("Exercises", min_chars=200, max_chars=1000, duplicates="letters"),
            "Exercises.duplicates": Case("duplicates", "letters", "dropped", {"n": 300}),
            "Exercises.n": Case("n", 40),
            "Exercises.seed": Case("seed", 1),
            "Exercises.validation": Case("validation", 0.5, "documents", {"test": 0.4}),
        },
    ),
    "domain": derived(
        {"source": "domain", "corpus": "small", "domains": "physics.*"},
        {
            "Domain.corpus": Case("corpus", "larger", "documents"),
            "Domain.domains": Case("domains", "physics.optics", "documents"),
            "Domain.names": Case("names", "*:1*", "documents"),
            "Domain.labels": Case("labels", {"kind": "odd"}, "documents"),
            "Domain.exclude_names": Case("exclude_names", "*:1*", "documents"),
            "Domain.min_documents": Case("min_documents", 1000, "refused"),
        },
    ),
    "planted": derived(
        {"source": "planted", "corpus": "small", "frequencies": [0.03], "background": 0.02},
        {
            "Planted.corpus": Case("corpus", "larger", "documents"),
            "Planted.frequencies": Case("frequencies", [0.03, 0.02], "documents"),
            "Planted.concepts_per_frequency": Case("concepts_per_frequency", 4, "documents"),
            "Planted.background": Case("background", 0.04, "documents"),
            "Planted.sentences_per_document": Case("sentences_per_document", 1, "documents"),
            "Planted.held_out_phrases": Case("held_out_phrases", 0.0, "documents"),
            "Planted.validation_instances": Case("validation_instances", 9, "documents"),
            "Planted.test_instances": Case("test_instances", 9, "documents"),
            "Planted.seed": Case("seed", 1, "documents"),
        },
    ),
    "mixture": derived(
        {"source": "mixture", "parts": {"small": 0.6, "other": 0.4}},
        {
            "Mixture.parts": Case("parts", {"small": 0.4, "other": 0.6}, "documents"),
            "Mixture.max_train_chars": Case("max_train_chars", 2000, "documents"),
            "Mixture.seed": Case("seed", 1, "documents"),
        },
    ),
}
