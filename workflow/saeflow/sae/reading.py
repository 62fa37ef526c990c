"""Files of SAEs from elsewhere, read without trust: what is wrong is refused with the reason."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

_FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
_BYTES_PER_BYTE, _FEW_BYTES = 16, 1 << 20
"""Bytes a file may unfold to, per byte and in any case: weights hardly compress, zeros do."""


class FormatError(ValueError):
    """A checkpoint that cannot be loaded; the message names the file and the reason."""


def read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in `path`; raises FormatError where it holds none."""
    try:
        found = json.loads(path.read_text())
    except (ValueError, OSError, RecursionError) as error:
        raise FormatError(f"{path} is not readable JSON: {error}") from error
    if not isinstance(found, dict):
        raise FormatError(f"{path} holds no JSON object")
    return found


def required(section: Mapping[str, Any], key: str, kind: type, path: Path) -> Any:
    """Return `section[key]`, which is a `kind`; raises FormatError where it is missing or not."""
    if key not in section:
        raise FormatError(f"{path} has no key {key!r}")
    if type(section[key]) is not kind:  # not isinstance: true is no number
        raise FormatError(f"{path}: {key} is {section[key]!r}, it must be of type {kind.__name__}")
    return section[key]


def dimension(section: Mapping[str, Any], key: str, path: Path) -> int:
    """Return the integer `section[key]`; raises FormatError where it is not 1 or more."""
    if (found := required(section, key, int, path)) < 1:
        raise FormatError(f"{path}: {key} is {found}, it must be 1 or more")
    return found


def checked_k(k: int, d_sae: int, path: Path) -> int:
    """Return the k of a TopK SAE; raises FormatError where it is not 1 to `d_sae`."""
    if not 1 <= k <= d_sae:
        raise FormatError(f"{path}: k is {k}, allowed is 1 to the {d_sae} latents")
    return k


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors in `path`; raises FormatError where they cannot be read."""
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise FormatError(f"{path} is not a readable safetensors file: {error}") from error


def integer(tensor: Tensor, name: str, path: Path) -> int:
    """Return the only entry of `tensor`; raises FormatError where that is no integer."""
    if tensor.shape != () or tensor.dtype not in _INTEGERS or not _is_dense(tensor):
        raise FormatError(f"{path}: {name} is no single integer")
    return int(tensor)


def check_archive(path: Path) -> None:
    """Raise FormatError where the zip archive `path` would unfold to far more than its size.

    And what `ZipFile` raises where it is none.
    """
    with ZipFile(path) as archive:
        _check_bytes(sum(entry.file_size for entry in archive.infolist()), "its content", path)


def _check_bytes(needed: int, what: str, path: Path) -> None:
    """Refuse what a few bytes of a file declare, and no memory holds."""
    size = path.stat().st_size
    if needed > _BYTES_PER_BYTE * size + _FEW_BYTES:
        raise FormatError(
            f"{path}: {what} would take {needed:,} bytes, and the file has {size:,}: it is damaged "
            "or made to fill the memory"
        )


def checked(
    tensors: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], what: str, path: Path
) -> dict[str, Tensor]:
    """Return the tensors named in `shapes` in float32.

    Raises FormatError where `path` lacks one or holds another than these tensors of a `what`, for
    a wrong shape, a type other than float64, 32, 16 and bfloat16, values that are not finite, and
    a tensor far larger than the file, as one that repeats a single value.
    """
    if set(tensors) != set(shapes):
        raise FormatError(f"{path} holds {sorted(tensors)}, a {what} has {sorted(shapes)}")
    for name, shape in shapes.items():
        tensor = tensors[name]
        if tuple(tensor.shape) != shape:
            raise FormatError(f"{path}: {name} has shape {tuple(tensor.shape)}, expected {shape}")
        if tensor.dtype not in _FLOATS or not _is_dense(tensor):
            raise FormatError(f"{path}: {name} is not a dense floating-point tensor")
        _check_bytes(tensor.numel() * tensor.element_size(), name, path)
    weights = {name: tensors[name].float() for name in shapes}
    for name, weight in weights.items():
        if not torch.isfinite(weight).all():
            raise FormatError(f"{path}: {name} has values that are not finite in float32")
    return weights


def _is_dense(tensor: Tensor) -> bool:
    return tensor.layout is torch.strided and not tensor.is_meta
