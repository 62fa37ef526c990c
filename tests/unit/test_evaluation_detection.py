"""Detection as a whole: planted latents, judges that know nothing, failures, what is refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
from autointerp_planted import LATENTS, POINT, make_world
from autointerp_server import serving
from pydantic import ValidationError

from saeflow.activations.exclusion import read_exclusion
from saeflow.artifacts import ArtifactError, read_manifest
from saeflow.autointerp.examples import Contexts, Examples
from saeflow.autointerp.firing import read_text
from saeflow.autointerp.judges import JudgeError, JudgeRefused
from saeflow.autointerp.kinds import judge_code
from saeflow.autointerp.lexical import LexicalJudge
from saeflow.autointerp.settings import Autointerp, Lexical
from saeflow.evaluation.detection import Measured, evaluate_detection, measure_detection
from saeflow.evaluation.detection_settings import DetectionSettings
from saeflow.evaluation.origin import Key, Member
from saeflow.evaluation.rows import Point, read_rows
from saeflow.sae.boosted import Boosted
from saeflow.sae.formats import load_sae
from saeflow.sae.model import SAE
from saeflow.subjects.load import load_subject

ORTSAE = {"explain": 5, "active": 10, "silent": 10, "quantiles": 2}
SMALL = {"ortsae": ORTSAE, "tokens": 10_000, "side_tokens": 2}
WORDS = (0, 5)
"""Latents of a single word."""
Values = Mapping[tuple[int, str], tuple[float, int]]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"))


def detected(
    world: Path,
    out: Path,
    settings: Mapping[str, Any] = SMALL,
    point: Point = POINT,
    autointerp: Mapping[str, Any] | None = None,
) -> tuple[pd.DataFrame, Values]:
    """Return the details, and value and n by seed and metric."""
    evaluate_detection(
        DetectionSettings.model_validate(settings),
        Autointerp.model_validate(autointerp or {}),
        [Member(4, seed, world / f"seed{seed}") for seed in (0, 1)],
        subject=world / "subject",
        tokens=world / "tokens",
        activations=world / "cache",
        split="test",
        point=point,
        out=out,
    )
    rows = read_rows([out / "detection.parquet"])
    values = {(r.seed, r.metric): (r.value, r.n) for r in rows.itertuples()}
    return pd.read_parquet(out / "detection_details.parquet"), values


def test_a_latent_of_one_word_is_told_in_every_sequence(world: Path, tmp_path: Path) -> None:
    details, values = detected(world, tmp_path)
    words = details[details["latent"].isin(WORDS)]
    assert len(words) == 2 * 2 * len(WORDS)  # seeds, protocols
    assert (words["accuracy"] == 1).all()
    assert set(words["explanation"]) == {'" w7"', '" w11"'}
    assert (details["firings"] >= 16).all() and 3 not in set(details["latent"])  # it is dead
    for seed in (0, 1):
        for protocol, suffix, level in (("ortsae", "", 1 / 2), ("saebench", "_saebench", 10 / 14)):
            own = details[(details["seed"] == seed) & (details["protocol"] == protocol)]
            name = f"detection_accuracy{suffix}"
            assert values[seed, name] == (pytest.approx(own["accuracy"].mean()), 5)
            assert values[seed, f"{name}_always_no"] == (pytest.approx(level), 5)
            assert values[seed, f"detection_not_scored{suffix}"] == (0, 5)
        assert values[seed, "detection_live"] == (pytest.approx(5 / 6), len(LATENTS))
    manifest = read_manifest(tmp_path, kind="metrics", deep=True)
    stats = manifest["stats"]
    assert stats["judge"] == "lexical (no language model)"
    assert set(details["judge"]) == {stats["judge"]}
    assert set(details["judge_definition"]) == {stats["judge_definition"]}
    assert manifest["code"] == judge_code("lexical", "saeflow.evaluation.detection")
    assert manifest["code"] != judge_code("local", "saeflow.evaluation.detection")


def test_each_sequence_counts_as_the_protocols_say(world: Path, tmp_path: Path) -> None:
    details, _ = detected(world, tmp_path)
    counts = details.groupby("protocol")[["active", "silent"]].agg(["min", "max"])
    assert counts.loc["ortsae"].tolist() == [10, 10, 10, 10]
    assert counts.loc["saebench"].tolist() == [4, 4, 10, 10]


def test_the_same_settings_give_the_same_bytes(world: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        detected(world, tmp_path / name)
    for name in ("detection.parquet", "detection_details.parquet"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


class Planted(LexicalJudge):
    """Predicts in some way of its own."""

    def __init__(self) -> None:
        super().__init__(Lexical(kind="lexical"))


def judged_by(
    judge: LexicalJudge, world: Path, out: Path, settings: Mapping[str, Any] = SMALL
) -> tuple[pd.DataFrame, Values]:
    with patch("saeflow.evaluation.detection.make_judge", lambda *args, **named: judge):
        return detected(world, out, settings)


def test_a_judge_that_guesses_is_right_half_of_the_time(world: Path, tmp_path: Path) -> None:
    class Guessing(Planted):
        draw = np.random.default_rng(0)

        def detect(self, explanation: str, contexts: Contexts) -> list[bool]:
            return (self.draw.random(len(contexts)) < 0.5).tolist()

    many = {**SMALL, "ortsae": {**ORTSAE, "active": 20, "silent": 100}}
    _, values = judged_by(Guessing(), world, tmp_path, many)
    found = [values[seed, "detection_accuracy"][0] for seed in (0, 1)]
    assert np.mean(found) == pytest.approx(0.5, abs=0.06)  # 1,200 sequences
    found = [values[seed, "detection_accuracy_saebench"][0] for seed in (0, 1)]
    assert np.mean(found) == pytest.approx(0.5, abs=0.15)  # 140


def test_a_judge_that_always_says_no_is_at_the_level(world: Path, tmp_path: Path) -> None:
    class Denying(Planted):
        def detect(self, explanation: str, contexts: Contexts) -> list[bool]:
            return [False] * len(contexts)

    _, values = judged_by(Denying(), world, tmp_path)
    for seed in (0, 1):
        for name in ("detection_accuracy", "detection_accuracy_saebench"):
            assert values[seed, name] == values[seed, f"{name}_always_no"]


def test_a_judge_sees_the_examples_of_the_protocol(world: Path, tmp_path: Path) -> None:
    seen = set()

    class Counting(Planted):
        def explain(self, examples: Examples, contrast: Contexts) -> str:
            assert examples.active_ct.any(1).all()
            seen.add(examples.acts_ct.shape)
            return super().explain(examples, contrast)

    judged_by(Counting(), world, tmp_path)
    assert seen == {(5, 5), (15, 5)}


def test_failures_have_a_reason_and_no_score(world: Path, tmp_path: Path) -> None:
    class Failing(Planted):
        def explain(self, examples: Examples, contrast: Contexts) -> str:
            explanation = super().explain(examples, contrast)
            if explanation == '" w7"':
                raise JudgeError("timeout", "no answer in 1 s")
            return explanation

        def detect(self, explanation: str, contexts: Contexts) -> list[bool]:
            if explanation == '" w11"':
                raise JudgeError("nonsense", "no list")
            return super().detect(explanation, contexts)

    details, values = judged_by(Failing(), world, tmp_path)
    own = details[(details["seed"] == 0) & (details["protocol"] == "ortsae")].set_index("latent")
    assert own["not_scored"].dropna().to_dict() == {
        0: "explaining: timeout",
        5: "predicting: nonsense",
    }
    assert own["accuracy"].isna().to_dict() == {0: True, 1: False, 2: False, 4: False, 5: True}
    assert own["explanation"].isna().to_dict() == {0: True, 1: False, 2: False, 4: False, 5: False}
    assert values[0, "detection_not_scored"] == (pytest.approx(2 / 5), 5)
    assert values[0, "detection_accuracy"] == (pytest.approx(own["accuracy"].mean()), 3)


def test_where_all_fail_there_is_no_accuracy(world: Path, tmp_path: Path) -> None:
    class Silent(Planted):
        def explain(self, examples: Examples, contrast: Contexts) -> str:
            raise JudgeError("timeout", "no answer")

    details, values = judged_by(Silent(), world, tmp_path)
    assert details["accuracy"].isna().all()
    assert values[0, "detection_not_scored"] == (1, 5)
    assert (0, "detection_accuracy") not in values


def test_a_latent_with_too_few_sequences_is_not_scored(world: Path, tmp_path: Path) -> None:
    """Words 7 and 11 are read about 50 times each; other latents have two words and more."""
    many = {**SMALL, "ortsae": {**ORTSAE, "active": 45}}
    details, values = detected(world, tmp_path, many)
    own = details[(details["seed"] == 0) & (details["protocol"] == "ortsae")].set_index("latent")
    assert own["not_scored"].notna().to_dict() == {0: True, 1: False, 2: False, 4: False, 5: True}
    assert "active sequences of the 45 to be scored on" in own.loc[0, "not_scored"]
    assert values[0, "detection_not_scored"] == (pytest.approx(2 / 5), 5)
    assert values[0, "detection_not_scored_saebench"] == (0, 5)


def test_a_judge_that_refuses_stops_the_stage(world: Path, tmp_path: Path) -> None:
    class Refusing(Planted):
        def explain(self, examples: Examples, contrast: Contexts) -> str:
            raise JudgeRefused("status 401: check api_key_env")

    with pytest.raises(JudgeRefused, match="check api_key_env"):
        judged_by(Refusing(), world, tmp_path)
    assert not (tmp_path / "manifest.json").exists()


def test_a_language_model_is_asked_once_and_not_for_diversity(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = {**SMALL, "latents": 1}
    with serving() as served:
        judge = {"kind": "endpoint", "url": served.url, "model": "planted", "concurrency": 2}
        details, values = detected(world, tmp_path, few, autointerp={"judge": judge})
        prompts = [request["body"]["messages"][0]["content"] for request in served.requests()]
        assert not any("diverse" in prompt for prompt in prompts)
        # Of each protocol an explanation, and predictions ten sequences at a time: 2 and 2.
        spent = read_manifest(tmp_path, kind="metrics")["stats"]
        assert spent["requests"] + spent["cached"] == 2 * 2 * (1 + 2)
        assert capsys.readouterr().err.count("with 6 requests") == 2  # forecast of each SAE
        asked = len(prompts)
        (tmp_path / "manifest.json").unlink()
        again, _ = detected(world, tmp_path, few, autointerp={"judge": judge})
        assert len(served.requests()) == asked
    assert again.equals(details) and details["not_scored"].isna().all()
    assert values[0, "detection_accuracy"][1] == 1


def measured(world: Path, keys: list[Key], base: SAE | None = None, **settings: object) -> Measured:
    """Measure SAEs in memory: latents of seed 0 under each key, residual ones if on a base."""
    known = DetectionSettings.model_validate({**SMALL, **settings})
    subject, own = load_subject(world / "subject"), load_sae(world / "seed0")
    return measure_detection(
        known,
        Planted(),
        {key: own if base is None else Boosted(own, base) for key in keys},
        read_text(world / "tokens", "test", 10_000, 5, subject.special_ids),
        subject=subject,
        rule=read_exclusion(world / "cache", subject.special_ids),
        point=POINT,
        split="test",
    )


def test_a_latent_does_not_depend_on_others_protocols_and_saes(world: Path) -> None:
    everything = measured(world, [Key(4, 0), Key(8, 0), Key(4, 1)])
    assert {(row.l0_target, row.seed) for row in everything.rows} == {(4, 0), (8, 0), (4, 1)}
    some = measured(world, [Key(8, 0)], latents=2, candidates=4, ortsae=None)
    assert {row.metric for row in some.rows} == {
        "detection_accuracy_saebench",
        "detection_accuracy_saebench_always_no",
        "detection_not_scored_saebench",
        "detection_live",
    }
    assert 0 < len(some.details) <= 2
    assert all(one in everything.details for one in some.details)


def test_the_own_latents_of_a_residual_sae_are_explained(world: Path) -> None:
    alone = measured(world, [Key(4, 0)], latents=2, candidates=4)
    on_base = measured(world, [Key(4, 0)], load_sae(world / "seed1"), latents=2, candidates=4)
    assert on_base == alone


def test_mistakes_are_refused(world: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="d_sae 6 for 12"):
        detected(world, tmp_path, point=POINT._replace(d_sae=12))
    with pytest.raises(ValueError, match="no latent is active on 5000 tokens: read more tokens"):
        detected(world, tmp_path, {**SMALL, "min_firings": 5000})
    with pytest.raises(ValueError, match=r"enough sequences for saebench .* numbers of saebench"):
        detected(world, tmp_path, {**SMALL, "saebench": {"top": 2000}})
    with pytest.raises(ArtifactError, match="no window with 101 tokens"):
        detected(world, tmp_path, {**SMALL, "side_tokens": 50})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ortsae": None, "saebench": None}, "by no protocol: give ortsae or saebench"),
        ({"candidates": 3}, "candidates: 3 are fewer than latents, 1000"),
        ({"active_share": 1.0}, "less than 1"),
        ({"saebench": {"random": 10}}, "Extra inputs"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        DetectionSettings.model_validate(settings)
