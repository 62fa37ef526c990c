"""Training an SAE further: it starts as the function of that SAE, and only as that one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from pydantic import ValidationError
from sae_planted import (
    SITE,
    VARIANTS,
    Stop,
    interrupt_after,
    planted,
    planted_cache,
    settings,
)
from torch import Tensor, nn

from saeflow.artifacts import ArtifactError, read_manifest
from saeflow.sae.activation_functions import JumpReLU, TopK
from saeflow.sae.continued import Start, load_start
from saeflow.sae.formats import CONFIG, WEIGHTS, load_sae, save_sae
from saeflow.sae.model import SAE
from saeflow.sae.optimisation import Trainer
from saeflow.sae.settings import L1, FolderBase, TrainedInit, Variant
from saeflow.sae.settings import JumpReLU as JumpReLUSettings
from saeflow.sae.trainer import Wanted, train_sae, train_saes

FROM = FolderBase(source="folder", path="gsae")
SCALINGS = ("none", "rms", "unit_norm", "standardise")


def further(variant: str | Variant, **changes: Any) -> Variant:
    """Return a variant that starts from another SAE."""
    variant = VARIANTS[variant] if isinstance(variant, str) else variant
    return variant.model_copy(update={"init_from": FROM, **changes})


def trainer_of(variant: Variant, rows: Tensor, start: SAE | None, l1: float | None = None, **more):
    begun = None if start is None else Start(start, l1)
    return Trainer(settings(variant, **more), rows, rows.square().mean().item(), start=begun)


def general(name: str, rows: Tensor, steps: int = 10, **training: Any) -> SAE:
    trainer = trainer_of(VARIANTS[name], rows, None, **training)
    for i in range(steps):
        trainer.step(rows[64 * i :][:64])
    if trainer.needs_calibration:
        trainer.calibrate([rows[:64]])
    return trainer.finished()


def factor(scaling: str, rows: Tensor) -> float:
    mean_square = rows.square().mean().item()
    return {"rms": mean_square**-0.5, "unit_norm": (32 * mean_square) ** -0.5}.get(scaling, 1.0)


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("name", VARIANTS)
def test_the_first_step_finds_the_function_of_the_sae_that_it_starts_from(name, scaling):
    """A few rows have another factor than the many that it was trained on."""
    many = 3 * planted(2000, seed=1)[0] + 1
    first = scaling if scaling == "standardise" else "rms"
    source, rows = general(name, many, input_scaling=first), many[:64]
    trainer = trainer_of(further(name), rows, source, input_scaling=scaling)
    if trainer.needs_calibration:
        trainer.calibrate([rows])
    finished = trainer.finished()
    with torch.no_grad():
        torch.testing.assert_close(finished(rows), source(rows), rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(finished.encode(rows), source.encode(rows), rtol=1e-4, atol=1e-3)
        left_bd = (rows - source(rows)) * factor(scaling, rows)
    if scaling == "standardise":
        left_bd /= rows.std(1, keepdim=True)
    if VARIANTS[name].matryoshka is None:  # whose loss is a mean over prefixes
        loss = trainer.step(rows).losses["reconstruction"]
        assert loss == pytest.approx(left_bd.square().mean().item(), rel=1e-3)


def test_the_sparsity_of_the_first_step_is_that_of_the_sae():
    rows, _ = planted(4000)
    for name in ("relu", "jumprelu", "gated"):
        source = general(name, rows, steps=50)
        outcome = trainer_of(further(name), rows, source).step(rows[:500])
        expected = (source.encode(rows[:500]) > 0).sum(1).float().mean().item()
        assert outcome.step.l0 == pytest.approx(expected, rel=1e-3)


def scaled_rows(sae: SAE) -> SAE:
    """The same function with decoder rows of other norms."""
    norm_f = torch.linspace(0.5, 2, sae.d_sae)
    activation = sae.activation
    if isinstance(activation, JumpReLU):
        activation = JumpReLU(activation.threshold / norm_f)
    return SAE(
        sae.W_enc.detach() / norm_f,
        sae.W_dec.detach() * norm_f[:, None],
        sae.b_enc.detach() / norm_f,
        sae.b_dec.detach(),
        activation,
        apply_b_dec_to_input=sae.apply_b_dec_to_input,
    )


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("relu", {}),
        ("relu", {"apply_b_dec_to_input": False}),
        ("relu", {"decoder_norm": "free"}),
        ("jumprelu", {"apply_b_dec_to_input": True}),
        ("batchtopk", {"apply_b_dec_to_input": False}),
    ],
)
def test_an_equal_parametrisation_is_found(name, changes):
    rows, _ = planted(2000)
    source = general(name, rows)
    given = source if name == "batchtopk" else scaled_rows(source)
    trainer = trainer_of(further(name, **changes), rows, given)
    if trainer.needs_calibration:
        trainer.calibrate([rows[:64]])
    norms = trainer.sae.W_dec.norm(dim=1)
    assert changes.get("decoder_norm") == "free" or torch.allclose(norms, torch.ones(64))
    torch.testing.assert_close(
        trainer.finished()(rows[:64]), source(rows[:64]), rtol=1e-3, atol=2e-3
    )


def plain(d_in: int = 32, d_sae: int = 64, activation: nn.Module | None = None, **more: Any) -> SAE:
    draw = torch.Generator().manual_seed(0)
    W_dec = torch.nn.functional.normalize(torch.randn(d_sae, d_in, generator=draw), dim=1)
    zeros = torch.zeros(d_sae), torch.zeros(d_in)
    return SAE(W_dec.t().clone(), W_dec, *zeros, activation or nn.ReLU(), **more)


def with_bias(sae: SAE) -> SAE:
    sae.b_dec.data += 1
    return sae


def with_a_dead_row(sae: SAE) -> SAE:
    sae.W_dec.data[3] = 0
    return sae


@pytest.mark.parametrize(
    ("variant", "source", "reason"),
    [
        ("relu", plain(d_in=16), "reads width 16, the activations have 32"),
        ("relu", plain(d_sae=32), "has 32 latents, d_sae is 64"),
        ("relu", plain(activation=TopK(3)), "function TopK: relu goes on from ReLU alone"),
        ("topk", plain(), "function ReLU: topk goes on from TopK alone"),
        ("batchtopk", plain(activation=TopK(3)), "batchtopk goes on from JumpReLU alone"),
        ("batchtopk", plain(activation=JumpReLU(torch.rand(64))), "another threshold for every"),
        ("topk", scaled_rows(plain(activation=TopK(3))), "rows of different norms"),
        ("relu", with_a_dead_row(plain()), "1 decoder rows of norm zero"),
        ("relu", plain(standardise=True), "reads standardised activations.*input_scaling is rms"),
        ("no_bias", with_bias(plain()), "decoder_bias: false takes away"),
    ],
)  # fmt: skip
def test_an_sae_whose_function_the_variant_cannot_have_is_refused(variant, source, reason):
    rows, _ = planted(200)
    changes = {"decoder_bias": False} if variant == "no_bias" else {}
    chosen = further("relu" if variant == "no_bias" else variant, **changes)
    with pytest.raises(ValueError, match=f"the SAE of init_from .*{reason}"):
        trainer_of(chosen, rows, source)


def test_a_start_goes_with_a_variant_that_asks_for_one():
    rows, _ = planted(200)
    for variant, start in ((VARIANTS["relu"], plain()), (further("relu"), None)):
        with pytest.raises(ValueError, match="goes with a variant with init_from"):
            trainer_of(variant, rows, start)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"error_of": {"source": "folder", "path": "x"}}, "init_from and error_of cannot"),
        ({"activation": "jumprelu", "l0": {}, "jumprelu": {"threshold": 1}}, "are taken over"),
    ],
)
def test_a_variant_that_cannot_start_from_an_sae_is_refused(changes, reason):
    whole = {
        "activation": "topk",
        "init_from": {"variant": "x", "corpus": "y", "source": "trained"},
    }
    with pytest.raises(ValidationError, match=reason):
        Variant.model_validate({**whole, **changes})


def test_unnamed_places_in_the_grid_are_those_of_the_sae_itself():
    start = TrainedInit(variant="gsae", corpus="docs")
    assert (start.l0, start.seed) == (None, None)
    jump = further("jumprelu", jumprelu=JumpReLUSettings(bandwidth=1.0))
    assert Variant.model_validate(jump.model_dump()).init_from == FROM


# The job


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """A general cache, one of a domain with a quarter of the features, and two general SAEs."""
    root = tmp_path_factory.mktemp("world")
    rows, directions = planted(3000)
    planted_cache(root / "general", rows)
    planted_cache(root / "domain", domain_rows(directions, 1000))
    for name, seed in (("gsae", 0), ("other", 1)):
        config = settings(VARIANTS["relu"], tokens=100 * 64, seed=seed)
        train_sae(config, root / "general", SITE, root / name)
    return root


def domain_rows(directions: Tensor, n: int, seed: int = 7) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    on = torch.rand(n, 10, generator=draw) < 0.3
    strengths = on * (1 + torch.rand(n, 10, generator=draw))
    return 3 * strengths @ directions[:10] + 0.5


SSAE = Variant(activation="relu", l1=L1(coefficient=0.03), init_from=FROM)


def ssae(steps: int = 40, **training: Any):
    return settings(SSAE, **{"tokens": steps * 64, "learning_rate": 1e-3, **training})


def log(out: Path) -> dict[str, list[Any]]:
    return pq.read_table(out / "log.parquet").drop_columns("seconds").to_pydict()


def test_training_further_on_a_domain_lowers_its_error(tmp_path, world):
    config = ssae(100, learning_rate=3e-3)
    for cache in ("domain", "general"):
        train_sae(config, world / cache, SITE, tmp_path / cache, init=world / "gsae")
    rows = domain_rows(planted(10)[1], 500, seed=8)
    saes = [load_sae(path) for path in (world / "gsae", tmp_path / "general", tmp_path / "domain")]
    start, general, domain = ((rows - sae(rows)).square().mean().item() for sae in saes)
    assert domain < 0.8 * general < general < start
    l0 = [(sae.encode(rows) > 0).sum(1).float().mean().item() for sae in saes]
    assert l0[2] < 1.1 * l0[0]  # and not by taking more latents


def test_steering_goes_on_from_the_coefficient_that_training_ended_with(tmp_path, world):
    """Of raw activations: each cache has a factor of its own."""
    found = read_manifest(world / "gsae", kind="sae")["stats"]
    assert load_start(world / "gsae").l1 == found["l1_coefficient"] / found["scale"]
    rows = 5 * planted(2000)[0]
    start = load_start(world / "gsae")
    trainer = trainer_of(SSAE, rows, start.sae, start.l1)
    assert trainer.weights["l1"] == pytest.approx(start.l1 * factor("rms", rows))
    fixed = SSAE.model_copy(update={"l1": L1(coefficient=0.07, match_l0=False)})
    trainer = trainer_of(fixed, rows, start.sae, start.l1)
    trainer.step(rows[:64])
    assert trainer.weights["l1"] == 0.07


def test_steering_barely_moves_where_l0_is_met(tmp_path, world):
    train_sae(ssae(10), world / "general", SITE, tmp_path, init=world / "gsae")
    first, last = log(tmp_path)["l1_coefficient"][0], log(world / "gsae")["l1_coefficient"][-1]
    assert first == pytest.approx(last, rel=0.5)
    train_sae(ssae(10), world / "general", SITE, tmp_path / "copy", init=copied(world, tmp_path))
    assert log(tmp_path / "copy")["l1_coefficient"][0] < 0.03  # of the settings, starts to steer


def copied(world: Path, tmp_path: Path) -> Path:
    """The general SAE's weights alone, as they would come from elsewhere."""
    (tmp_path / "weights").mkdir()
    for name in (CONFIG, WEIGHTS):
        (tmp_path / "weights" / name).write_bytes((world / "gsae" / name).read_bytes())
    return tmp_path / "weights"


