"""dictionary_learning: a state dict `ae.pt` beside a `config.json` that names its class."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from zipfile import is_zipfile

import torch
from torch import Tensor, nn

from saeflow.sae.activation_functions import JumpReLU, TopK
from saeflow.sae.equivalent import assembled, gated, with_unit_decoder
from saeflow.sae.model import SAE
from saeflow.sae.reading import (
    FormatError,
    check_archive,
    checked,
    checked_k,
    dimension,
    integer,
    read_object,
    required,
)

CONFIG = "config.json"
WEIGHTS = "ae.pt"

_LINEAR = {"W_enc": "encoder.weight", "W_dec": "decoder.weight", "b_enc": "encoder.bias"}
_PLAIN = {name: name for name in ("W_enc", "W_dec", "b_enc", "b_dec")}
_CALIBRATED = {"k": "k", "threshold": "threshold"}
_TENSORS = {
    "AutoEncoder": {**_LINEAR, "b_dec": "bias"},
    "AutoEncoderNew": {**_LINEAR, "b_dec": "decoder.bias"},
    "AutoEncoderTopK": {**_LINEAR, "b_dec": "b_dec", **_CALIBRATED},
    "BatchTopKSAE": {**_LINEAR, "b_dec": "b_dec", **_CALIBRATED},
    "MatryoshkaBatchTopKSAE": {**_PLAIN, **_CALIBRATED, "group_sizes": "group_sizes"},
    "JumpReluAutoEncoder": {**_PLAIN, "threshold": "threshold"},
    "GatedAutoEncoder": {
        "W_enc": "encoder.weight", "W_dec": "decoder.weight", "b_dec": "decoder_bias",
        "b_enc": "gate_bias", "b_mag": "mag_bias", "r_mag": "r_mag",
    },
}  # fmt: skip
"""Classes, and what each calls its tensors; a `.weight` belongs to `nn.Linear`: (out, in)."""
_INTEGERS = ("k", "group_sizes")
_INPUT_WITH_BIAS = ("AutoEncoderNew", "JumpReluAutoEncoder")
"""Classes whose encoder sees the activations without the decoder bias taken off."""


def load(folder: Path) -> SAE:
    """Return the SAE in `folder`, as the library's `load_dictionary` does.

    So an `AutoEncoder` gets a decoder of unit norm, with latents that grow by the norm, and the
    two BatchTopK classes select by their stored threshold. Raises FormatError for a malformed or
    unsafe file, for another class, and for a threshold that was never set.
    """
    path, config = folder / WEIGHTS, folder / CONFIG
    trainer = required(read_object(config), "trainer", dict, config)
    dict_class = required(trainer, "dict_class", str, config)
    if dict_class not in _TENSORS:
        raise FormatError(
            f"{config}: dict_class {dict_class!r} cannot be read, those that can are "
            f"{', '.join(_TENSORS)}"
        )
    d_in, d_sae = (dimension(trainer, key, config) for key in ("activation_dim", "dict_size"))
    state = _read_state(path)
    weights = _weights(dict_class, state, d_in, d_sae, path)
    activation = _activation(dict_class, weights, state, path)
    if dict_class == "AutoEncoder":
        weights |= with_unit_decoder(weights["W_enc"], weights["b_enc"], weights["W_dec"], path)
    centred = dict_class not in _INPUT_WITH_BIAS
    return assembled(weights, activation, apply_b_dec_to_input=centred)


def _read_state(path: Path) -> dict[str, Tensor]:
    try:
        if is_zipfile(path):  # before torch 1.6 it was none
            check_archive(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FormatError:
        raise
    except Exception as error:  # a hostile file can make the unpickler raise anything
        raise FormatError(f"{path} is not a readable file of plain tensors: {error}") from error
    if not isinstance(state, dict) or not all(isinstance(t, Tensor) for t in state.values()):
        raise FormatError(f"{path} holds no state dict, which maps names to tensors")
    return state


def _weights(
    dict_class: str, state: Mapping[str, Tensor], d_in: int, d_sae: int, path: Path
) -> dict[str, Tensor]:
    """Return the floating tensors of a class by the names used here, matrices as (in, out)."""
    names = _TENSORS[dict_class]
    if set(state) != set(names.values()):
        raise FormatError(
            f"{path} holds {sorted(map(str, state))}, {dict_class} has {sorted(names.values())}"
        )
    ours = {"W_enc": (d_in, d_sae), "W_dec": (d_sae, d_in), "b_dec": (d_in,)}
    one_for_all = "threshold" if dict_class != "JumpReluAutoEncoder" else None
    shapes, floats = {}, {}
    for name, theirs in names.items():
        if name not in _INTEGERS:
            shape = () if name == one_for_all else ours.get(name, (d_sae,))
            shapes[theirs] = shape[::-1] if theirs.endswith(".weight") else shape
            floats[theirs] = state[theirs]
    found = checked(floats, shapes, dict_class, path)
    return {
        name: found[theirs].T.contiguous() if theirs.endswith(".weight") else found[theirs]
        for name, theirs in names.items()
        if theirs in found
    }


def _activation(
    dict_class: str, weights: Mapping[str, Tensor], state: Mapping[str, Tensor], path: Path
) -> nn.Module:
    match dict_class:
        case "AutoEncoderTopK":
            k = integer(state["k"], "k", path)
            return TopK(checked_k(k, len(weights["b_enc"]), path))
        case "BatchTopKSAE" | "MatryoshkaBatchTopKSAE":
            if (threshold := weights["threshold"]) < 0:
                raise FormatError(
                    f"{path}: threshold is {threshold:g}: training ended before the library set "
                    "it, so this SAE has no activation function for inference"
                )
            return JumpReLU(threshold.expand_as(weights["b_enc"]).clone())
        case "JumpReluAutoEncoder":
            return JumpReLU(weights["threshold"])
        case "GatedAutoEncoder":
            return gated(weights["r_mag"], weights["b_enc"], weights["b_mag"], path)
    return nn.ReLU()
