"""Latents that fine-tuning changed, grafted into what it started from, or a refusal with reason."""

from __future__ import annotations

import json
import shutil
from itertools import product
from pathlib import Path

import pytest
import torch
from sae_planted import SITE, VARIANTS, planted, planted_cache, settings
from test_sae_stitch import (
    BATCHTOPK,
    BIASES,
    D_IN,
    GATED,
    GEMMA_SCOPE,
    JUMPRELU,
    RELU,
    TOPK,
    drawn,
    rows,
)
from torch import Tensor, nn

from saeflow.artifacts import MANIFEST, ArtifactError, file_digest, read_manifest
from saeflow.evaluation.origin import Member, added_parts, check_members, load_members
from saeflow.evaluation.rows import Point
from saeflow.sae.activation_functions import Gated, JumpReLU
from saeflow.sae.continued import load_start
from saeflow.sae.formats import FormatError, load_sae
from saeflow.sae.graft import changes, grafted, save_grafted
from saeflow.sae.identity import sae_digest
from saeflow.sae.model import SAE
from saeflow.sae.settings import FolderBase
from saeflow.sae.side_by_side import GridPlace
from saeflow.sae.trainer import train_sae

KINDS = (BATCHTOPK, RELU, JUMPRELU, GATED)


def axes(angle_of: dict[int, float] | None = None) -> SAE:
    """An SAE of four latents that read an axis each; those named write at an angle to theirs.

    The angle is towards the next axis, in degrees.
    """
    W_dec = torch.eye(4)
    for latent, angle in (angle_of or {}).items():
        turn = torch.deg2rad(torch.tensor(float(angle)))
        W_dec[latent] = turn.cos() * torch.eye(4)[latent]
        W_dec[latent, (latent + 1) % 4] = turn.sin()
    return SAE(torch.eye(4), W_dec, torch.zeros(4), torch.zeros(4), nn.ReLU())


def test_the_latents_that_changed_most_come_first():
    base, tuned = axes(), axes({0: 20, 1: 90, 3: 60})
    torch.testing.assert_close(
        changes(base, tuned).float(), 1 - torch.deg2rad(torch.tensor([20.0, 90, 0, 60])).cos()
    )
    assert torch.equal(grafted(base, tuned, 2).W_dec, torch.cat([base.W_dec, tuned.W_dec[[1, 3]]]))
    equal = axes(dict.fromkeys((3, 0, 2), 30))
    assert torch.equal(grafted(base, equal, 2).W_dec[4:], equal.W_dec[[0, 2]])


def test_change_is_of_what_is_written_of_what_is_read_or_both():
    base, tuned = axes(), axes({0: 60})
    with torch.no_grad():
        tuned.W_enc[:, 1] = torch.tensor([1.0, 0, 0, 0])
        tuned.W_enc[:, 2] *= 5  # a length is no change of direction
    for change, expected in (
        ("decoder", [0.5, 0, 0, 0]),
        ("encoder", [0, 1, 0, 0]),
        ("both", [0.25, 0.5, 0, 0]),
    ):
        found = changes(base, tuned, change)
        torch.testing.assert_close(found, torch.tensor(expected).double(), atol=1e-7, rtol=1e-6)
    assert torch.equal(grafted(base, tuned, 1).W_enc[:, 4], tuned.W_enc[:, 0])
    for change in ("encoder", "both"):
        assert torch.equal(grafted(base, tuned, 1, change=change).W_enc[:, 4], tuned.W_enc[:, 1])


def test_a_row_of_zeros_has_no_direction_to_change():
    base, tuned = axes(), axes()
    with torch.no_grad():
        base.W_dec[2:], tuned.W_dec[2] = 0, 0
    assert changes(base, tuned).tolist() == [0, 0, 0, 0.5]


def test_a_graft_fires_beside_its_original_or_in_its_place():
    """Latent 0 wrote axis 0 and writes axis 1 now; latent 1 is as it was."""
    base, tuned = axes(), axes({0: 90})
    x_bd = torch.tensor([[2.0, 0, 0, 0], [0, 3, 0, 0], [2, 3, 0, 5]])
    with torch.no_grad():
        beside, instead = grafted(base, tuned, 1), grafted(base, tuned, 1, replace=True)
        torch.testing.assert_close(
            beside(x_bd), torch.tensor([[2.0, 2, 0, 0], [0, 3, 0, 0], [2, 5, 0, 5]])
        )
        torch.testing.assert_close(
            instead(x_bd), torch.tensor([[0.0, 2, 0, 0], [0, 3, 0, 0], [0, 5, 0, 5]])
        )
    assert (beside.encode(x_bd) > 0).sum(1).tolist() == [2, 1, 4]
    assert (instead.encode(x_bd) > 0).sum(1).tolist() == [1, 1, 3]
    assert torch.equal(instead.W_dec, torch.cat([base.W_dec[1:], tuned.W_dec[:1]]))


