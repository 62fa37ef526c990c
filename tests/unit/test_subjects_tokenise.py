"""Windows of tokens: whole, in order, and nothing lost without a count."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError
from subjects_tiny import write_folder

from saeflow.artifacts import ArtifactError, read_manifest, write_manifest
from saeflow.subjects.folder import load_tokenizer
from saeflow.subjects.materialise import make_subject
from saeflow.subjects.settings import FromFolder
from saeflow.subjects.tokenise import tokenise

TEXTS = {
    11: ("train", "the cat sat on the mat and the dog lay on the rug. " * 4),
    12: ("train", "short"),
    13: ("test", "exactly <|endoftext|> as text, é and 漢"),
    14: ("train", "the dog lay on the mat and the cat"),
}


def settings(**changes) -> FromFolder:
    known = {"source": "folder", "path": "model", "sites": ("gpt_neox.layers.*",)}
    return FromFolder(**known | {"context": 16, "min_window": 3} | changes)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tokens")
    write_folder("gpt_neox", root / "model")
    make_subject(settings(), {}, root / "subject", root)
    (root / "corpus").mkdir()
    splits, texts = zip(*TEXTS.values(), strict=True)
    table = pa.table({"document": list(TEXTS), "split": list(splits), "text": list(texts)})
    pq.write_table(table, root / "corpus" / "documents.parquet")
    write_manifest(root / "corpus", kind="corpus", settings={}, files=["documents.parquet"])
    return root


def rows(root: Path, out: Path, split: str, **changes) -> list[dict]:
    tokenise(settings(**changes), root / "subject", root / "corpus", out)
    return pq.read_table(out / f"{split}.parquet").to_pylist()


def ids(root: Path, document: int) -> list[int]:
    bpe = load_tokenizer(root / "subject").backend_tokenizer
    bpe.encode_special_tokens = True
    return bpe.encode(TEXTS[document][1], add_special_tokens=False).ids


def test_windows_put_documents_together_again(root: Path, tmp_path: Path) -> None:
    found = rows(root, tmp_path, "train", min_window=1)
    assert [row["window"] for row in found] == list(range(len(found)))
    for document in (11, 12, 14):
        mine = [row for row in found if row["document"] == document]
        assert [row["start"] for row in mine] == list(range(0, len(ids(root, document)), 15))
        assert all(row["tokens"][0] == 0 and len(row["tokens"]) <= 16 for row in mine)
        assert sum((row["tokens"][1:] for row in mine), []) == ids(root, document)  # noqa: RUF017
    assert len([row for row in found if row["document"] == 11]) > 1


def test_without_a_begin_token_windows_hold_more_text(root: Path, tmp_path: Path) -> None:
    found = rows(root, tmp_path, "train", prepend_bos=False, min_window=1)
    mine = [row for row in found if row["document"] == 11]
    assert [row["start"] for row in mine] == list(range(0, len(ids(root, 11)), 16))
    assert mine[0]["tokens"] == ids(root, 11)[:16]


def test_short_windows_are_dropped_and_counted(root: Path, tmp_path: Path) -> None:
    found = rows(root, tmp_path, "train", min_window=15)
    assert all(len(row["tokens"]) == 16 for row in found)
    stats = read_manifest(tmp_path, kind="tokens")["stats"]["train"]
    total = sum(len(ids(root, document)) for document in (11, 12, 14))
    assert stats["text_tokens"] == 15 * len(found)
    assert stats["text_tokens"] + stats["dropped_tokens"] == total
    assert stats["documents"] == 3 and stats["windows"] == len(found)


def test_special_tokens_in_a_document_are_text(root: Path, tmp_path: Path) -> None:
    [row] = rows(root, tmp_path, "test", context=64, min_window=1)[:1]
    assert row["tokens"].count(0) == 1


def test_splits_are_apart_and_may_be_empty(root: Path, tmp_path: Path) -> None:
    assert {row["document"] for row in rows(root, tmp_path, "test")} == {13}
    assert pq.read_table(tmp_path / "validation.parquet").num_rows == 0


def test_same_bytes_twice(root: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        rows(root, tmp_path / name, "train")
    for split in ("train", "validation", "test"):
        first, second = (tmp_path / name / f"{split}.parquet" for name in ("a", "b"))
        assert first.read_bytes() == second.read_bytes()


def test_nothing_left_is_an_error(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="min_window=999"):
        rows(root, tmp_path, "train", context=1000, min_window=999)
    assert not (tmp_path / "manifest.json").exists()


def test_unfinished_inputs_are_refused(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="never finished"):
        tokenise(settings(), root / "subject", tmp_path, tmp_path / "out")


def test_a_least_window_beyond_the_context_is_refused() -> None:
    assert settings(min_window=15).min_window == settings(context=15, prepend_bos=False).context
    with pytest.raises(ValidationError, match="min_window: 16 exceeds the 15 text tokens"):
        settings(min_window=16)


def test_a_run_that_ends_early_leaves_no_manifest_over_its_files(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows(root, tmp_path, "train")
    assert read_manifest(tmp_path, kind="tokens")["code"]
    (tmp_path / ".tmp-train.parquet-12345678.parquet").write_bytes(b"of a killed run")
    monkeypatch.setattr("saeflow.subjects.tokenise.write_manifest", None)
    with pytest.raises(TypeError):
        rows(root, tmp_path, "train", min_window=15)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {f"{split}.parquet" for split in ("train", "validation", "test")}
