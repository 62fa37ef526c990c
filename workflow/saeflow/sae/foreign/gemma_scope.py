"""Gemma Scope (Lieberum et al. 2024, arXiv:2408.05147): `params.npz`, JumpReLU, no config."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from saeflow.sae.activation_functions import JumpReLU
from saeflow.sae.equivalent import assembled
from saeflow.sae.model import SAE
from saeflow.sae.reading import FormatError, check_archive, checked

WEIGHTS = "params.npz"


def load(folder: Path) -> SAE:
    """Return the SAE in `folder`, with the decoder bias not taken from the input (Eq. 1).

    The transcoders published beside these SAEs store the same tensors, so no reader can tell them
    apart by the file. Raises FormatError for a malformed file.
    """
    path = folder / WEIGHTS
    tensors = _read_npz(path)
    if "W_enc" not in tensors or tensors["W_enc"].ndim != 2:
        raise FormatError(f"{path} holds {sorted(tensors)}, and no matrix W_enc")
    d_in, d_sae = tensors["W_enc"].shape
    if not d_in or not d_sae:
        raise FormatError(f"{path}: W_enc has shape {(d_in, d_sae)}, both must be 1 or more")
    shapes: dict[str, tuple[int, ...]] = {
        "W_enc": (d_in, d_sae),
        "W_dec": (d_sae, d_in),
        "b_enc": (d_sae,),
        "b_dec": (d_in,),
        "threshold": (d_sae,),
    }
    weights = checked(tensors, shapes, "Gemma Scope SAE", path)
    return assembled(weights, JumpReLU(weights["threshold"]), apply_b_dec_to_input=False)


def _read_npz(path: Path) -> dict[str, Tensor]:
    try:
        check_archive(path)
        with np.load(path, allow_pickle=False) as arrays:
            return {name: torch.from_numpy(arrays[name]) for name in arrays}
    except FormatError:
        raise
    except Exception as error:  # a broken archive can make zipfile and numpy raise anything
        raise FormatError(f"{path} is not a readable npz file of plain arrays: {error}") from error