def changed_most(base: SAE, tuned: SAE) -> Tensor:
    return torch.nn.functional.cosine_similarity(base.W_dec, tuned.W_dec).argsort()[:5]


@pytest.mark.parametrize("replace", [False, True])
@pytest.mark.parametrize("biases", product(BIASES, repeat=2), ids="-".join)
@pytest.mark.parametrize("kinds", product(KINDS, repeat=2), ids="-".join)
@torch.no_grad()
def test_latents_fire_and_write_as_they_did(kinds, biases, replace):
    base, tuned = drawn(kinds[0], 1, bias=biases[0]), drawn(kinds[1], 2, bias=biases[1])
    one, x_bd, chosen = grafted(base, tuned, 5, replace=replace), rows(), changed_most(base, tuned)
    kept = [f for f in range(12) if not replace or f not in chosen]
    acts_bf = torch.cat([base.encode(x_bd)[:, kept], tuned.encode(x_bd)[:, chosen]], dim=1)
    torch.testing.assert_close(one.encode(x_bd), acts_bf, atol=1e-4, rtol=1e-4)
    assert (acts_bf > 0).any(0).float().mean() > 0.5
    assert torch.equal(one.W_dec, torch.cat([base.W_dec[kept], tuned.W_dec[chosen]]))
    assert torch.equal(one.b_dec, base.b_dec)
    assert isinstance(one.activation, Gated if GATED in kinds else JumpReLU)
    if GATED not in kinds:  # whose gate opens above zero: thresholds move into the bias
        assert torch.equal(one.b_enc[: len(kept)], base.b_enc[kept])


def test_what_cannot_be_grafted_is_refused():
    plain, tuned, other = drawn(RELU, 1), drawn(RELU, 2), drawn(RELU, 3)
    standardised, topk = drawn(RELU, 2), drawn(TOPK, 2)
    standardised.standardise, other.activation = True, nn.Tanh()
    same = axes({0: 10, 1: 10})
    for base, copy, latents, reason in (
        (plain, drawn(RELU, 2, d_in=9), 1, "the fine-tuned SAE reads width 9, the base 8"),
        (plain, drawn(RELU, 2, d_sae=13), 1, "12 latents of width 8, the fine-tuned SAE 13 of 8"),
        (topk, topk, 1, "the base has the activation function TopK.* batchtopk"),
        (plain, topk, 1, "the fine-tuned SAE has the activation function TopK"),
        (standardised, plain, 1, "the base standardises its input: .* weights; train a base"),
        (plain, standardised, 1, "the fine-tuned SAE standardises its input"),
        (plain, other, 1, "the fine-tuned SAE has the activation function Tanh"),
        (plain, tuned, 0, "0 latents cannot be grafted: fine-tuning changed 12 of the 12"),
        (plain, tuned, 13, "13 latents cannot be grafted: fine-tuning changed 12 of the 12"),
        (axes(), same, 3, "3 latents .* changed 2 of the 4 .*a second time; graft fewer, or train"),
    ):
        with pytest.raises(ValueError, match=reason):
            grafted(base, copy, latents)
    with pytest.raises(ValueError, match="all 12 latents would be the fine-tuned SAE's"):
        grafted(plain, tuned, 12, replace=True)
    with pytest.raises(ValueError, match=r"change is 'norm', it can be decoder, encoder, both"):
        grafted(plain, tuned, 1, change="norm")


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """A cache, trained bases, what was fine-tuned from one, and from an imported one."""
    root = tmp_path_factory.mktemp("world")
    cache = planted_cache(root / "cache", planted(2048, features=20, d=D_IN)[0])
    training = {"tokens": 30 * 64, "calibration_batches": 4}
    for name, seed in (("base", 0), ("another_base", 1)):
        job = settings("jumprelu", d_sae=24, seed=seed, **training)
        train_sae(job, cache, SITE, root / name)
    text = planted(2048, features=20, d=D_IN, seed=5)[0]
    domain = planted_cache(root / "domain", text)
    for name, base in (("tuned", root / "base"), ("of_gemma_scope", GEMMA_SCOPE)):
        source = FolderBase(source="folder", path="base")
        variant = VARIANTS["jumprelu"].model_copy(update={"init_from": source})
        job = settings(variant, d_sae=24, l0=3, seed=2, **training)
        train_sae(job, domain, SITE, root / name, init=base)
    return root


@pytest.fixture
def copied(world, tmp_path) -> Path:
    """A copy of the world in which a test breaks something."""
    return shutil.copytree(world, tmp_path / "world")


