"""Latents as sums of another SAE's."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from decoders_planted import POINT, compared, random_vectors, written_pairs
from scipy.optimize import nnls

from saeflow.artifacts import read_manifest
from saeflow.evaluation import decomposition_pursuit
from saeflow.evaluation.decomposition import (
    evaluate_decomposition,
    measure_decomposition,
    passing,
)
from saeflow.evaluation.decomposition_pursuit import non_negative, pursue
from saeflow.evaluation.decomposition_settings import DecompositionSettings
from saeflow.evaluation.rows import read_rows

AXES = torch.eye(32)
PLANTED = torch.stack(
    [
        AXES[7],  # there as it is
        0.8 * AXES[3] + 0.6 * AXES[1],
        0.8 * AXES[3] + 0.4 * AXES[5] + 0.2**0.5 * AXES[0],
        0.5 * AXES[:4].sum(0),  # four parts
        (AXES[0] - AXES[1]) / 2**0.5,  # a difference
        0.94 * AXES[2] + 0.09 * AXES[4] + (1 - 0.94**2 - 0.09**2) ** 0.5 * AXES[31],  # small part
        AXES[31],  # the dictionary does not reach it
    ]
)
DICTIONARY = AXES[:30]


@pytest.mark.parametrize("parts", [1, 2, 3, 4])
def test_coefficients_are_those_of_non_negative_least_squares(parts: int) -> None:
    dictionary_btd = random_vectors(50 * parts, 6).view(50, parts, 6).double()
    x_bd = random_vectors(50, 6, seed=1).double()
    found_bt = non_negative(
        dictionary_btd @ dictionary_btd.mT, (dictionary_btd @ x_bd[:, :, None])[:, :, 0]
    )
    assert (found_bt == 0).any()
    for i in range(50):
        expected, _ = nnls(dictionary_btd[i].T.numpy(), x_bd[i].numpy())
        assert found_bt[i].tolist() == pytest.approx(expected.tolist(), abs=1e-7)


def test_planted_sums_are_found_and_nothing_else() -> None:
    found = passing(pursue(PLANTED, DICTIONARY, 3), 0.95, 0.1)
    assert {latent: of[0] for latent, of in found.items()} == {0: [7], 1: [3, 1], 2: [3, 0, 5]}
    parts, coefficients, cosine = found[2]
    assert coefficients == pytest.approx([0.8, 0.2**0.5, 0.4], abs=1e-6)
    assert cosine == pytest.approx(1, abs=1e-6)
    assert len(parts) == 3


def test_both_bars_of_the_rule_count() -> None:
    sums = pursue(PLANTED, DICTIONARY, 4)
    assert 3 in passing(sums, 0.95, 0.1)
    assert 3 not in passing(sums, 0.95, 0.51)
    assert 5 in passing(sums, 0.93, 0.1)  # 0.94 by one part alone
    two = 0.999 * AXES[0] + (1 - 0.999**2) ** 0.5 * AXES[1]
    sums = pursue(torch.stack([two]), DICTIONARY, 2)
    assert passing(sums, 0.9995, 0.1) == {}
    assert passing(sums, 0.9995, 0.01)[0][0] == [0, 1]


def test_chunks_and_repeated_vectors_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = pursue(PLANTED, DICTIONARY, 3)
    monkeypatch.setattr(decomposition_pursuit, "CHUNK_ENTRIES", 64)
    for one, other in zip(whole, pursue(PLANTED, DICTIONARY, 3), strict=True):
        assert one.parts_ft.equal(other.parts_ft)
        assert torch.allclose(one.cosine_f, other.cosine_f)
    twice = passing(pursue(PLANTED, torch.cat([DICTIONARY, DICTIONARY]), 3), 0.95, 0.1)
    assert {latent: len(of[0]) for latent, of in twice.items()} == {0: 1, 1: 2, 2: 3}
    assert len(pursue(PLANTED, AXES[:2], 3)) == 2


def test_rows_count_latents_by_their_parts_in_both_directions() -> None:
    rows, details = measure_decomposition(
        DecompositionSettings(), compared(DICTIONARY, PLANTED), point=POINT, split="test"
    )
    found = {row.metric: (row.value, row.n) for row in rows}
    assert found["baseline_matched_share"] == (pytest.approx(1 / 7), 7)
    assert found["baseline_decomposed_share"] == (pytest.approx(2 / 7), 7)
    assert found["baseline_decomposed_share@2"] == (pytest.approx(1 / 7), 7)
    assert found["baseline_decomposed_latents"] == (2, 7)
    assert found["matched_share"][1] == 30 and found["matched_share"][0] >= 1 / 30
    sums = [row for row in details.to_pylist() if row["side"] == "baseline"]
    assert [row["latent"] for row in sums] == [0, 1, 2]
    assert sums[1]["parts"] == [3, 1]
    assert sums[1]["coefficients"] == pytest.approx([0.8, 0.6])
    assert sums[1]["cosine"] == pytest.approx(1)
    with pytest.raises(ValueError, match="width 8 cannot be compared"):
        measure_decomposition(
            DecompositionSettings(),
            compared(random_vectors(5, 8), random_vectors(5, 9)),
            point=POINT,
            split="test",
        )


def test_the_job_writes_rows_and_sums(tmp_path: Path) -> None:
    evaluate_decomposition(
        DecompositionSettings(min_cosine=0.8), written_pairs(tmp_path, d=4), baseline="batchtopk",
        activations=tmp_path / "cache", split="test", point=POINT, out=tmp_path / "out",
    )  # fmt: skip
    rows = read_rows([tmp_path / "out" / "decomposition.parquet"])
    assert set(rows["variant"]) == {"ortsae"} and set(rows["seed"]) == {0, 1}
    details = pq.read_table(tmp_path / "out" / "decomposition_details.parquet").to_pandas()
    passed = rows[rows["metric"].str.fullmatch(r"(baseline_)?(matched|decomposed)_share")]
    assert len(details) == round((passed["value"] * passed["n"]).sum()) > 0
    manifest = read_manifest(tmp_path / "out", kind="metrics", deep=True)
    assert {"baseline/l0_4/seed1", "variant/l0_4/seed0"} <= set(manifest["inputs"])
