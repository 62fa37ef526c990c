"""Optimisers of pretraining, their learning-rate schedule and their state as plain tensors."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from saeflow.subjects.settings import PretrainSettings


def build_optimisers(
    model: nn.Module, embeddings: nn.Module, settings: PretrainSettings
) -> list[torch.optim.Optimizer]:
    """Return the optimisers of `model`; together they hold every parameter once.

    Muon (Jordan et al., 2024) takes the hidden matrices, with its step scaled to the size of
    AdamW's so that one learning rate serves both; embeddings and vectors are AdamW's.
    """
    embedded = {id(parameter) for parameter in embeddings.parameters()}
    matrices = [p for p in model.parameters() if p.ndim == 2 and id(p) not in embedded]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    decayed = list(embeddings.parameters())
    optimisers: list[torch.optim.Optimizer] = []
    if settings.optimiser == "muon":
        optimisers.append(
            torch.optim.Muon(
                matrices,
                lr=settings.lr,
                weight_decay=settings.weight_decay,
                adjust_lr_fn="match_rms_adamw",
            )
        )
    else:
        decayed += matrices
    groups = [
        {"params": decayed, "weight_decay": settings.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    optimisers.append(torch.optim.AdamW(groups, lr=settings.lr, betas=(0.9, 0.95), fused=True))
    return optimisers


def learning_rate(settings: PretrainSettings, step: int) -> float:
    """Return the learning rate of `step` (from 0): linear warm-up, constant, linear to 0."""
    done = (step + 1) / settings.steps
    left = (settings.steps - step) / settings.steps
    rise = done / settings.warmup if settings.warmup else 1.0
    return settings.lr * min(1.0, rise, left / settings.decay)


def state_tensors(optimisers: list[torch.optim.Optimizer]) -> dict[str, Tensor]:
    """Flatten the optimisers' state into named tensors."""
    flat = {}
    for i, optimiser in enumerate(optimisers):
        for parameter, entries in optimiser.state_dict()["state"].items():
            for key, tensor in entries.items():
                flat[f"optimiser.{i}.{parameter}.{key}"] = tensor
    return flat


def load_state_tensors(
    optimisers: list[torch.optim.Optimizer], tensors: Mapping[str, Tensor]
) -> None:
    """Put state flattened by `state_tensors` back into optimisers built the same way."""
    for i, optimiser in enumerate(optimisers):
        state: dict[int, dict[str, Tensor]] = {}
        prefix = f"optimiser.{i}."
        for name, tensor in tensors.items():
            if name.startswith(prefix):
                parameter, key = name.removeprefix(prefix).split(".", 1)
                state.setdefault(int(parameter), {})[key] = tensor
        groups = optimiser.state_dict()["param_groups"]
        optimiser.load_state_dict({"state": state, "param_groups": groups})
