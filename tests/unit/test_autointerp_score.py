"""The whole stage on planted latents: files, rows, failures that are told, mistakes refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pandas as pd
import pytest
from autointerp_planted import POINT, make_world
from pydantic import ValidationError

from saeflow.artifacts import ArtifactError, read_manifest
from saeflow.autointerp.examples import Contexts, Examples
from saeflow.autointerp.judges import Diversity, JudgeError, JudgeRefused
from saeflow.autointerp.lexical import LexicalJudge
from saeflow.autointerp.score import explain_latents
from saeflow.autointerp.settings import Autointerp, Lexical
from saeflow.evaluation.rows import Point, read_rows

SMALL = {"tokens": 10_000, "example_tokens": 10, "min_activations": 3}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"))


def explained(
    world: Path, out: Path, point: Point = POINT, settings: Mapping[str, Any] = SMALL
) -> tuple[pd.DataFrame, dict[tuple[int, str], float]]:
    explain_latents(
        Autointerp.model_validate(settings),
        {0: world / "seed0", 1: world / "seed1"},
        subject=world / "subject",
        tokens=world / "tokens",
        split="test",
        activations=world / "cache",
        point=point,
        out=out,
    )
    rows = read_rows([out / "explained.parquet"])
    values = dict(zip(zip(rows["seed"], rows["metric"], strict=True), rows["value"], strict=True))
    return pd.read_parquet(out / "scores.parquet"), values


def test_planted_latents_are_explained_and_summed_up(world: Path, tmp_path: Path) -> None:
    scores, values = explained(world, tmp_path)
    assert set(scores["status"]) == {"ok"} and set(scores["judge"]) == {
        "lexical (no language model)"
    }
    one_word = scores[scores["latent"].isin([0, 1, 5])]
    assert (one_word["f1"] > 0.9).all()
    assert scores[scores["latent"] == 0]["explanation"].tolist() == ['" w7"', '" w7"']
    shown = json.loads(scores["examples"][0])
    assert len(shown) == 3 and all("<<" in text for text in shown)
    by_words = scores.groupby("latent")["diversity"].mean()
    assert by_words[0] == 0 < by_words[1] < by_words[2]
    for seed in (0, 1):
        own = scores[scores["seed"] == seed]
        assert values[seed, "mean_f1"] == pytest.approx(own["f1"].mean())
        assert values[seed, "diversity_sd"] == pytest.approx(own["diversity"].std(ddof=0))
        assert values[seed, "share_eligible"] == pytest.approx(5 / 6)
        assert values[seed, "share_failed"] == 0
        positive, negative = own["n_positive"], own["n_negative"]
        always = (2 * positive / (2 * positive + negative)).mean()
        assert values[seed, "f1_always_active"] == pytest.approx(always)
    manifest = read_manifest(tmp_path, kind="metrics", deep=True)
    assert manifest["stats"]["judge"] == "lexical (no language model)"
    definition = manifest["stats"]["judge_definition"]
    assert definition.startswith("lexical (no language model), which explains by the tokens and n-")
    assert set(scores["judge_definition"]) == {definition}
    assert (manifest["stats"]["requests"], manifest["stats"]["failed"]) == (0, 0)


def test_the_same_settings_give_the_same_bytes(world: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        explained(world, tmp_path / name)
    for name in ("scores.parquet", "explained.parquet"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def counts_of(out: Path) -> dict[tuple[int, str], int]:
    """What each value of the summary averages over."""
    rows = read_rows([out / "explained.parquet"])
    return dict(zip(zip(rows["seed"], rows["metric"], strict=True), rows["n"], strict=True))


class Failing(LexicalJudge):
    """Fails on some latents at different questions."""

    def __init__(self) -> None:
        super().__init__(Lexical(kind="lexical"))

    def explain(self, examples: Examples, contrast: Contexts) -> str:
        explanation = super().explain(examples, contrast)
        if explanation == '" w7"':
            raise JudgeError("timeout", "no answer in 1 s")
        return explanation

    def diversity(self, explanation: str, examples: Examples) -> Diversity:
        if explanation == '" w11"':
            raise JudgeError("nonsense", "no score")
        return super().diversity(explanation, examples)

    def detect(self, explanation: str, contexts: Contexts) -> list[bool]:
        if '" w9"' in explanation:
            raise JudgeError("error", "status 500")
        return super().detect(explanation, contexts)


def test_failures_are_rows_without_scores_and_out_of_the_means(world: Path, tmp_path: Path) -> None:
    with patch("saeflow.autointerp.score.make_judge", lambda *args, **named: Failing()):
        scores, values = explained(world, tmp_path)
    counts = counts_of(tmp_path)
    by_latent = scores[scores["seed"] == 0].set_index("latent")
    columns = ["status", "diversity_status", "detection_status"]
    assert by_latent[columns].apply(tuple, axis=1).to_dict() == {
        0: ("timeout", "unasked", "unasked"),
        1: ("error", "ok", "error"),
        2: ("ok", "ok", "ok"),
        4: ("ok", "ok", "ok"),
        5: ("nonsense", "nonsense", "ok"),
    }
    detection = ["f1", "precision", "recall", "accuracy"]
    assert by_latent.loc[[0, 1], detection].isna().all(axis=None)
    assert by_latent["explanation"].isna().to_dict() == {0: True, 1: False, 2: False, 4: False,
                                                         5: False}  # fmt: skip
    assert by_latent["diversity"].notna().to_dict() == {0: False, 1: True, 2: True, 4: True,
                                                        5: False}  # fmt: skip
    assert by_latent.loc[5, "f1"] > 0.9  # what it reads does not depend on how varied it is
    assert values[0, "share_failed"] == pytest.approx(3 / 5)
    for metric, column, n in (("mean_f1", "f1", 3), ("mean_diversity", "diversity", 3)):
        assert values[0, metric] == pytest.approx(by_latent[column].mean())
        assert counts[0, metric] == n
    assert counts[0, "share_failed"] == 5
    assert read_manifest(tmp_path, kind="metrics")["stats"]["failed"] == 6


def test_where_all_fail_there_is_no_mean(world: Path, tmp_path: Path) -> None:
    class Silent(Failing):
        def explain(self, examples: Examples, contrast: Contexts) -> str:
            raise JudgeError("timeout", "no answer")

    with patch("saeflow.autointerp.score.make_judge", lambda *args, **named: Silent()):
        scores, values = explained(world, tmp_path)
    assert len(scores) == 10 and scores["f1"].isna().all()
    assert values[0, "share_failed"] == 1
    assert (0, "mean_f1") not in values and (0, "mean_diversity") not in values


def test_a_judge_that_refuses_stops_the_stage(world: Path, tmp_path: Path) -> None:
    class Refusing(Failing):
        def explain(self, examples: Examples, contrast: Contexts) -> str:
            raise JudgeRefused("status 401: check api_key_env")

    with (
        patch("saeflow.autointerp.score.make_judge", lambda *args, **named: Refusing()),
        pytest.raises(JudgeRefused, match="check api_key_env"),
    ):
        explained(world, tmp_path)
    assert not (tmp_path / "manifest.json").exists()


def test_mistakes_are_refused(world: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="l0 4 for 8"):
        explained(world, tmp_path, POINT._replace(l0_target=8))
    with pytest.raises(ArtifactError, match="d_sae 6 for 12"):
        explained(world, tmp_path, POINT._replace(d_sae=12))
    with pytest.raises(ValueError, match="no latent is active in 1000 contexts"):
        explained(world, tmp_path, settings={**SMALL, "min_activations": 1000})
    with pytest.raises(ValueError, match="no SAEs given"):
        explain_latents(
            Autointerp(), {}, subject=world / "subject", tokens=world / "tokens", split="test",
            activations=world / "cache", point=POINT, out=tmp_path,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"candidates": 3}, "candidates: 3 are fewer than latents, 100"),
        ({"judge": {"kind": "oracle"}}, "'endpoint', 'local', 'lexical'"),
        ({"judge": {"kind": "lexical", "max_ngram": 4}}, "less than or equal to 3"),
        ({"judge": {"kind": "endpoint", "model": "m"}}, "url"),
        ({"judge": {"kind": "endpoint", "model": "m", "url": "ftp://x"}}, "pattern"),
        ({"judge": {"kind": "endpoint", "model": "m", "url": "http://süd.example/v1"}}, "pattern"),
        ({"judge": {"kind": "endpoint", "model": "m", "url": "http://x/v1?a=b"}}, "pattern"),
        (
            {"judge": {"kind": "endpoint", "model": "m", "url": "http://x", "api_key_env": "a-b"}},
            "pattern",
        ),
        ({"judge": {"kind": "local"}}, "either path"),
        ({"judge": {"kind": "local", "path": "a", "id": "b", "revision": "c"}}, "either path"),
        ({"judge": {"kind": "local", "id": "b"}}, "belong together"),
        ({"judge": {"kind": "local", "id": "b", "revision": "main"}}, "moves"),
        ({"judge": {"kind": "local", "path": "../model"}}, "leaves data_dir"),
        ({"judge": {"kind": "local", "path": "/model"}}, "leaves data_dir"),
        ({"example_tokens": 1}, "greater than or equal to 2"),
        ({"samples": 1}, "Extra inputs"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Autointerp.model_validate(settings)
