"""Latents that were added to a base are told apart from it, in one checkpoint and in two."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from test_evaluation_core import D_IN, SITE, World, make_world, random_sae, write_sae
from test_evaluation_residual import part_of, saved
from torch import nn

from saeflow.artifacts import MANIFEST, ArtifactError, write_manifest
from saeflow.evaluation.core import evaluate_core
from saeflow.evaluation.moments import Moments
from saeflow.evaluation.reconstruction import Reconstruction
from saeflow.evaluation.rows import Point, read_rows
from saeflow.evaluation.settings import ADDED_METRICS, CORE_METRICS, CoreSettings
from saeflow.measures import FILES, measure_of, measure_of_grid
from saeflow.sae.boosted import Boosted
from saeflow.sae.formats import load_sae, save_sae
from saeflow.sae.identity import sae_digest
from saeflow.sae.model import SAE
from saeflow.sae.side_by_side import GridPlace
from saeflow.sae.stitch import save_stitched, stitched

_TEXT = CoreSettings.model_validate({"splits": {"test": 10_000}})


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A subject with a base and two residual SAEs of it, the second of which never fires."""
    world = make_world(tmp_path_factory.mktemp("world"))
    root = world.root
    base = saved(root / "base", random_sae(0))
    silent = random_sae(2, d_sae=8)
    with torch.no_grad():
        silent.b_enc -= 1000
    for name, sae in (("first", random_sae(1, d_sae=12)), ("second", silent)):
        sae.b_dec.data.zero_()
        write_manifest(
            root / name,
            kind="sae",
            settings={"d_sae": sae.d_sae, "l0": 4, "seed": 0},
            files=save_sae(sae, root / name, {"hook_name": SITE}),
            inputs={"activations": root / "cache"},
            stats={"site": SITE, "base": sae_digest(base)},
        )
    return world


def measured(
    world: World, sae: Path, d_sae: int, out: str, base: Path | None = None
) -> dict[str, float]:
    evaluate_core(
        _TEXT,
        {0: sae},
        bases=None if base is None else {0: base},
        subject=world.root / "subject",
        tokens=world.root / "tokens",
        activations=world.root / "cache",
        point=Point("boost", "subject", SITE, "docs", "all", "added", d_sae, 4),
        out=world.root / out,
    )
    rows = read_rows([world.root / out / "core.parquet"])
    assert len(set(rows[rows["metric"].isin({"l0", *ADDED_METRICS})]["n"])) == 1
    return dict(zip(rows["metric"], rows["value"], strict=True))


def together(world: World, *names: str) -> Path:
    """The base and residual SAEs, in one checkpoint."""
    out = world.root / "_".join(("one", *names))
    place = GridPlace(4, 0, world.root / "cache")
    save_stitched(world.root / "base", [world.root / name for name in names], out, place)
    return out


def count(dimensions: int, latents: int, where: float) -> SAE:
    """An SAE whose first latent fires where an entry of x exceeds `where`, the others nowhere."""
    W_enc = torch.zeros(dimensions, latents)
    W_enc[0, 0] = 1
    b_enc = torch.full((latents,), -1.0)
    b_enc[0] = -where
    return SAE(W_enc, W_enc.T.clone(), b_enc, torch.zeros(dimensions), nn.ReLU())


def test_what_fires_is_counted_for_base_and_added_latents() -> None:
    """Rows are 0 to 9: those above 4 fire the base's latent, above 7 one of the five added."""
    x_nd = torch.stack([torch.arange(10.0), torch.ones(10)], dim=1)
    inputs = Moments(2)
    inputs.update(x_nd)
    base, residual, other = count(2, 3, 4), count(2, 4, 7), count(2, 1, 100)
    expected = {"l0_base": 0.5, "l0_added": 0.2, "dead_latents_added": 0.8}
    both = Reconstruction(Boosted([residual, other], base))
    one = Reconstruction(stitched(base, [residual, other]), added_from=3)
    for found, l0 in ((both, 0.2), (one, 0.7)):
        found.update(x_nd)
        assert found.metrics(inputs) | expected == found.metrics(inputs)
        assert found.metrics(inputs)["l0"] == pytest.approx(l0)
    alone = Reconstruction(base)
    alone.update(x_nd)
    assert not set(alone.metrics(inputs)) & set(ADDED_METRICS)


