"""A residual SAE is judged together with the frozen SAE whose error it was trained on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import autointerp_planted
import concept_recall_world
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from test_evaluation_core import (
    D_IN,
    SITE,
    World,
    make_world,
    random_sae,
    reference,
    write_sae,
)
from test_evaluation_token_measures import write_splits
from torch import Tensor, nn

from saeflow.artifacts import MANIFEST, ArtifactError, read_manifest
from saeflow.autointerp.score import explain_latents
from saeflow.autointerp.settings import Autointerp
from saeflow.evaluation import reconstruction
from saeflow.evaluation.concept_recall import measure_concept_recall
from saeflow.evaluation.concept_recall_settings import ConceptRecallSettings
from saeflow.evaluation.maps import map_series
from saeflow.evaluation.moments import Moments
from saeflow.evaluation.reconstruction import Reconstruction
from saeflow.evaluation.rows import Point, read_rows
from saeflow.evaluation.settings import CoreSettings, MapSettings, TokenMeasureSettings
from saeflow.evaluation.token_measures import measure_tokens
from saeflow.sae.boosted import Boosted
from saeflow.sae.formats import WEIGHTS, save_sae
from saeflow.sae.identity import sae_digest
from saeflow.sae.model import SAE


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


class Sum:
    """What `reference` asks of an SAE, of a residual one and its base."""

    def __init__(self, base: SAE, residual: SAE) -> None:
        self.base, self.encode, self.residual = base, residual.encode, residual

    def __call__(self, x_bd: Tensor) -> Tensor:
        return self.base(x_bd) + self.residual(x_bd)


def part_of(dimensions: slice, scale: float = 1.0, d: int = D_IN) -> SAE:
    """An SAE that writes some dimensions of x, times `scale`, and zero to the others."""
    eye = torch.eye(d)[dimensions]
    both = torch.cat([eye, -eye])
    return SAE(
        both.T.clone(), scale * both, torch.zeros(len(both)), torch.zeros(d), nn.ReLU(),
        apply_b_dec_to_input=False,
    )  # fmt: skip


def saved(folder: Path, sae: SAE) -> Path:
    save_sae(sae, folder, {})
    return folder


def test_base_and_residual_add_up_to_a_planted_reconstruction() -> None:
    """Half of the variance is the base's, three quarters of the rest the residual SAE's."""
    x_nd = torch.randn(4000, 8, generator=torch.Generator().manual_seed(0)) + 5
    inputs = Moments(8)
    inputs.update(x_nd)
    base, residual = part_of(slice(0, 4), d=8), part_of(slice(4, 8), scale=0.5, d=8)
    measured = Reconstruction(Boosted(residual, base))
    torch.testing.assert_close(measured.update(x_nd), x_nd * torch.tensor([1.0] * 4 + [0.5] * 4))
    found = measured.metrics(inputs)
    lost = 0.25 * x_nd[:, 4:].var(0, correction=0).sum() / x_nd.var(0, correction=0).sum()
    assert found["explained_variance"] == pytest.approx(1 - lost.item(), rel=1e-5)
    assert found["l0"] == 4  # a latent for each sign of the residual's dimensions
    assert found["dead_latents"] == pytest.approx(0.5, abs=0.01)


def test_a_base_that_standardises_is_given_the_activations() -> None:
    x_nd = torch.randn(50, D_IN, generator=torch.Generator().manual_seed(1)) * 3 + 2
    base, residual = random_sae(0), random_sae(1)
    base.standardise = True
    found = Reconstruction(Boosted(residual, base)).update(x_nd)
    with torch.no_grad():
        torch.testing.assert_close(found, base(x_nd) + residual(x_nd))


def test_latents_of_a_wide_base_never_exist_for_all_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconstruction, "_CHUNK_ENTRIES", 400)
    base, rows = random_sae(0, d_sae=100), []
    base.activation.register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
    Reconstruction(Boosted(random_sae(1, d_sae=10), base)).update(torch.randn(42, D_IN))
    assert sum(rows) == 42 and max(rows) == 4


def test_a_base_of_another_width_is_refused() -> None:
    with pytest.raises(ValueError, match="the frozen SAE reads width 8, the residual SAE 16"):
        Boosted(random_sae(0), part_of(slice(0, 4), d=8))


def test_each_seeds_metrics_are_those_of_its_base_and_residual(world: World) -> None:
    base_saes = {0: random_sae(10), 5: random_sae(15, d_sae=64)}
    bases = {seed: saved(world.root / f"base{seed}", sae) for seed, sae in base_saes.items()}
    residuals = {0: random_sae(0), 5: random_sae(5)}
    found = world.run("residual", residuals, bases, batch_tokens=64)
    for seed, residual in residuals.items():
        expected: Any = Sum(base_saes[seed], residual)
        for name, value in reference(world, expected).items():
            assert found[seed, name] == pytest.approx(value, rel=1e-4), name
    manifest = read_manifest(world.root / "residual" / "metrics", kind="metrics")
    assert manifest["stats"]["bases"] == {f"seed{s}": str(path) for s, path in bases.items()}


def test_what_the_two_rebuild_together_is_whole_and_latents_are_the_residuals(
    world: World,
) -> None:
    base, residual = part_of(slice(0, 10)), part_of(slice(10, D_IN))
    path = saved(world.root / "first_dimensions", base) / WEIGHTS  # a file, one for both seeds
    found = world.run("whole", {0: residual, 1: residual}, {0: path, 1: path})
    alone = world.run("alone", {0: residual})
    for seed in (0, 1):
        assert found[seed, "explained_variance"] == pytest.approx(1, abs=1e-9)
        assert found[seed, "ce_loss_score"] == pytest.approx(1, abs=1e-5)
        assert found[seed, "kl_score"] == pytest.approx(1, abs=1e-5)
    assert alone[0, "explained_variance"] < 0.9
    for name in ("l0", "dead_latents", "mean_decoder_cosine", "mean_decoder_cosine_random"):
        assert found[0, name] == alone[0, name], name
    latents = [pq.read_table(world.root / out / "metrics" / "latents.parquet").to_pandas()
               for out in ("whole", "alone")]  # fmt: skip
    assert latents[0][latents[0]["seed"] == 0].equals(latents[1])


def as_residual(folder: Path, base: Path, out: Path) -> Path:
    """Copy an SAE as one that was trained on the error of `base`."""
    shutil.copytree(folder, out)
    manifest = json.loads((out / MANIFEST).read_text())
    manifest["stats"]["base"] = sae_digest(base)
    (out / MANIFEST).write_text(json.dumps(manifest))
    return out


def test_by_token_the_error_is_that_of_both_and_latents_are_the_residuals(
    world: World, tmp_path: Path
) -> None:
    """The residual SAE writes the dimensions that its base leaves, so that nothing is left."""
    write_splits(world.root / "tokens", ("test.parquet", "train.parquet"))
    base = saved(tmp_path / "base", part_of(slice(0, 10)))
    write_sae(tmp_path / "alone", part_of(slice(10, D_IN)), 0, world.root / "cache")
    both = as_residual(tmp_path / "alone", base, tmp_path / "both")
    point = Point("ssae", "subject", SITE, "docs", "docs", "residual", 12, 4)

    def measured(sae: Path, bases: dict[int, Path] | None, out: str) -> Any:
        measure_tokens(
            TokenMeasureSettings(batch_tokens=64),
            {0: sae},
            subject=world.root / "subject",
            tokens=world.root / "tokens",
            activations=world.root / "cache",
            split="test",
            point=point,
            bases=bases,
            out=tmp_path / out,
        )
        names = ("types", "latents")
        return {name: pd.read_parquet(tmp_path / out / f"{name}.parquet") for name in names}

    alone, added = measured(tmp_path / "alone", None, "one"), measured(both, {0: base}, "other")
    assert alone["types"]["error_mean"].min() > 0.1
    assert added["types"]["error_max"].max() < 1e-9
    of_error = [column for column in alone["types"] if column.startswith("error")]
    pd.testing.assert_frame_equal(*(t["types"].drop(columns=of_error) for t in (alone, added)))
    pd.testing.assert_frame_equal(alone["latents"], added["latents"])
    stats = read_manifest(tmp_path / "other", kind="metrics")["stats"]
    assert stats["bases"] == {"seed0": str(base)}
    with pytest.raises(ArtifactError, match="it has a frozen base and none is given"):
        measured(both, None, "refused")


def test_a_map_is_of_the_residuals_decoder(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("saeflow.evaluation.maps.lay_out", lambda _, v: v[:, :2].astype(float))
    base = saved(tmp_path / "base", random_sae(7))
    write_sae(tmp_path / "alone", random_sae(0), 0, world.root / "cache")
    both = as_residual(tmp_path / "alone", base, tmp_path / "both")

    def mapped(bases: dict[str, Path] | None) -> None:
        series = {"alone": tmp_path / "alone", "both": both}
        map_series(
            MapSettings(neighbours=5),
            series,
            subject=world.root / "subject",
            tokens=world.root / "tokens",
            activations=dict.fromkeys(series, world.root / "cache"),
            exclusion=world.root / "cache",
            split="test",
            point=Point("ssae", "subject", SITE, "docs", "docs", "map", 40, 4),
            seed=0,
            bases=bases,
            out=tmp_path / "map",
        )

    mapped({"both": base})
    spread = read_rows([tmp_path / "map" / "spread.parquet"]).set_index("variant")["value"]
    assert spread["both"] == spread["alone"]
    assert read_manifest(tmp_path / "map", kind="metrics")["stats"]["bases"] == {"both": str(base)}
    with pytest.raises(ArtifactError, match="it has a frozen base and none is given"):
        mapped(None)


def test_concepts_are_detected_by_the_residuals_latents(tmp_path: Path) -> None:
    planted = {
        split: [("one", "w1"), ("two", "w2 w3")] for split in ("train", "validation", "test")
    }
    concept_recall_world.make_world(tmp_path, planted)
    base = saved(tmp_path / "base", random_sae(7))
    both = as_residual(tmp_path / "sae", base, tmp_path / "both")

    def measured(sae: Path, bases: dict[int, Path] | None, out: str) -> pd.DataFrame:
        d_in, site = concept_recall_world.D_IN, concept_recall_world.EMBEDDING
        measure_concept_recall(
            ConceptRecallSettings(),
            {0: sae},
            subject=tmp_path / "subject",
            tokens=tmp_path / "tokens",
            corpus=tmp_path / "corpus",
            activations=tmp_path / "cache",
            point=Point("ssae", "subject", site, "planted", "all", "residual", d_in, 4),
            bases=bases,
            out=tmp_path / out,
        )
        return read_rows([tmp_path / out / "concept_recall.parquet"])

    alone, added = measured(tmp_path / "sae", None, "one"), measured(both, {0: base}, "other")
    pd.testing.assert_frame_equal(alone, added)
    assert read_manifest(tmp_path / "other", kind="metrics")["stats"]["bases"]
    with pytest.raises(ArtifactError, match="it has a frozen base and none is given"):
        measured(both, None, "refused")


def test_the_residuals_latents_are_explained(tmp_path: Path) -> None:
    autointerp_planted.make_world(tmp_path)
    base = saved(tmp_path / "base", random_sae(7))
    both = as_residual(tmp_path / "seed0", base, tmp_path / "both")

    def explained(sae: Path, bases: dict[int, Path] | None, out: str) -> pd.DataFrame:
        explain_latents(
            Autointerp(tokens=10_000, example_tokens=10, min_activations=3),
            {0: sae},
            subject=tmp_path / "subject",
            tokens=tmp_path / "tokens",
            split="test",
            activations=tmp_path / "cache",
            point=autointerp_planted.POINT,
            bases=bases,
            out=tmp_path / out,
        )
        return pd.read_parquet(tmp_path / out / "scores.parquet")

    alone, added = explained(tmp_path / "seed0", None, "one"), explained(both, {0: base}, "other")
    pd.testing.assert_frame_equal(alone, added)
    assert read_manifest(tmp_path / "other", kind="metrics")["stats"]["bases"]
    with pytest.raises(ArtifactError, match="it has a frozen base and none is given"):
        explained(both, None, "refused")


@pytest.mark.parametrize(
    ("trained_on", "given", "message"),
    [
        (0, 1, r"it has another frozen base for \S+/given"),
        (0, None, "it has a frozen base and none is given"),
        (None, 1, r"it has no frozen base for \S+/given"),
    ],
)
def test_another_base_than_the_one_trained_on_is_refused(
    world: World, tmp_path: Path, trained_on: int | None, given: int | None, message: str
) -> None:
    base = None if trained_on is None else saved(tmp_path / "base", random_sae(trained_on))
    bases = {} if given is None else {0: saved(tmp_path / "given", random_sae(given))}
    folder = tmp_path / "sae"
    write_sae(folder, random_sae(2), 0, world.root / "cache", base)
    settings = CoreSettings.model_validate({"splits": {"test": 100}})
    with pytest.raises(ArtifactError, match=rf"{folder} .*{message}; train it anew with"):
        world.evaluate(settings, {0: folder}, "refused", bases=bases)
