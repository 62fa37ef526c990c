"""What is asked side by side, what is left when it ends early, and which answers are kept."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import pytest
from autointerp_planted import SITE, make_world
from autointerp_server import Served, serving
from test_autointerp_endpoint import SMALL, endpoint

from saeflow.artifacts import ArtifactError
from saeflow.autointerp.answers import ANSWERS, PARTS, Answer, Answers
from saeflow.autointerp.contexts import Latent, collect
from saeflow.autointerp.endpoint import EndpointModel
from saeflow.autointerp.examples import Examples
from saeflow.autointerp.judges import JudgeRefused
from saeflow.autointerp.language import LanguageJudge
from saeflow.autointerp.settings import Autointerp
from saeflow.autointerp.verdicts import verdicts


@pytest.fixture(scope="module")
def latents(tmp_path_factory: pytest.TempPathFactory) -> list[Latent]:
    """A few latents with what they are explained from and scored on."""
    world = make_world(tmp_path_factory.mktemp("world"))
    return collect(
        Autointerp.model_validate(SMALL), {0: world / "seed0"}, subject=world / "subject",
        tokens=world / "tokens", split="test", exclusion=world / "cache", site=SITE,
    ).latents  # fmt: skip


def queue(latents: list[Latent], length: int) -> list[Latent]:
    """Latents of `length` different explanations: each is shown one example more than another."""
    return [
        latent._replace(examples=first_of(latent.examples, 1 + number))
        for number in range(length // len(latents))
        for latent in latents
    ]


def first_of(examples: Examples, n: int) -> Examples:
    shown = slice(n)
    contexts = examples.contexts.take(shown)
    return Examples(contexts, examples.acts_ct[shown], examples.active_ct[shown])


def test_a_refusal_empties_the_queue(latents: list[Latent], tmp_path: Path) -> None:
    """Just one request is refused: whoever goes on asking would be answered."""
    waiting, concurrency = queue(latents, 40), 4
    with serving(faults=["none"] * 9 + ["401"], pause=0.05) as served:
        model = EndpointModel(endpoint(served, concurrency=concurrency))
        with pytest.raises(JudgeRefused, match="status 401"):
            list(verdicts(LanguageJudge(model, tmp_path, 10), waiting))
        asked = len(served.requests())
        time.sleep(0.3)
        assert len(served.requests()) == asked <= 10 + concurrency
    assert len(parts(tmp_path)) == asked - 1


def test_a_refusal_ends_the_pauses_between_tries(latents: list[Latent], tmp_path: Path) -> None:
    faults = ["500", "500", "500", "401"]
    with serving(faults=faults) as served:
        model = EndpointModel(endpoint(served, concurrency=4, backoff_seconds=30))
        began = time.monotonic()
        with pytest.raises(JudgeRefused, match="status 401"):
            list(verdicts(LanguageJudge(model, tmp_path, 10), queue(latents, 8)))
        assert time.monotonic() - began < 25  # a pause is 30 s


def test_any_other_error_empties_the_queue(latents: list[Latent], tmp_path: Path) -> None:
    with serving(pause=0.05) as served:
        judge = LanguageJudge(EndpointModel(endpoint(served, concurrency=2)), tmp_path, 10)
        with (
            patch.object(judge.answers, "add", side_effect=OSError("no space left on device")),
            pytest.raises(OSError, match="no space left"),
        ):
            list(verdicts(judge, queue(latents, 40)))
        assert len(served.requests()) <= 1 + 2


@contextmanager
def judging(
    served: Served, latents: list[Latent], folder: Path, concurrency: int
) -> Iterator[multiprocessing.process.BaseProcess]:
    """Judge latents in a process of its own that has had three answers."""

    def work() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        model = EndpointModel(endpoint(served, concurrency=concurrency))
        list(verdicts(LanguageJudge(model, folder, 10), latents))

    # The process only waits for the server and writes files: no need to import all anew.
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    until = time.monotonic() + 60
    while len(parts(folder)) < 3:
        assert process.is_alive() and time.monotonic() < until
        time.sleep(0.02)
    yield process
    process.join(20)
    assert process.exitcode, "it ended, and did not end well"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_asks_nothing_more(
    latents: list[Latent], tmp_path: Path, number: int
) -> None:
    concurrency = 4
    with serving(pause=0.3) as served:
        with judging(served, queue(latents, 40), tmp_path, concurrency) as process:
            before = len(served.requests())
            os.kill(process.pid or 0, number)
        asked = len(served.requests())
        time.sleep(0.3)
        assert len(served.requests()) == asked <= before + 2 * concurrency
    assert 3 <= len(parts(tmp_path)) <= asked
    assert len(Answers(tmp_path, "judge").rows) == len(parts(tmp_path))  # all of them readable


def test_a_killed_run_keeps_what_it_has_paid(latents: list[Latent], tmp_path: Path) -> None:
    with serving(pause=0.1) as served:
        with judging(served, latents, tmp_path, 1) as process:
            process.kill()
        kept, before = len(parts(tmp_path)), len(served.requests())
        judge = LanguageJudge(EndpointModel(endpoint(served)), tmp_path, 10)
        assert {found.status for found in verdicts(judge, latents)} == {"ok"}
        spent = judge.finish()
        assert spent["requests"] == len(served.requests()) - before > 0
    assert spent["cached"] == kept >= 3
    assert not parts(tmp_path) and (tmp_path / ANSWERS).exists()


def test_the_same_question_of_several_latents_is_asked_once(
    latents: list[Latent], tmp_path: Path
) -> None:
    with serving(pause=0.05) as served:
        judge = LanguageJudge(EndpointModel(endpoint(served, concurrency=8)), tmp_path, 10)
        found = list(verdicts(judge, latents[:1] * 8))
        assert len(set(found)) == 1 and found[0].status == "ok"
        prompts = [request["body"]["messages"][0]["content"] for request in served.requests()]
    assert len(prompts) == len(set(prompts)) == judge.spent["requests"]
    assert {path.stat().st_mode & 0o777 for path in parts(tmp_path)} == {0o666 & ~umask()}


def umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def parts(folder: Path) -> list[Path]:
    """Answers on disk that no finished stage has merged."""
    return list((folder / PARTS).glob("[!.]*.parquet"))


def test_damaged_answers_are_not_forgotten_silently(tmp_path: Path) -> None:
    answers = Answers(tmp_path, "judge")
    answers.add("question", Answer("yes", 3, 1))
    assert Answers(tmp_path, "judge").get("question") == Answer("yes", 3, 1)
    assert Answers(tmp_path, "another judge").get("question") is None
    answers.merge()
    assert Answers(tmp_path, "judge").get("question") == Answer("yes", 3, 1)
    whole = (tmp_path / ANSWERS).read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", whole.replace(b"yes", b"\xff\xff\xff")):
        (tmp_path / ANSWERS).write_bytes(damaged)
        with pytest.raises(ArtifactError, match="asked again"):
            Answers(tmp_path, "judge")


def test_what_a_kill_left_of_an_answer_is_none(tmp_path: Path) -> None:
    """An answer has its name once it is whole; before, it is a temporary file."""
    answers = Answers(tmp_path, "judge")
    answers.add("question", Answer("yes", 3, 1))
    [part] = parts(tmp_path)
    (part.parent / f".tmp-{part.name}-x.parquet").write_bytes(part.read_bytes()[:50])
    again = Answers(tmp_path, "judge")
    assert list(again.rows) == list(answers.rows)
    again.merge()
    assert not part.parent.exists()
