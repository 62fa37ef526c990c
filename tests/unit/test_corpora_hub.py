"""Source `hub`: folders on disk, pinned revisions, and no network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pytest
from pydantic import ValidationError

from saeflow.corpora.documents import CorpusError, Document, Tally
from saeflow.corpora.hub import documents
from saeflow.corpora.settings import Hub

REVISION = "0123456789abcdef0123456789abcdef01234567"


def read(root: Path, tally: Tally | None = None, **changed: Any) -> list[Document]:
    settings = Hub(**{"source": "hub", "folder": "data", "domain": "d", **changed})
    return list(documents(settings, root, tally or Tally()))


@pytest.fixture
def rows() -> datasets.Dataset:
    return datasets.Dataset.from_dict(
        {"text": ["one", "two", "three"], "kind": ["a", "b", "a"], "image": [[0], [1], [2]]}
    )


def test_saved_data_set(tmp_path: Path, rows: datasets.Dataset) -> None:
    rows.save_to_disk(str(tmp_path / "data"))
    tally = Tally()
    found = read(tmp_path, tally, domain={"column": "kind"}, max_rows=2)
    assert found == [Document("one", "a", "data:1"), Document("two", "b", "data:2")]
    assert "state.json" in tally.inputs


def test_parts_of_a_saved_data_set(tmp_path: Path, rows: datasets.Dataset) -> None:
    parts = datasets.DatasetDict({"train": rows, "test": rows.select([2])})
    parts.save_to_disk(str(tmp_path / "data"))
    assert [d.text for d in read(tmp_path, part="test")] == ["three"]
    for part in (None, "dev"):
        with pytest.raises(CorpusError, match=f"part {part!r} is not among train, test"):
            read(tmp_path, part=part)


def test_folder_of_parquet_files(tmp_path: Path, rows: datasets.Dataset) -> None:
    (tmp_path / "data").mkdir()
    for at in range(3):
        path = tmp_path / "data" / f"train-0000{at}-of-00003.parquet"
        rows.select([at]).to_parquet(str(path))
    assert [d.text for d in read(tmp_path, labels=["kind"])] == ["one", "two", "three"]


def test_what_is_wrong_with_a_folder(tmp_path: Path, rows: datasets.Dataset) -> None:
    with pytest.raises(CorpusError, match="there is no folder"):
        read(tmp_path)
    (tmp_path / "data").mkdir()
    with pytest.raises(CorpusError, match="neither a `save_to_disk` folder nor"):
        read(tmp_path)
    rows.save_to_disk(str(tmp_path / "saved"))
    with pytest.raises(CorpusError, match="saved: no column 'body'; it has text, kind, image"):
        read(tmp_path, folder="saved", text="body")
    with pytest.raises(CorpusError, match="saved: it has no parts"):
        read(tmp_path, folder="saved", part="train")


def test_without_network_the_error_says_how_to_mirror(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    with pytest.raises(CorpusError, match="'owner/books' at revision 0123") as error:
        read(tmp_path, folder=None, dataset="owner/books", revision=REVISION)
    assert f"hf download owner/books --repo-type dataset --revision {REVISION}" in str(error.value)


def test_a_folder_does_not_pass_for_a_hub_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "owner" / "books").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CorpusError, match="'owner/books' is a hub id, but also a path"):
        read(tmp_path, folder=None, dataset="owner/books", revision=REVISION)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"dataset": "a/b"}, "either dataset"),
        ({"folder": None}, "either dataset"),
        ({"folder": None, "dataset": "a/b"}, "needs revision"),
        ({"folder": None, "dataset": "a/b", "revision": "main"}, "needs revision"),
        ({"revision": REVISION}, "belong to a hub id"),
        ({"folder": "../x"}, "leaves data_dir"),
        ({"folder": "/x"}, "leaves data_dir"),
        ({"text": []}, "at least one column"),
    ],
)
def test_settings_that_are_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Hub(**{"source": "hub", "folder": "data", "domain": "d", **changed})
