"""Base and residual SAEs as one: the same output, or a refusal with the reason."""

from __future__ import annotations

import json
import shutil
from itertools import product
from pathlib import Path

import pytest
import torch
from sae_planted import SITE, planted, planted_cache, settings
from safetensors.torch import load_file
from stitch_planted import train_residual
from torch import Tensor, nn

from saeflow.artifacts import MANIFEST, ArtifactError, file_digest, read_manifest
from saeflow.sae.activation_functions import Gated, JumpReLU, TopK
from saeflow.sae.boosted import Boosted
from saeflow.sae.continued import load_start
from saeflow.sae.formats import FormatError, load_sae
from saeflow.sae.identity import sae_digest
from saeflow.sae.model import SAE
from saeflow.sae.side_by_side import GridPlace
from saeflow.sae.stitch import save_stitched, stitched
from saeflow.sae.trainer import train_sae

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures" / "saes"
IMPORTED = sorted(path.parent for path in FIXTURES.glob("*/*/expected.safetensors"))
GEMMA_SCOPE = FIXTURES / "gemma_scope" / "jumprelu"
D_IN = 8
BATCHTOPK, RELU, JUMPRELU, GATED, TOPK = "batchtopk", "relu", "jumprelu", "gated", "topk"
BIASES = ("none", "added", "centred")


def activation(kind: str, d_sae: int) -> nn.Module:
    ramp_f = torch.linspace(0, 1, d_sae)
    return {
        BATCHTOPK: JumpReLU(torch.full((d_sae,), 0.7)),
        RELU: nn.ReLU(),
        JUMPRELU: JumpReLU(2 * ramp_f - 0.2),  # one below zero acts as zero
        GATED: Gated(0.1 + 2 * ramp_f, ramp_f - 0.5),
        TOPK: TopK(3),
    }[kind]


def drawn(kind: str, seed: int, *, d_sae: int = 12, d_in: int = D_IN, bias: str = "centred") -> SAE:
    """An SAE of random weights, its decoder bias zero, added to the output, or centring as well."""
    draw = torch.Generator().manual_seed(seed)
    shapes = ((d_in, d_sae), (d_sae, d_in), (d_sae,), (d_in,))
    *weights, b_dec = (torch.randn(*shape, generator=draw) for shape in shapes)
    return SAE(
        *weights, b_dec * (bias != "none"), activation(kind, d_sae),
        apply_b_dec_to_input=bias == "centred",
    )  # fmt: skip


def rows(d_in: int = D_IN) -> Tensor:
    return 1 + 2 * torch.randn(200, d_in, generator=torch.Generator().manual_seed(9))


