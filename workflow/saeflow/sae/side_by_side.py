"""Latents of several SAEs in one: each reads as it did, and what all write is added."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from saeflow.artifacts import (
    MANIFEST,
    Clock,
    begin,
    file_digest,
    write_manifest,
)
from saeflow.sae.activation_functions import Gated, JumpReLU, TopK
from saeflow.sae.formats import CONFIG, WEIGHTS, save_sae
from saeflow.sae.identity import sae_files
from saeflow.sae.model import SAE
from saeflow.sae.parts import PARTS
from saeflow.sae.reading import read_object

_SUBJECT = ("model_name", "hook_name", "hf_hook_name")
"""Metadata that SAEs of activations of one place share."""


class GridPlace(NamedTuple):
    """As which SAE of a grid one that was put together is measured."""

    l0: int
    seed: int
    activations: Path
    """The cache that what was added was trained on, or one of several."""


@torch.no_grad()
def side_by_side(saes: Sequence[SAE], b_dec: Tensor) -> SAE:
    """Return one SAE with the latents of all, that writes what all write and then `b_dec` (d_in,).

    Activations and decoder rows stay. As the first SAE does, it subtracts the decoder bias from
    its input or not; encoder biases make up for it. ReLU and JumpReLU become JumpReLU, and with a
    gated SAE among them all become gated. The SAEs are such as `check_alike` lets through.
    """
    centred = saes[0].apply_b_dec_to_input
    taken_d = b_dec if centred else torch.zeros_like(b_dec)
    b_enc = torch.cat([_encoder_bias(sae, taken_d) for sae in saes])
    threshold_f = torch.cat([_threshold(sae) for sae in saes])
    activation: nn.Module = JumpReLU(threshold_f)
    if any(isinstance(sae.activation, Gated) for sae in saes):
        # A gate opens above zero: it is given the pre-activation less its threshold.
        activation, b_enc = _gated(saes), b_enc - threshold_f
    dtype = saes[0].W_enc.dtype
    return SAE(
        torch.cat([sae.W_enc for sae in saes], dim=1),
        torch.cat([sae.W_dec for sae in saes]),
        b_enc.to(dtype),
        b_dec.to(dtype),
        activation,
        apply_b_dec_to_input=centred,
    )


def _encoder_bias(sae: SAE, taken_d: Tensor) -> Tensor:
    """Return the bias with which the encoder has the same pre-activations of x - `taken_d`.

    In float64, so that latents near their threshold stay on their side of it. That of a published
    base beside residual SAEs without decoder bias stays what it is.
    """
    own_d = sae.b_dec if sae.apply_b_dec_to_input else torch.zeros_like(sae.b_dec)
    if torch.equal(own_d.double(), taken_d):
        return sae.b_enc.double()
    return sae.b_enc.double() + (taken_d - own_d) @ sae.W_enc.double()


def _threshold(sae: SAE) -> Tensor:
    """Return what pre-activations must exceed, (d_sae,)."""
    if isinstance(sae.activation, JumpReLU):
        return sae.activation.threshold
    return torch.zeros_like(sae.b_enc)


def _gated(saes: Sequence[SAE]) -> Gated:
    """Return the activation function of all, given pre-activations less their thresholds.

    That of ReLU and JumpReLU adds the threshold again to what it lets through.
    """
    gates = [
        sae.activation
        if isinstance(sae.activation, Gated)
        else Gated(torch.ones_like(sae.b_enc), _threshold(sae))
        for sae in saes
    ]
    return Gated(torch.cat([gate.scale for gate in gates]), torch.cat([g.shift for g in gates]))


def check_alike(named: Mapping[str, SAE], otherwise: str) -> None:
    """Raise ValueError where the latents of the SAEs, the base first, are not those of one SAE.

    Each is called by what messages say, and `otherwise` is what else may be done, to be followed
    by an alternative.
    """
    base, *_ = named.values()
    for name, sae in named.items():
        if sae.d_in != base.d_in:
            raise ValueError(
                f"{name} reads width {sae.d_in}, the base {base.d_in}: SAEs of the same "
                "activations can be added"
            )
        if sae.standardise:
            raise ValueError(
                f"{name} standardises its input: every token has a mean and a scale of its own "
                f"there, which cannot be folded into weights; {otherwise}train a base with "
                "another input_scaling"
            )
        if isinstance(sae.activation, TopK):
            raise ValueError(
                f"{name} has the activation function TopK, which compares its latents with one "
                f"another and would compare those of all SAEs; {otherwise}train it with "
                "activation batchtopk, which has a threshold in its place"
            )
        if not isinstance(sae.activation, nn.ReLU | JumpReLU | Gated):
            kind = type(sae.activation).__name__
            raise ValueError(
                f"{name} has the activation function {kind}, which is of no checkpoint"
            )


def subject_of(folder: Path) -> dict[str, Any]:
    """Return the metadata of subject and site of the SAE that this workflow trained in `folder`."""
    metadata = read_object(folder / CONFIG)["metadata"]
    return {key: metadata[key] for key in _SUBJECT if key in metadata}


def check_out(out: Path, inputs: Sequence[Path]) -> None:
    """Raise ValueError for an SAE given twice and where writing to `out` would destroy another."""
    given = [path.resolve() for path in inputs]
    if len(set(given)) < len(given):
        raise ValueError(f"an SAE is given twice: {', '.join(map(str, inputs))}")
    # Weights without their config are what a killed run left.
    held = [file for file in sae_files(out) if file.name != WEIGHTS] if out.is_dir() else []
    metadata = read_object(out / CONFIG).get("metadata") if held == [out / CONFIG] else None
    ours = isinstance(metadata, dict) and PARTS in metadata
    if out.resolve() in given or (held and not ours):
        raise ValueError(f"{out} holds another SAE, which would be lost: name another folder")


def check_place(place: GridPlace | None, manifests: Mapping[Path, Mapping[str, Any]]) -> None:
    """Raise ValueError unless one of the SAEs, by folder, was trained on the cache of `place`."""
    if place is None:
        return
    digest = file_digest(place.activations / MANIFEST)
    if all(m["inputs"]["activations"]["sha256"] != digest for m in manifests.values()):
        trained = " and ".join(f"{folder} was" for folder in manifests)
        raise ValueError(
            f"{trained} not trained on {place.activations}: give the cache that what is added was "
            "trained on"
        )


def save_side_by_side(
    sae: SAE,
    out: Path,
    parts: Sequence[Mapping[str, Any]],
    subject: Mapping[str, Any],
    *,
    settings: Mapping[str, Any],
    inputs: Mapping[str, Path],
    place: GridPlace | None,
    code: str,
    clock: Clock,
) -> Path:
    """Write `sae`, whose latents are those of `parts`, into `out`; return its manifest.

    With a `place` the manifest has what the evaluation asks of the SAE of a point.
    """
    files = save_sae(sae, begin(out), {**subject, PARTS: parts})
    seed = None
    if place is not None:
        seed = place.seed
        settings = {**settings, "d_sae": sae.d_sae, "l0": place.l0, "seed": seed}
        inputs = {**inputs, "activations": place.activations}
    return write_manifest(
        out,
        kind="sae",
        settings=settings,
        files=files,
        inputs=inputs,
        # Without a penalty of its own, as `init_from` asks; trained further it starts afresh.
        stats={PARTS: parts, "site": subject["hook_name"], "l1_coefficient": None},
        seed=seed,
        code=code,
        clock=clock,
    )
