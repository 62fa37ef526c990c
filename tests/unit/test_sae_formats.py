"""SAELens folders: written, read back, and refused with the reason where malformed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from saeflow.sae.activation_functions import Gated, JumpReLU, TopK
from saeflow.sae.formats import FormatError, load_sae, save_sae
from saeflow.sae.model import SAE

D_IN, D_SAE = 6, 10
ACTIVATIONS = {
    "standard": nn.ReLU(),
    "topk": TopK(3),
    "jumprelu": JumpReLU(torch.linspace(0, 0.9, D_SAE)),
    "gated": Gated(torch.linspace(0.2, 3, D_SAE), torch.linspace(-1, 1, D_SAE)),
}


def make(architecture: str, *, apply_b_dec_to_input: bool = True, standardise: bool = False) -> SAE:
    draw = torch.Generator().manual_seed(0)
    shapes = ((D_SAE, D_IN), (D_SAE, D_IN), (D_SAE,), (D_IN,))
    W_enc_t, *rest = (torch.randn(*shape, generator=draw) for shape in shapes)
    return SAE(
        W_enc_t.t(), *rest, ACTIVATIONS[architecture],
        apply_b_dec_to_input=apply_b_dec_to_input, standardise=standardise,
    )  # fmt: skip


def outputs(sae: SAE, x_bd: Tensor) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        return sae.encode(x_bd), sae(x_bd)


@pytest.mark.parametrize("standardise", [False, True])
@pytest.mark.parametrize("apply_b_dec_to_input", [False, True])
@pytest.mark.parametrize("architecture", ACTIVATIONS)
def test_a_saved_sae_loads_with_the_same_output(
    tmp_path, architecture, apply_b_dec_to_input, standardise
):
    flags = {"apply_b_dec_to_input": apply_b_dec_to_input, "standardise": standardise}
    sae, x_bd = make(architecture, **flags), 2 + torch.randn(50, D_IN)
    assert save_sae(sae, tmp_path, {"model_name": "m"}) == ["cfg.json", "sae_weights.safetensors"]
    loaded = load_sae(tmp_path)
    for name, parameter in sae.named_parameters():
        assert torch.equal(loaded.get_parameter(name), parameter)
    torch.testing.assert_close(outputs(loaded, x_bd), outputs(sae, x_bd), atol=1e-5, rtol=1e-5)
    cfg = json.loads((tmp_path / "cfg.json").read_text())
    assert cfg["architecture"] == architecture and (cfg["d_in"], cfg["d_sae"]) == (D_IN, D_SAE)
    assert cfg["apply_b_dec_to_input"] is apply_b_dec_to_input
    assert cfg["normalize_activations"] == ("layer_norm" if standardise else "none")
    assert cfg["metadata"]["model_name"] == "m" and cfg["metadata"]["sae_lens_version"]


def test_the_flags_change_the_output():
    """Without this, the round trip above would also pass where a flag is lost on both sides."""
    x_bd = 2 + torch.randn(50, D_IN)
    plain = make("gated")(x_bd)
    assert not torch.allclose(plain, make("gated", apply_b_dec_to_input=False)(x_bd), atol=0.1)
    assert not torch.allclose(plain, make("gated", standardise=True)(x_bd), atol=0.1)


COMMON = {"W_enc": (6, 10), "W_dec": (10, 6), "b_dec": (6,)}


@pytest.mark.parametrize(
    ("architecture", "vectors"),
    [
        ("standard", {"b_enc"}),
        ("topk", {"b_enc"}),
        ("jumprelu", {"b_enc", "threshold"}),
        ("gated", {"b_gate", "r_mag", "b_mag"}),
    ],
)
def test_the_weights_have_the_names_and_shapes_of_saelens(tmp_path, architecture, vectors):
    save_sae(make(architecture), tmp_path, {})
    tensors = load_file(tmp_path / "sae_weights.safetensors")
    shapes = {name: tuple(t.shape) for name, t in tensors.items()}
    assert shapes == COMMON | dict.fromkeys(vectors, (10,))


def test_a_gated_sae_is_stored_as_its_paper_writes_it(tmp_path):
    """Gate z + b_gate > 0 and magnitude exp(r_mag) z + b_mag, of one product z."""
    sae = make("gated")
    save_sae(sae, tmp_path, {})
    w = load_file(tmp_path / "sae_weights.safetensors")
    x_bd = torch.randn(50, D_IN)
    z_bf = (x_bd - w["b_dec"]) @ w["W_enc"]
    acts_bf = (w["r_mag"].exp() * z_bf + w["b_mag"]).relu() * (z_bf + w["b_gate"] > 0)
    torch.testing.assert_close(outputs(sae, x_bd)[0], acts_bf, atol=1e-5, rtol=1e-5)


def test_what_saelens_cannot_express_is_not_saved(tmp_path):
    sae = make("gated")
    sae.activation = Gated(torch.zeros(D_SAE), torch.zeros(D_SAE))
    with pytest.raises(FormatError, match="scale that is not positive"):
        save_sae(sae, tmp_path, {})
    sae.activation = nn.Tanh()
    with pytest.raises(FormatError, match="no SAELens architecture has the activation Tanh"):
        save_sae(sae, tmp_path, {})
    assert not list(tmp_path.iterdir())


def rewrite_cfg(folder: Path, **changes) -> None:
    path = folder / "cfg.json"
    cfg = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in cfg.items() if value is not None}))


def test_selecting_by_rescaled_activations_is_folded_into_the_weights(tmp_path):
    """SAELens selects and returns activations times decoder norm, and decodes with unit rows."""
    sae, x_bd = make("topk"), torch.randn(50, D_IN)
    save_sae(sae, tmp_path, {})
    rewrite_cfg(tmp_path, rescale_acts_by_decoder_norm=True)
    norm_f = sae.W_dec.norm(dim=1)
    acts_bf = sae.activation((sae.encoder_input(x_bd) @ sae.W_enc + sae.b_enc) * norm_f)
    loaded = load_sae(tmp_path)
    torch.testing.assert_close(loaded.encode(x_bd), acts_bf, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(loaded(x_bd), sae.decode(acts_bf / norm_f), atol=1e-5, rtol=1e-5)


def test_a_negative_threshold_acts_as_zero(tmp_path):
    """As in SAELens: the activation is a ReLU first, and nothing positive lies below it."""
    sae, x_bd = make("jumprelu"), torch.randn(50, D_IN)
    sae.activation = JumpReLU(torch.full((D_SAE,), -0.5))
    save_sae(sae, tmp_path, {})
    pre_bf = sae.encoder_input(x_bd) @ sae.W_enc + sae.b_enc
    torch.testing.assert_close(load_sae(tmp_path).encode(x_bd), pre_bf.relu())


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"architecture": "temporal"}, "'temporal' cannot be read, those that can are standard"),
        ({"architecture": ["gated"]}, "architecture is .* must be of type str"),
        ({"architecture": "gated"}, "holds .*b_enc.*, a SAELens gated SAE has .*r_mag"),
        ({"architecture": "standard"}, "holds .*threshold"),
        ({"architecture": "topk"}, "holds .*threshold"),
        ({"d_sae": 11}, r"shape \(6, 10\), expected \(6, 11\)"),
        ({"d_sae": "10"}, "d_sae is '10', it must be of type int"),
        ({"d_in": None}, "no key 'd_in'"),
        ({"d_in": 0}, "d_in is 0, it must be 1 or more"),
        ({"d_sae": -10}, "d_sae is -10, it must be 1 or more"),
        ({"apply_b_dec_to_input": None}, "no key 'apply_b_dec_to_input'"),
        ({"apply_b_dec_to_input": "false"}, "apply_b_dec_to_input is 'false', it must be of type"),
        ({"normalize_activations": "expected_average_only_in"}, "fold them into the weights"),
        ({"normalize_activations": ["none"]}, "normalize_activations .* cannot be read"),
        ({"reshape_activations": "hook_z"}, "reshape_activations 'hook_z' cannot be read"),
        ({"metadata": {"sae_lens_version": "5.11.0"}}, "'5.11.0'.* open it with sae-lens 6"),
        ({"metadata": {}}, "sae_lens_version is None"),
        ({"metadata": 6}, "sae_lens_version is None"),
    ],
)
def test_a_wrong_configuration_is_refused(tmp_path, changes, reason):
    save_sae(make("jumprelu"), tmp_path, {})
    rewrite_cfg(tmp_path, **changes)
    with pytest.raises(FormatError, match=reason) as refusal:
        load_sae(tmp_path)
    assert str(tmp_path) in str(refusal.value)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"k": 0}, "k is 0, allowed is 1 to the 10 latents"),
        ({"k": 11}, "k is 11, allowed"),
        ({"k": "3"}, "k is '3', it must be of type int"),
        ({"k": True}, "k is True, it must be of type int"),
        ({"k": None}, "no key 'k'"),
        ({"rescale_acts_by_decoder_norm": "no"}, "rescale_acts_by_decoder_norm is 'no'"),
    ],
)
def test_a_wrong_configuration_of_topk_is_refused(tmp_path, changes, reason):
    save_sae(make("topk"), tmp_path, {})
    rewrite_cfg(tmp_path, **changes)
    with pytest.raises(FormatError, match=reason):
        load_sae(tmp_path)


def packed_in_halves(size: int) -> Tensor:
    """Floats of four bits, two a byte, which torch cannot convert."""
    return torch.zeros(size, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)


@pytest.mark.parametrize(
    ("architecture", "change", "reason"),
    [
        ("jumprelu", lambda t: t.pop("b_dec"), "holds .* has .*b_dec"),
        ("jumprelu", lambda t: t.update(scaling_factor=torch.ones(10)), "holds .*scaling_factor"),
        ("jumprelu", lambda t: t.update(W_dec=t["W_enc"].clone()), r"W_dec has shape \(6, 10\)"),
        ("jumprelu", lambda t: t["W_enc"].fill_(float("nan")), "W_enc has values that are not fin"),
        ("jumprelu", lambda t: t["threshold"].fill_(float("inf")), "threshold has values"),
        ("jumprelu", lambda t: t.update(b_enc=torch.ones(10, dtype=torch.int)), "b_enc is not a"),
        ("jumprelu", lambda t: t.update(b_enc=1e300 * torch.ones(10).double()), "b_enc has val"),
        ("jumprelu", lambda t: t.update(b_enc=packed_in_halves(10)), "b_enc is not a dense"),
        ("gated", lambda t: t["r_mag"].fill_(100), "r_mag has values whose exponential"),
    ],
)
def test_wrong_tensors_are_refused(tmp_path, architecture, change, reason):
    save_sae(make(architecture), tmp_path, {})
    path = tmp_path / "sae_weights.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    with pytest.raises(FormatError, match=reason) as refusal:
        load_sae(tmp_path)
    assert str(path) in str(refusal.value)


def test_a_decoder_row_without_direction_is_not_rescaled(tmp_path):
    sae = make("topk")
    with torch.no_grad():
        sae.W_dec[4] = 0
    save_sae(sae, tmp_path, {})
    load_sae(tmp_path)
    rewrite_cfg(tmp_path, rescale_acts_by_decoder_norm=True)
    with pytest.raises(FormatError, match="row of norm zero"):
        load_sae(tmp_path)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_floating_types_load_as_float32(tmp_path, dtype):
    sae = make("gated")
    save_sae(sae, tmp_path, {})
    path = tmp_path / "sae_weights.safetensors"
    save_file({name: t.to(dtype) for name, t in load_file(path).items()}, path)
    loaded = load_sae(tmp_path)
    for name, parameter in sae.named_parameters():
        assert torch.equal(loaded.get_parameter(name), parameter.to(dtype).float())


def test_an_unreadable_or_missing_file_is_refused(tmp_path):
    save_sae(make("topk"), tmp_path, {})
    weights, config = tmp_path / "sae_weights.safetensors", tmp_path / "cfg.json"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(FormatError, match=r"sae_weights\.safetensors is not a readable safeten"):
        load_sae(tmp_path)
    for text, reason in (
        ("{", "is not readable JSON"),
        ("[" * 100_000, "is not readable JSON"),
        ("[1]", "holds no JSON object"),
    ):
        config.write_text(text)
        with pytest.raises(FormatError, match=rf"cfg\.json {reason}"):
            load_sae(tmp_path)
    config.unlink()
    with pytest.raises(FormatError, match=r"cfg\.json is not readable JSON"):
        load_sae(tmp_path)


def test_the_layout_is_told_by_the_file_of_weights(tmp_path):
    save_sae(make("topk"), tmp_path, {})
    weights = tmp_path / "sae_weights.safetensors"
    assert torch.equal(load_sae(str(weights)).W_enc, load_sae(tmp_path).W_enc)
    (tmp_path / "ae.pt").write_bytes(b"")
    with pytest.raises(FormatError, match=r"sae_weights\.safetensors and ae\.pt of a known layout"):
        load_sae(tmp_path)
    (tmp_path / "ae.pt").unlink()
    weights.rename(tmp_path / "weights.bin")
    for unknown in (tmp_path, tmp_path / "weights.bin", tmp_path / "nowhere"):
        with pytest.raises(FormatError) as refusal:
            load_sae(unknown)
        for name in ("sae_weights.safetensors", "sae.safetensors", "ae.pt", "params.npz"):
            assert name in str(refusal.value)
