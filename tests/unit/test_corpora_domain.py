"""A domain is the part of another corpus that matches, unchanged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from corpora_small import rows_of, write_corpus
from pydantic import ValidationError

from saeflow.artifacts import ArtifactError, read_manifest
from saeflow.corpora.documents import CorpusError, make_corpus
from saeflow.corpora.settings import Domain


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("parent"))


def make(parent: Path, out: Path, **settings: Any) -> list[dict[str, Any]]:
    domain = Domain(source="domain", corpus="small", **settings)
    make_corpus(domain, out, out, {"small": parent})
    return rows_of(out)


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({"domains": ["physics.*"]}, lambda row: row["domain"].startswith("physics")),
        ({"domains": "biology.cells"}, lambda row: row["domain"] == "biology.cells"),
        ({"names": "small.jsonl:1?"}, lambda row: len(row["name"]) == 14 and ":1" in row["name"]),
        ({"labels": {"kind": "od*"}}, lambda row: "odd" in row["labels"]),
        (
            {"domains": "physics.*", "labels": {"kind": ["even", "x"]}, "exclude_names": "*:1*"},
            lambda row: (
                row["domain"].startswith("physics")
                and "even" in row["labels"]
                and ":1" not in row["name"]
            ),
        ),
    ],
)
def test_matching_rows_stay_as_they_are(
    settings: dict[str, Any], wanted: Any, parent: Path, tmp_path: Path
) -> None:
    expected = [row for row in rows_of(parent) if wanted(row)]
    assert 0 < len(expected) < 240
    assert make(parent, tmp_path, **settings) == expected


def test_manifest_names_the_parent_and_counts_splits(parent: Path, tmp_path: Path) -> None:
    rows = make(parent, tmp_path, domains="physics.optics")
    manifest = read_manifest(tmp_path, kind="corpus", deep=True)
    assert list(manifest["inputs"]) == ["small"]
    assert manifest["stats"]["domains"].keys() == {"physics.optics"}
    splits = manifest["stats"]["splits"]
    assert {name: split["documents"] for name, split in splits.items()} == {
        name: sum(row["split"] == name for row in rows) for name in ("train", "validation", "test")
    }


def test_a_glob_without_a_domain_is_refused_with_near_ones(parent: Path, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"'physics.optic'; did you mean physics\.optics.*are 3"):
        make(parent, tmp_path, domains=["physics.waves", "physics.optic"])
    with pytest.raises(ArtifactError, match="never finished"):
        read_manifest(tmp_path, kind="corpus")


def test_few_matches_are_refused_with_their_number(parent: Path, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"6 documents match names \('\*:23\?', .*has 240"):
        make(parent, tmp_path, names=["*:23?", "*:240"], labels={"kind": "odd"}, min_documents=9)
    with pytest.raises(CorpusError, match="0 documents match labels"):
        make(parent, tmp_path, labels={"colour": "*"})


def test_a_parent_must_be_given_and_whole(parent: Path, tmp_path: Path) -> None:
    settings = Domain(source="domain", corpus="other", domains="physics.*")
    with pytest.raises(ValueError, match=r"made of the corpus 'other'.*there are: small"):
        make_corpus(settings, tmp_path / "out", tmp_path, {"small": parent})
    with pytest.raises(ArtifactError, match="never finished"):
        make_corpus(settings, tmp_path / "out", tmp_path, {"other": tmp_path})


def test_a_domain_says_what_it_is_of() -> None:
    with pytest.raises(ValidationError, match="give domains, names or labels"):
        Domain(source="domain", corpus="small")
