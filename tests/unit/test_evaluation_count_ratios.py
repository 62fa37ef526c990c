"""Counts of a series' latents against the baseline's same latents."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from saeflow.artifacts import ArtifactError, read_manifest, write_manifest
from saeflow.evaluation.count_ratios import log_count_ratios, write_count_ratios
from saeflow.evaluation.rows import Point, read_rows
from saeflow.evaluation.settings import COUNT_RATIO_METRICS, CountRatioSettings

POINT = Point("ssae", "desk", "site", "physics", "docs", "gsae", 4, 8)


def measured(folder: Path, variant: str, counts: dict[int, list[int]], **other: object) -> Path:
    rows = [(s, i, c) for s, of in counts.items() for i, c in enumerate(of)]
    seed, latent, count = (np.array(column) for column in zip(*rows[::-1], strict=True))
    folder.mkdir()
    pq.write_table(
        pa.table({"seed": seed, "latent": latent, "count": count}), folder / "latents.parquet"
    )
    point = POINT._replace(variant=variant, **other)
    settings = {"point": point._asdict(), "split": "test"}
    write_manifest(folder, kind="metrics", settings=settings, files=["latents.parquet"])
    return folder


def test_ratios_in_closed_form() -> None:
    found = log_count_ratios(np.array([1, 3, 0, 0]), np.array([2, 1, 1, 0]), 1e-9)
    assert found[:2] == pytest.approx([math.log(1 / 2), math.log(3)])
    assert found[2] < -15 and np.isnan(found[3])
    smoothed = log_count_ratios(np.array([0, 2, 0]), np.array([1, 0, 0]), 1.0)[:2]
    assert smoothed == pytest.approx([math.log(1 / 4) - math.log(2 / 3), math.log(9 / 4)])


def test_latents_that_never_fire_change_nothing(tmp_path: Path) -> None:
    """However many there are: their ratio would be the same number for all of them."""
    found = {}
    for silent in (0, 90):
        series = {
            "gsae": measured(tmp_path / f"g{silent}", "gsae", {0: [8, 4, 0] + [0] * silent}),
            "dense": measured(tmp_path / f"d{silent}", "dense", {0: [1, 2, 3] + [0] * silent}),
        }
        out = tmp_path / f"out{silent}"
        write_count_ratios(CountRatioSettings(), series, "gsae", out)
        found[silent] = read_rows([out / "count_ratios.parquet"])
        ratios = pq.read_table(out / "ratios.parquet").to_pandas().sort_values("latent")
        assert np.isfinite(ratios["log_ratio"]).tolist() == [True] * 3 + [False] * silent
    assert found[0].equals(found[90]) and set(found[90]["n"]) == {3}
    silent = {name: measured(tmp_path / name, name, {0: [0, 0]}) for name in ("gsae", "dense")}
    with pytest.raises(ArtifactError, match="dense, seed 0: no latent fires"):
        write_count_ratios(CountRatioSettings(), silent, "gsae", tmp_path / "none")


def test_a_scaled_count_has_ratio_zero() -> None:
    counts = np.array([5, 1, 9])
    assert log_count_ratios(10 * counts, counts, 1e-9) == pytest.approx(np.zeros(3), abs=1e-8)
    with pytest.raises(ValueError, match="3 latents cannot be compared with 2"):
        log_count_ratios(counts, counts[:2], 1)


def test_series_are_compared_latent_by_latent_and_seed_by_seed(tmp_path: Path) -> None:
    series = {
        "gsae": measured(tmp_path / "g", "gsae", {0: [8, 4, 2, 2], 1: [1, 1, 1, 1]}),
        "dense": measured(tmp_path / "d", "dense", {1: [1, 1, 1, 1], 0: [4, 8, 2, 2]}),
    }
    write_count_ratios(CountRatioSettings(epsilon=1e-9), series, "gsae", tmp_path / "out")
    ratios = pq.read_table(tmp_path / "out" / "ratios.parquet").to_pandas()
    of_0 = ratios[ratios["seed"] == 0].sort_values("latent")["log_ratio"]
    assert of_0.tolist() == pytest.approx([-math.log(2), math.log(2), 0, 0], abs=1e-8)
    rows = read_rows([tmp_path / "out" / "count_ratios.parquet"])
    assert set(rows["metric"]) == set(COUNT_RATIO_METRICS)
    assert set(rows["variant"]) == {"dense"} and set(rows["n"]) == {4}
    found = rows.set_index(["seed", "metric"])["value"]
    assert found[0, "mean_log_count_ratio"] == pytest.approx(0, abs=1e-8)
    assert found[1, "median_log_count_ratio"] == pytest.approx(0, abs=1e-8)
    assert found[0, "share_of_ratios_below_zero"] == 0.25
    assert set(read_manifest(tmp_path / "out", kind="metrics", deep=True)["inputs"]) == set(series)


def test_folders_that_do_not_belong_together_are_named(tmp_path: Path) -> None:
    gsae = measured(tmp_path / "g", "gsae", {0: [1, 2, 3, 4]})
    wrong = {
        "has corpus docs, the baseline": measured(
            tmp_path / "a", "dense", {0: [1] * 4}, corpus="docs"
        ),
        r"has seeds \[1\], the baseline": measured(tmp_path / "b", "dense", {1: [1] * 4}),
        "has l0_target 16": measured(tmp_path / "c", "dense", {0: [1] * 4}, l0_target=16),
        "was never finished": tmp_path / "absent",
    }
    for message, folder in wrong.items():
        with pytest.raises(ArtifactError, match=message):
            write_count_ratios(
                CountRatioSettings(), {"gsae": gsae, "dense": folder}, "gsae", tmp_path / "out"
            )
    for series in ({"gsae": gsae}, {"dense": gsae, "bm25": gsae}):
        with pytest.raises(ValueError, match="give the baseline 'gsae' and others"):
            write_count_ratios(CountRatioSettings(), series, "gsae", tmp_path / "out")
