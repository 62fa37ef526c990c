"""Sums by token type and latent, coverage, curves and scalars against planted truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.sparse import csc_array, csr_array
from torch import Tensor, nn

from saeflow.evaluation import pair_cosines as cosines_module
from saeflow.evaluation import pair_sums, token_types
from saeflow.evaluation.frequency import ranks
from saeflow.evaluation.pair_cosines import PairCosines, pair_cosines
from saeflow.evaluation.pair_sums import PairSums, column_maxima, row_entropies
from saeflow.evaluation.settings import TokenMeasureSettings
from saeflow.evaluation.token_curves import curves, log_places, pooled_error, scalars
from saeflow.evaluation.token_tables import Latents, Types, describe
from saeflow.evaluation.token_types import TypeStatistics
from saeflow.sae.model import SAE

NO_PAIRS = PairCosines(np.array([1, 0]), 0.0, 1)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def relu_sae(W_enc: Tensor, W_dec: Tensor) -> SAE:
    zeros = torch.zeros(W_enc.shape[1]), torch.zeros(W_enc.shape[0])
    return SAE(W_enc, W_dec, *zeros, nn.ReLU(), apply_b_dec_to_input=False)


def measured(
    x_nd: Tensor, types_n: list[int], vocab: int, sae: SAE | None = None
) -> TypeStatistics:
    eye = torch.eye(x_nd.shape[1])
    statistics = TypeStatistics(sae or relu_sae(eye, eye), vocab)
    statistics.update(x_nd, torch.tensor(types_n))
    return statistics


def described(
    x_nd: Tensor, types_n: list[int], frequency_v: list[int], **keys: object
) -> tuple[Types, Latents]:
    """Of an SAE whose latents are the dimensions of x."""
    settings = TokenMeasureSettings.model_validate(keys)
    statistics = measured(x_nd, types_n, len(frequency_v))
    return describe(settings, statistics, np.array(frequency_v))


@pytest.mark.parametrize("pending", [1, 1 << 22])
def test_pair_sums_equal_a_dense_table(monkeypatch: pytest.MonkeyPatch, pending: int) -> None:
    monkeypatch.setattr(pair_sums, "_PENDING", pending)
    generator = np.random.default_rng(0)
    sums, dense = PairSums(5, 7), np.zeros((5, 7))
    assert sums.total().nnz == 0
    for n in (3, 0, 20, 200):
        rows, columns = generator.integers(0, 5, n), generator.integers(0, 7, n)
        values = generator.random(n)
        sums.add(rows, columns, values)
        np.add.at(dense, (rows, columns), values)
    np.testing.assert_allclose(sums.total().toarray(), dense)
    np.testing.assert_allclose(sums.total().toarray(), dense)


def test_entropies_of_uniform_single_and_empty_rows() -> None:
    table = np.array([[2.0, 2, 2, 2], [0, 0, 5, 0], [0, 0, 0, 0], [3, 1, 0, 0]])
    found = row_entropies(csr_array(table))
    assert found[:2] == pytest.approx([math.log(4), 0])
    assert np.isnan(found[2])
    assert found[3] == pytest.approx(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))


def test_column_maxima_take_the_first_of_equals_and_know_empty_columns() -> None:
    table = np.array([[0.0, 4, 0, 1], [0, 4, 2, 3], [0, 1, 9, 0]])
    found = column_maxima(csc_array(table))
    assert found.values.tolist() == [0, 4, 9, 3]
    assert found.rows.tolist() == [-1, 0, 2, 1]
    assert column_maxima(csc_array((2, 3))).rows.tolist() == [-1] * 3


@pytest.mark.parametrize("entries", [1, 50, 1 << 22])
def test_pair_cosines_against_brute_force(monkeypatch: pytest.MonkeyPatch, entries: int) -> None:
    monkeypatch.setattr(cosines_module, "_CHUNK_ENTRIES", entries)
    w = draw(23, 4) * draw(23, 1, seed=1).exp()
    unit = (w / w.norm(dim=1, keepdim=True)).numpy()
    truth = [float(unit[i] @ unit[j]) for i in range(23) for j in range(i)]
    found = pair_cosines(w, 8, 100, 0)
    assert found.pairs == len(truth) == found.counts.sum()
    assert found.mean == pytest.approx(np.mean(truth), abs=1e-6)
    assert found.counts.tolist() == np.histogram(truth, 8, (-1, 1))[0].tolist()


def test_pair_cosines_of_known_vectors() -> None:
    cross = torch.tensor([[1.0, 0], [0, 2], [-3, 0], [0, 0]])
    found = pair_cosines(cross, 4, 100, 0)
    assert found.counts.tolist() == [1, 0, 5, 0]
    assert pair_cosines(torch.tensor([[1.0, 0], [2, 0]]), 4, 100, 0).counts.tolist() == [0, 0, 0, 1]
    with pytest.raises(ValueError, match="1 latent"):
        pair_cosines(cross[:1], 4, 100, 0)


def test_a_wide_dictionary_is_sampled_by_its_seed() -> None:
    w = draw(40, 6)
    first, again, other = (pair_cosines(w, 10, 12, seed) for seed in (3, 3, 4))
    assert first.pairs == 66
    assert first.counts.tolist() == again.counts.tolist() != other.counts.tolist()


@pytest.mark.parametrize("chunk", [1, 1 << 22])
def test_statistics_equal_a_loop_over_rows(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(token_types, "_CHUNK_ENTRIES", chunk)
    x, sae = draw(60, 5), relu_sae(draw(5, 9, seed=1), draw(9, 5, seed=2))
    types = [int(t) for t in torch.randint(0, 7, (60,), generator=torch.manual_seed(0))]
    statistics = TypeStatistics(sae, 8)
    statistics.update(x[:25], torch.tensor(types[:25]))
    statistics.update(x[25:], torch.tensor(types[25:]))
    f = sae.encode(x).detach().double()
    error = (x - sae(x)).detach().double().square().sum(1)
    for v in range(8):
        of = torch.tensor([t == v for t in types])
        assert statistics.count_v[v] == of.sum()
        if not of.any():
            assert statistics.error_v[v] == statistics.largest_v[v] == 0
            continue
        assert statistics.error_v[v] == pytest.approx(error[of].sum().item(), rel=1e-5)
        assert statistics.error_square_v[v] == pytest.approx(
            error[of].square().sum().item(), rel=1e-5
        )
        assert statistics.error_max_v[v] == pytest.approx(error[of].max().item(), rel=1e-5)
        assert statistics.largest_v[v] == pytest.approx(f[of].max().item(), rel=1e-5)
        assert statistics.peaks_v[v] == pytest.approx(f[of].amax(1).sum().item(), rel=1e-5)
        np.testing.assert_allclose(
            statistics.mass.total().toarray()[v], f[of].sum(0).numpy(), rtol=1e-5
        )
    assert statistics.fired_f.tolist() == (f > 0).sum(0).tolist()
    assert statistics.best_type_f.tolist() == [types[i] for i in f.argmax(0).tolist()]


def test_types_and_latents_of_a_planted_dictionary() -> None:
    """Latent 0 is type 2's, latent 1 is shared evenly by 0 and 1, latent 2 is dead."""
    x = torch.tensor([[0.0, 4, 0], [0, 2, 0], [0, 2, 0], [3, 0, 0], [0, 0, 0]])
    types, latents = described(x, [0, 1, 1, 2, 4], [9, 5, 1, 7, 0], mass_share=0.6)
    assert types.token.tolist() == [0, 1, 2, 4]
    assert types.count.tolist() == [1, 2, 1, 1]
    assert types.frequency.tolist() == [9, 5, 1, 0]
    assert types.rank.tolist() == [1, 3, 4, 5]
    assert types.error_max.tolist() == [0] * 4
    assert types.max_activation.tolist() == [4, 2, 3, 0]
    assert types.peak_activation.tolist() == [4, 2, 3, 0]
    assert types.entropy[:3].tolist() == [0, 0, 0] and np.isnan(types.entropy[3])
    assert types.covered_argmax.tolist() == [True, False, True, False]
    assert types.covered_mass.tolist() == [False, False, True, False]
    assert latents.count.tolist() == [1, 3, 0]
    assert latents.argmax_token.tolist() == [2, 0, -1]
    assert latents.mass_token.tolist() == [2, 0, -1]
    assert latents.mass_share[:2].tolist() == [1, 0.5] and np.isnan(latents.mass_share[2])
    assert latents.entropy[:2] == pytest.approx([0, math.log(2)])
    both, _ = described(x, [0, 1, 1, 2, 4], [9, 5, 1, 7, 0], mass_share=0.5)
    assert both.covered_mass.tolist() == [True, True, True, False]


