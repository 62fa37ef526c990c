"""The resumable state of a training: one safetensors file, replaced atomically.

Numbers and log rows travel as JSON in the file's header, so that tensors and numbers can never
come from different moments.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from saeflow.artifacts import atomic_path
from saeflow.progress import say

STATE = "state.safetensors"
_HEADER = "saeflow"


def save_state(
    folder: Path,
    identity: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    numbers: dict[str, Any],
) -> None:
    """Write the state of the training that `identity` (settings and inputs) describes."""
    header = {_HEADER: json.dumps({"identity": identity, "numbers": numbers})}
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_path(folder / STATE) as temporary:
        save_file(contiguous, temporary, metadata=header)


def load_state(
    folder: Path, identity: Mapping[str, Any]
) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Return tensors and numbers of a state of this very training, or None.

    A state of other settings, inputs or torch, and one that cannot be read, is left aside with a
    line that says so.
    """
    path = folder / STATE
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})[_HEADER])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        say(f"{path} cannot be read ({error}): training starts anew")
        return None
    if header["identity"] != json.loads(json.dumps(identity)):
        changed = sorted(k for k in identity if header["identity"].get(k) != identity[k])
        say(f"{path} belongs to another training (other {', '.join(changed)}): starting anew")
        return None
    return tensors, header["numbers"]
