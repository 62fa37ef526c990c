"""Mean and variance of a stream of vectors, in memory that does not grow with it."""

from __future__ import annotations

import torch


class Moments:
    """Streaming mean and centred sum of squares of rows, per dimension, in float64.

    Batches are merged by Chan, Golub and LeVeque's update, which stays exact where the mean is
    large against the spread; the result does not depend on how the rows were batched.
    """

    def __init__(self, width: int, device: torch.device | str = "cpu") -> None:
        self.n = 0
        self.mean_d = torch.zeros(width, dtype=torch.float64, device=device)
        self.squares_d = torch.zeros(width, dtype=torch.float64, device=device)

    def update(self, x_bd: torch.Tensor) -> None:
        """Add the rows of `x_bd` (rows, width)."""
        rows = x_bd.shape[0]
        if rows == 0:
            return
        x_bd = x_bd.double()
        mean_d = x_bd.mean(0)
        shift_d = mean_d - self.mean_d
        total = self.n + rows
        self.squares_d += (x_bd - mean_d).square().sum(0)
        self.squares_d += shift_d.square() * (self.n * rows / total)
        self.mean_d += shift_d * (rows / total)
        self.n = total

    def variance(self) -> float:
        """Return the total (population) variance: the sum over dimensions of Var(x_d)."""
        return float(self.squares_d.sum()) / self.n

    def mean_square(self) -> float:
        """Return E||x||^2, the mean squared norm of a row."""
        return self.variance() + float(self.mean_d.square().sum())
