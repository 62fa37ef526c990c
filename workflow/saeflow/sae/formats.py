"""SAEs as folders: the one entry that reads every layout, and SAELens v6, which is written.

A SAELens folder holds `cfg.json` and `sae_weights.safetensors`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor, nn

from saeflow.artifacts import atomic_path, write_json
from saeflow.sae.activation_functions import Gated, JumpReLU, TopK
from saeflow.sae.equivalent import assembled, gated, gated_magnitude, with_unit_decoder
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

__all__ = ["CONFIG", "WEIGHTS", "FormatError", "load_sae", "save_sae"]

CONFIG = "cfg.json"
WEIGHTS = "sae_weights.safetensors"
LAYOUT_VERSION = "6.54.12"
"""The SAELens release whose layout is written; without it SAELens applies its pre-6 rewrite."""

_VECTORS = {
    "standard": ("b_enc",),
    "topk": ("b_enc",),
    "jumprelu": ("b_enc", "threshold"),
    "gated": ("b_gate", "r_mag", "b_mag"),
}
"""Architectures, and what each stores with one entry a latent."""
_STANDARDISE = {"none": False, "layer_norm": True}


def save_sae(sae: SAE, folder: Path, metadata: Mapping[str, Any]) -> list[str]:
    """Write `sae` into `folder` and return the file names; `metadata` goes into `cfg.json`.

    Raises FormatError for an activation that SAELens has no architecture for.
    """
    architecture, extra, vectors = _describe(sae)
    weights = {"W_enc": sae.W_enc, "W_dec": sae.W_dec, "b_dec": sae.b_dec, **vectors}
    tensors = {name: t.detach().cpu().float().contiguous() for name, t in weights.items()}
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
            "normalize_activations": "layer_norm" if sae.standardise else "none",
            "reshape_activations": "none",
            "metadata": {"sae_lens_version": LAYOUT_VERSION, **metadata},
            **extra,
        },
    )
    return [CONFIG, WEIGHTS]


def _describe(sae: SAE) -> tuple[str, dict[str, Any], dict[str, Tensor]]:
    """Return the architecture, its own keys of `cfg.json`, and its vectors of a latent."""
    b_enc: dict[str, Tensor] = {"b_enc": sae.b_enc}
    match sae.activation:
        case TopK(k=k):
            return "topk", {"k": k, "rescale_acts_by_decoder_norm": False}, b_enc
        case JumpReLU(threshold=threshold_f):
            return "jumprelu", {}, {**b_enc, "threshold": threshold_f}
        case Gated() as activation:
            r_mag_f, b_mag_f = gated_magnitude(activation, sae.b_enc)
            return "gated", {}, {"b_gate": sae.b_enc, "r_mag": r_mag_f, "b_mag": b_mag_f}
        case nn.ReLU():
            return "standard", {}, b_enc
    name = type(sae.activation).__name__
    raise FormatError(f"no SAELens architecture has the activation {name}")


def load_sae(path: str | Path) -> SAE:
    """Return the SAE in the folder `path`, or beside the file of weights `path`.

    The name of the file of weights tells the layout: SAELens v6 (`sae_weights.safetensors`),
    sparsify (`sae.safetensors`), dictionary_learning (`ae.pt`) or Gemma Scope (`params.npz`). The
    SAE encodes and reconstructs as that library's does, in float32. Raises FormatError, naming the
    file and the reason, for anything malformed and for what cannot be represented here.
    """
    # Imported on call, importers stay out of the code hash of every stage: they are alternatives to
    # the layout written here, and a change of one must not retrain SAEs that never passed it.
    from saeflow.sae.foreign import READERS

    readers = {WEIGHTS: _load_saelens, **READERS}
    path = Path(path)
    folder = path.parent if path.is_file() else path
    candidates = [path.name] if path.is_file() else list(readers)
    found = [name for name in candidates if name in readers and (folder / name).is_file()]
    if len(found) != 1:
        raise FormatError(
            f"{path} has {' and '.join(found) or 'no weights'} of a known layout; an SAE is a "
            f"folder with one of {', '.join(readers)}"
        )
    return readers[found[0]](folder)


def _load_saelens(folder: Path) -> SAE:
    path, config = folder / WEIGHTS, folder / CONFIG
    cfg = read_object(config)
    architecture = _check_config(cfg, config)
    d_in, d_sae = (dimension(cfg, key, config) for key in ("d_in", "d_sae"))
    shapes: dict[str, tuple[int, ...]]
    shapes = {"W_enc": (d_in, d_sae), "W_dec": (d_sae, d_in), "b_dec": (d_in,)}
    shapes |= dict.fromkeys(_VECTORS[architecture], (d_sae,))
    weights = checked(read_safetensors(path), shapes, f"SAELens {architecture} SAE", path)
    activation = _activation(architecture, cfg, weights, folder)
    if architecture == "gated":
        weights["b_enc"] = weights["b_gate"]
    rescaled = architecture == "topk" and "rescale_acts_by_decoder_norm" in cfg
    if rescaled and required(cfg, "rescale_acts_by_decoder_norm", bool, config):
        # It selects pre-activations times the norm of their decoder row, and divides by it again.
        weights |= with_unit_decoder(weights["W_enc"], weights["b_enc"], weights["W_dec"], path)
    return assembled(
        weights,
        activation,
        apply_b_dec_to_input=required(cfg, "apply_b_dec_to_input", bool, config),
        standardise=_STANDARDISE[cfg.get("normalize_activations", "none")],
    )


def _check_config(cfg: Mapping[str, Any], path: Path) -> str:
    """Return the architecture; raise FormatError for what this layout or SAE cannot be."""
    metadata = cfg.get("metadata")
    version = metadata.get("sae_lens_version") if isinstance(metadata, dict) else None
    if not re.match(r"([6-9]|[1-9]\d+)\.", str(version)):
        raise FormatError(
            f"{path}: metadata.sae_lens_version is {version!r}, and before 6 keys differ; open it "
            "with sae-lens 6 or later and save it again"
        )
    architecture = required(cfg, "architecture", str, path)
    if architecture not in _VECTORS:
        raise FormatError(
            f"{path}: architecture {architecture!r} cannot be read, those that can are "
            f"{', '.join(_VECTORS)}"
        )
    if (scheme := str(cfg.get("normalize_activations", "none"))) not in _STANDARDISE:
        raise FormatError(
            f"{path}: normalize_activations {scheme!r} cannot be read, only "
            f"{' and '.join(_STANDARDISE)}: its factors are not in the file; where you know them, "
            "fold them into the weights with sae-lens and save it again"
        )
    if (reshape := cfg.get("reshape_activations", "none")) != "none":
        raise FormatError(f"{path}: reshape_activations {reshape!r} cannot be read, only none")
    return architecture


def _activation(
    architecture: str, cfg: Mapping[str, Any], weights: Mapping[str, Tensor], folder: Path
) -> nn.Module:
    config = folder / CONFIG
    match architecture:
        case "topk":
            return TopK(checked_k(required(cfg, "k", int, config), cfg["d_sae"], config))
        case "jumprelu":
            return JumpReLU(weights["threshold"])
        case "gated":
            path = folder / WEIGHTS
            return gated(weights["r_mag"], weights["b_gate"], weights["b_mag"], path)
    return nn.ReLU()
