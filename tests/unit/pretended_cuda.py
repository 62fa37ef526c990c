"""CPU tensors that pass for CUDA ones, so that tests without a GPU see where devices are mixed.

They say that they are on CUDA, so code takes the path it would take there, and as there they have
no numpy view and meet no CPU tensor with dimensions, unless it is an index.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map_only

DEVICE = torch.device("cuda", 0)
_INDEXING = (Tensor.__getitem__, Tensor.__setitem__)


class OnCuda(Tensor):
    """A tensor that says it is on CUDA."""

    is_cuda = property(lambda self: True)  # type: ignore[assignment]
    device = property(lambda self: DEVICE)  # type: ignore[assignment]


class PretendedCuda(TorchFunctionMode):
    """Within it, what is asked for on CUDA, or computed from tensors there, is `OnCuda`."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Compute on the CPU what would work on CUDA; raise for what would not."""
        places = [
            x for x in tree_leaves((args, kwargs or {})) if isinstance(x, (torch.device, str))
        ]
        tensors = [x for x in tree_leaves((args, kwargs or {})) if isinstance(x, Tensor)]
        there = [x for x in tensors if isinstance(x, OnCuda)]
        if there and func is Tensor.numpy:
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        if (
            there
            and func not in _INDEXING
            and any(x.ndim and not isinstance(x, OnCuda) for x in tensors)
        ):
            raise RuntimeError(f"{func} mixes cuda:0 and cpu")
        moved = any(torch.device(x).type == "cuda" for x in places if is_place(x))
        args, kwargs = tree_map_only(
            (torch.device, str),
            lambda x: torch.device("cpu") if is_place(x) else x,
            (args, kwargs or {}),
        )
        args, kwargs = tree_map_only(OnCuda, lambda x: x.as_subclass(Tensor), (args, kwargs))
        result = func(*args, **kwargs)
        if func is Tensor.cpu or not (moved or there):
            return result
        return tree_map_only(Tensor, lambda x: x.as_subclass(OnCuda), result)


def is_place(x: torch.device | str) -> bool:
    """Whether an argument names a device."""
    return isinstance(x, torch.device) or x.split(":")[0] in ("cuda", "cpu")


def on_cuda(tensor: Tensor) -> Tensor:
    """Return the tensor as one on CUDA."""
    return tensor.as_subclass(OnCuda)


def values(tensor: Tensor) -> Tensor:
    """Return a tensor's values on the CPU; it must be one on CUDA."""
    assert isinstance(tensor, OnCuda)
    return tensor.as_subclass(Tensor)
