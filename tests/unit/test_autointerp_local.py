"""A Hugging Face model as judge in the process: transport, length, identity, what it is not."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from autointerp_planted import POINT, make_world, write_small_model
from transformers import AutoTokenizer

from saeflow.autointerp.answers import ANSWERS
from saeflow.autointerp.judges import JudgeError, JudgeRefused
from saeflow.autointerp.kinds import judge_files
from saeflow.autointerp.local import LocalModel
from saeflow.autointerp.score import explain_latents
from saeflow.autointerp.settings import Autointerp, Local


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_model(tmp_path_factory.mktemp("judge"))


def local(folder: Path, **settings: object) -> LocalModel:
    fixed = {"kind": "local", "path": folder.name, "dtype": "float32", "max_new_tokens": 5}
    return LocalModel(Local.model_validate({**fixed, **settings}), folder.parent)


def test_answers_are_decoded_greedily(folder: Path) -> None:
    model = local(folder)
    answer = model.complete("a latent is")
    assert answer == model.complete("a latent is")
    assert 0 < (answer.answer_tokens or 0) <= 5
    longer = local(folder, max_new_tokens=9).complete("a latent is")
    assert longer.text.startswith(answer.text)


def test_a_chat_template_is_used_where_there_is_one(folder: Path, tmp_path: Path) -> None:
    write_small_model(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    tokenizer.chat_template = "{% for m in messages %}[{{ m.content }}]{% endfor %}"
    tokenizer.save_pretrained(tmp_path)
    plain, chat = (local(where).complete("tokens") for where in (folder, tmp_path))
    count = {t: len(tokenizer(t)["input_ids"]) for t in ("tokens\n\nAnswer:", "[tokens]")}
    assert (plain.prompt_tokens, chat.prompt_tokens) == tuple(count.values())


def test_a_prompt_without_room_is_one_failure(folder: Path) -> None:
    with pytest.raises(JudgeError, match=r"too long .*4096") as failed:
        local(folder).complete("tokens " * 5000)
    assert failed.value.status == "error"


def test_other_weights_are_another_judge(folder: Path, tmp_path: Path) -> None:
    write_small_model(tmp_path / "same")
    assert local(tmp_path / "same").identity == local(folder).identity
    weights = tmp_path / "same" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\1")
    assert local(tmp_path / "same").identity != local(folder).identity
    assert local(folder, max_new_tokens=6).identity != local(folder).identity
    template = tmp_path / "same" / "chat_template.jinja"
    before = local(tmp_path / "same").identity
    template.write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    assert local(tmp_path / "same").identity != before
    found = [path.name for path in judge_files(local(folder).settings, folder.parent)]
    assert found == sorted(found) and {"config.json", "model.safetensors"} <= set(found)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(JudgeRefused, match="holds no Hugging Face model"):
        local(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(JudgeRefused, match=r"has no \*\.safetensors"):
        local(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"none")
    with pytest.raises(JudgeRefused, match="no usable tokenizer"):
        local(tmp_path)


def test_weights_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    weights = write_small_model(tmp_path) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(JudgeRefused, match="no usable weights"):
        local(tmp_path).complete("a latent is")


def test_what_is_no_explanation_is_recorded_as_such(folder: Path, tmp_path: Path) -> None:
    world = make_world(tmp_path / "world")
    judge = {"kind": "local", "path": folder.name, "dtype": "float32", "max_new_tokens": 4}
    explain_latents(
        Autointerp.model_validate(
            {"judge": judge, "latents": 2, "min_activations": 3, "example_tokens": 10}
        ),
        {0: world / "seed0"},
        subject=world / "subject",
        tokens=world / "tokens",
        split="test",
        activations=world / "cache",
        point=POINT,
        out=tmp_path / "out",
        root=folder.parent,
    )
    scores = pd.read_parquet(tmp_path / "out" / "scores.parquet")
    assert scores["status"].tolist() == ["nonsense", "nonsense"]
    assert len(pd.read_parquet(tmp_path / "out" / ANSWERS)) == 4  # each is asked once more
