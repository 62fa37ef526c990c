"""What the optimiser moves of an SAE: all its parameters, or those of its last latents.

Frozen latents have no optimiser state, and no step can touch them by rounding.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from saeflow.sae.model import SAE


def trained_parts(sae: SAE, frozen: int) -> dict[str, nn.Parameter]:
    """Return by name the parameters of `sae` that train, without its first `frozen` latents.

    With frozen latents they are parts that share the memory of the whole.
    """
    whole = {name: p for name, p in sae.named_parameters() if p.requires_grad}
    if not frozen:
        return whole
    return {name: nn.Parameter(_part(name, p.detach(), frozen)) for name, p in whole.items()}


def take_gradients(parts: Mapping[str, nn.Parameter], sae: SAE, frozen: int) -> None:
    """Give `trained_parts` their part of the gradients of `sae`, which shares their memory."""
    for name, part in parts.items() if frozen else ():
        whole = sae.get_parameter(name).grad
        part.grad = None if whole is None else _part(name, whole, frozen)


def _part(name: str, entries: Tensor, frozen: int) -> Tensor:
    """Return the entries of the latents after the frozen ones, which only W_dec has first."""
    return entries[frozen:] if name == "W_dec" else entries[..., frozen:]
