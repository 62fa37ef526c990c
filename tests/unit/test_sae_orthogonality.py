"""The orthogonality penalty against closed forms and against a dense matrix of cosines."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from saeflow.sae import orthogonality
from saeflow.sae.orthogonality import OrthogonalityPenalty, nearest_others
from saeflow.sae.settings import Orthogonality

BOTH = pytest.mark.parametrize("precision", ["float32", "bfloat16"])


def penalty(W_dec: Tensor, chunks: list[Tensor], precision="float32", delta=1e-8) -> Tensor:
    term = OrthogonalityPenalty(Orthogonality(delta=delta), len(W_dec), 0, precision)
    return term.of_chunks(W_dec, chunks)


def drawn(rows: int, d: int, seed: int = 0, dtype=torch.float64) -> Tensor:
    """Random rows of unequal norms."""
    stream = torch.Generator().manual_seed(seed)
    scale = 0.2 + torch.rand(rows, 1, generator=stream, dtype=dtype)
    return scale * torch.randn(rows, d, generator=stream, dtype=dtype)


def split(rows: int, *sizes: int) -> list[Tensor]:
    shuffled = torch.randperm(rows, generator=torch.Generator().manual_seed(1))
    return list(shuffled.split([*sizes, rows - sum(sizes)]))


def dense_cosines(W: Tensor, chunk: Tensor, delta: float = 1e-8) -> Tensor:
    rows = W[chunk]
    norms = rows.norm(dim=1)
    return rows @ rows.T / (norms[:, None] * norms).clamp_min(delta)


def dense_penalty(W: Tensor, chunks: list[Tensor], delta: float) -> Tensor:
    losses = []
    for chunk in chunks:
        if len(chunk) == 1:
            losses.append(W.new_zeros(()))
            continue
        itself = torch.eye(len(chunk), dtype=torch.bool)
        nearest = dense_cosines(W, chunk).masked_fill(itself, -math.inf).argmax(1)
        cosines = dense_cosines(W, chunk, delta).gather(1, nearest[:, None])
        losses.append(cosines.square().mean())
    return torch.stack(losses).mean()


def cosines_of(W: Tensor, chunks: list[Tensor], nearest_f: Tensor) -> tuple[Tensor, Tensor]:
    """Return each row's true largest cosine in its chunk and that of the row found, in float64."""
    unit = normalize(W.double(), dim=1)
    best_f = torch.zeros(len(W), dtype=torch.float64)
    for chunk in chunks:
        cosines = (unit[chunk] @ unit[chunk].T).fill_diagonal_(-math.inf)
        best_f[chunk] = cosines.amax(1)
    return best_f, (unit * unit[nearest_f]).sum(1)


@pytest.fixture
def narrow(monkeypatch):
    """Strips of 8 rows and groups of 4 for every chunk, so that small matrices have many."""
    for name, value in {"_STRIP": 8, "_GROUP": 4, "_WHOLE": 1}.items():
        monkeypatch.setattr(orthogonality, name, value)


@BOTH
def test_of_orthogonal_rows_is_zero(narrow, precision):
    assert penalty(3 * torch.eye(19), [torch.arange(19)], precision).item() == 0


@BOTH
def test_of_rows_that_point_the_same_way_is_one(narrow, precision):
    rows = torch.cat([torch.eye(11), 5 * torch.eye(11)])
    assert penalty(rows, [torch.arange(22)], precision).item() == pytest.approx(1)


@BOTH
def test_an_opposite_row_is_the_farthest_one(narrow, precision):
    rows = torch.cat([torch.eye(6), -torch.eye(6)])
    assert penalty(rows, [torch.arange(12)], precision).item() == 0


@BOTH
def test_where_all_cosines_are_negative_the_one_nearest_to_zero_counts(narrow, precision):
    """A regular simplex of n points has cosine -1 / (n - 1) between any two; a row is scaled."""
    rows = torch.eye(10) - 0.1
    rows[3] *= 7
    assert penalty(rows, [torch.arange(10)], precision).item() == pytest.approx(1 / 81, rel=1e-5)


@pytest.mark.parametrize("delta", [1e-8, 1.5])
@pytest.mark.parametrize("sizes", [(), (1,), (2, 40), (13, 13, 14), (33, 8)])
def test_in_strips_value_and_gradient_are_those_of_the_dense_matrix(narrow, sizes, delta):
    dense, striped = (drawn(70, 6).requires_grad_() for _ in range(2))
    chunks = split(70, *sizes)
    expected, found = dense_penalty(dense, chunks, delta), penalty(striped, chunks, delta=delta)
    (3 * expected).backward()
    (3 * found).backward()
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(striped.grad, dense.grad)


def test_in_whole_chunks_value_and_gradient_are_those_of_the_dense_matrix(monkeypatch):
    monkeypatch.setattr(orthogonality, "_COSINES", 7 * 50)  # several blocks of rows
    dense, whole = (drawn(120, 6).requires_grad_() for _ in range(2))
    chunks = split(120, 1, 50, 19)
    expected, found = dense_penalty(dense, chunks, 1e-8), penalty(whole, chunks)
    expected.backward()
    found.backward()
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(whole.grad, dense.grad)


