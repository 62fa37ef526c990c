"""Token measures of a real, tiny subject: files, inputs and refusals."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from test_evaluation_core import (
    SITE,
    VOCAB,
    World,
    make_world,
    random_sae,
    write_cache_manifest,
    write_sae,
)

from saeflow.artifacts import ArtifactError, read_manifest, write_manifest
from saeflow.evaluation.curve_rows import read_curves
from saeflow.evaluation.rows import Point, read_rows
from saeflow.evaluation.settings import CURVE_METRICS, TOKEN_METRICS, TokenMeasureSettings
from saeflow.evaluation.token_measures import FILES, measure_tokens

POINT = Point("ssae", "subject", SITE, "docs", "docs", "gsae", 40, 4)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    world = make_world(tmp_path_factory.mktemp("world"))
    write_splits(world.root / "tokens", ("test.parquet", "train.parquet"))
    for seed in (0, 1):
        write_sae(world.root / f"seed{seed}", random_sae(seed), seed, world.root / "cache")
    return world


def write_splits(tokens: Path, splits: tuple[str, ...]) -> None:
    for name in splits[1:]:
        shutil.copy(tokens / splits[0], tokens / name)
    write_manifest(tokens, kind="tokens", settings={}, files=splits)


def run(world: World, out: str, seeds: tuple[int, ...] = (0, 1), **changes: object) -> Path:
    given = {"tokens": world.root / "tokens", "activations": world.root / "cache"}
    given |= {k: changes.pop(k) for k in ("tokens", "activations", "exclusion") if k in changes}
    measure_tokens(
        TokenMeasureSettings.model_validate({"batch_tokens": 64, "points": 10, **changes}),
        {seed: world.root / f"seed{seed}" for seed in seeds},
        subject=world.root / "subject",
        split="test",
        point=POINT,
        out=world.root / out,
        **given,
    )
    return world.root / out


def test_types_and_latents_equal_an_independent_computation(world: World) -> None:
    out = run(world, "independent")
    rows = []
    sae = random_sae(1)
    for tokens in world.windows:
        with torch.no_grad():
            states = world.model.gpt_neox(tokens[None], output_hidden_states=True).hidden_states
            x = states[2][0, 1:]
            rows.append((tokens[1:], (x - sae(x)).square().sum(1), sae.encode(x)))
    token, error, f = (torch.cat(part).numpy() for part in zip(*rows, strict=True))
    types = pq.read_table(out / "types.parquet").to_pandas()
    types = types[types["seed"] == 1].set_index("token")
    assert list(types.index) == sorted(set(token.tolist()))
    for v, row in types.iterrows():
        assert row["text"] == f"w{v}"
        assert row["count"] == row["frequency"] == (token == v).sum()
        assert row["error_mean"] == pytest.approx(error[token == v].mean(), rel=1e-4)
        assert row["error_max"] == pytest.approx(error[token == v].max(), rel=1e-4)
        p = f[token == v].mean(0) / f[token == v].mean(0).sum()
        assert row["entropy"] == pytest.approx(-(p[p > 0] * np.log(p[p > 0])).sum(), rel=1e-4)
    latents = pq.read_table(out / "latents.parquet").to_pandas()
    latents = latents[latents["seed"] == 1]
    assert latents["count"].tolist() == (f > 0).sum(0).tolist()
    assert latents["argmax_token"].tolist() == token[f.argmax(0)].tolist()


def test_cosines_are_of_latents_that_fire(world: World) -> None:
    """Of one SAE some latents can never fire, of the other all but one; they count for nothing."""
    for seed, silent in ((2, 10), (3, 39)):
        sae = random_sae(1)
        with torch.no_grad():
            sae.W_enc[:, :silent] = 0
            sae.b_enc[:silent] = -1
        write_sae(world.root / f"seed{seed}", sae, seed, world.root / "cache")
    out = run(world, "silent", seeds=(2, 3), cosine_bins=4)
    counts = pq.read_table(out / "latents.parquet").to_pandas()
    fires = counts[counts["seed"] == 2]["count"].to_numpy() > 0
    assert 2 <= fires.sum() <= 30
    w = sae.W_dec.detach().numpy()[fires]
    w = w / np.linalg.norm(w, axis=1, keepdims=True)
    expected = (w @ w.T)[np.triu_indices(len(w), 1)]
    scalars = read_rows([out / "tokens.parquet"])
    [row] = scalars[scalars["metric"] == "mean_pair_cosine"].to_dict("records")
    assert (row["seed"], row["n"]) == (2, len(expected))
    assert row["value"] == pytest.approx(expected.mean(), abs=1e-6)
    marks = read_curves(out / "curves.parquet")
    density = marks[marks["metric"] == "decoder_cosine_density"]
    assert set(density["seed"]) == {2} and set(density["n"]) == {len(expected)}


def test_every_file_holds_what_its_lists_name(world: World) -> None:
    out = run(world, "files")
    manifest = read_manifest(out, kind="metrics", deep=True)
    assert set(manifest["files"]) == set(FILES)
    assert set(manifest["inputs"]) == {
        "subject", "tokens", "activations", "exclusion", "seed0", "seed1",
    }  # fmt: skip
    scalars, marks = read_rows([out / "tokens.parquet"]), read_curves(out / "curves.parquet")
    for seed in (0, 1):
        assert set(scalars[scalars["seed"] == seed]["metric"]) == set(TOKEN_METRICS)
        assert set(marks[marks["seed"] == seed]["metric"]) == set(CURVE_METRICS)
    assert set(marks["variant"]) == {"gsae"} and np.isfinite(marks[["x", "value"]]).all(None)
    assert scalars["value"].nunique() > len(TOKEN_METRICS)
    same_x = [g["x"].tolist() for _, g in marks.groupby("seed")]
    assert same_x[0] == same_x[1]


def test_the_same_run_gives_the_same_bytes(world: World) -> None:
    first, second = run(world, "first"), run(world, "second")
    for name in FILES:
        assert (first / name).read_bytes() == (second / name).read_bytes(), name


def test_results_do_not_depend_on_the_batches(world: World) -> None:
    whole = read_rows([run(world, "whole", batch_tokens=10_000) / "tokens.parquet"])
    single = read_rows([run(world, "single", batch_tokens=1) / "tokens.parquet"])
    np.testing.assert_allclose(whole["value"], single["value"], rtol=1e-4, atol=1e-7)


def test_frequencies_are_of_the_split_asked_for(world: World, tmp_path: Path) -> None:
    shutil.copytree(world.root / "tokens", tmp_path / "tokens")
    table = pa.table({"tokens": pa.array([[0, 0, 7, 7, 7], [3]], pa.list_(pa.int32()))})
    pq.write_table(table, tmp_path / "tokens" / "train.parquet")
    write_manifest(
        tmp_path / "tokens", kind="tokens", settings={}, files=["test.parquet", "train.parquet"]
    )
    types = pq.read_table(run(world, "trained", tokens=tmp_path / "tokens") / "types.parquet")
    frequency = dict(zip(*types.select(["token", "frequency"]).to_pydict().values(), strict=True))
    assert {v: n for v, n in frequency.items() if n} == {7: 3, 3: 1}
    rank = dict(zip(*types.select(["token", "rank"]).to_pydict().values(), strict=True))
    assert (rank[7], rank[3]) == (1, 2)


def test_tokens_that_cannot_be_measured_are_named(world: World, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    shutil.copytree(world.root / "tokens", tokens)
    with pytest.raises(ArtifactError, match=r"has no split validation"):
        run(world, "no_split", tokens=tokens, frequency_split="validation")
    foreign = pa.table({"tokens": pa.array([[VOCAB]], pa.list_(pa.int32()))})
    empty = pa.table({"tokens": pa.array([[0]], pa.list_(pa.int32()))})
    for table, message in ((foreign, "holds token 48, the subject knows 48"), (empty, "no text")):
        pq.write_table(table, tokens / "train.parquet")
        write_manifest(tokens, kind="tokens", settings={}, files=["test.parquet", "train.parquet"])
        with pytest.raises(ArtifactError, match=message):
            run(world, "foreign", tokens=tokens)
    (tokens / "train.parquet").write_bytes(b"cut")
    with pytest.raises(ArtifactError, match=r"train\.parquet has 3 bytes"):
        run(world, "truncated", tokens=tokens)


def test_a_rule_that_keeps_nothing_is_an_error(world: World, tmp_path: Path) -> None:
    write_cache_manifest(tmp_path, {SITE: 1e-3})
    with pytest.raises(ValueError, match="no token of split test counts"):
        run(world, "nothing", exclusion=tmp_path)
    with pytest.raises(ArtifactError, match="another activation cache"):
        run(world, "other", activations=tmp_path)
    assert not (world.root / "nothing" / "manifest.json").exists()


def test_curves_of_another_schema_or_cut_short_are_named(tmp_path: Path) -> None:
    path = tmp_path / "curves.parquet"
    pq.write_table(pa.table({"x": [1.0]}), path)
    with pytest.raises(ArtifactError, match=r"does not hold curves; its columns are x"):
        read_curves(path)
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(ArtifactError, match=r"curves\.parquet is not a readable Parquet file"):
        read_curves(path)
