"""The llama2.c converter: equal to llama2.c's own algorithm, and honest about broken files."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from saeflow.artifacts import ArtifactError
from saeflow.subjects import llama2c
from saeflow.subjects.load import Subject, load_subject
from saeflow.subjects.materialise import make_subject
from saeflow.subjects.settings import FromLlama2c

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "model_stories260K"
CHECKPOINT, TOKENIZER = DATA / "stories260K.bin", DATA / "tok512.bin"
SENTENCE = "Once upon a time, there was a little girl named Lily."

needs_model = pytest.mark.skipif(
    not CHECKPOINT.is_file(), reason="shared/data/model_stories260K is not beside the checkout"
)


@pytest.fixture(scope="module")
def stories(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    out = tmp_path_factory.mktemp("subjects") / "stories"
    settings = FromLlama2c(
        source="llama2c",
        checkpoint=CHECKPOINT.name,
        tokenizer=TOKENIZER.name,
        sites=("model.layers.*",),
        context=256,
    )
    make_subject(settings, {}, out, DATA)
    return load_subject(out)


def reference_logits(header: llama2c.Header, w: dict[str, np.ndarray], ids: list[int]):
    """llama2.c's forward pass, one position at a time: logits (t, V)."""
    size, group = header.head_dim, header.heads // header.kv_heads
    keys = np.zeros((header.layers, len(ids), header.kv_heads, size), np.float32)
    values = np.zeros_like(keys)
    return np.stack(
        [reference_step(header, w, keys, values, p, i, size, group) for p, i in enumerate(ids)]
    )