def test_a_damaged_start_is_refused(tmp_path, world):
    folder = copied(world, tmp_path)
    (folder / "manifest.json").write_bytes((world / "gsae" / "manifest.json").read_bytes())
    with pytest.raises(ArtifactError, match=r"log\.parquet is listed"):
        train_sae(ssae(), world / "domain", SITE, tmp_path / "out", init=folder)


def test_the_start_is_part_of_what_an_sae_is(tmp_path, world, monkeypatch):
    train_sae(ssae(), world / "domain", SITE, tmp_path, init=world / "gsae")
    before, written = (tmp_path / WEIGHTS).read_bytes(), (tmp_path / "manifest.json").read_text()
    stats = read_manifest(tmp_path, kind="sae", deep=True)["stats"]
    assert set(stats["init"]) == {"sae", "l1"}
    train_sae(ssae(), world / "domain", SITE, tmp_path, init=world / "gsae")
    assert (tmp_path / "manifest.json").read_text() == written
    train_sae(ssae(), world / "domain", SITE, tmp_path, init=world / "other")
    assert (tmp_path / WEIGHTS).read_bytes() != before


def test_an_interrupted_training_ends_with_the_same_weights(tmp_path, world, monkeypatch, capsys):
    config = ssae(checkpoint_minutes=0)
    train_sae(ssae(), world / "domain", SITE, tmp_path / "whole", init=world / "gsae")
    for init in ("other", "gsae", "gsae"):
        with monkeypatch.context() as patch:
            interrupt_after(patch, 13)
            with pytest.raises(Stop):
                train_sae(config, world / "domain", SITE, tmp_path / "cut", init=world / init)
    assert "belongs to another training (other init)" in capsys.readouterr().err
    train_sae(config, world / "domain", SITE, tmp_path / "cut", init=world / "gsae")
    assert (tmp_path / "cut" / WEIGHTS).read_bytes() == (tmp_path / "whole" / WEIGHTS).read_bytes()
    assert log(tmp_path / "cut") == log(tmp_path / "whole")


def test_saes_from_several_starts_share_a_read(tmp_path, world):
    jobs = {name: Wanted(ssae(), tmp_path / name, None, world / name) for name in ("gsae", "other")}
    train_saes(list(jobs.values()), world / "domain", SITE)
    for name in jobs:
        train_sae(ssae(), world / "domain", SITE, tmp_path / f"{name} alone", init=world / name)
        alone = (tmp_path / f"{name} alone" / WEIGHTS).read_bytes()
        assert (tmp_path / name / WEIGHTS).read_bytes() == alone


def test_a_file_of_weights_and_other_layouts_start_a_training(tmp_path, world):
    sae = plain(activation=JumpReLU(torch.full((64,), 0.5)))
    save_sae(sae, tmp_path, {})
    assert load_start(tmp_path / WEIGHTS).l1 is None
    config = settings(further("batchtopk"), tokens=5 * 64)
    train_sae(config, world / "domain", SITE, tmp_path / "out", init=tmp_path / WEIGHTS)
    assert load_start(tmp_path / "out").sae.d_sae == 64
