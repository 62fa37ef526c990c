"""Passes over gradients and weights: closed forms, and the same bits on one and two threads."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from saeflow.sae.gradients import clip_gradients, normalise_rows, remove_parallel


def with_gradients(*gradients: Tensor) -> list[Tensor]:
    parameters = [nn.Parameter(torch.zeros_like(g)) for g in gradients]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient.clone()
    return parameters


def test_what_is_left_is_orthogonal_to_its_row():
    W_fd = normalize(torch.randn(700, 500), dim=1)
    gradient_fd = torch.randn(700, 500)
    left_fd = gradient_fd.clone()
    remove_parallel(left_fd, W_fd)
    assert (left_fd * W_fd).sum(1).abs().max() < 1e-5
    along_f1 = ((gradient_fd - left_fd) * W_fd).sum(1, keepdim=True)
    torch.testing.assert_close(gradient_fd, left_fd + along_f1 * W_fd)


def test_a_gradient_along_its_row_vanishes():
    W_fd = torch.eye(3)
    gradient_fd = torch.tensor([[2.0, 0, 0], [1, 3, 0], [0, 0, 5]])
    remove_parallel(gradient_fd, W_fd)
    assert gradient_fd.tolist() == [[0, 0, 0], [1, 0, 0], [0, 0, 0]]


def test_gradients_are_scaled_to_a_joint_norm():
    parameters = with_gradients(torch.tensor([[3.0, 0]]), torch.tensor([4.0]))
    assert clip_gradients(parameters, 1.0) == 5.0
    torch.testing.assert_close(parameters[0].grad, torch.tensor([[0.6, 0]]))
    torch.testing.assert_close(parameters[1].grad, torch.tensor([0.8]))


def test_smaller_gradients_and_parameters_without_one_are_left_alone():
    parameters = [*with_gradients(torch.tensor([3.0, 4.0])), nn.Parameter(torch.ones(2))]
    assert clip_gradients(parameters, 5.0) == 5.0
    assert parameters[0].grad.tolist() == [3.0, 4.0] and parameters[1].grad is None


def test_the_layout_of_a_gradient_does_not_matter():
    gradient = torch.randn(40, 30)
    plain, transposed = with_gradients(gradient), with_gradients(gradient.t().contiguous().t())
    norms = [clip_gradients(parameters, 0.5) for parameters in (plain, transposed)]
    assert norms == pytest.approx([gradient.norm().item()] * 2, rel=1e-6)
    torch.testing.assert_close(plain[0].grad, transposed[0].grad)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_norm_that_is_no_number_is_told_and_scales_nothing(bad):
    parameters = with_gradients(torch.tensor([[3.0, bad]]))
    assert not math.isfinite(clip_gradients(parameters, 1.0))
    assert parameters[0].grad[0, 0] == 3


def test_a_tiny_gradient_has_a_norm():
    assert clip_gradients(with_gradients(torch.full((4,), 1e-30)), 1.0) == pytest.approx(2e-30)


def test_rows_get_unit_norm():
    W_fd = torch.randn(50, 7)
    expected = normalize(W_fd, dim=1)
    normalise_rows(W_fd)
    torch.testing.assert_close(W_fd, expected)


def test_one_and_two_threads_give_the_same_bits():
    draw = torch.Generator().manual_seed(0)
    W_fd = normalize(torch.randn(70_000, 16, generator=draw), dim=1)
    gradients = (torch.randn(*s, generator=draw) for s in ((70_000, 16), (16, 70_000), (70_000,)))
    W_grad, transposed, bias = gradients
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            parameters = with_gradients(W_grad, transposed.t().contiguous().t(), bias)
            remove_parallel(parameters[0].grad, W_fd)
            norm = clip_gradients(parameters, 1e-3)
            rows = W_grad.clone()
            normalise_rows(rows)
            results.append((norm, [*(p.grad for p in parameters), rows]))
    finally:
        torch.set_num_threads(before)
    assert results[0][0] == results[1][0]
    assert all(torch.equal(a, b) for a, b in zip(results[0][1], results[1][1], strict=True))
