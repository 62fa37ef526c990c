"""Linear probes: logistic regressions of many classes against the rest, trained in one loop."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from saeflow.evaluation.linear_probes_settings import ProbeTraining


class LinearProbes(NamedTuple):
    """One linear probe for each of c classes."""

    weight_cd: Tensor
    bias_c: Tensor

    def logits(self, x: Tensor) -> Tensor:
        """Return the logits (n, c) of rows; above 0 a row is taken to be of the class.

        Rows are (n, d), or (c, n, d) where each class has rows of its own.
        """
        own = x.ndim == 3
        return torch.einsum("cnd,cd->nc" if own else "nd,cd->nc", x, self.weight_cd) + self.bias_c

    def predict(self, x: Tensor) -> Tensor:
        """Return whether (n, c) each row is predicted to be of each class."""
        return self.logits(x) > 0


@torch.no_grad()
def train_probes(
    settings: ProbeTraining, x: Tensor, label_nc: Tensor, *, seed: int
) -> LinearProbes:
    """Train a probe for each class on rows (n, d) and labels (n, c), 1 for the class, 0 for not.

    Rows (c, n, d) give each class its own, in the order of its column of labels. Each probe
    minimises its own mean cross entropy and penalty, in float32, on the device of the rows. The
    loss is convex, so all start at zero, and the seed draws only the order of the rows, which is
    the same for all classes. Raises ValueError for shapes that do not fit, for labels other than 0
    and 1 and for a class without examples of both.
    """
    _check(x, label_nc)
    x, label_nc = x.float(), label_nc.float()
    positive_weight_c = torch.ones_like(label_nc[0])
    if settings.positive_weight:
        positive_weight_c = (1 - label_nc).sum(0) / label_nc.sum(0)
    weight_cd = x.new_zeros(label_nc.shape[1], x.shape[-1])
    bias_c = x.new_zeros(label_nc.shape[1])
    optimiser = _optimiser(settings, [weight_cd, bias_c])
    generator = torch.Generator().manual_seed(seed)
    for epoch in range(settings.epochs):
        for group in optimiser.param_groups:
            group["lr"] = _learning_rate(settings, epoch)
        order_n = torch.randperm(len(label_nc), generator=generator).to(x.device)
        for rows in order_n.split(settings.batch_size):
            probes = LinearProbes(weight_cd, bias_c)
            weight_cd.grad, bias_c.grad = probe_gradients(
                probes, x[..., rows, :], label_nc[rows], positive_weight_c, settings.l1
            )
            optimiser.step()
    return LinearProbes(weight_cd, bias_c)


def probe_gradients(
    probes: LinearProbes, x: Tensor, label_nc: Tensor, positive_weight_c: Tensor, l1: float
) -> tuple[Tensor, Tensor]:
    """Return the gradients of each class's loss in its weights (c, d) and bias (c,).

    The loss is the mean over rows of w log(1 + exp(-z)) for positives, with the class's
    `positive_weight_c` w, and of log(1 + exp(z)) for negatives, plus `l1` times the sum of the
    absolute weights. In closed form, as autograd would cost more than these small products.
    """
    probability_nc = probes.logits(x).sigmoid_()
    scale_nc = torch.where(label_nc > 0, positive_weight_c, 1.0)
    error_nc = (probability_nc - label_nc) * scale_nc / len(label_nc)
    weight_grad_cd = torch.einsum("nc,cnd->cd" if x.ndim == 3 else "nc,nd->cd", error_nc, x)
    if l1:
        weight_grad_cd += l1 * probes.weight_cd.sign()
    return weight_grad_cd, error_nc.sum(0)


def accuracy_c(predicted_nc: Tensor, label_nc: Tensor) -> Tensor:
    """Return each class's share of rows (n, c) whose prediction is the label, (c,)."""
    return ((predicted_nc > 0) == (label_nc > 0)).double().mean(0)


def f1_c(predicted_nc: Tensor, label_nc: Tensor) -> Tensor:
    """Return each class's F1 over rows (n, c), (c,); 0 where there is no true positive."""
    predicted_nc, label_nc = predicted_nc > 0, label_nc > 0
    true_c = (predicted_nc & label_nc).sum(0)
    found_and_sought_c = predicted_nc.sum(0) + label_nc.sum(0)
    return 2 * true_c / found_and_sought_c.clamp_min(1)


def _optimiser(settings: ProbeTraining, parameters: list[Tensor]) -> torch.optim.Optimizer:
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[settings.optimiser]
    return kind(
        parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
    )


def _learning_rate(settings: ProbeTraining, epoch: int) -> float:
    first, last = settings.learning_rate, settings.final_learning_rate
    return first if last is None else first * (last / first) ** (epoch / settings.epochs)


def _check(x: Tensor, label_nc: Tensor) -> None:
    shared = x.ndim == 2 and len(x) == len(label_nc)
    own = x.ndim == 3 and x.shape[:2] == label_nc.T.shape
    if label_nc.ndim != 2 or not (shared or own):
        raise ValueError(
            "probes need rows (n, d) or (c, n, d) and labels (n, c), not "
            f"{tuple(x.shape)} and {tuple(label_nc.shape)}"
        )
    if not ((label_nc == 0) | (label_nc == 1)).all():
        raise ValueError("labels of probes are 0 or 1")
    positives_c = (label_nc == 1).sum(0)
    one_sided = ((positives_c == 0) | (positives_c == len(label_nc))).nonzero()[:, 0].tolist()
    if one_sided or not len(label_nc):
        raise ValueError(
            f"a probe needs examples of its class and of others; classes {one_sided} of "
            f"{len(label_nc)} rows have one of the two only"
        )