def test_one_checkpoint_measures_as_base_and_residual_apart(world: World) -> None:
    one = measured(world, together(world, "first"), 52, "metrics_one")
    apart = measured(world, world.root / "first", 12, "metrics_two", base=world.root / "base")
    for name in (*ADDED_METRICS, "explained_variance", "fvu", "ce_sae", "kl_sae"):
        assert one[name] == pytest.approx(apart[name], rel=1e-4), name
    assert one["l0"] == pytest.approx(one["l0_base"] + one["l0_added"], rel=1e-12)
    assert apart["l0"] == apart["l0_added"] and apart["l0_base"] > 1
    assert apart["dead_latents"] == apart["dead_latents_added"]
    write_sae(world.root / "alone", load_sae(world.root / "base"), 0, world.root / "cache")
    alone = measured(world, world.root / "alone", 40, "metrics_base")
    assert set(alone) == set(CORE_METRICS)
    assert alone["l0"] == pytest.approx(one["l0_base"], rel=1e-12)
    assert set(one) == set(apart) == {*CORE_METRICS, *ADDED_METRICS}


def test_what_was_added_and_never_fires_is_named(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    found = measured(world, together(world, "first", "second"), 60, "metrics_silent")
    once = measured(world, together(world, "first"), 52, "metrics_loud")
    dead = once["dead_latents_added"] * 12 + 8
    assert found["dead_latents_added"] == pytest.approx(dead / 20)
    assert found["l0_added"] == once["l0_added"] > 0
    said = f"added, L0 4, seed 0: residual {world.root / 'second'} never fires on test"
    errors = capsys.readouterr().err
    assert errors.count("never fires") == 1 and said in errors
    alone = measured(world, world.root / "second", 8, "metrics_dead", base=world.root / "base")
    assert alone["dead_latents_added"] == 1 and alone["l0_added"] == 0
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ([("base", 0, 40)], r"40 latents into a base .*: base 0 to 40;"),
        ([], r": no part;"),
        ([("base", 0, 40), ("residual", 40, 41)], "residual 40 to 41"),
        ([("base", 0, 20), ("residual", 21, 40)], "residual 21 to 40"),
        ([("base", 0, 0), ("residual", 0, 40)], "base 0 to 0"),
        ([("residual", 0, 20), ("base", 20, 40)], "base 20 to 40"),
        ([("base", 0, 20), ("base", 20, 40)], "base 20 to 40"),
        ([("base", 0, "x")], "tells no role, start and stop"),
        ("base", "tells no role, start and stop"),
    ],
)
def test_parts_that_are_not_of_these_latents_are_refused(
    world: World, tmp_path: Path, parts: Any, reason: str
) -> None:
    sae = tmp_path / "sae"
    write_sae(sae, random_sae(0), 0, world.root / "cache")
    manifest = json.loads((sae / MANIFEST).read_text())
    manifest["stats"]["stitched"] = [
        part if isinstance(part, str) else dict(zip(("role", "start", "stop"), part, strict=True))
        for part in parts
    ]
    (sae / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match=rf"sae/manifest\.json: .*{reason}.* make it anew with"):
        measured(world, sae, 40, "metrics_refused")


def test_latents_that_an_sae_was_extended_by_are_told_apart(world: World, tmp_path: Path) -> None:
    """They are in no other folder, so that they have no path."""
    sae = part_of(slice(0, D_IN))
    write_sae(tmp_path / "sae", sae, 0, world.root / "cache")
    manifest = json.loads((tmp_path / "sae" / MANIFEST).read_text())
    manifest["stats"]["extended"] = [
        {"role": "base", "start": 0, "stop": D_IN},
        {"role": "added", "start": D_IN, "stop": 2 * D_IN},
    ]
    (tmp_path / "sae" / MANIFEST).write_text(json.dumps(manifest))
    found = measured(world, tmp_path / "sae", 2 * D_IN, "metrics_extended")
    assert found["l0_base"] + found["l0_added"] == pytest.approx(D_IN)


def test_the_metrics_are_of_the_core_evaluation() -> None:
    for metric in ADDED_METRICS:
        assert measure_of(metric) == measure_of_grid(metric) == "core"
    assert FILES["core"] == "core.parquet" and not set(ADDED_METRICS) & set(CORE_METRICS)
