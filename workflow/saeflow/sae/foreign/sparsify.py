"""EleutherAI's sparsify: `cfg.json` beside `sae.safetensors`, TopK."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from saeflow.sae.activation_functions import TopK
from saeflow.sae.model import SAE
from saeflow.sae.reading import (
    FormatError,
    checked,
    checked_k,
    dimension,
    read_object,
    read_safetensors,
    required,
)

CONFIG = "cfg.json"
WEIGHTS = "sae.safetensors"

_UNREADABLE = {
    "transcode": "a transcoder, which predicts other activations than it reads",
    "skip_connection": "a linear connection from input to output",
    "signed": "a selection by absolute value",
}
"""Flags that change the function, and what they mean; where one is on, the SAE is refused."""


def load(folder: Path) -> SAE:
    """Return the SAE in `folder`.

    Raises FormatError for a malformed file, and for transcoders, skip connections, the selection
    by absolute value of earlier releases, and activations other than `topk`.
    """
    path, config = folder / WEIGHTS, folder / CONFIG
    cfg = read_object(config)
    _check_function(cfg, config)
    d_in, k = dimension(cfg, "d_in", config), required(cfg, "k", int, config)
    if required(cfg, "num_latents", int, config) == 0:  # stands for a multiple of the width
        d_sae = d_in * dimension(cfg, "expansion_factor", config)
    else:
        d_sae = dimension(cfg, "num_latents", config)
    shapes: dict[str, tuple[int, ...]] = {
        "encoder.weight": (d_sae, d_in),
        "encoder.bias": (d_sae,),
        "W_dec": (d_sae, d_in),
        "b_dec": (d_in,),
    }
    weights = checked(read_safetensors(path), shapes, "sparsify SAE", path)
    return SAE(
        W_enc=weights["encoder.weight"].T.contiguous(),
        W_dec=weights["W_dec"],
        b_enc=weights["encoder.bias"],
        b_dec=weights["b_dec"],
        activation=TopK(checked_k(k, d_sae, config)),
    )


def _check_function(cfg: Mapping[str, Any], path: Path) -> None:
    if (activation := cfg.get("activation", "topk")) != "topk":
        raise FormatError(f"{path}: activation {activation!r} cannot be read, only topk")
    for flag, meaning in _UNREADABLE.items():
        if flag in cfg and required(cfg, flag, bool, path):
            raise FormatError(f"{path}: {flag} is on, {meaning}; this cannot be read")
