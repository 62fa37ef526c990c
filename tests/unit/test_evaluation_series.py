"""All SAEs of a series in one pass, on a text that need not be the one they were trained on."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from test_evaluation_core import (
    D_IN,
    LENGTHS,
    SITE,
    World,
    make_world,
    random_sae,
    reference,
    sample,
    write_cache_manifest,
    write_tokens,
)
from torch import Tensor

from saeflow.artifacts import ArtifactError, read_manifest, write_manifest
from saeflow.evaluation.core import evaluate_series
from saeflow.evaluation.origin import Member
from saeflow.evaluation.rows import Point, read_rows
from saeflow.evaluation.settings import CORE_METRICS, SeriesSettings
from saeflow.sae.formats import save_sae
from saeflow.sae.model import SAE

POINT = Point("ssae", "subject", SITE, "physics", "retrieved", "bm25", 40, 0)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


def member(world: World, sae: SAE, l0: int, seed: int, cache: Path | None = None) -> Member:
    folder = world.root / f"sae_l0_{l0}_{seed}_{sae.W_dec.sum():.3f}"
    write_manifest(
        folder,
        kind="sae",
        settings={"d_sae": sae.d_sae, "l0": l0, "seed": seed},
        files=save_sae(sae, folder, {}),
        inputs={"activations": cache or world.root / "cache"},
        stats={"site": SITE},
    )
    return Member(l0, seed, folder)


def run(world: World, saes: list[Member], out: str, **inputs: Path) -> pd.DataFrame:
    given = {"tokens": world.root / "tokens", "activations": world.root / "cache", **inputs}
    evaluate_series(
        SeriesSettings(tokens=10_000, batch_tokens=64),
        saes,
        subject=world.root / "subject",
        split="test",
        point=POINT,
        out=world.root / out,
        **given,
    )
    return read_rows([world.root / out / "core.parquet"])


def values(rows: pd.DataFrame) -> dict[tuple[int, int, str], float]:
    keys = zip(rows["l0_target"], rows["seed"], rows["metric"], strict=True)
    return dict(zip(keys, rows["value"], strict=True))


def test_each_sae_of_a_series_is_measured_as_if_alone(world: World) -> None:
    saes = {(4, 0): random_sae(0), (4, 1): random_sae(1), (8, 0): random_sae(2)}
    rows = run(world, [member(world, sae, *key) for key, sae in saes.items()], "series")
    found = values(rows)
    assert {key[:2] for key in found} == set(saes)
    assert {key[2] for key in found} == set(CORE_METRICS)
    for key, sae in saes.items():
        for metric, value in reference(world, sae).items():
            assert found[*key, metric] == pytest.approx(value, rel=1e-4), (key, metric)
    assert set(rows["variant"]) == {"bm25"} and set(rows["selection"]) == {"retrieved"}
    latents = pq.read_table(world.root / "series" / "latents.parquet").to_pandas()
    fired = latents.groupby(["l0_target", "seed"])["firing_rate"].sum()
    assert {key: fired[key] for key in saes} == pytest.approx({k: found[*k, "l0"] for k in saes})


def test_the_text_may_be_another_than_the_one_trained_on(world: World) -> None:
    windows: list[Tensor] = [sample(world.model, n, 20 + i) for i, n in enumerate(LENGTHS)]
    write_tokens(world.root / "other", windows)
    sae = random_sae(0)
    found = values(run(world, [member(world, sae, 4, 0)], "moved", tokens=world.root / "other"))
    expected = reference(World(world.root, world.model, windows), sae)
    assert found[4, 0, "ce_sae"] == pytest.approx(expected["ce_sae"], rel=1e-4)
    assert found[4, 0, "ce_sae"] != reference(world, sae)["ce_sae"]


def test_series_of_several_caches_share_the_rule_of_one(world: World) -> None:
    strict = world.root / "strict"
    write_cache_manifest(strict, {SITE: 1e-3})
    sae = member(world, random_sae(0), 4, 0, strict)
    with pytest.raises(ValueError, match="0 rows at"):
        run(world, [sae], "all_sinks", activations=strict)
    rows = run(world, [sae], "shared", activations=strict, exclusion=world.root / "cache")
    assert set(rows[rows["metric"] == "l0"]["n"]) == {sum(n - 1 for n in LENGTHS)}
    inputs = read_manifest(world.root / "shared", kind="metrics")["inputs"]
    assert inputs["exclusion"]["path"] == str(world.root / "cache")
    assert "l0_4/seed0" in inputs


def test_wrong_series_are_refused_before_any_pass(world: World, monkeypatch) -> None:
    monkeypatch.setattr("saeflow.evaluation.core.load_subject", lambda *_: pytest.fail("loaded"))
    one = member(world, random_sae(0), 4, 0)
    with pytest.raises(ValueError, match="no SAEs given"):
        run(world, [], "none")
    with pytest.raises(ValueError, match="two SAEs are given for L0 4, seed 0"):
        run(world, [one, one], "twice")
    with pytest.raises(ArtifactError, match=r"it has l0 4 for 8; .*rm "):
        run(world, [one._replace(l0_target=8)], "wrong_l0")
    other = world.root / "another_cache"
    write_cache_manifest(other, {SITE: 2.0})
    with pytest.raises(ArtifactError, match="another activation cache"):
        run(world, [one], "other_cache", activations=other)
    weights = one.folder / "sae_weights.safetensors"
    weights.write_bytes(weights.read_bytes()[: D_IN * 4])
    with pytest.raises(ArtifactError, match=r"sae_weights\.safetensors has 64 bytes"):
        run(world, [one], "truncated")
