"""Non-negative orthogonal matching pursuit: vectors as sums of a few of a dictionary's."""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from saeflow.evaluation.decoder import CHUNK_ENTRIES

_RIDGE = 1e-10
"""Keeps the normal equations solvable where two parts are the same vector."""
_SMALLEST_NORM = 1e-12


class Sums(NamedTuple):
    """Vectors, each as a sum of t parts."""

    parts_ft: Tensor
    """Rows of the dictionary, in the order in which they were found, int64 (vectors, t)."""
    coefficients_ft: Tensor
    """Zero or more, float64 (vectors, t)."""
    cosine_f: Tensor
    """Cosine between vector and sum, 0 where all coefficients are, float64 (vectors,)."""


@torch.no_grad()
def pursue(unit_fd: Tensor, dictionary_gd: Tensor, terms: int) -> list[Sums]:
    """Return the sums of 1, 2, ..., `terms` parts of each vector; all rows have unit norm.

    A part more is the row of the dictionary with the largest product with what is left over; then
    all coefficients are fitted anew, by non-negative least squares. Vectors are taken in chunks, so
    that memory is linear in both.
    """
    terms = min(terms, len(dictionary_gd))
    rows = max(1, CHUNK_ENTRIES // len(dictionary_gd))
    chunks = [_pursue(part_bd, dictionary_gd, terms) for part_bd in unit_fd.split(rows)]
    return [
        Sums(*(torch.cat(part) for part in zip(*of_length, strict=True)))
        for of_length in zip(*chunks, strict=True)
    ]


def _pursue(x_bd: Tensor, dictionary_gd: Tensor, terms: int) -> list[Sums]:
    parts_bt = torch.empty(len(x_bd), 0, dtype=torch.int64, device=x_bd.device)
    left_bd, found = x_bd, []
    for _ in range(terms):
        products_bg = (left_bd @ dictionary_gd.T).scatter_(1, parts_bt, -torch.inf)
        parts_bt = torch.cat([parts_bt, products_bg.argmax(1, keepdim=True)], dim=1)
        vectors_btd = dictionary_gd[parts_bt].double()
        gram_btt = vectors_btd @ vectors_btd.mT
        products_bt = (vectors_btd @ x_bd.double()[:, :, None])[:, :, 0]
        coefficients_bt = non_negative(gram_btt, products_bt)
        sum_bd = (coefficients_bt[:, None] @ vectors_btd)[:, 0]
        cosine_b = (sum_bd * x_bd).sum(1) / sum_bd.norm(dim=1).clamp_min(_SMALLEST_NORM)
        found.append(Sums(parts_bt, coefficients_bt, cosine_b))
        left_bd = (x_bd - sum_bd).to(x_bd.dtype)
    return found


def non_negative(gram_btt: Tensor, products_bt: Tensor) -> Tensor:
    """Return the non-negative least-squares coefficients (b, t) of normal equations, exactly.

    The solution is the plain least-squares one on those parts that it uses. Parts are few, so
    every subset is solved, and of the solutions without a negative entry the best is taken.
    """
    best_bt, gain_b = torch.zeros_like(products_bt), torch.zeros_like(products_bt[:, 0])
    eye_tt = torch.eye(products_bt.shape[1], dtype=gram_btt.dtype, device=gram_btt.device)
    for used in product((0.0, 1.0), repeat=products_bt.shape[1]):
        used_t = eye_tt.new_tensor(used)
        among_tt = used_t[:, None] * used_t
        own_btt = gram_btt * among_tt + eye_tt * (1 - used_t + _RIDGE)
        solved_bt = torch.linalg.solve(own_btt, products_bt * used_t)
        explained_b = (solved_bt * products_bt).sum(1)
        better_b = (solved_bt >= 0).all(1) & (explained_b > gain_b)
        best_bt = torch.where(better_b[:, None], solved_bt, best_bt)
        gain_b = torch.where(better_b, explained_b, gain_b)
    return best_bt