def norm(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return x / np.sqrt((x * x).mean() + 1e-5) * weight


def rotate(vector: np.ndarray, position: int, size: int) -> np.ndarray:
    pairs = vector.reshape(-1, size // 2, 2)
    angle = position / 10000.0 ** (np.arange(0, size, 2) / size)
    cos, sin = np.cos(angle), np.sin(angle)
    turned = [pairs[..., 0] * cos - pairs[..., 1] * sin, pairs[..., 0] * sin + pairs[..., 1] * cos]
    return np.stack(turned, -1).reshape(-1, size)


def reference_step(header, w, keys, values, position, token, size, group) -> np.ndarray:
    x = w["embedding"][token]
    for i in range(header.layers):
        a = norm(x, w["attention_norm"][i])
        queries = rotate(w["wq"][i] @ a, position, size)
        keys[i, position] = rotate(w["wk"][i] @ a, position, size)
        values[i, position] = (w["wv"][i] @ a).reshape(-1, size)
        heads = []
        for h, query in enumerate(queries):
            scores = keys[i, : position + 1, h // group] @ query / np.sqrt(size)
            weights = np.exp(scores - scores.max())
            heads.append(weights / weights.sum() @ values[i, : position + 1, h // group])
        x = x + w["wo"][i] @ np.concatenate(heads)
        a = norm(x, w["mlp_norm"][i])
        gate = w["w1"][i] @ a
        x = x + w["w2"][i] @ (gate / (1 + np.exp(-gate)) * (w["w3"][i] @ a))
    return w["embedding"] @ norm(x, w["final_norm"])


@needs_model
def test_logits_are_those_of_llama2c(stories: Subject) -> None:
    header, weights = llama2c.read_checkpoint(CHECKPOINT)
    ids = stories.tokenizer(SENTENCE)["input_ids"]
    expected = reference_logits(header, weights, ids)
    with torch.no_grad():
        logits = stories.model(torch.tensor([ids])).logits[0].numpy()
    np.testing.assert_allclose(logits, expected, atol=1e-4)


@needs_model
def test_it_tells_stories(stories: Subject) -> None:
    ids = torch.tensor([stories.tokenizer(SENTENCE)["input_ids"]])
    with torch.no_grad():
        logits = stories.model(ids).logits
        loss = functional.cross_entropy(logits[0, :-1], ids[0, 1:]).item()
        told = stories.model.generate(ids[:, :10], max_new_tokens=60, do_sample=False)
    assert loss < 0.5
    text = stories.tokenizer.decode(told[0], skip_special_tokens=True)
    assert text.startswith("Once upon a time, there was a little girl named Lily. She loved to")


@needs_model
def test_unpermuted_weights_would_be_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stories: Subject
) -> None:
    monkeypatch.setattr(llama2c, "halves_from_pairs", lambda weight, head_dim: weight)
    llama2c.convert(CHECKPOINT, TOKENIZER, tmp_path)
    wrong = type(stories.model).from_pretrained(tmp_path)
    ids = torch.tensor([stories.tokenizer(SENTENCE)["input_ids"]])
    with torch.no_grad():
        right, broken = (
            functional.cross_entropy(model(ids).logits[0, :-1], ids[0, 1:]).item()
            for model in (stories.model, wrong)
        )
    assert broken > right + 1


@needs_model
@pytest.mark.parametrize("text", [SENTENCE, "Tim's dog ran!\nIt was 10 o'clock.", "é 漢字 😀 ok"])
def test_text_survives_the_tokenizer(stories: Subject, text: str) -> None:
    ids = stories.tokenizer(text)["input_ids"]
    assert ids[0] == 1
    assert stories.tokenizer.decode(ids, skip_special_tokens=True) == text


@needs_model
def test_better_scores_merge_first(stories: Subject) -> None:
    # As llama2.c's own `run` splits it.
    assert stories.tokenizer.tokenize("Once upon a time, there was a girl") == [
        "▁Once", "▁upon", "▁a", "▁time", ",", "▁there", "▁was", "▁a", "▁g", "ir", "l",
    ]  # fmt: skip


@needs_model
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda raw: raw[:-4], "1,056,536 bytes, its header .* asks for 1,056,540"),
        (lambda raw: raw + b"\0", "1,056,541 bytes, its header .* asks for 1,056,540"),
        (lambda raw: raw[:20], "20 bytes, a llama2.c header has 28"),
        (lambda raw: b"GGUF" + raw[4:], "is no llama2.c header"),
        (lambda raw: struct.pack("<i", 63) + raw[4:], "is no llama2.c header"),
    ],
)
def test_broken_checkpoints_are_named(change, message: str, tmp_path: Path) -> None:
    broken = tmp_path / "broken.bin"
    broken.write_bytes(change(CHECKPOINT.read_bytes()))
    with pytest.raises(ArtifactError, match=f"broken.bin.*{message}"):
        llama2c.read_checkpoint(broken)


@needs_model
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda raw: raw[:3000], "ends at piece|claims"),
        (lambda raw: raw + b"\0" * 9, "9 bytes after piece 512"),
        (lambda raw: raw[:8] + struct.pack("<i", -1) + raw[12:], "piece 0 claims -1 bytes"),
        (lambda raw: raw.replace(b"<unk>", b"<UNK>"), "the first pieces are"),
    ],
)
def test_broken_tokenizers_are_named(change, message: str, tmp_path: Path) -> None:
    broken = tmp_path / "broken.bin"
    broken.write_bytes(change(TOKENIZER.read_bytes()))
    with pytest.raises(ArtifactError, match=f"broken.bin.*({message})"):
        llama2c.read_tokenizer(broken, llama2c.read_header(CHECKPOINT))


def test_a_head_of_its_own_is_read(tmp_path: Path) -> None:
    # A negative vocabulary size says that the head is not the embedding; it comes last.
    header = llama2c.Header(8, 12, 1, 2, 1, 5, 6, False)
    arrays = {
        name: np.full(shape, i, "<f4") for i, (name, shape) in enumerate(header.shapes().items())
    }
    raw = struct.pack("<7i", 8, 12, 1, 2, 1, -5, 6) + b"".join(a.tobytes() for a in arrays.values())
    (tmp_path / "own.bin").write_bytes(raw)
    found, read = llama2c.read_checkpoint(tmp_path / "own.bin")
    assert found == header
    for name, array in arrays.items():
        np.testing.assert_array_equal(read[name], array)
    assert llama2c._config(found).tie_word_embeddings is False


def test_permutation_pairs_halves() -> None:
    rows = torch.arange(8.0)[:, None].expand(8, 3)
    assert llama2c.halves_from_pairs(rows, 4)[:, 0].tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