def test_a_latent_stands_for_one_token_or_for_the_mean_of_a_type() -> None:
    x = torch.tensor([[5.0], [0.1], [3], [3]])
    by_token, _ = described(x, [0, 0, 1, 1], [1, 1])
    by_type, _ = described(x, [0, 0, 1, 1], [1, 1], argmax="type")
    assert by_token.covered_argmax.tolist() == [True, False]
    assert by_type.covered_argmax.tolist() == [False, True]


def test_entropy_and_peak_of_a_type_do_not_grow_with_its_count() -> None:
    once = torch.tensor([[1.0, 1, 0, 0], [3, 0, 0, 0]])
    types, _ = described(once.repeat(50, 1), [0, 1] * 50, [1, 1])
    assert types.entropy.tolist() == pytest.approx([math.log(2), 0])
    assert types.peak_activation.tolist() == [1, 3]


def test_ranks_go_by_frequency_and_then_by_id() -> None:
    assert ranks(np.array([3, 9, 0, 3])).tolist() == [2, 1, 4, 3]


def plain_types(frequency: list[int], covered: list[bool], **changes: list[float]) -> Types:
    n = len(frequency)
    fields = {
        "token": np.arange(n), "count": np.ones(n, dtype=int), "frequency": np.array(frequency),
        "rank": ranks(np.array(frequency)), "entropy": np.zeros(n),
        "covered_argmax": np.array(covered), "covered_mass": np.array(covered),
    }  # fmt: skip
    for name in ("error_mean", "error_std", "error_max", "max_activation", "peak_activation"):
        fields[name] = np.ones(n)
    return Types(**{**fields, **{k: np.array(v) for k, v in changes.items()}})


