"""SAELens v6 folders: `cfg.json` beside `sae_weights.safetensors`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from saeflow.artifacts import atomic_path, write_json
from saeflow.sae.activation_functions import JumpReLU, TopK
from saeflow.sae.model import SAE

CONFIG = "cfg.json"
WEIGHTS = "sae_weights.safetensors"
LAYOUT_VERSION = "6.54.12"
"""The SAELens release whose layout is written; without it SAELens applies its pre-6 rewrite."""

_ARCHITECTURES = ("standard", "topk", "jumprelu")


class FormatError(ValueError):
    """A checkpoint that cannot be loaded; the message names the file and the reason."""


def save_sae(sae: SAE, folder: Path, metadata: Mapping[str, Any]) -> list[str]:
    """Write `sae` into `folder` and return the file names; `metadata` goes into `cfg.json`."""
    architecture, extra = _describe(sae.activation)
    weights = {name: p.detach() for name, p in sae.named_parameters()}
    if isinstance(sae.activation, JumpReLU):
        weights["threshold"] = sae.activation.threshold
    tensors = {name: t.cpu().float().contiguous() for name, t in weights.items()}
    with atomic_path(folder / WEIGHTS) as temporary:
        save_file(tensors, temporary)
    write_json(
        folder / CONFIG,
        {
            "architecture": architecture,
            "d_in": sae.d_in,
            "d_sae": sae.d_sae,
            "dtype": "float32",
            "device": "cpu",
            "apply_b_dec_to_input": sae.apply_b_dec_to_input,
            "normalize_activations": "none",
            "reshape_activations": "none",
            "metadata": {"sae_lens_version": LAYOUT_VERSION, **metadata},
            **extra,
        },
    )
    return [CONFIG, WEIGHTS]


def _describe(activation: nn.Module) -> tuple[str, dict[str, Any]]:
    match activation:
        case TopK(k=k):
            return "topk", {"k": k, "rescale_acts_by_decoder_norm": False}
        case JumpReLU():
            return "jumprelu", {}
        case nn.ReLU():
            return "standard", {}
    raise FormatError(f"no SAELens architecture has the activation {type(activation).__name__}")


def load_sae(folder: str | Path) -> SAE:
    """Return the SAE of a SAELens v6 folder.

    Raises FormatError, naming the file and the reason, for an unknown architecture, a missing or
    superfluous tensor, a wrong shape, a value that is not finite, or an input transformation that
    is not applied here.
    """
    folder = Path(folder)
    cfg, path = _read_config(folder / CONFIG), folder / WEIGHTS
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise FormatError(f"{path} is not a readable safetensors file: {error}") from error
    _check_tensors(tensors, cfg, path)
    return SAE(
        **{name: tensors[name].float() for name in ("W_enc", "W_dec", "b_enc", "b_dec")},
        activation=_activation(cfg, tensors),
        apply_b_dec_to_input=bool(cfg["apply_b_dec_to_input"]),
    )


def _read_config(path: Path) -> dict[str, Any]:
    try:
        cfg = json.loads(path.read_text())
    except (ValueError, OSError) as error:
        raise FormatError(f"{path} is not readable JSON: {error}") from error
    if not isinstance(cfg, dict):
        raise FormatError(f"{path} holds no JSON object")
    needed = ["architecture", "d_in", "d_sae", "apply_b_dec_to_input"]
    if cfg.get("architecture") == "topk":
        needed.append("k")
    for key in needed:
        if key not in cfg:
            raise FormatError(f"{path} has no key {key!r}")
    if cfg["architecture"] not in _ARCHITECTURES:
        raise FormatError(
            f"{path}: architecture {cfg['architecture']!r} is unknown, allowed are "
            f"{', '.join(_ARCHITECTURES)}"
        )
    for key in ("normalize_activations", "reshape_activations"):
        if cfg.get(key, "none") != "none":
            raise FormatError(f"{path}: {key} {cfg[key]!r} is not supported, only 'none'")
    if cfg.get("rescale_acts_by_decoder_norm"):
        raise FormatError(f"{path}: rescale_acts_by_decoder_norm is not supported")
    return cfg


def _check_tensors(tensors: Mapping[str, Tensor], cfg: Mapping[str, Any], path: Path) -> None:
    d_in, d_sae = cfg["d_in"], cfg["d_sae"]
    shapes = {"W_enc": (d_in, d_sae), "W_dec": (d_sae, d_in), "b_enc": (d_sae,), "b_dec": (d_in,)}
    if cfg["architecture"] == "jumprelu":
        shapes["threshold"] = (d_sae,)
    if set(tensors) != set(shapes):
        raise FormatError(
            f"{path} holds {sorted(tensors)}, a {cfg['architecture']} SAE has {sorted(shapes)}"
        )
    for name, shape in shapes.items():
        if tuple(tensors[name].shape) != shape:
            raise FormatError(
                f"{path}: {name} has shape {tuple(tensors[name].shape)}, {CONFIG} says {shape}"
            )
        if not torch.isfinite(tensors[name]).all():
            raise FormatError(f"{path}: {name} has values that are not finite")


def _activation(cfg: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> nn.Module:
    match cfg["architecture"]:
        case "topk":
            k = cfg["k"]
            if not isinstance(k, int) or not 1 <= k <= cfg["d_sae"]:
                raise FormatError(f"{CONFIG}: k is {k!r}, allowed is 1 to d_sae {cfg['d_sae']}")
            return TopK(k)
        case "jumprelu":
            return JumpReLU(tensors["threshold"].float())
    return nn.ReLU()
