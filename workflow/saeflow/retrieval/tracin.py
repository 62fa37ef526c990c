"""TracIn: how much a step of an SAE's training on a passage would lower the seeds' loss.

TracIn(z, Z') = sum over checkpoints i of eta_i <grad l(z; theta_i), mean_z' grad l(z'; theta_i)>
(Pruthi et al. 2020, TracInCP), with l an SAE's loss over the tokens of a passage and theta all its
parameters in the space of raw activations (see `tracin_gradients`). SSAE reranks by TracIn and does
not say of what parameters, checkpoints and loss.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saeflow.artifacts import ArtifactError, read_manifest
from saeflow.corpora.spool import Row
from saeflow.progress import Progress
from saeflow.retrieval.tracin_gradients import (
    Gradient,
    factors,
    inner_products,
    weighted_sum,
)
from saeflow.retrieval.tracin_passages import Passages, Reader
from saeflow.retrieval.tracin_settings import TracIn
from saeflow.sae.formats import load_sae
from saeflow.sae.model import SAE
from saeflow.subjects.load import load_subject


class Checkpoint(NamedTuple):
    """An SAE of some moment of a training."""

    path: Path
    learning_rate: float
    """Of the step that led to it."""
    l1: float | None
    """Weight of sum f beside the summed squared error, of raw activations; None without L1."""


def checkpoints_of(sae: Path, which: Literal["final", "all"] = "final") -> list[Checkpoint]:
    """Return the finished SAE in `sae`, or its snapshots and itself.

    Training minimises mean_d (s error)^2 + c s sum f, where s is the factor of `input_scaling`;
    times d / s^2 that is ||error||^2 + (c d / s) sum f. Raises ArtifactError for an SAE that is
    unfinished, damaged, without snapshots where they are asked for, or trained on another's error.
    """
    stats = read_manifest(sae, kind="sae", deep=True)["stats"]
    if "base" in stats:
        raise ArtifactError(f"{sae} reconstructs another SAE's error, which TracIn does not read")
    if which == "all" and "snapshots" not in stats:
        raise ArtifactError(
            f"{sae} has no snapshots: give its variant training.snapshots, or take checkpoints: "
            "final"
        )
    final = load_sae(sae)

    def checkpoint(path: Path, entry: dict[str, Any]) -> Checkpoint:
        coefficient = entry["l1_coefficient"]
        l1 = None if coefficient is None else coefficient * final.d_in / stats["scale"]
        return Checkpoint(path, entry["learning_rate"], l1)

    kept = stats["snapshots"] if which == "all" else []
    snapshots = [checkpoint(sae / f"snapshots/step{e['step']:08d}", e) for e in kept]
    return [*snapshots, checkpoint(sae, stats)]


def tracin_scores(
    settings: TracIn,
    checkpoints: Sequence[Checkpoint],
    *,
    subject: Path,
    activations: Path,
    candidates: Passages,
    seeds: Passages,
    device: str = "cpu",
) -> NDArray[np.float64]:
    """Return TracIn of each candidate, in their order; higher is better.

    The subject runs once over candidates, for all `checkpoints`, and twice over the few seeds; of
    both, one batch of activations is in memory. `activations` is a cache
    of the subject; only its manifest is read, for which tokens count. A candidate of which none
    counts has a gradient of zero, and so that score. Raises ArtifactError for damaged inputs and
    documents without tokens, and ValueError for SAEs of another width or without a gradient here,
    and for seeds of which no token counts.
    """
    candidate_tokens = candidates.token_count()
    reader = Reader(load_subject(subject, device), settings.site, activations)
    saes = [_Loaded(settings, checkpoint, reader.width, device) for checkpoint in checkpoints]
    for sae, gradient in zip(saes, _mean_gradients(settings, saes, reader, seeds), strict=True):
        sae.gradient = gradient
    score_n = torch.zeros(len(candidates.documents), dtype=torch.float64)
    count_n = torch.zeros(len(candidates.documents), dtype=torch.int64)
    with Progress(candidate_tokens, "tokens", "TracIn") as progress:
        for rows in reader.rows(candidates):
            product_b = torch.stack([sae.products(rows.x_nd) for sae in saes]).sum(0)
            place_b = rows.passage_n.cpu()
            score_n.index_add_(0, place_b, product_b.cpu().double())
            count_n += torch.bincount(place_b, minlength=len(count_n))
            progress.update(rows.read)
    if settings.normalise == "tokens":
        score_n /= count_n.clamp_min(1)
    return score_n.numpy()


def reranker(
    settings: TracIn,
    sae: Path,
    *,
    subject: Path,
    activations: Path,
    tokens: Path,
    seed_tokens: Path,
    seed_split: str,
    device: str = "cpu",
) -> Callable[[Sequence[Row], Sequence[Row]], NDArray[np.float64]]:
    """Return the function by which a selection reranks candidates (train split of `tokens`).

    `seed_tokens` are the windows of the seeds' corpus. Raises as `checkpoints_of`, at once.
    """
    checkpoints = checkpoints_of(sae, settings.checkpoints)

    def rerank(candidates: Sequence[Row], seeds: Sequence[Row]) -> NDArray[np.float64]:
        return tracin_scores(
            settings,
            checkpoints,
            subject=subject,
            activations=activations,
            candidates=Passages(tokens, "train", [row.document for row in candidates]),
            seeds=Passages(seed_tokens, seed_split, [row.document for row in seeds]),
            device=device,
        )

    return rerank


class _Loaded:
    """A checkpoint ready to be asked, with the seeds' mean gradient once it is known."""

    gradient: Gradient

    def __init__(self, settings: TracIn, checkpoint: Checkpoint, width: int, device: str) -> None:
        self.sae: SAE = load_sae(checkpoint.path).to(device)
        self.learning_rate = checkpoint.learning_rate
        self.l1 = checkpoint.l1 or 0.0 if settings.loss == "total" else 0.0
        if self.sae.d_in != width:
            raise ValueError(
                f"{checkpoint.path} reads width {self.sae.d_in}, site {settings.site} has {width}"
            )
        factors(self.sae, torch.zeros(1, width, device=device))  # refuses what has no gradient

    def weighted_gradient(self, x_nd: Tensor, weights_n: Tensor) -> Gradient:
        """Return the sum over tokens of weight times gradient."""
        return weighted_sum(self.sae, factors(self.sae, x_nd, self.l1), weights_n)

    def products(self, x_nd: Tensor) -> Tensor:
        """Return each token's inner product with the seeds' gradient times the learning rate."""
        if not len(x_nd):
            return x_nd.new_zeros(0)
        found = factors(self.sae, x_nd, self.l1)
        return self.learning_rate * inner_products(self.sae, found, self.gradient)


