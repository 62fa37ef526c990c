"""The map of activations and decoder vectors: what is laid out, and what is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from test_evaluation_core import (
    D_IN,
    SITE,
    World,
    make_world,
    random_sae,
    write_cache_manifest,
    write_sae,
)
from torch import nn

from saeflow.artifacts import ArtifactError, read_manifest
from saeflow.evaluation import maps
from saeflow.evaluation.maps import lay_out, map_series
from saeflow.evaluation.rows import Point, read_rows
from saeflow.evaluation.settings import MapSettings
from saeflow.sae.model import SAE

POINT = Point("ssae", "subject", SITE, "docs", "docs", "map", 40, 4)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    world = make_world(tmp_path_factory.mktemp("world"))
    write_sae(world.root / "erm", one_direction(), 0, world.root / "cache")
    write_sae(world.root / "term", random_sae(0), 0, world.root / "cache")
    return world


def one_direction() -> SAE:
    w = torch.ones(40, D_IN) / D_IN**0.5
    return SAE(w.T.clone(), w, torch.zeros(40), torch.zeros(D_IN), nn.ReLU())


def plain(settings: MapSettings, vectors_nd: np.ndarray) -> np.ndarray:
    """Stands for UMAP: the first two dimensions."""
    return vectors_nd[:, :2].astype(float)


def run(world: World, out: str, **changes: object) -> Path:
    series = changes.pop("series", {name: world.root / name for name in ("erm", "term")})
    cache = changes.pop("cache", world.root / "cache")
    map_series(
        MapSettings.model_validate({"tokens": 10_000, "neighbours": 5, **changes}),
        series,
        subject=world.root / "subject",
        tokens=world.root / "tokens",
        activations=dict.fromkeys(series, cache),
        exclusion=world.root / "cache",
        split="test",
        point=POINT,
        seed=0,
        out=world.root / out,
    )
    return world.root / out


def test_umap_keeps_planted_clusters_apart_and_repeats_itself() -> None:
    generator = np.random.default_rng(0)
    centres = np.eye(8, dtype=np.float32)[:3] * 10
    vectors = np.repeat(centres, 30, axis=0) + generator.standard_normal((90, 8), dtype=np.float32)
    settings = MapSettings(neighbours=10)
    xy = lay_out(settings, vectors)
    assert xy.shape == (90, 2) and np.array_equal(xy, lay_out(settings, vectors))
    distance = np.linalg.norm(xy[:, None] - xy[None], axis=-1) + 1e9 * np.eye(90)
    assert (np.arange(90) // 30 == distance.argmin(1) // 30).all()
    with pytest.raises(ValueError, match="10 vectors cannot have 10 neighbours"):
        lay_out(settings, vectors[:10])


def test_umap_leaves_torch_its_threads() -> None:
    """In a process of its own: what takes them is the first parallel region of numba."""
    code = (
        "import numpy, torch; from saeflow.evaluation.maps import MapSettings, lay_out;"
        "lay_out(MapSettings(neighbours=5), numpy.eye(20, 8, dtype='float32'));"
        "print(torch.get_num_threads())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split()[-1] == "1"


def test_activations_are_laid_out_once_among_all_decoders(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maps, "lay_out", plain)
    out = run(world, "plain", activations=50, latents=12)
    table = pq.read_table(out / "map.parquet").to_pandas()
    counts = table.groupby(["series", "kind"]).size().to_dict()
    assert counts == {("", "activation"): 50, ("erm", "decoder"): 12, ("term", "decoder"): 12}
    drawn = {name: of["id"].tolist() for name, of in table.groupby("series")}
    assert drawn["erm"] == drawn["term"] == sorted(set(drawn["term"]))
    term = table[table["series"] == "term"]
    np.testing.assert_allclose(
        term[["x", "y"]], random_sae(0).W_dec.detach()[drawn["term"], :2], rtol=1e-6
    )
    assert table[table["kind"] == "activation"]["text"].str.match(r"w\d+$").all()
    assert set(read_manifest(out, kind="metrics", deep=True)["inputs"]) == {
        "subject", "tokens", "exclusion", "erm", "term",
    }  # fmt: skip


def test_all_are_taken_where_there_are_no_more_and_their_mean_is_zero(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maps, "lay_out", plain)
    table = pq.read_table(run(world, "all") / "map.parquet").to_pandas()
    acts = table[table["kind"] == "activation"]
    assert len(acts) == sum(len(w) - 1 for w in world.windows)
    np.testing.assert_allclose(acts[["x", "y"]].mean(), 0, atol=1e-5)
    raw = pq.read_table(run(world, "raw", centre=False) / "map.parquet").to_pandas()
    assert (raw[raw["kind"] == "activation"][["x", "y"]].mean().abs() > 1e-3).all()


def test_the_spread_is_that_of_the_decoder_vectors(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maps, "lay_out", plain)
    rows = read_rows([run(world, "spread") / "spread.parquet"]).set_index("variant")
    assert rows["value"]["erm"] == pytest.approx(0, abs=1e-6)
    unit = random_sae(0).W_dec.detach()
    mean = ((unit.sum(0).square().sum() - 40) / (40 * 39)).item()
    assert rows["value"]["term"] == pytest.approx(1 - mean, abs=1e-6)
    assert set(rows["n"]) == {780} and set(rows["metric"]) == {"decoder_spread"}


def test_what_makes_no_map_is_named(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="erm: a map compares two series or more"):
        run(world, "one", series={"erm": world.root / "erm"})
    write_cache_manifest(world.root / "other", {SITE: 1.0})
    with pytest.raises(ArtifactError, match="another activation cache"):
        run(world, "other_cache", cache=world.root / "other")
    kept = run(world, "kept", neighbours=5, activations=10, latents=5) / "manifest.json"
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(ImportError, match="pip install umap-learn"):
        run(world, "kept")
    assert kept.exists()
