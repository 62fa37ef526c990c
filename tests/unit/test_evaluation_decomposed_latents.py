"""Latents that are sums, on text: planted words on which each fires."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from decomposed_world import POINT, SUMS, evaluate, make_world, pair_of

from saeflow.artifacts import ArtifactError, read_manifest
from saeflow.autointerp.firing import Text, read_text
from saeflow.evaluation.decomposed_latents_choice import Sum, drawn
from saeflow.evaluation.decomposed_latents_settings import DecomposedLatentsSettings
from saeflow.evaluation.decomposition import evaluate_decomposition
from saeflow.evaluation.decomposition_settings import DecompositionSettings
from saeflow.evaluation.rows import read_rows

SETTINGS = {"parts": (2, 3), "tokens": 10_000, "context": 3, "min_tokens": 5}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"))


def measured(
    world: Path, out: Path, seeds: Sequence[int] = (0, 1), **changes: Any
) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    settings = DecomposedLatentsSettings.model_validate({**SETTINGS, **changes})
    evaluate(settings, world, out, seeds)
    table = pq.read_table(out / "decomposed_latents.parquet").to_pylist()
    return read_rows([out / "decomposed_cofiring.parquet"]), table


def text_of(world: Path) -> Text:
    return read_text(world / "tokens", "test", 10_000, 7, frozenset({0}))


def counts(world: Path) -> np.ndarray:
    return np.bincount(text_of(world).tokens_ct.ravel(), minlength=64)


def test_a_latent_and_its_parts_stand_with_coefficients_and_words(
    world: Path, tmp_path: Path
) -> None:
    _, table = measured(world, tmp_path, parts=(3,))
    latent, *parts = table
    n = counts(world)
    assert (latent["role"], latent["latent"]) == ("latent", 2)
    assert latent["cosine"] == pytest.approx(1)
    assert latent["tokens"] == n[[7, 9, 11]].sum()
    assert {part["latent"]: part["coefficient"] for part in parts} == pytest.approx(SUMS[2])
    assert {word.strip() for word in latent["words"]} == {"w7", "w9", "w11"}
    assert [part["words"][0].strip() for part in parts] == ["w7", "w9", "w11"]
    assert latent["cofiring"] == 1
    assert [part["cofiring"] for part in parts] == pytest.approx(
        list(n[[7, 9, 11]] / n[[7, 9, 11]].sum())
    )


def test_firing_together_is_averaged_over_all_sums_that_could_be_drawn(
    world: Path, tmp_path: Path
) -> None:
    rows, _ = measured(world, tmp_path)
    found = {row.metric: (row.value, row.n) for row in rows.itertuples()}
    n = counts(world)
    half = n[7] / (n[7] + n[50])
    assert found["decomposed_cofiring"] == (pytest.approx((1 + half + 1) / 3), 3)
    chance = [n[words].sum() / n.sum() for words in ([7, 9], [7, 11], [7, 9, 11])]
    assert found["decomposed_cofiring_chance"] == (pytest.approx(sum(chance) / 3), 3)
    assert found["decomposed_eligible"] == (3, 4)
    assert found["decomposed_examples"] == (2, 2)


def test_contexts_are_the_strongest_each_of_another_document(world: Path, tmp_path: Path) -> None:
    _, table = measured(world, tmp_path, parts=(3,), contexts=4)
    text = text_of(world)
    lines = [" ".join(f"w{t}" for t in row) for row in text.tokens_ct.reshape(80, -1)]
    for seen in table[0]["contexts"]:
        assert seen["token"].strip() == "w7" and seen["activation"] == pytest.approx(1)
        assert len((seen["before"] + seen["after"]).split()) == 6
    shown = [seen["before"] + seen["token"] + seen["after"] for seen in table[0]["contexts"]]
    found = [
        [d for d, line in enumerate(lines) if f" {one.strip()} " in f" {line} "] for one in shown
    ]
    assert len(shown) == 4 and all(len(documents) == 1 for documents in found)
    assert len({documents[0] for documents in found}) == 4
    inner = [seen for seen in table[0]["contexts"] if len(seen["before"].split()) == 3]
    assert len(inner) >= 2


def test_an_example_without_a_sum_is_said_so(world: Path, tmp_path: Path) -> None:
    rows, table = measured(world, tmp_path / "more", parts=(2, 2, 2))
    drawn_2 = [row["latent"] for row in table if row["role"] == "latent"]
    assert sorted(drawn_2) == [0, 1]  # latent 3 has a part that never fires
    assert table[-1]["role"] == "none" and table[-1]["example"] == 2
    assert (table[-1]["found"], table[-1]["eligible"]) == (3, 2)
    found = dict(zip(rows["metric"], rows["value"], strict=True))
    assert found["decomposed_examples"] == 2
    rows, table = measured(world, tmp_path / "none", parts=(4, 2), min_tokens=10_000)
    assert [row["role"] for row in table] == ["none", "none"]
    assert set(rows["metric"]) == {"decomposed_examples", "decomposed_eligible"}
    assert measured(world, tmp_path / "four", parts=(4,))[0]["n"].min() == 0


def test_all_sums_have_the_same_chance() -> None:
    sums = [Sum(latent, (0, 1), (0.8, 0.6), 1.0) for latent in range(5)]
    first = [next(drawn((2,), sums, sums[:4], seed)) for seed in range(400)]
    counted = np.bincount([one.drawn.latent for one in first if one.drawn], minlength=5)
    assert counted[4] == 0 and counted[:4].min() > 70
    assert {(one.found, one.eligible) for one in first} == {(5, 4)}


def test_the_first_seed_given_is_shown(world: Path, tmp_path: Path) -> None:
    rows, table = measured(world, tmp_path, seeds=(1, 0))
    assert set(rows["seed"]) == {1} and {row["seed"] for row in table} == {1}
    manifest = read_manifest(tmp_path, kind="metrics", deep=True)
    assert {"variant/l0_4/seed1", "baseline/l0_4/seed1", "decomposition"} <= set(manifest["inputs"])


def test_inputs_that_do_not_belong_together_are_refused(world: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no pair of SAEs of L0 4 is given; there are L0s \[\]"):
        measured(world, tmp_path / "a", seeds=())
    other = make_world(tmp_path / "other")
    evaluate_decomposition(
        DecompositionSettings(), [pair_of(other, 0)], baseline="batchtopk",
        activations=other / "cache", split="test", point=POINT, out=other / "decomposition",
    )  # fmt: skip
    with pytest.raises(ArtifactError, match="decomposes another SAE than"):
        measured(other, tmp_path / "b", seeds=(1,))
