"""Several processes train one SAE: `torch.distributed`, with gloo on CPUs and nccl on GPUs."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from saeflow.sae.ranks import Ranks


class Processes(Ranks):
    """The processes of torch's default group."""

    def __init__(self) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()

    def sum(self, entries: Tensor) -> Tensor:
        """Return the sum over ranks, entry by entry, with gradient to this rank's part."""
        return _Sum.apply(entries, self.size)

    def gather(self, entries_n: Tensor) -> tuple[Tensor, slice]:
        """Return all ranks' entries in their order, and where this rank's are among them."""
        counts_r = torch.zeros(self.size, dtype=torch.int64)
        counts_r[self.rank] = len(entries_n)
        dist.all_reduce(counts_r)
        start = int(counts_r[: self.rank].sum())
        own = slice(start, start + len(entries_n))
        return _Gather.apply(entries_n, counts_r.tolist(), own), own

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """Return for each flag whether it is set on any rank; all ranks wait for one another."""
        return tuple(self.any_of(torch.tensor(flags)).tolist())

    def any_of(self, mask_f: Tensor) -> Tensor:
        """Return for each entry of a bool tensor whether it is set on any rank."""
        set_f = mask_f.to(torch.uint8)
        dist.all_reduce(set_f, dist.ReduceOp.MAX)
        return set_f.bool()

    def average_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Replace the gradients of `parameters` by their means over ranks, in place."""
        for parameter in parameters:
            if parameter.grad is not None:
                dist.all_reduce(_contiguous(parameter.grad.div_(self.size)))

    def adopt(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite `tensors` with those of the first rank."""
        for tensor in tensors:
            dist.broadcast(_contiguous(tensor.detach()), src=0)


def _contiguous(entries: Tensor) -> Tensor:
    """Return a contiguous view: the encoder, and so its gradient, is stored transposed."""
    return entries if entries.is_contiguous() else entries.t()


class _Sum(torch.autograd.Function):
    """The sum over ranks of a tensor of one shape."""

    @staticmethod
    def forward(ctx: Any, entries: Tensor, size: int) -> Tensor:
        ctx.size = size
        summed = entries.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(summed)
        return summed

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        # Every rank differentiates the same loss by its own part alone, and the mean follows.
        return grad * ctx.size, None


class _Gather(torch.autograd.Function):
    """All ranks' entries; what is shorter than the longest is filled up on the way."""

    @staticmethod
    def forward(ctx: Any, entries_n: Tensor, counts: list[int], own: slice) -> Tensor:
        ctx.size, ctx.own = len(counts), own
        filled = entries_n.new_zeros(max(1, *counts))
        filled[: len(entries_n)] = entries_n
        parts = [torch.empty_like(filled) for _ in counts]
        dist.all_gather(parts, filled)
        return torch.cat([part[:n] for part, n in zip(parts, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return grad[ctx.own] * ctx.size, None, None


@contextmanager
def joined(device: str) -> Iterator[tuple[Ranks, str]]:
    """Join the group that torchrun's environment describes, on GPUs if `device` is "cuda".

    Yields the ranks and this one's device. Raises ValueError where the machine has fewer GPUs than
    processes.
    """
    backend = "gloo"
    if device == "cuda":
        local = int(os.environ["LOCAL_RANK"])
        if local >= torch.cuda.device_count():
            raise ValueError(
                f"process {local + 1} of this machine finds {torch.cuda.device_count()} GPUs: "
                "start as many processes as there are GPUs"
            )
        backend, device = "cpu:gloo,cuda:nccl", f"cuda:{local}"
        torch.cuda.set_device(device)
    dist.init_process_group(backend)
    try:
        yield Processes(), device
    finally:
        dist.destroy_process_group()
