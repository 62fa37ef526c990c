"""Latents without a like in another SAE's decoder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from decoders_planted import (
    POINT,
    compared,
    random_vectors,
    written,
    written_pairs,
)

from saeflow.artifacts import ArtifactError, read_manifest
from saeflow.evaluation import uniqueness
from saeflow.evaluation.decoder_pairs import Pair
from saeflow.evaluation.rows import read_rows
from saeflow.evaluation.uniqueness import (
    evaluate_uniqueness,
    measure_uniqueness,
    nearest,
    random_level,
)
from saeflow.evaluation.uniqueness_settings import UniquenessSettings

E = torch.eye(64)
SETTINGS = UniquenessSettings(thresholds=(0.2, 0.7, 0.75))


def measured(variant_fd: torch.Tensor, baseline_fd: torch.Tensor) -> dict[str, tuple[float, int]]:
    rows, _ = measure_uniqueness(SETTINGS, compared(variant_fd, baseline_fd), point=POINT, split="")
    return {row.metric: (row.value, row.n) for row in rows}


def test_shares_in_closed_form() -> None:
    """The variant's cosines are 1, 1/sqrt(2), 0 and 0: the opposite of a vector is no like."""
    variant = torch.stack([2 * E[0], E[1] + E[2], E[3], -E[0]])
    found = measured(variant, torch.stack([E[0], E[1], E[9]]))
    assert found["unique_share@0.2"] == (0.5, 4)
    assert found["unique_share@0.7"] == (0.5, 4)
    assert found["unique_share@0.75"] == (0.75, 4)
    assert found["nearest_cosine"] == (pytest.approx((1 + 0.5**0.5) / 4), 4)
    assert found["baseline_unique_share@0.2"] == (pytest.approx(1 / 3), 3)
    assert found["baseline_unique_share@0.75"] == (pytest.approx(2 / 3), 3)


def test_the_relative_threshold_stands_to_the_random_level_as_the_papers_does() -> None:
    found = measured(random_vectors(40, 64), random_vectors(60, 64, seed=1))
    assert found["unique_random_level"] == (random_level(64, 60), 60)
    assert found["baseline_unique_random_level"] == (random_level(64, 40), 40)
    assert found["unique_threshold"][0] == pytest.approx(2.24 * random_level(64, 60))
    assert found["unique_share"][0] == 1.0
    assert 2.24 * random_level(2304, 65536) == pytest.approx(0.2, abs=5e-4)


def test_the_random_level_is_that_of_drawn_vectors() -> None:
    drawn = nearest(random_vectors(4000, 20), random_vectors(300, 20, seed=1)).cosine_f.mean()
    assert random_level(20, 300) == pytest.approx(float(drawn), abs=0.005)
    assert random_level(20, 1) == pytest.approx(0, abs=1e-6)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    unit_fd, other_gd = random_vectors(50, 8), random_vectors(30, 8, seed=1)
    cosines = unit_fd @ other_gd.T
    monkeypatch.setattr(uniqueness, "CHUNK_ENTRIES", 64)
    found = nearest(unit_fd, other_gd)
    assert torch.allclose(found.cosine_f, cosines.amax(1))
    assert found.latent_f.equal(cosines.argmax(1))


def test_the_job_writes_a_row_for_each_pair_and_tells_which_latent_is_nearest(
    tmp_path: Path,
) -> None:
    pairs = written_pairs(tmp_path)
    evaluate_uniqueness(
        UniquenessSettings(relative_threshold=1.2), pairs, baseline="batchtopk",
        activations=tmp_path / "cache", split="test", point=POINT, out=tmp_path / "out",
    )  # fmt: skip
    rows = read_rows([tmp_path / "out" / "uniqueness.parquet"])
    assert set(rows["variant"]) == {"ortsae"} and set(rows["split"]) == {"test"}
    assert rows["seed"].value_counts().to_dict() == {0: 20, 1: 20}
    details = pq.read_table(tmp_path / "out" / "uniqueness_details.parquet").to_pandas()
    assert len(details) == 2 * 2 * POINT.d_sae
    row = details[(details["side"] == "baseline") & (details["seed"] == 1)].iloc[5]
    cosines = random_vectors(24, 12, 11)[5] @ random_vectors(24, 12, 1).T
    assert (row["latent"], row["nearest"]) == (5, int(cosines.argmax()))
    assert row["cosine"] == pytest.approx(float(cosines.max()), abs=1e-6)
    manifest = read_manifest(tmp_path / "out", kind="metrics", deep=True)
    assert manifest["settings"]["baseline"] == "batchtopk"
    assert {"baseline/l0_4/seed1", "variant/l0_4/seed0"} <= set(manifest["inputs"])
    mean = details[(details["side"] == "variant") & (details["seed"] == 0)]["cosine"].mean()
    share = rows[(rows["metric"] == "nearest_cosine") & (rows["seed"] == 0)]["value"]
    assert np.allclose(share, mean)


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"width 8 cannot be compared .* width 9"):
        measured(random_vectors(5, 8), random_vectors(5, 9))
    with pytest.raises(ValueError, match="no pairs"):
        measure_uniqueness(SETTINGS, {}, point=POINT, split="test")
    with pytest.raises(ValueError, match=r"lower uniqueness\.relative_threshold"):
        measured(random_vectors(90, 3), random_vectors(90, 3))
    (pair, other) = written_pairs(tmp_path)
    elsewhere = written(tmp_path, random_vectors(24, 12), "elsewhere", site="layers.2")

    def run(*pairs: Pair) -> None:
        evaluate_uniqueness(
            SETTINGS, pairs, baseline="batchtopk", activations=tmp_path / "cache",
            split="test", point=POINT, out=tmp_path / "out",
        )  # fmt: skip

    with pytest.raises(ValueError, match=r"L0 4, seed 0.*L0 4, seed 1.*same L0 and seed"):
        run(Pair(pair.variant, other.baseline))
    with pytest.raises(ArtifactError, match=r"site layers\.2 for layers\.1"):
        run(Pair(pair.variant, elsewhere))
    with pytest.raises(ValueError, match="two SAEs are given"):
        run(pair, pair)
    with pytest.raises(ValueError, match="no SAEs given"):
        run()


def test_a_threshold_named_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="name one twice"):
        UniquenessSettings(thresholds=(0.2, 0.2))
