"""How linear probes are trained."""

from __future__ import annotations

from typing import Literal

from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt

from saeflow.settings import Settings


class ProbeTraining(Settings):
    """How one-vs-rest logistic probes are trained; each evaluation has defaults of its own."""

    optimiser: Literal["adam", "adamw"]
    """Adam adds the weight decay to the gradient, AdamW takes it off the weights."""
    learning_rate: PositiveFloat
    """Rate of the first epoch."""
    final_learning_rate: PositiveFloat | None
    """Rate at which the last epoch ends, after an exponential decay from epoch to epoch; null keeps
    the rate."""
    epochs: PositiveInt
    """Passes over the training rows."""
    batch_size: PositiveInt
    """Rows in one step."""
    l1: NonNegativeFloat
    """Weight of the sum of a probe's absolute weights (without its bias) in its loss."""
    weight_decay: NonNegativeFloat
    """Weight decay of the optimiser, on weights and biases."""
    positive_weight: bool
    """Whether a class's positives count as much as its negatives: each by negatives / positives."""


class RemovalProbe(ProbeTraining):
    """The probes of SCR and TPP, as SAEBench trains them.

    SAEBench also keeps the epoch that is best on the test set; here the last one counts, so that
    nothing is chosen on what is judged.
    """

    optimiser: Literal["adam", "adamw"] = "adamw"
    learning_rate: PositiveFloat = 1e-3
    final_learning_rate: PositiveFloat | None = None
    epochs: PositiveInt = 20
    batch_size: PositiveInt = 16
    l1: NonNegativeFloat = 1e-3
    weight_decay: NonNegativeFloat = 1e-2
    """PyTorch's default for AdamW, which SAEBench leaves as it is."""
    positive_weight: Literal[False] = False
    """The problems of SCR and TPP are balanced."""
