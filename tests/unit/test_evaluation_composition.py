"""How much of a decoder a meta-SAE makes up."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from decoders_planted import (
    KEY,
    POINT,
    of_decoder,
    random_vectors,
    sums_of_atoms,
    written,
)
from torch.nn.functional import normalize

from saeflow.artifacts import ArtifactError, read_manifest
from saeflow.evaluation.composition import (
    composition,
    evaluate_composition,
    judged,
    measure_composition,
    meta_settings,
)
from saeflow.evaluation.composition_settings import CompositionSettings
from saeflow.evaluation.origin import Key
from saeflow.evaluation.rows import read_rows
from saeflow.sae.initial import initial_sae
from saeflow.sae.seeding import generator

QUICK = CompositionSettings(steps=120, batch_size=96, learning_rate=1e-2)
TINY = CompositionSettings(steps=3, batch_size=8)


def test_the_rate_in_closed_form() -> None:
    """A meta-SAE of two axes, and one of an axis that nothing lies on, misses one vector of four.

    The mean is ((1 + s) / 4, (1 + s) / 4, 1 / 4) with s = sqrt(1/2): of the squared distances to
    it, 4 - 4 |mean|^2, the missed vector's whole norm, 1, is left.
    """
    axes = torch.eye(5)
    unit_fd = normalize(torch.stack([axes[0], axes[1], axes[0] + axes[1], axes[2]]), dim=1)
    found = judged(of_decoder(axes[[0, 1, 4]]), unit_fd)
    part = (1 + 0.5**0.5) / 4
    assert found.rate == pytest.approx(1 - 1 / (4 - 4 * (2 * part**2 + 1 / 16)))
    assert (found.dead, found.width) == (pytest.approx(1 / 3), 3)


def test_sums_of_few_atoms_are_composed_and_random_vectors_are_not() -> None:
    planted = composition(QUICK, sums_of_atoms(128, 24, atoms=16, terms=3), seed=0)
    random = composition(QUICK, random_vectors(128, 24), seed=0)
    assert planted.rate > 0.9
    assert random.rate < 0.8
    assert planted.width == random.width == 32


def test_the_numbers_depend_on_the_seed_alone() -> None:
    w_fd = random_vectors(40, 8)
    first = composition(TINY, w_fd, seed=3)
    torch.manual_seed(9)
    assert composition(TINY, 4 * w_fd, seed=3) == first  # norms do not count
    assert composition(TINY, w_fd, seed=4).rate != first.rate


def test_the_meta_sae_is_built_as_the_settings_say() -> None:
    own = meta_settings(CompositionSettings(), 1537, seed=0)
    assert (own.d_sae, own.l0, own.steps) == (385, 4, 1500)
    assert own.variant.activation == "batchtopk" and own.variant.auxk is None
    training = own.training
    assert (training.batch_size, training.learning_rate, training.betas) == (
        1024, 5e-4, (0.9, 0.999)
    )  # fmt: skip
    assert training.warmup == training.decay == 0
    assert meta_settings(CompositionSettings(), 9, seed=0).d_sae == 4  # not fewer than k


def test_the_meta_sae_does_not_start_where_the_sae_did() -> None:
    """Otherwise every latent that training has not moved would be explained at once."""
    start_fd = normalize(torch.randn(64, 16, generator=generator(5, "weights")), dim=1)
    meta = initial_sae(meta_settings(TINY, 64, seed=5), start_fd, start_fd)
    assert (meta.W_dec @ start_fd.T).max() < 0.99


def test_a_reference_is_measured_once_a_seed() -> None:
    keys = [Key(l0, seed) for l0 in (4, 8) for seed in (0, 1)]
    saes = {key: of_decoder(random_vectors(24, 8, key.l0_target)) for key in keys}
    rows = measure_composition(TINY, saes, point=POINT, split="test")
    found = {(row.metric, row.l0_target, row.seed): (row.value, row.n) for row in rows}
    assert len(found) == 3 * 4
    level = found["composition_rate_random", 4, 1]
    assert level == found["composition_rate_random", 8, 1] and level[1] == 24
    assert level != found["composition_rate_random", 4, 0]
    assert found["dead_meta_latents", 4, 0][1] == 6
    without = CompositionSettings(steps=3, batch_size=8, random_reference=False)
    fewer = measure_composition(without, saes, point=POINT, split="test")
    assert {row.metric for row in fewer} == {"composition_rate", "dead_meta_latents"}
    assert fewer[0] == rows[0]


def test_a_decoder_of_one_vector_is_refused() -> None:
    with pytest.raises(ValueError, match="all the same"):
        composition(TINY, random_vectors(1, 8).expand(5, 8), seed=0)


def test_the_job_writes_a_row_for_each_sae(tmp_path: Path) -> None:
    saes = [written(tmp_path, random_vectors(24, 12, l0), "sae", l0=l0) for l0 in (4, 8)]
    place = {"activations": tmp_path / "cache", "split": "test", "out": tmp_path / "out"}
    evaluate_composition(TINY, saes, point=POINT, **place)
    rows = read_rows([tmp_path / "out" / "composition.parquet"])
    assert rows["l0_target"].value_counts().to_dict() == {4: 3, 8: 3}
    rate = rows[(rows["metric"] == "composition_rate") & (rows["l0_target"] == 4)].iloc[0]
    expected = composition(TINY, random_vectors(24, 12, 4), KEY.seed).rate
    assert (rate["value"], rate["n"]) == (expected, 24)
    manifest = read_manifest(tmp_path / "out", kind="metrics", deep=True)
    assert {"activations", "l0_4/seed0", "l0_8/seed0"} == set(manifest["inputs"])
    with pytest.raises(ArtifactError, match="site"):
        evaluate_composition(TINY, saes, point=POINT._replace(site="layers.2"), **place)
