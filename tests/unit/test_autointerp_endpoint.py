"""The endpoint judge against a real server in a process of its own, which misbehaves as told."""

from __future__ import annotations

import time
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from autointerp_planted import POINT, make_world, write_small_model
from autointerp_server import Served, serving

from saeflow.artifacts import read_manifest
from saeflow.autointerp.endpoint import EndpointModel
from saeflow.autointerp.judges import JudgeError, JudgeRefused
from saeflow.autointerp.score import explain_latents
from saeflow.autointerp.settings import Autointerp, Endpoint

SMALL = {"tokens": 10_000, "example_tokens": 10, "min_activations": 3, "latents": 2}
FAST = {"backoff_seconds": 0.01, "timeout_seconds": 5.0, "retries": 2}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"))


def endpoint(served: Served, **settings: Any) -> Endpoint:
    fixed = {"kind": "endpoint", "url": served.url, "model": "planted"}
    return Endpoint.model_validate({**fixed, **FAST, **settings})


def explained(
    world: Path, out: Path, judge: Mapping[str, Any], **settings: Any
) -> tuple[pd.DataFrame, dict[str, Any]]:
    explain_latents(
        Autointerp.model_validate({**SMALL, **settings, "judge": judge}),
        {0: world / "seed0"},
        subject=world / "subject",
        tokens=world / "tokens",
        split="test",
        activations=world / "cache",
        point=POINT,
        out=out,
    )
    manifest = read_manifest(out, kind="metrics", deep=True)
    return pd.read_parquet(out / "scores.parquet"), manifest["stats"]


def judge(served: Served, **settings: Any) -> dict[str, Any]:
    return endpoint(served, **settings).model_dump()


def test_right_answers_are_read_and_nothing_is_asked_twice(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    price = {"input": 1.0, "output": 10.0}
    with serving() as served:
        settings = judge(served, price_per_million=price)
        scores, stats = explained(world, tmp_path, settings)
        asked = served.requests()
        assert set(scores["status"]) == {"ok"}
        one_word = scores[scores["latent"].isin([0, 5])]
        assert len(one_word) and (one_word["f1"] == 1).all()
        assert set(scores["diversity"]) == {37}
        assert set(scores["justification"]) == {"It is one word in many places."}
        assert set(scores["judge"]) == {"endpoint:planted"}
        assert asked[0]["path"] == "/v1/chat/completions"
        assert asked[0]["body"]["model"] == "planted" and asked[0]["authorization"] is None
        assert (stats["requests"], stats["cached"]) == (len(asked), 0)
        cost = (stats["prompt_tokens"] + 10 * stats["answer_tokens"]) / 1e6
        assert stats["cost"] == pytest.approx(cost) and cost > 0
        said = capsys.readouterr().err
        assert f"explains 2 latents with {len(asked)} requests" in said
        assert "at most about 0." in said

        (tmp_path / "manifest.json").unlink()
        again, cached = explained(world, tmp_path, settings)
        assert len(served.requests()) == len(asked)
    pd.testing.assert_frame_equal(scores, again)
    assert (cached["requests"], cached["cached"]) == (0, len(asked))
    assert cached["cost"] == stats["cost"]  # of the answers used, whenever they were paid


@pytest.mark.parametrize(
    "fault",
    ["slow", "slow head", "slow body", "429", "503", "truncated", "odd usage", "deep", "large",
     "half a character", "nonsense"],
)  # fmt: skip
def test_a_passing_fault_is_asked_again(world: Path, tmp_path: Path, fault: str) -> None:
    with serving(faults=[fault], seconds=2) as served:
        settings = judge(served, timeout_seconds=1, concurrency=1)
        scores, stats = explained(world, tmp_path, settings, latents=1)
        assert set(scores["status"]) == {"ok"}
        asked = served.requests()
    assert len(asked) == 1 + stats["requests"] - (fault == "nonsense")
    prompts = [request["body"]["messages"][0]["content"] for request in asked]
    if fault == "nonsense":
        assert prompts[1].startswith(prompts[0]) and "begins with EXPLANATION" in prompts[1][-250:]
    else:
        assert prompts[0] == prompts[1]


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        ("slow", "timeout"),
        ("429", "error"),
        ("500", "error"),
        ("400", "error"),
        ("302", "error"),
        ("truncated", "nonsense"),
        ("odd usage", "nonsense"),
        ("deep", "nonsense"),
        ("large", "nonsense"),
        ("half a character", "nonsense"),
        ("slow head", "timeout"),
        ("slow body", "timeout"),
        ("nonsense", "nonsense"),
    ],
)
def test_a_lasting_fault_is_recorded(world: Path, tmp_path: Path, fault: str, status: str) -> None:
    with serving(faults=[fault], forever=True, seconds=1) as served:
        settings = judge(served, timeout_seconds=0.3 if "slow" in fault else 20, retries=1)
        scores, stats = explained(world, tmp_path, settings)
        paths = {request["path"] for request in served.requests()}
        tries = len(served.requests()) / 2
    assert scores["status"].tolist() == [status, status]
    assert scores["f1"].isna().all() and scores["explanation"].isna().all()
    assert stats["failed"] == 2
    assert paths == {"/v1/chat/completions"}  # a redirect is not followed
    assert tries == (1 if fault in ("400", "302") else 2)