def test_rows_without_length_have_no_gradient_and_spoil_none(narrow):
    rows = drawn(20, 6)
    rows[4:6] = 0
    rows.requires_grad_()
    penalty(rows, [torch.arange(20)]).backward()
    assert rows.grad.isfinite().all()
    assert rows.grad.abs().sum() > 0


@pytest.mark.parametrize("rows", [2, 3, 4, 5, 7, 8, 9, 12, 15, 16, 17, 31, 32, 33])
def test_no_neighbour_is_lost_where_strips_and_groups_end(narrow, rows):
    for seed in range(3):
        W = drawn(rows, 5, seed)
        nearest, cosine = nearest_others(W, [torch.arange(rows)])
        best, chosen = cosines_of(W, [torch.arange(rows)], nearest)
        torch.testing.assert_close(chosen, best)
        torch.testing.assert_close(cosine, best)


@pytest.mark.parametrize("d", [4, 128])
def test_float32_finds_the_nearest_up_to_rounding(d):
    W, chunks = drawn(2001, d, dtype=torch.float32), split(2001, 1300)
    nearest, cosine = nearest_others(W, chunks)
    best, chosen = cosines_of(W, chunks, nearest)
    assert (best - chosen).max() < 1e-6
    assert (cosine - chosen).abs().max() < 1e-6


def test_a_processor_without_bfloat16_in_onednn_finds_the_nearest_too(monkeypatch):
    W, chunks = drawn(1301, 64, dtype=torch.float32), [torch.arange(1301)]
    expected, _ = cosines_of(W, chunks, nearest_others(W, chunks)[0])
    original = torch.ops.mkldnn._linear_pointwise

    def raising(a, *others):
        assert a.dtype != torch.bfloat16, "oneDNN raises here for bfloat16"
        return original(a, *others)

    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", raising)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    _, chosen = cosines_of(W, chunks, nearest_others(W, chunks, "bfloat16")[0])
    assert (expected - chosen).max() < 0.012


@pytest.mark.parametrize("spread", [1.0, 0.05, 1e-3])
def test_bfloat16_finds_one_nearest_up_to_its_rounding(spread):
    """The smaller the spread, the more alike all rows are and the less bfloat16 tells apart."""
    W = torch.ones(1500, 64) + spread * torch.randn(
        1500, 64, generator=torch.Generator().manual_seed(0)
    )
    chunks = split(1500, 800)
    nearest, cosine = nearest_others(W, chunks, "bfloat16")
    best, chosen = cosines_of(W, chunks, nearest)
    assert (best - chosen).max() < 0.012
    assert (cosine - chosen).abs().max() < 1e-6, "the cosine itself is computed in float32"


def test_bfloat16_nearly_always_finds_the_very_nearest():
    W, chunks = drawn(3000, 128, dtype=torch.float32), split(3000, 1500)
    nearest, _ = nearest_others(W, chunks, "bfloat16")
    best, chosen = cosines_of(W, chunks, nearest)
    assert (best - chosen > 1e-6).float().mean() < 0.005
    exact = penalty(W, chunks)
    assert penalty(W, chunks, "bfloat16").item() == pytest.approx(exact.item(), rel=1e-4)


def test_integers_are_in_the_order_of_bfloat16():
    values = torch.linspace(-1, 1, 999).bfloat16()
    values = torch.cat([torch.tensor([-math.inf, -1e-30]).bfloat16(), values]).sort().values
    integers = orthogonality._as_integers(values).int()
    rising = values.float().diff() > 0
    assert torch.equal(integers.diff() > 0, rising)
    assert (integers.diff() >= 0).all()


@BOTH
def test_one_and_two_threads_are_bit_equal(precision):
    W, results = drawn(40_000, 8, dtype=torch.float32), []
    chunks = split(40_000, 2000, *[600] * 3, *[300] * 120)
    threads = torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            rows = W.clone().requires_grad_()
            value = penalty(rows, chunks, precision)
            value.backward()
            results.append((value.item(), rows.grad))
    finally:
        torch.set_num_threads(threads)
    assert results[0][0] == results[1][0]
    assert torch.equal(results[0][1], results[1][1])


@BOTH
def test_equal_rows_are_treated_the_same_each_time(narrow, precision):
    W = torch.ones(30, 4)
    first, second = (nearest_others(W, [torch.arange(30)], precision)[0] for _ in range(2))
    assert torch.equal(first, second)
    assert (first != torch.arange(30)).all()


def test_work_is_half_of_the_square_and_grows_linearly_with_the_rows(monkeypatch):
    shapes: list[tuple[int, int]] = []

    def counted(a_md: Tensor, b_nd: Tensor) -> Tensor:
        shapes.append((len(a_md), len(b_nd)))
        return a_md @ b_nd.T

    monkeypatch.setattr(orthogonality, "_products", counted)
    work = {}
    for rows in (4096, 8192):
        shapes.clear()
        nearest_others(
            drawn(rows, 4, dtype=torch.float32), split(rows, *[2048] * (rows // 2048 - 1))
        )
        work[rows] = sum(m * n for m, n in shapes)
        assert max(m * n for m, n in shapes) <= orthogonality._STRIP * 2048
    assert work[8192] == 2 * work[4096]
    assert work[4096] < 0.65 * 4096 * 2048
