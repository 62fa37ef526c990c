"""SAELens folders: written, read back, and refused with the reason where malformed."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from saeflow.sae.activation_functions import JumpReLU, TopK
from saeflow.sae.formats import FormatError, load_sae, save_sae
from saeflow.sae.model import SAE

ACTIVATIONS = {
    "standard": nn.ReLU(),
    "topk": TopK(3),
    "jumprelu": JumpReLU(torch.full((10,), 0.4)),
}


def make(architecture: str) -> SAE:
    draw = torch.Generator().manual_seed(0)
    weights = [torch.randn(*s, generator=draw) for s in ((10, 6), (10, 6), (10,), (6,))]
    return SAE(weights[0].t(), *weights[1:], ACTIVATIONS[architecture])


@pytest.mark.parametrize("architecture", ACTIVATIONS)
def test_a_saved_sae_loads_with_the_same_output(tmp_path, architecture):
    sae, x_bd = make(architecture), torch.randn(50, 6)
    assert save_sae(sae, tmp_path, {"model_name": "m"}) == ["cfg.json", "sae_weights.safetensors"]
    loaded = load_sae(tmp_path)
    for name, parameter in sae.named_parameters():
        assert torch.equal(loaded.get_parameter(name), parameter)
    torch.testing.assert_close(loaded.encode(x_bd), sae.encode(x_bd), atol=1e-5, rtol=0)
    torch.testing.assert_close(loaded(x_bd), sae(x_bd), atol=1e-5, rtol=0)
    cfg = json.loads((tmp_path / "cfg.json").read_text())
    assert cfg["architecture"] == architecture and (cfg["d_in"], cfg["d_sae"]) == (6, 10)
    assert cfg["metadata"]["model_name"] == "m" and cfg["metadata"]["sae_lens_version"]


def test_the_two_files_hold_the_layout_of_saelens(tmp_path):
    save_sae(make("jumprelu"), tmp_path, {})
    tensors = load_file(tmp_path / "sae_weights.safetensors")
    assert {name: tuple(t.shape) for name, t in tensors.items()} == {
        "W_enc": (6, 10), "W_dec": (10, 6), "b_enc": (10,), "b_dec": (6,), "threshold": (10,),
    }  # fmt: skip


def rewrite_cfg(folder, **changes):
    path = folder / "cfg.json"
    cfg = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in cfg.items() if value is not None}))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"architecture": "gated"}, "'gated' is unknown"),
        ({"architecture": "standard"}, "holds .*threshold"),
        ({"d_sae": 11}, r"shape \(6, 10\)"),
        ({"apply_b_dec_to_input": None}, "no key 'apply_b_dec_to_input'"),
        ({"normalize_activations": "layer_norm"}, "normalize_activations"),
        ({"rescale_acts_by_decoder_norm": True}, "rescale_acts"),
        ({"architecture": "topk"}, "no key 'k'"),
    ],
)
def test_a_wrong_configuration_is_refused(tmp_path, changes, reason):
    save_sae(make("jumprelu"), tmp_path, {})
    rewrite_cfg(tmp_path, **changes)
    with pytest.raises(FormatError, match=reason):
        load_sae(tmp_path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda t: t.pop("b_dec"), "holds .* has .*b_dec"),
        (lambda t: t.update(W_dec=t["W_dec"].t().contiguous()), r"W_dec has shape \(6, 10\)"),
        (lambda t: t["W_enc"].fill_(float("nan")), "W_enc has values that are not finite"),
        (lambda t: t["threshold"].fill_(float("inf")), "threshold has values"),
    ],
)
def test_wrong_tensors_are_refused(tmp_path, change, reason):
    save_sae(make("jumprelu"), tmp_path, {})
    path = tmp_path / "sae_weights.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    with pytest.raises(FormatError, match=reason):
        load_sae(tmp_path)


def test_an_unreadable_or_missing_file_is_refused(tmp_path):
    save_sae(make("topk"), tmp_path, {})
    weights = tmp_path / "sae_weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(FormatError, match="not a readable safetensors"):
        load_sae(tmp_path)
    weights.unlink()
    with pytest.raises(FormatError, match=r"sae_weights\.safetensors"):
        load_sae(tmp_path)
    (tmp_path / "cfg.json").write_text("{")
    with pytest.raises(FormatError, match=r"cfg\.json is not readable JSON"):
        load_sae(tmp_path)


@pytest.mark.parametrize("k", [0, 11, "3", None])
def test_an_impossible_k_is_refused(tmp_path, k):
    save_sae(make("topk"), tmp_path, {})
    rewrite_cfg(tmp_path, k=k)
    with pytest.raises(FormatError, match="k"):
        load_sae(tmp_path)
