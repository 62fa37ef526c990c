"""The main latents of a class: those by which a k-sparse probe gains, as SAEBench finds them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from saeflow.evaluation.absorption_classes import Probed
from saeflow.evaluation.absorption_rows import LabelledRows
from saeflow.evaluation.absorption_settings import AbsorptionSettings
from saeflow.evaluation.linear_probes import f1_c, train_probes
from saeflow.sae.model import SAE
from saeflow.sae.preactivations import chunk_rows


class MainLatents(NamedTuple):
    """The latents that a class is split among."""

    latents: list[int]
    """Best first."""
    f1: list[float]
    """Held-out F1 of the k-sparse probes that were tried, from k = 1 on; the last may be the one
    that did not gain enough."""


@torch.no_grad()
def main_latents(
    settings: AbsorptionSettings, sae: SAE, rows: LabelledRows, classes: Sequence[Probed]
) -> list[MainLatents]:
    """Return the main latents of each class.

    A probe with an L1 penalty on all latents ranks them for each class by its signed weights; the
    class's main latents are the first k, with k growing while the held-out F1 of a logistic
    regression on them grows by more than `f1_jump`. Raises ValueError where no latent fires.
    """
    device = rows.x_nd.device
    train_n, test_n = ~rows.held_out_n, rows.held_out_n
    label_nc = rows.class_n[:, None] == torch.tensor([of.column for of in classes])
    train_nd, test_nd = rows.x_nd[train_n.to(device)], rows.x_nd[test_n.to(device)]
    train_label_nc, test_label_nc = label_nc[train_n], label_nc[test_n]
    latent_j = candidates(sae, train_nd, train_label_nc.to(device), settings.candidates)
    if not len(latent_j):
        raise ValueError(f"no latent of the SAE fires on any of the {len(train_nd)} training rows")
    train_nj = _activations(sae, train_nd, latent_j)
    test_nj = _activations(sae, test_nd, latent_j).cpu()
    probes = train_probes(
        settings.selection, train_nj, train_label_nc.to(device), seed=settings.seed
    )
    order_cj = probes.weight_cd.argsort(dim=1, descending=True, stable=True).cpu()
    train_nj, latent_j = train_nj.cpu(), latent_j.cpu()
    found = []
    for c in range(len(classes)):
        ranked = order_cj[c, : settings.max_latents]
        train = (train_nj[:, ranked], train_label_nc[:, c])
        f1 = _f1_by_k(settings, train, (test_nj[:, ranked], test_label_nc[:, c]))
        found.append(MainLatents(latent_j[ranked[: _split(f1, settings.f1_jump)]].tolist(), f1))
    return found


@torch.no_grad()
def candidates(sae: SAE, x_nd: Tensor, label_nc: Tensor, most: int) -> Tensor:
    """Return, sorted, the latents that fire on rows, or of more than `most` the best of each class.

    A latent is good for a class by its mean activation there less that on all rows, in standard
    deviations over all rows.
    """
    label_cn = label_nc.T.float()
    sum_cf = x_nd.new_zeros(label_cn.shape[0], sae.d_sae)
    sum_f, square_f = x_nd.new_zeros(2, sae.d_sae)
    size = chunk_rows(len(x_nd), sae.d_sae, x_nd.is_cuda)
    for part_nd, part_cn in zip(x_nd.split(size), label_cn.split(size, dim=1), strict=True):
        acts_nf = sae.encode(part_nd)
        sum_cf += part_cn @ acts_nf
        sum_f += acts_nf.sum(0)
        square_f += acts_nf.square().sum(0)
    fires_f = square_f > 0
    if int(fires_f.sum()) <= most:
        return fires_f.nonzero()[:, 0]
    mean_f = sum_f / len(x_nd)
    deviation_f = (square_f / len(x_nd) - mean_f.square()).clamp_min(0).sqrt()
    gain_cf = (sum_cf / label_cn.sum(1, keepdim=True) - mean_f) / deviation_f
    gain_cf = torch.where(fires_f & (deviation_f > 0), gain_cf, -torch.inf)
    return gain_cf.topk(math.ceil(most / len(label_cn)), dim=1).indices.unique()


def _activations(sae: SAE, x_nd: Tensor, latent_j: Tensor) -> Tensor:
    size = chunk_rows(len(x_nd), sae.d_sae, x_nd.is_cuda)
    return torch.cat([sae.encode(part_nd)[:, latent_j] for part_nd in x_nd.split(size)])


def _f1_by_k(
    settings: AbsorptionSettings, train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]
) -> list[float]:
    """Return the F1 on `test` with the first k latents, until it grows too little.

    Both are activations (n, latents) and whether each row is of the class (n,).
    """
    (train_nk, train_label_n), (test_nk, test_label_n) = train, test
    found: list[float] = []
    for k in range(1, train_nk.shape[1] + 1):
        regression = LogisticRegression(
            max_iter=settings.logistic_iterations, class_weight="balanced"
        ).fit(train_nk[:, :k].numpy(), train_label_n.numpy())
        logit_n = torch.from_numpy(regression.decision_function(test_nk[:, :k].numpy()))
        found.append(f1_c((logit_n > 0)[:, None], test_label_n[:, None]).item())
        if _split(found, settings.f1_jump) < k:
            break
    return found


def _split(f1: Sequence[float], jump: float) -> int:
    """Return how many latents a class is split among: the first, and each that gains enough."""
    k = 1
    while k < len(f1) and f1[k] > f1[k - 1] + jump:
        k += 1
    return k