@pytest.mark.parametrize("status", ["401", "403", "404"])
def test_a_wrong_key_or_address_stops_at_once(
    world: Path, tmp_path: Path, status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUDGE_KEY", "secret-1")
    with serving(faults=[status], forever=True) as served:
        settings = judge(served, api_key_env="JUDGE_KEY", concurrency=1)
        with pytest.raises(JudgeRefused, match=f"status {status}.*check url, model") as refused:
            explained(world, tmp_path, settings)
        assert [r["authorization"] for r in served.requests()] == ["Bearer secret-1"]
    assert "secret-1" not in str(refused.value)
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"secret-1" not in written


def test_a_missing_key_is_named_before_the_subject_runs(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    unreachable = {"kind": "endpoint", "url": "http://127.0.0.1:9/v1", "model": "m"}
    with pytest.raises(JudgeRefused, match="environment has no NO_SUCH_KEY"):
        explained(world, tmp_path, {**unreachable, "api_key_env": "NO_SUCH_KEY"})


@pytest.mark.parametrize("key", ["sk-1234\n", "two words", "schlüssel"])
def test_what_is_no_key_is_refused_and_not_shown(
    world: Path, tmp_path: Path, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUDGE_KEY", key)
    unreachable = {"kind": "endpoint", "url": "http://127.0.0.1:9/v1", "model": "m"}
    with pytest.raises(JudgeRefused, match="JUDGE_KEY holds spaces, line ends") as refused:
        explained(world, tmp_path, {**unreachable, "api_key_env": "JUDGE_KEY"})
    assert key.strip() not in str(refused.value)


def test_a_key_that_an_odd_answer_repeats_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", "secret-1")
    with serving(faults=["key"], forever=True) as served:
        model = EndpointModel(endpoint(served, api_key_env="JUDGE_KEY", retries=0))
        with pytest.raises(JudgeError, match=r"no chat completion: .*Bearer \*\*\*") as failed:
            model.complete("Hello")
    assert "secret-1" not in str(failed.value)


def test_odd_counts_of_tokens_are_none() -> None:
    with serving(faults=["odd counts"]) as served:
        answer = EndpointModel(endpoint(served)).complete("Rate it.")
    assert answer.text and answer[1:] == (None, None)


def test_a_trickled_answer_ends_at_the_deadline() -> None:
    """Each read is quick, so a timeout of a read alone would wait for all of it."""
    for fault in ("slow head", "slow body"):
        with serving(faults=[fault], seconds=3) as served:
            model = EndpointModel(endpoint(served, timeout_seconds=0.4, retries=0))
            began = time.monotonic()
            with pytest.raises(JudgeError, match=r"no answer in 0\.4 s"):
                model.complete("Hello")
            assert time.monotonic() - began < 2


def test_nobody_there_is_recorded(world: Path, tmp_path: Path) -> None:
    settings = {"kind": "endpoint", "url": "http://127.0.0.1:9/v1", "model": "m", **FAST}
    scores, _ = explained(world, tmp_path, settings, latents=1)
    assert scores["status"].tolist() == ["error"]


def test_pauses_double(world: Path) -> None:
    with serving(faults=["500"], forever=True) as served:
        model = EndpointModel(endpoint(served, retries=3, backoff_seconds=0.1))
        with pytest.raises(JudgeError, match="status 500"):
            model.complete("Hello")
        times = [request["time"] for request in served.requests()]
    pauses = [later - earlier for earlier, later in pairwise(times)]
    assert len(pauses) == 3
    assert all(pause >= expected for pause, expected in zip(pauses, (0.1, 0.2, 0.4), strict=True))


def test_latents_are_judged_at_the_same_time(world: Path, tmp_path: Path) -> None:
    results = []
    for concurrency in (1, 2):
        with serving(pause=0.02) as served:
            settings = judge(served, concurrency=concurrency)
            results.append(explained(world, tmp_path / str(concurrency), settings)[0])
            assert (served.log()["at_once"] > 1) == (concurrency > 1)
    pd.testing.assert_frame_equal(*results)


def test_a_model_that_knows_nothing_is_told_apart_from_one_that_is_wrong(
    world: Path, tmp_path: Path
) -> None:
    """A real causal model behind HTTP: what it says is no explanation, and that is what is said."""
    folder = write_small_model(tmp_path / "model")
    with serving(model=str(folder)) as served:
        settings = judge(served, timeout_seconds=60, retries=1)
        scores, stats = explained(world, tmp_path / "out", settings)
    assert scores["status"].tolist() == ["nonsense", "nonsense"]
    assert scores["f1"].isna().all()
    assert stats["requests"] == 4 and stats["answer_tokens"] > 0
