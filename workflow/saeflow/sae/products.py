"""Dense products with one matrix of weights, laid out once for the matrix units."""

from __future__ import annotations

import torch
from torch import Tensor

_OPERATIONS = ("_reorder_linear_weight", "_linear_pointwise", "_is_mkldnn_bf16_supported")
"""What is used of torch's private oneDNN operations; a release without one has none of them."""


class Packed:
    """Maps x (rows, n) to x @ W (m, n).t() + bias (m,), for many x and one W.

    On x86 oneDNN's layout and kernels compute it, for float32 and bfloat16: with blocks of 128 rows
    they took 83 ms where torch.mm through MKL took 200 to 320 on an AMD EPYC with AVX-512. A row's
    result depends neither on the rows beside it nor on the number of threads. Where oneDNN lacks
    the type on this processor, torch multiplies: slower, and correct up to rounding.
    """

    def __init__(self, W_mn: Tensor, bias_m: Tensor | None, rows: int) -> None:
        """Lay `W_mn` out for blocks of about `rows` rows; the bias of bfloat16 is a float32."""
        self.bias_m = bias_m
        self.packed = has_onednn(W_mn)
        self.W_mn = torch.ops.mkldnn._reorder_linear_weight(W_mn, rows) if self.packed else W_mn

    def __call__(self, x_rn: Tensor) -> Tensor:
        """Return the product (rows, m)."""
        if self.packed:
            return torch.ops.mkldnn._linear_pointwise(x_rn, self.W_mn, self.bias_m, "none", [], "")
        if self.bias_m is None:
            return torch.mm(x_rn, self.W_mn.t())
        return torch.addmm(self.bias_m.to(x_rn.dtype), x_rn, self.W_mn.t())


def has_onednn(tensor: Tensor) -> bool:
    """Whether oneDNN multiplies tensors like this one on this processor, and torch offers it.

    Off x86 it may have no kernel of its own. For bfloat16 it needs AVX-512 and raises without.
    """
    if tensor.is_cuda or not _offered():
        return False
    if tensor.dtype == torch.bfloat16:
        return torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return tensor.dtype == torch.float32


def _offered() -> bool:
    built = torch.backends.mkldnn.is_available() and torch.backends.mkl.is_available()
    return built and all(hasattr(torch.ops.mkldnn, name) for name in _OPERATIONS)