def _mean_gradients(
    settings: TracIn, saes: Sequence[_Loaded], reader: Reader, seeds: Passages
) -> list[Gradient]:
    """Return each SAE's mean over seeds of the gradient of their loss, summed batch by batch.

    The subject runs over the seeds twice: a seed's weight depends on how many of its tokens count,
    which is known only from their activations.
    """
    count_s = torch.zeros(len(seeds.documents), dtype=torch.int64)
    for rows in reader.rows(seeds):
        count_s += torch.bincount(rows.passage_n.cpu(), minlength=len(count_s))
    if not count_s.any():
        raise ValueError(f"the {len(count_s)} seeds have no token that counts at {settings.site}")
    weight_s = torch.full((len(count_s),), 1 / len(count_s))
    if settings.normalise == "tokens":
        weight_s /= count_s.clamp_min(1)
    sums: list[Gradient] = []
    for rows in reader.rows(seeds):
        if not len(rows.x_nd):
            continue
        weights_n = weight_s.to(rows.x_nd.device)[rows.passage_n]
        found = [sae.weighted_gradient(rows.x_nd, weights_n) for sae in saes]
        for total, part in zip(sums, found, strict=False):
            for total_t, part_t in zip(total, part, strict=True):
                total_t += part_t
        sums = sums or found
    return sums
