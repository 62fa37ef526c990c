"""A Hugging Face encoder, against its model run on one text at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from retrieval_planted import documents, texts_of, write_bert, write_corpus
from safetensors.numpy import load_file
from transformers import AutoModel, AutoTokenizer

from saeflow.artifacts import ArtifactError, read_manifest
from saeflow.retrieval import dense as dense_module
from saeflow.retrieval.dense import DenseIndex, index_dense
from saeflow.retrieval.encoders import encoder_files
from saeflow.retrieval.huggingface import HuggingFaceEncoder, mean_pooled
from saeflow.retrieval.reading import RetrievalError
from saeflow.retrieval.settings import LSA, Dense, HuggingFace

TEXTS = ["physicsaa commona", "graphsab", "commonb commonc commond tensorsaa framesbb"]


def settings(**changed: object) -> HuggingFace:
    return HuggingFace(**{"kind": "huggingface", "folder": "bert", "max_tokens": 16, **changed})


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_bert(tmp_path / "bert")
    return tmp_path


def encode(root: Path, texts: list[str], **changed: object) -> np.ndarray:
    return HuggingFaceEncoder(settings(**changed), root, "cpu").encode(texts)


def by_hand(root: Path, text: str, max_tokens: int = 16) -> np.ndarray:
    tokenizer = AutoTokenizer.from_pretrained(root / "bert")
    ids = tokenizer(text, truncation=True, max_length=max_tokens, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        return AutoModel.from_pretrained(root / "bert")(ids).last_hidden_state[0].mean(0).numpy()


def test_padding_does_not_count(root: Path) -> None:
    together = encode(root, TEXTS, batch=3)
    for vector, text in zip(together, TEXTS, strict=True):
        assert vector == pytest.approx(by_hand(root, text), abs=1e-5)
    assert encode(root, TEXTS, batch=1) == pytest.approx(together, abs=1e-5)


def test_weights_stored_in_half_precision_run_in_float32(root: Path) -> None:
    model = AutoModel.from_pretrained(root / "bert").to(torch.bfloat16)
    model.save_pretrained(root / "bert")
    assert HuggingFaceEncoder(settings(), root, "cpu").model.dtype == torch.float32
    with torch.no_grad():
        ids = AutoTokenizer.from_pretrained(root / "bert")(TEXTS[0], return_tensors="pt")
        expected = model.float()(ids["input_ids"]).last_hidden_state[0].mean(0)
    assert encode(root, TEXTS[:1])[0] == pytest.approx(expected.numpy(), abs=1e-5)


def test_mean_pooled_in_closed_form() -> None:
    hidden = torch.tensor([[[1.0], [3.0], [100.0]], [[5.0], [100.0], [100.0]]])
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    assert mean_pooled(hidden, mask).tolist() == [[2.0], [5.0]]


def test_cut_and_scaled(root: Path) -> None:
    assert encode(root, TEXTS[2:], max_tokens=3)[0] == pytest.approx(
        by_hand(root, TEXTS[2], 3), abs=1e-5
    )
    lengths = np.linalg.norm(encode(root, TEXTS, normalise=True), axis=1)
    assert lengths == pytest.approx(np.ones(3), abs=1e-5)


def test_a_text_of_special_letters_only(root: Path) -> None:
    assert np.isfinite(encode(root, ["", "\n"])).all()


def test_a_model_that_changed_after_its_index_was_made(root: Path) -> None:
    corpus = write_corpus(root / "corpus", documents(30))
    index_dense(Dense(encoder=settings()), corpus, root / "index", root=root)
    manifest = read_manifest(root / "index", kind="index")
    assert "model.safetensors" in manifest["inputs"]
    assert DenseIndex(root / "index", manifest, root=root).score(TEXTS).values_qn.shape[0] == 3
    write_bert(root / "bert", seed=1)
    with pytest.raises(ArtifactError, match=r"model.safetensors changed after .* was made"):
        DenseIndex(root / "index", manifest, root=root)
    write_bert(root / "bert", width=4)
    with pytest.raises(ArtifactError, match="width 8, its encoder makes 4"):
        DenseIndex(root / "index", manifest, root=root)


@pytest.mark.parametrize("replaced", ["model.safetensors", "vocab.txt"])
def test_a_model_replaced_after_a_kill_starts_anew(
    root: Path, monkeypatch: pytest.MonkeyPatch, replaced: str
) -> None:
    """No index holds vectors of two models."""
    corpus = write_corpus(root / "corpus", documents(60))
    chosen = Dense(encoder=settings(), shard_documents=10)
    write = dense_module._write_shard
    written: list[Path] = []

    def stops_at_the_second(encoder: Any, part: Any, path: Path, progress: Any) -> None:
        if written:
            raise KeyboardInterrupt
        written.append(path)
        write(encoder, part, path, progress)

    monkeypatch.setattr(dense_module, "_write_shard", stops_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        index_dense(chosen, corpus, root / "index", root=root)
    if replaced == "vocab.txt":
        (root / "bert" / replaced).write_text((root / "bert" / replaced).read_text() + "\nmore")
    else:
        write_bert(root / "bert", seed=1)
    again: list[Path] = []

    def records(encoder: Any, part: Any, path: Path, progress: Any) -> None:
        again.append(path)
        write(encoder, part, path, progress)

    monkeypatch.setattr(dense_module, "_write_shard", records)
    index_dense(chosen, corpus, root / "index", root=root)
    assert written[0] in again
    fresh = encode(root, texts_of(documents(60), "train")[:10]).astype(np.float16)
    assert load_file(written[0])["vectors"] == pytest.approx(fresh, abs=1e-2)


def test_the_files_that_decide_the_vectors(root: Path) -> None:
    for name in ("merges.txt", "spiece.model", "README.md", "manifest.json"):
        (root / "bert" / name).write_text("{}")
    found = [path.name for path in encoder_files(settings(), root)]
    assert {"model.safetensors", "config.json", "vocab.txt", "merges.txt", "spiece.model"} <= {
        *found
    }
    assert found == sorted(found) and not {"README.md", "manifest.json"} & {*found}
    on_the_hub = settings(folder=None, model="owner/name", revision="0" * 40)
    assert encoder_files(on_the_hub, root) == encoder_files(LSA(kind="lsa"), root) == []


def test_weights_that_are_no_safetensors(root: Path) -> None:
    (root / "bert" / "model.safetensors").rename(root / "bert" / "pytorch_model.bin")
    with pytest.raises(RetrievalError, match=r"bert has no \*.safetensors; write the model"):
        encode(root, TEXTS)


def test_a_broken_folder(root: Path) -> None:
    (root / "bert" / "config.json").write_text("{}")
    with pytest.raises(RetrievalError, match="encoder bert cannot be loaded"):
        encode(root, TEXTS)


def test_more_tokens_than_positions(root: Path) -> None:
    with pytest.raises(RetrievalError, match="max_tokens 64 exceeds the 48 positions"):
        encode(root, TEXTS, max_tokens=64)


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"folder": None}, "give either model"),
        ({"model": "owner/name"}, "give either model"),
        ({"folder": None, "model": "owner/name"}, "needs revision"),
        ({"folder": None, "model": "owner/name", "revision": "main"}, "match pattern"),
        ({"revision": "0" * 40}, "revision belongs to a hub id"),
        ({"folder": "../bert"}, "leaves data_dir"),
        ({"trust_remote_code": True}, "Extra inputs"),
    ],
)
def test_wrong_settings(changed: dict, what: str) -> None:
    with pytest.raises(ValidationError, match=what):
        settings(**changed)