def plain_latents(count: list[int]) -> Latents:
    n = len(count)
    return Latents(np.array(count), np.zeros(n), np.zeros(n), np.ones(n), np.zeros(n))


def curve(types: Types, metric: str, **keys: object) -> list[tuple[float, float, int]]:
    settings = TokenMeasureSettings.model_validate(keys)
    marks = curves(settings, types, plain_latents([5, 9, 0]), NO_PAIRS, 1111)
    return [(m.x, m.value, m.n) for m in marks if m.metric == metric]


def test_coverage_by_frequency_bins() -> None:
    types = plain_types([1000, 200, 20, 1, 1, 0], [True, True, False, True, False, False])
    found = curve(types, "coverage_argmax", bins=3)
    assert [x * 1111 for x, _, _ in found] == pytest.approx([10**0.5, 10**1.5, 10**2.5])
    assert [(value, n) for _, value, n in found] == [(0.5, 2), (0, 1), (1, 2)]


def test_cumulative_coverage_starts_with_the_rarest_and_ends_at_one() -> None:
    frequency = [4, 3, 2, 1]
    tail = curve(plain_types(frequency, [False, False, True, True]), "cumulative_coverage_mass")
    head = curve(plain_types(frequency, [True, True, False, False]), "cumulative_coverage_mass")
    assert tail == [(0.25, 0.5, 1), (0.5, 1, 2), (0.75, 1, 3), (1, 1, 4)]
    assert head == [(0.25, 0, 1), (0.5, 0, 2), (0.75, 0.5, 3), (1, 1, 4)]
    tokens = curve(
        plain_types(frequency, [True] * 4, count=[6, 2, 1, 1]),
        "cumulative_coverage_mass",
        cumulative="tokens",
    )
    assert [x for x, _, _ in tokens] == pytest.approx([0.1, 0.2, 0.4, 1])
    assert curve(plain_types(frequency, [False] * 4), "cumulative_coverage_mass") == []


