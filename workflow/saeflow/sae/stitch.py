"""Base and residual SAEs as one: latents side by side, decoder biases added.

Koriagin et al. 2025, section 3.2. Thresholds and gates are a latent's own, so that the sum is one
SAE. TopK compares latents with one another, and what standardises has a mean and a scale of each
token: sums of these are none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from saeflow.artifacts import Clock, begin, read_manifest, write_manifest
from saeflow.fingerprint import fingerprint
from saeflow.sae.activation_functions import Gated, JumpReLU, TopK
from saeflow.sae.formats import CONFIG, WEIGHTS, load_sae, save_sae
from saeflow.sae.identity import sae_digest, sae_files
from saeflow.sae.model import SAE
from saeflow.sae.reading import read_object

PARTS = "stitched"
"""Key of `metadata` and of a manifest's `stats` that tells whose the latents are."""
_NOTHING_TO_ADD = "no residual SAE is given: there is nothing to add to the base"
_SUBJECT = ("model_name", "hook_name", "hf_hook_name")
"""Metadata that residual SAEs must share, as their activations are of one place."""


def stitched(base: SAE, residuals: Sequence[SAE]) -> SAE:
    """Return one SAE whose reconstruction is base(x) + the sum of residual(x), up to rounding.

    Its latents are those of the base and then of each residual SAE, activations and decoder rows
    unchanged. As the base does, it subtracts the decoder bias, now the sum of all, from its input
    or not; encoder biases make up for it. ReLU and JumpReLU (BatchTopK at inference) become
    JumpReLU, and with a gated SAE among them all become gated. Raises ValueError for no residual
    SAE, another width, TopK and what standardises its input.
    """
    names = ["the base", *(f"residual SAE {number}" for number in range(1, len(residuals) + 1))]
    return _side_by_side(dict(zip(names, (base, *residuals), strict=True)))


def save_stitched(base: Path, residuals: Sequence[Path], out: Path) -> Path:
    """Write the SAE in `base` with `residuals` as one SAELens checkpoint; return its manifest.

        save_stitched(Path("published"), [Path("chemistry/seed0"), Path("law/seed0")], Path("out"))

    `base` is in any layout that `load_sae` reads, `residuals` are folders of SAEs that this
    workflow trained on its error. `metadata.stitched` of `cfg.json` and `stats.stitched` of the
    manifest list the SAEs with role, path, digest and the latents that are theirs, from `start` to
    before `stop`. Raises FormatError for a malformed base, ArtifactError for an unfinished or
    damaged residual SAE, and ValueError for one of another base, subject or site, for an `out` that
    holds something else, and for what `stitched` refuses; nothing is written then.
    """
    clock, paths = Clock(), [base, *residuals]
    _check_out(out, paths)
    saes = {base: load_sae(base)}
    digests = {path: sae_digest(path) for path in paths}
    place = _place(base, digests[base], residuals)
    saes |= {folder: load_sae(folder) for folder in residuals}
    sae = _side_by_side({str(path): sae for path, sae in saes.items()})
    parts = _parts(saes, digests)
    files = save_sae(sae, begin(out), {**place, PARTS: parts})
    return write_manifest(
        out,
        kind="sae",
        settings={"base": str(base), "residuals": [str(folder) for folder in residuals]},
        files=files,
        inputs={f"residual{n}": folder for n, folder in enumerate(residuals, 1)},
        # Without a penalty of its own, as `init_from` asks; trained further it starts afresh.
        stats={PARTS: parts, "site": place["hook_name"], "l1_coefficient": None},
        code=fingerprint(__name__, "saeflow.sae.foreign"),
        clock=clock,
    )


@torch.no_grad()
def _side_by_side(named: Mapping[str, SAE]) -> SAE:
    """Return the sum of the SAEs, the base first, each called by what messages say."""
    _check(named)
    saes = list(named.values())
    b_dec = torch.stack([sae.b_dec.double() for sae in saes]).sum(0)
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


def _check(named: Mapping[str, SAE]) -> None:
    """Raise ValueError where the sum of the SAEs is not one SAE."""
    if len(named) < 2:
        raise ValueError(_NOTHING_TO_ADD)
    base, *_ = named.values()
    apart = "use base and residual SAEs apart, as base(x) + residual(x)"
    for name, sae in named.items():
        if sae.d_in != base.d_in:
            raise ValueError(
                f"{name} reads width {sae.d_in}, the base {base.d_in}: SAEs of the same "
                "activations can be added"
            )
        if sae.standardise:
            raise ValueError(
                f"{name} standardises its input: every token has a mean and a scale of its own "
                f"there, which cannot be folded into weights; {apart}, or train a base with "
                "another input_scaling"
            )
        if isinstance(sae.activation, TopK):
            raise ValueError(
                f"{name} has the activation function TopK, which compares its latents with one "
                f"another and would compare those of all SAEs; {apart}, or train it with "
                "activation batchtopk, which has a threshold in its place"
            )
        if not isinstance(sae.activation, nn.ReLU | JumpReLU | Gated):
            kind = type(sae.activation).__name__
            raise ValueError(
                f"{name} has the activation function {kind}, which is of no checkpoint"
            )


def _parts(saes: Mapping[Path, SAE], digests: Mapping[Path, str]) -> list[dict[str, Any]]:
    """Return whose the latents are, the base's first."""
    parts: list[dict[str, Any]] = []
    for path, sae in saes.items():
        start = parts[-1]["stop"] if parts else 0
        parts.append(
            {
                "role": "residual" if parts else "base",
                "path": str(path),
                "sha256": digests[path],
                "start": start,
                "stop": start + sae.d_sae,
            }
        )
    return parts


def _place(base: Path, digest: str, residuals: Sequence[Path]) -> dict[str, Any]:
    """Return the metadata of subject and site that the residual SAEs share.

    Raises unless each is whole and was trained on the error of `base`, which has this digest.
    """
    found: dict[Path, dict[str, Any]] = {}
    for folder in residuals:
        trained_on = read_manifest(folder, kind="sae", deep=True)["stats"].get("base")
        if trained_on is None:
            raise ValueError(
                f"{folder} is no residual SAE: it was not trained on the error of a frozen one, "
                "so its sum with another reconstructs nothing; give one of a variant with error_of"
            )
        if trained_on != digest:
            raise ValueError(
                f"{folder} was trained on the error of another SAE than {base}, or that has "
                "changed since: give the one that it was trained on, or train it anew"
            )
        metadata = read_object(folder / CONFIG)["metadata"]
        found[folder] = {key: metadata[key] for key in _SUBJECT if key in metadata}
    if not found:
        raise ValueError(_NOTHING_TO_ADD)
    first, *others = found
    for folder in others:
        if found[folder] != found[first]:
            raise ValueError(
                f"{folder} reads {found[folder]}, {first} reads {found[first]}: residual SAEs of "
                "one subject and site can be added"
            )
    return found[first]


def _check_out(out: Path, inputs: Sequence[Path]) -> None:
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
