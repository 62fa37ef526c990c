"""Fact accuracy: right only where greedy decoding gives the whole answer."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from saeflow.corpora.facts import Query
from saeflow.subjects.recall import fact_accuracy
from saeflow.subjects.tokenizer import train_tokenizer

TOKENIZER = train_tokenizer(["Paris France Rome Italy Oslo Norway in"] * 9, 270, 64)


class Parrot:
    """Predicts, after any prefix of a sentence that it knows, the next token of that sentence."""

    device = torch.device("cpu")

    def __init__(self, *sentences: str) -> None:
        self.known = [[0, *TOKENIZER(s, add_special_tokens=False)["input_ids"]] for s in sentences]

    def __call__(self, tokens_bt: torch.Tensor, use_cache: bool) -> SimpleNamespace:
        logits = torch.zeros(*tokens_bt.shape, 270)
        for row, tokens in enumerate(tokens_bt.tolist()):
            for position in range(len(tokens)):
                for sentence in self.known:
                    if sentence[: position + 1] == tokens[: position + 1] != sentence:
                        logits[row, position, sentence[position + 1]] = 1
        return SimpleNamespace(logits=logits)


def query(city: str, country: str) -> Query:
    return Query(f"{city} in", f" {country}", city, "country")


def test_whole_answers_count() -> None:
    model = Parrot("Paris in France", "Rome in Italien")
    asked = [query("Paris", "France"), query("Rome", "Italy"), query("Oslo", "Norway")]
    asked.append(Query("Rome", " in Italien", "Rome", "language"))
    found = fact_accuracy(model, TOKENIZER, asked)
    assert found == {
        "country": pytest.approx(1 / 3, abs=1e-4),
        "language": 1.0,
        "all": 0.5,
    }


def test_an_answer_of_several_tokens_must_be_right_to_its_end() -> None:
    answer = TOKENIZER(" Norwich", add_special_tokens=False)["input_ids"]
    assert len(answer) > 1
    model = Parrot("Oslo in Norway")
    assert fact_accuracy(model, TOKENIZER, [query("Oslo", "Norwich")])["all"] == 0
    assert fact_accuracy(model, TOKENIZER, [query("Oslo", "Norway")])["all"] == 1