def test_errors_by_rank_pool_the_tokens_of_a_bin() -> None:
    types = plain_types(
        [9, 8, 1], [True] * 3,
        count=[1, 3, 2], error_mean=[4, 8, 5], error_std=[0, 2, 1], error_max=[4, 11, 6],
    )  # fmt: skip
    mean, deviation, largest = pooled_error(types, np.array([True, True, False]))
    assert (mean, largest) == (7, 11)
    assert deviation == pytest.approx(math.sqrt((9 + 3 * (4 + 1)) / 4))
    found = {
        name: curve(types, f"error_{name}_by_rank", bins=2)[-1] for name in ("mean", "std", "max")
    }
    assert [n for _, _, n in found.values()] == [5] * 3  # ranks 2 and 3
    assert found["mean"][1] == pytest.approx((3 * 8 + 2 * 5) / 5)
    assert found["max"][1] == 11


def test_latents_by_rank_and_the_density_of_cosines() -> None:
    settings = TokenMeasureSettings()
    known = PairCosines(np.array([0, 1, 3, 0]), 0.1, 4)
    marks = list(curves(settings, plain_types([1], [True]), plain_latents([5, 9, 0]), known, 1))
    counts = [(m.x, m.value) for m in marks if m.metric == "latent_count_by_rank"]
    assert counts == [(1, 9), (2, 5), (3, 0)]
    density = [(m.x, m.value, m.n) for m in marks if m.metric == "decoder_cosine_density"]
    assert density == [(-0.75, 0, 4), (-0.25, 0.5, 4), (0.25, 1.5, 4), (0.75, 0, 4)]
    assert log_places(1, 100).tolist() == [1]
    assert log_places(1000, 4).tolist() == [1, 10, 100, 1000]


def test_scalars_of_the_tail_and_of_types() -> None:
    types = plain_types(
        [100, 50, 2, 1], [True, True, True, False],
        entropy=[0.5, 1.5, np.nan, 1], error_mean=[1, 1, 2, 4], error_std=[0, 0, 0, 0],
        error_max=[9, 9, 2, 4], max_activation=[1, 2, 3, 6], peak_activation=[1, 1, 1, 3],
    )  # fmt: skip
    settings = TokenMeasureSettings(tail=0.5)
    found = {
        s.metric: (s.value, s.n)
        for s in scalars(settings, types, plain_latents([4, 0, 8]), PairCosines(
            np.array([3, 3]), 0.25, 6
        ))
    }  # fmt: skip
    assert found["coverage_argmax"] == (0.75, 4)
    assert found["tail_coverage_mass"] == (0.5, 2)
    assert found["tail_error_mean"] == (3, 2)
    assert found["tail_error_std"] == (1, 2)
    assert found["tail_error_max"] == (4, 2)
    assert found["token_entropy"] == (1, 3)
    assert found["token_max_activation"] == (3, 4)
    assert found["token_peak_activation"] == (1.5, 4)
    assert found["median_latent_count"] == (4, 3)
    assert found["active_latents"] == (pytest.approx(2 / 3), 3)
    assert found["mean_pair_cosine"] == (0.25, 6)
    silent = plain_types([1], [False], entropy=[np.nan])
    assert "token_entropy" not in {
        s.metric for s in scalars(settings, silent, plain_latents([0]), NO_PAIRS)
    }