@torch.no_grad()
def assert_is_the_sum(one: SAE, base: SAE, *residuals: SAE) -> None:
    x_bd, saes = rows(base.d_in), (base, *residuals)
    acts_bf = torch.cat([sae.encode(x_bd) for sae in saes], dim=1)
    torch.testing.assert_close(one.encode(x_bd), acts_bf, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(one(x_bd), sum(sae(x_bd) for sae in saes), atol=1e-4, rtol=1e-4)
    assert all(sae.encode(x_bd).any() for sae in saes)


PAIRS = list(product((BATCHTOPK, RELU, JUMPRELU, GATED), repeat=2))


@pytest.mark.parametrize("biases", product(BIASES, repeat=2), ids="-".join)
@pytest.mark.parametrize("kinds", PAIRS, ids="-".join)
def test_one_sae_reconstructs_what_base_and_residual_do(kinds, biases):
    base = drawn(kinds[0], 1, bias=biases[0])
    residual = drawn(kinds[1], 2, d_sae=5, bias=biases[1])
    one = stitched(base, [residual])
    assert_is_the_sum(one, base, residual)
    x_bd = rows()
    torch.testing.assert_close(one(x_bd), Boosted(residual, base)(x_bd), atol=1e-4, rtol=1e-4)
    assert isinstance(one.activation, Gated if GATED in kinds else JumpReLU)
    assert torch.equal(one.W_dec, torch.cat([base.W_dec, residual.W_dec]))


@pytest.mark.parametrize("kinds", [(BATCHTOPK, RELU, JUMPRELU), (GATED, RELU, GATED)])
def test_several_residual_saes_add(kinds):
    residuals = [drawn(kind, seed, d_sae=3 + seed) for seed, kind in enumerate(kinds)]
    base = drawn(JUMPRELU, 7)
    one = stitched(base, residuals)
    assert_is_the_sum(one, base, *residuals)
    assert one.d_sae == 12 + 3 + 4 + 5
    x_bd, boosted = rows(), Boosted(residuals, base)
    torch.testing.assert_close(one(x_bd), boosted(x_bd), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(one.encode(x_bd)[:, 12:], boosted.encode(x_bd), atol=1e-4, rtol=1e-4)
    assert torch.equal(one.W_dec[12:], boosted.W_dec)
    again = stitched(stitched(base, residuals[:1]), residuals[1:])
    torch.testing.assert_close(again(rows()), one(rows()), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("bias", BIASES)
def test_the_latents_of_a_base_stay_bit_by_bit_without_a_residual_bias(bias):
    base, residual = drawn(JUMPRELU, 1, bias=bias), drawn(BATCHTOPK, 2, d_sae=5, bias="none")
    one = stitched(base, [residual])
    assert one.apply_b_dec_to_input is base.apply_b_dec_to_input
    assert torch.equal(one.b_dec, base.b_dec) and torch.equal(one.b_enc[:12], base.b_enc)
    assert torch.equal(one.W_enc[:, :12], base.W_enc)


@pytest.mark.parametrize("other", [RELU, GATED])
def test_a_latent_at_its_threshold_is_off(other):
    """ReLU has the threshold 0, which x > 0 and x > threshold decide alike, as a gate does."""
    weights = (torch.eye(2), torch.eye(2), torch.zeros(2), torch.zeros(2))
    base = SAE(*weights, JumpReLU(torch.tensor([0.5, 0.25])))
    residual = SAE(*weights, nn.ReLU() if other == RELU else Gated(torch.ones(2), torch.zeros(2)))
    x_bd = torch.tensor([[0.5, 0.25], [0.5001, 0.2501], [0.0, -1.0], [1e-30, 1.0]])
    found = stitched(base, [residual]).encode(x_bd)
    torch.testing.assert_close(
        found, torch.cat([base.encode(x_bd), residual.encode(x_bd)], dim=1), atol=1e-7, rtol=1e-6
    )
    assert (found > 0).tolist() == [
        [False, False, True, True],
        [True, True, True, True],
        [False, False, False, False],
        [False, True, True, True],
    ]


@pytest.mark.parametrize("folder", IMPORTED, ids=lambda folder: "/".join(folder.parts[-2:]))
def test_an_sae_of_another_library_is_added_to_or_refused(folder):
    """What was folded on reading stays so: expected outputs are the library's own."""
    base, residual = load_sae(folder), drawn(BATCHTOPK, 3, d_sae=5, bias="none")
    if isinstance(base.activation, TopK) or base.standardise:
        with pytest.raises(ValueError, match=r"the base (has the activation .* TopK|standardises)"):
            stitched(base, [residual])
        return
    expected, one = load_file(folder / "expected.safetensors"), stitched(base, [residual])
    x_bd = expected["x"]
    torch.testing.assert_close(one.encode(x_bd)[:, :24], expected["encode"], atol=1e-4, rtol=1e-4)
    summed_bd = expected["reconstruct"] + residual(x_bd)
    torch.testing.assert_close(one(x_bd), summed_bd, atol=1e-4, rtol=1e-4)


def test_what_is_no_one_sae_is_refused():
    plain = drawn(RELU, 1)
    standardised, topk, other = drawn(RELU, 2), drawn(TOPK, 2), drawn(RELU, 2)
    standardised.standardise, other.activation = True, nn.Tanh()
    for base, residuals, reason in (
        (plain, [], "no residual SAE is given"),
        (plain, [plain, drawn(RELU, 2, d_in=9)], "residual SAE 2 reads width 9, the base 8"),
        (topk, [plain], "the base has the activation function TopK.* apart, .* batchtopk"),
        (plain, [topk], "residual SAE 1 has the activation function TopK"),
        (topk, [topk], "the base has the activation function TopK"),
        (standardised, [plain], "the base standardises its input: .* apart, .* input_scaling"),
        (standardised, [standardised], "the base standardises"),
        (plain, [other], "residual SAE 1 has the activation function Tanh"),
    ):
        with pytest.raises(ValueError, match=reason):
            stitched(base, residuals)


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """A cache, a trained base, residual SAEs of it, and one of an imported base."""
    root = tmp_path_factory.mktemp("world")
    cache = planted_cache(root / "cache", planted(2048, features=20, d=D_IN)[0])
    training = {"tokens": 30 * 64, "calibration_batches": 4}
    for name, seed in (("base", 0), ("another_base", 1)):
        job = settings("batchtopk", d_sae=24, seed=seed, **training)
        train_sae(job, cache, SITE, root / name)
    for seed in (0, 1):
        train_residual(root / "base", cache, root / f"residual{seed}", seed=seed)
    train_residual(GEMMA_SCOPE, cache, root / "of_gemma_scope", activation="gated")
    return root


@pytest.fixture
def copied(world, tmp_path) -> Path:
    """A copy of the world in which a test breaks something."""
    return shutil.copytree(world, tmp_path / "world")


def test_a_saved_sum_is_one_checkpoint_that_says_whose_the_latents_are(world, tmp_path):
    paths = [world / name for name in ("base", "residual0", "residual1")]
    manifest = save_stitched(paths[0], paths[1:], tmp_path / "one")
    saes = [load_sae(path) for path in paths]
    assert_is_the_sum(load_sae(tmp_path / "one"), *saes)
    cfg = json.loads((tmp_path / "one" / "cfg.json").read_text())
    assert (cfg["architecture"], cfg["d_sae"]) == ("jumprelu", 24 + 16 + 16)
    assert cfg["metadata"]["hook_name"] == cfg["metadata"]["hf_hook_name"] == SITE
    parts = cfg["metadata"]["stitched"]
    assert [(p["role"], p["start"], p["stop"]) for p in parts] == [
        ("base", 0, 24),
        ("residual", 24, 40),
        ("residual", 40, 56),
    ]
    assert [p["sha256"] for p in parts] == [sae_digest(path) for path in paths]
    assert [p["path"] for p in parts] == [str(path) for path in paths]
    found = read_manifest(tmp_path / "one", kind="sae", deep=True)
    assert manifest == tmp_path / "one" / MANIFEST
    assert found["stats"]["stitched"] == parts and found["stats"]["site"] == SITE
    assert found["inputs"]["residual2"]["sha256"] == file_digest(paths[2] / MANIFEST)


@pytest.mark.parametrize("by_file", [False, True])
def test_an_imported_base_is_added_to(world, tmp_path, by_file):
    base, residual = GEMMA_SCOPE, world / "of_gemma_scope"
    save_stitched(base / "params.npz" if by_file else base, [residual], tmp_path / "one")
    assert_is_the_sum(load_sae(tmp_path / "one"), load_sae(base), load_sae(residual))
    cfg = json.loads((tmp_path / "one" / "cfg.json").read_text())
    assert cfg["architecture"] == "gated" and not cfg["apply_b_dec_to_input"]


def test_the_sum_of_a_place_has_what_the_evaluation_asks_for(world, tmp_path):
    job = world / "base", [world / "residual0"], tmp_path / "one"
    plain = read_manifest(save_stitched(*job).parent, kind="sae")
    assert plain["seed"] is None and set(plain["settings"]) == {"base", "residuals"}
    assert set(plain["inputs"]) == {"residual1"}
    place = GridPlace(l0=2, seed=3, activations=world / "cache")
    found = read_manifest(save_stitched(*job, place).parent, kind="sae", deep=True)
    assert found["settings"] == plain["settings"] | {"d_sae": 40, "l0": 2, "seed": 3}
    assert found["inputs"]["activations"]["sha256"] == file_digest(world / "cache" / MANIFEST)
    assert found["seed"] == 3 and found["stats"] == plain["stats"]


def test_a_place_of_another_cache_is_refused(world, tmp_path):
    other = planted_cache(tmp_path / "other", planted(256, features=20, d=D_IN, seed=1)[0])
    with pytest.raises(ValueError, match=r"residual0 was not trained on \S+other: give the cache"):
        save_stitched(
            world / "base", [world / "residual0"], tmp_path / "one", GridPlace(2, 0, other)
        )
    assert not (tmp_path / "one").exists()


def test_a_sum_is_trained_further_like_any_other_sae(world, tmp_path):
    save_stitched(world / "base", [world / "residual0"], tmp_path / "one")
    start = load_start(tmp_path / "one")
    assert start.l1 is None and start.sae.d_sae == 40


def test_a_sum_is_written_again_after_any_interruption(copied):
    job = copied / "base", [copied / "residual0"], copied / "one"
    save_stitched(*job)
    weights = copied / "one" / "sae_weights.safetensors"
    before = weights.read_bytes()
    for lost in (("cfg.json", MANIFEST), (MANIFEST,), ()):
        for name in lost:
            (copied / "one" / name).unlink()
        save_stitched(*job)
        assert read_manifest(copied / "one", kind="sae", deep=True)
        assert weights.read_bytes() == before


def test_residual_saes_of_something_else_are_refused(world, tmp_path):
    for base, residuals, reason in (
        ("another_base", ["residual0"], "residual0 was trained on the error of another SAE than"),
        ("base", ["residual0", "of_gemma_scope"], "of_gemma_scope was trained on the error of an"),
        ("base", ["another_base"], "another_base is no residual SAE: .* error_of"),
        ("base", [], "no residual SAE is given"),
        ("base", ["residual0", "residual0"], "an SAE is given twice"),
    ):
        with pytest.raises(ValueError, match=reason):
            save_stitched(world / base, [world / name for name in residuals], tmp_path / "one")
    assert not (tmp_path / "one").exists()


def relabelled(folder: Path, **changes: str) -> None:
    """Change the metadata of a finished SAE, as a training elsewhere would have written it."""
    config = folder / "cfg.json"
    cfg, manifest = json.loads(config.read_text()), json.loads((folder / MANIFEST).read_text())
    config.write_text(json.dumps({**cfg, "metadata": {**cfg["metadata"], **changes}}))
    described = {"bytes": config.stat().st_size, "sha256": file_digest(config)}
    manifest["files"]["cfg.json"] = described
    (folder / MANIFEST).write_text(json.dumps(manifest))


@pytest.mark.parametrize("changes", [{"hook_name": "layers.2"}, {"model_name": "other"}])
def test_residual_saes_of_two_places_are_refused(copied, changes):
    relabelled(copied / "residual1", **changes)
    residuals = [copied / "residual0", copied / "residual1"]
    with pytest.raises(ValueError, match=r"residual1 reads .*: residual SAEs of one subject"):
        save_stitched(copied / "base", residuals, copied / "one")


def test_damaged_folders_are_refused(copied):
    base, residual, out = copied / "base", copied / "residual0", copied / "one"
    weights = residual / "sae_weights.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:100])
    with pytest.raises(ArtifactError, match=r"residual0/sae_weights\.safetensors has 100 bytes"):
        save_stitched(base, [residual], out)
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ArtifactError, match="does not have the hash of its manifest"):
        save_stitched(base, [residual], out)
    weights.write_bytes(whole)
    (residual / MANIFEST).rename(copied / MANIFEST)
    with pytest.raises(ArtifactError, match=r"has no manifest\.json: it was never finished"):
        save_stitched(base, [residual], out)
    (copied / MANIFEST).rename(residual / MANIFEST)
    (base / "cfg.json").write_text("{")
    with pytest.raises(FormatError, match=r"base/cfg\.json is not readable JSON"):
        save_stitched(base, [residual], out)
    with pytest.raises(FormatError, match="nowhere has no weights of a known layout"):
        save_stitched(copied / "nowhere", [residual], out)
    assert not out.exists()


def test_no_other_sae_is_written_over(copied):
    base, residuals = copied / "base", [copied / "residual0"]
    shutil.copytree(GEMMA_SCOPE, copied / "published")
    before = sae_digest(base)
    for name in ("base", "residual0", "another_base", "published"):
        with pytest.raises(ValueError, match=f"{name} holds another SAE, which would be lost"):
            save_stitched(base, residuals, copied / name)
    assert sae_digest(base) == before and read_manifest(residuals[0], kind="sae", deep=True)


def test_several_residual_saes_are_not_taken_for_one():
    base, residuals = drawn(JUMPRELU, 7), [drawn(TOPK, 1), drawn(TOPK, 2, d_sae=5)]
    both = Boosted(residuals, base)
    x_bd = rows()
    with torch.no_grad():
        summed_bd = base(x_bd) + residuals[0](x_bd) + residuals[1](x_bd)
        torch.testing.assert_close(both(x_bd), summed_bd, atol=1e-4, rtol=1e-4)
        assert torch.equal(both.encode(x_bd)[:, 12:], residuals[1].encode(x_bd))
    with pytest.raises(ValueError, match=r"2 residual SAEs are added here: save them .* as one"):
        _ = both.residual
    assert Boosted(residuals[:1], base).residual is residuals[0]
    with pytest.raises(ValueError, match="no residual SAE is given"):
        Boosted([], base)
    with pytest.raises(ValueError, match="the frozen SAE reads width 8, the residual SAE 9"):
        Boosted([residuals[0], drawn(RELU, 3, d_in=9)], base)