@pytest.mark.parametrize("replace", [False, True])
def test_a_saved_graft_is_one_checkpoint_that_says_whose_the_latents_are(world, tmp_path, replace):
    base, tuned, out = world / "base", world / "tuned", tmp_path / "one"
    manifest = save_grafted(base, tuned, out, 5, change="both", replace=replace)
    one = load_sae(out)
    whole = grafted(load_sae(base), load_sae(tuned), 5, change="both", replace=replace)
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, one.state_dict()[name]), name
    found = read_manifest(out, kind="sae", deep=True)
    assert manifest == out / MANIFEST and found["stats"]["site"] == SITE
    assert found["settings"] == {
        "base": str(base), "tuned": str(tuned), "latents": 5, "change": "both", "replace": replace
    }  # fmt: skip
    assert found["inputs"]["tuned"]["sha256"] == file_digest(tuned / MANIFEST)
    cfg = json.loads((out / "cfg.json").read_text())
    width = 24 if replace else 29
    assert (cfg["architecture"], cfg["d_sae"]) == ("jumprelu", width)
    assert cfg["metadata"]["hook_name"] == cfg["metadata"]["hf_hook_name"] == SITE
    parts = cfg["metadata"]["stitched"]
    assert found["stats"]["stitched"] == parts
    assert [(p["role"], p["start"], p["stop"]) for p in parts] == [
        ("base", 0, width - 5),
        ("grafted", width - 5, width),
    ]
    assert [p["sha256"] for p in parts] == [sae_digest(base), sae_digest(tuned)]
    assert [p["path"] for p in parts] == [str(base), str(tuned)]
    chosen = parts[1]["latents"]
    assert torch.equal(one.W_dec[-5:], load_sae(tuned).W_dec[chosen])
    kept = [f for f in range(24) if not replace or f not in chosen]
    assert torch.equal(one.W_dec[:-5], load_sae(base).W_dec[kept])
    assert load_start(out).l1 is None


@pytest.mark.parametrize("file", ["", "params.npz"])
def test_latents_are_grafted_into_an_imported_base(world, tmp_path, file):
    tuned, out = world / "of_gemma_scope", tmp_path / "one"
    save_grafted(GEMMA_SCOPE / file, tuned, out, 4)
    latents = read_manifest(out, kind="sae")["stats"]["stitched"][1]["latents"]
    one, base, copy = load_sae(out), load_sae(GEMMA_SCOPE), load_sae(tuned)
    x_bd = rows()
    with torch.no_grad():
        added_bd = copy.encode(x_bd)[:, latents] @ copy.W_dec[latents]
        torch.testing.assert_close(one(x_bd), base(x_bd) + added_bd, atol=1e-4, rtol=1e-4)
    assert added_bd.any() and one.d_sae == base.d_sae + 4


def test_a_graft_of_a_place_is_measured_as_any_sae(world, tmp_path):
    point = Point("boost", "subject", SITE, "domain", "all", "graft", 29, 3)
    member = Member(3, 2, tmp_path / "one")
    job = world / "base", world / "tuned", tmp_path / "one", 5
    save_grafted(*job)
    with pytest.raises(ArtifactError, match="does not hold the SAE of this point"):
        check_members([member], point, world / "domain")
    save_grafted(*job, place=GridPlace(3, 2, world / "domain"))
    check_members([member], point, world / "domain")
    (added,) = added_parts([member], load_members([member], "cpu")).values()
    assert [(part.role, part.start, part.stop) for part in added] == [("grafted", 24, 29)]
    with pytest.raises(ValueError, match=r"tuned was not trained on \S+cache: give the cache that"):
        save_grafted(*job, place=GridPlace(3, 2, world / "cache"))
    assert read_manifest(tmp_path / "one", kind="sae", deep=True)


def test_what_was_not_fine_tuned_from_the_base_is_refused(world, tmp_path):
    for base, tuned, reason in (
        ("another_base", "tuned", "tuned was fine-tuned from another SAE than .*another_base, or"),
        ("base", "of_gemma_scope", "of_gemma_scope was fine-tuned from another SAE than"),
        ("base", "another_base", "another_base was not fine-tuned: .* init_from"),
        ("base", "base", "an SAE is given twice"),
    ):
        with pytest.raises(ValueError, match=reason):
            save_grafted(world / base, world / tuned, tmp_path / "one", 5)
    with pytest.raises(ValueError, match="25 latents cannot be grafted"):
        save_grafted(world / "base", world / "tuned", tmp_path / "one", 25)
    assert not (tmp_path / "one").exists()


def test_damaged_folders_are_refused(copied):
    base, tuned, out = copied / "base", copied / "tuned", copied / "one"
    weights = tuned / "sae_weights.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ArtifactError, match="does not have the hash of its manifest"):
        save_grafted(base, tuned, out, 5)
    weights.write_bytes(whole)
    (tuned / MANIFEST).rename(copied / MANIFEST)
    with pytest.raises(ArtifactError, match=r"tuned has no manifest\.json: it was never finished"):
        save_grafted(base, tuned, out, 5)
    (copied / MANIFEST).rename(tuned / MANIFEST)
    for name in ("base", "tuned", "another_base"):
        with pytest.raises(ValueError, match=f"{name} holds another SAE, which would be lost"):
            save_grafted(base, tuned, copied / name, 5)
    (base / "cfg.json").write_text("{")
    with pytest.raises(FormatError, match=r"base/cfg\.json is not readable JSON"):
        save_grafted(base, tuned, out, 5)
    assert not out.exists()
