"""An SAE extended by new latents: where these start, what stays, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

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
from torch.nn.functional import normalize

from saeflow.artifacts import read_manifest
from saeflow.config import Config, ConfigError, load_config
from saeflow.preflight import check_files
from saeflow.sae.activation_functions import Gated, JumpReLU, TopK
from saeflow.sae.continued import Start
from saeflow.sae.formats import CONFIG, WEIGHTS, load_sae
from saeflow.sae.model import SAE
from saeflow.sae.optimisation import Trainer
from saeflow.sae.parts import EXTENDED, Part, read_parts
from saeflow.sae.settings import Extension, FolderBase, SAESettings, Variant
from saeflow.sae.settings import JumpReLU as JumpReLUSettings
from saeflow.sae.trainer import Wanted, train_sae, train_saes

OLD, NEW = 64, 16
FROM = FolderBase(source="folder", path="base")
ACTIVATIONS = ("relu", "topk", "batchtopk", "jumprelu", "gated")


def extended(
    variant: str | Variant, initialise: str = "active", frozen: bool = True, **changes: Any
) -> Variant:
    """Return a variant that adds NEW latents to another SAE."""
    variant = VARIANTS[variant] if isinstance(variant, str) else variant
    extend = Extension(latents=NEW, initialise=initialise, frozen=frozen)
    return Variant.model_validate(
        {**variant.model_dump(), "init_from": FROM, "extend": extend, **changes}
    )


def wide(variant: Variant, **more: Any) -> SAESettings:
    """Return settings of the extended SAE, with room in its L0 for new latents."""
    return settings(variant, **{"d_sae": OLD + NEW, "l0": 12, **more})


def trainer_of(config: SAESettings, rows: Tensor, start: SAE | None = None) -> Trainer:
    begun = None if start is None else Start(start, None)
    return Trainer(config, rows, rows.square().mean().item(), start=begun)


def trained(name: str, rows: Tensor, steps: int = 20, **more: Any) -> SAE:
    trainer = trainer_of(settings(VARIANTS[name], **more), rows)
    return finished_after(trainer, rows, steps)


def finished_after(trainer: Trainer, rows: Tensor, steps: int) -> SAE:
    for i in range(steps):
        trainer.step(rows[64 * i :][:64])
    if trainer.needs_calibration:
        trainer.calibrate([rows[:64]])
    return trainer.finished()


def vectors(sae: SAE, latents: slice) -> dict[str, Tensor]:
    """Return what belongs to some latents of a finished SAE."""
    own = {"W_enc": sae.W_enc[:, latents], "W_dec": sae.W_dec[latents], "b_enc": sae.b_enc[latents]}
    return own | {name: entries[latents] for name, entries in sae.activation.named_buffers()}


def silenced(trainer: Trainer) -> None:
    """Keep the new latents from firing."""
    for name, parameter in trainer.sae.named_parameters():
        if name in ("b_enc", "activation.b_mag"):
            parameter.data[OLD:] = -1e6


@pytest.mark.parametrize("initialise", ["active", "random"])
@pytest.mark.parametrize("scaling", ["none", "rms", "standardise"])
@pytest.mark.parametrize("name", [*ACTIVATIONS, "relu_free", "matryoshka"])
def test_with_silent_new_latents_the_first_step_finds_the_function_of_the_sae(
    name, scaling, initialise
):
    rows = 3 * planted(2000)[0] + 1
    source = trained(name, rows, input_scaling=scaling)
    l0 = 3 if "topk" in name or name == "matryoshka" else 30
    config = wide(extended(name, initialise, frozen=False), l0=l0, input_scaling=scaling)
    trainer = trainer_of(config, rows, source)
    assert trainer.sae.d_sae == OLD + NEW
    silenced(trainer)
    finished = finished_after(trainer, rows, 0)
    with torch.no_grad():
        torch.testing.assert_close(finished(rows[:64]), source(rows[:64]), rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_copies_are_of_the_most_active_latents_turned_by_noise(name):
    rows, _ = planted(2000)
    source = trained(name, rows, 30)
    near = Extension(latents=NEW, noise=0.1)
    trainer = trainer_of(wide(extended(name, extend=near), l0=60), rows, source)
    mean_f = source.encode(rows).mean(0)
    chosen = mean_f.argsort(descending=True)[:NEW]
    assert mean_f[chosen].min() >= mean_f.sort().values[-NEW]
    sae = trainer.sae
    for W_fd in (sae.W_dec, sae.W_enc.t()):
        cosine = torch.cosine_similarity(W_fd[OLD:], W_fd[chosen])
        assert (cosine > 0.98).all() and (cosine < 0.9999).all()
        torch.testing.assert_close(W_fd[OLD:].norm(dim=1), W_fd[chosen].norm(dim=1))
    for parameter, at in ((p, p[chosen]) for p in sae.parameters() if p.shape == (OLD + NEW,)):
        assert torch.equal(parameter[OLD:], at)


def test_noise_is_a_share_of_a_row():
    rows, _ = planted(2000)
    source = trained("relu", rows)
    top = source.encode(rows).mean(0).argmax()
    for noise in (0.1, 0.5, 1.0):
        extend = Extension(latents=NEW, noise=noise, frozen=False)
        W_dec = trainer_of(wide(extended("relu", extend=extend)), rows, source).sae.W_dec
        copy, row = W_dec[OLD], W_dec[top]
        turned = (copy - (copy @ row) * row).norm() / (copy @ row)  # the tangent of the angle
        assert turned.item() == pytest.approx(noise, rel=0.3)


def test_equally_active_latents_are_copied_in_their_order():
    rows = planted(200)[0].abs()
    W_dec = torch.ones(OLD, 32) / 32**0.5
    source = SAE(W_dec.t().clone(), W_dec, torch.zeros(OLD), torch.zeros(32), nn.ReLU())
    source.b_enc.data[[5, 40]] += 1
    source.W_enc.data[0] += torch.arange(OLD) * 1e-9  # tells copies apart, and no activation
    source.b_enc.data[7] = -1e6
    trainer = trainer_of(wide(extended("relu", frozen=False), input_scaling="none"), rows, source)
    order = [5, 40, 0, 1, 2, 3, 4, 6, *range(8, 16)]
    assert torch.equal(trainer.sae.b_enc[OLD:], trainer.sae.b_enc[order])


def test_a_decoder_row_counts_with_its_norm():
    rows, _ = planted(2000)
    source = trained("relu", rows)
    weak = source.encode(rows).mean(0).argsort()[OLD // 2]
    source.W_dec.data[weak] *= 1e6
    variant = extended("relu_free", extend=Extension(latents=NEW, noise=0.1, frozen=False))
    sae = trainer_of(wide(variant, l0=30), rows, source).sae
    assert torch.cosine_similarity(sae.W_dec[OLD], sae.W_dec[weak], dim=0) > 0.98


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_random_latents_start_as_those_of_a_new_sae(name):
    rows, _ = planted(2000)
    source = trained(name, rows)
    config = wide(extended(name, "random", frozen=False), l0=5)
    sae, fresh = trainer_of(config, rows, source).sae, trainer_of(wide(VARIANTS[name]), rows).sae
    torch.testing.assert_close(sae.W_dec[OLD:].norm(dim=1), torch.ones(NEW))
    assert torch.equal(sae.W_dec[OLD:], sae.W_enc.t()[OLD:])
    assert (normalize(sae.W_dec[OLD:]) @ fresh.W_dec.t()).abs().max() < 0.9  # of seeds of its own
    factor = rows.square().mean() ** -0.5
    input_nd = sae.encoder_input(rows * factor)
    pre_nf = (input_nd @ sae.W_enc + sae.b_enc)[:2048, OLD:]
    if "topk" in name:
        assert not sae.b_enc[OLD:].any()
        return
    threshold_f = getattr(sae.activation, "threshold", torch.zeros(OLD + NEW))[OLD:]
    rate_f = (pre_nf > threshold_f).float().mean(0)
    torch.testing.assert_close(rate_f, torch.full((NEW,), 4 * 5 / (OLD + NEW)), atol=2e-3, rtol=0)
    if name == "gated":
        assert torch.equal(sae.activation.b_mag[OLD:], sae.b_enc[OLD:])
        assert not sae.activation.r_mag[OLD:].any()


def test_the_threshold_of_random_latents_is_the_one_that_is_set():
    rows, _ = planted(2000)
    variant = extended("jumprelu", "random", jumprelu=JumpReLUSettings(threshold=0.3))
    config = wide(variant, input_scaling="none", l0=60)
    trainer = trainer_of(config, rows, trained("jumprelu", rows, input_scaling="none"))
    expected = torch.tensor(0.3) * rows.square().mean().sqrt()
    torch.testing.assert_close(trainer.sae.activation.threshold[OLD:], expected.expand(NEW))


# What is frozen


@pytest.mark.parametrize("initialise", ["active", "random"])
@pytest.mark.parametrize("name", [*ACTIVATIONS, "relu_free", "ortsae", "tilted"])
def test_frozen_weights_keep_their_bits_and_new_ones_learn(name, initialise):
    rows = 3 * planted(2000)[0] + 1
    source = trained(name, rows)
    trainer = trainer_of(wide(extended(name, initialise), l0=60), rows, source)
    before = {n: p.detach().clone() for n, p in trainer.sae.named_parameters()}
    finished = finished_after(trainer, rows, 20)
    for parameter, entries in trainer.sae.named_parameters():
        was = before[parameter]
        if parameter == "b_dec":
            assert torch.equal(entries, was)
            continue
        entries, was = ((p if parameter == "W_dec" else p.t()) for p in (entries, was))
        assert torch.equal(entries[:OLD], was[:OLD])
        assert not torch.equal(entries[OLD:], was[OLD:])
    old, kept = vectors(finished, slice(OLD)), vectors(source, slice(OLD))
    for key in old.keys() - ({"threshold"} if source_threshold_is_shared(name) else set()):
        assert torch.equal(old[key], kept[key]), key
    assert torch.equal(finished.b_dec, source.b_dec)


def source_threshold_is_shared(name: str) -> bool:
    return VARIANTS[name].activation == "batchtopk"


def test_all_weights_learn_where_none_is_frozen():
    rows, _ = planted(2000)
    trainer = trainer_of(wide(extended("relu", frozen=False)), rows, trained("relu", rows))
    before = {n: p.detach().clone() for n, p in trainer.sae.named_parameters()}
    finished_after(trainer, rows, 5)
    for name, parameter in trainer.sae.named_parameters():
        changed = parameter != before[name]
        assert changed.float().mean() > 0.9, name


@pytest.mark.parametrize("name", ["relu", "batchtopk", "jumprelu", "gated"])
def test_gradients_of_new_latents_are_those_of_training_all(name, monkeypatch):
    """Of one step, before they are clipped: the norm is then of what trains alone."""
    rows, _ = planted(2000)
    source = trained(name, rows)
    found = {}
    monkeypatch.setattr(Trainer, "_update", lambda self, outcome: None)
    for frozen in (True, False):
        trainer = trainer_of(wide(extended(name, frozen=frozen), l0=60), rows, source)
        trainer.step(rows[:64])
        found[frozen] = {n: p.grad for n, p in trainer.parameters.items()}
    assert found[False].keys() - found[True].keys() == {"b_dec"}
    for key, gradient in found[True].items():
        whole = found[False][key]
        assert gradient.any(), key
        assert torch.equal(gradient, whole[OLD:] if key == "W_dec" else whole[..., OLD:]), key


def test_gradients_are_clipped_by_the_norm_of_what_trains():
    rows, _ = planted(2000)
    config = wide(extended("batchtopk"), clip_norm=1e-3)
    trainer = trainer_of(config, rows, trained("batchtopk", rows))
    trainer.step(rows[:64])
    squares = [p.grad.square().sum() for p in trainer.parameters.values()]
    assert torch.stack(squares).sum().sqrt().item() == pytest.approx(1e-3, rel=1e-4)


def test_frozen_dead_latents_take_no_place_among_those_to_be_revived():
    rows, _ = planted(2000)
    source = trained("batchtopk", rows)
    trainer = trainer_of(wide(extended("batchtopk"), dead_after_tokens=64), rows, source)
    with torch.no_grad():
        trainer.sae.b_enc -= 100
    trainer.step(rows[:64])
    assert trainer.dead_f.all()
    assert trainer.step(rows[:64]).step.dead_f.tolist() == [False] * OLD + [True] * NEW


def test_what_is_not_at_unit_norm_is_frozen_in_the_form_that_trains():
    rows, _ = planted(2000)
    source = trained("relu", rows)
    doubled = SAE(
        source.W_enc.detach() / 2,
        source.W_dec.detach() * 2,
        source.b_enc.detach() / 2,
        source.b_dec.detach(),
        nn.ReLU(),
    )
    finished = finished_after(trainer_of(wide(extended("relu"), l0=60), rows, doubled), rows, 3)
    old, kept = vectors(finished, slice(OLD)), vectors(source, slice(OLD))
    for key in old:
        torch.testing.assert_close(old[key], kept[key], rtol=1e-4, atol=1e-5)


def test_new_latents_join_the_last_of_nested_groups():
    rows, _ = planted(2000)
    variant = extended("matryoshka", frozen=False)
    trainer = trainer_of(wide(variant), rows, trained("matryoshka", rows))
    base = trainer_of(settings("matryoshka"), rows)
    assert torch.equal(trainer.group_f[:OLD], base.group_f)
    assert (trainer.group_f[OLD:] == base.group_f[-1]).all()


# What is refused


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"init_from": None}, "extend adds latents to the SAE of init_from, and there is none"),
        ({"matryoshka": {}}, "matryoshka does nothing with extend.frozen"),
        ({"extend": {"latents": 0}}, "greater than 0"),
        ({"extend": {"initialise": "best"}}, "'active' or 'random'"),
        ({"extend": {"initialise": "random", "noise": 0.1}}, "noise needs initialise: active"),
        (
            {"activation": "jumprelu", "l0": {}, "jumprelu": {"threshold": 1}},
            "thresholds are taken over",
        ),
    ],
)
def test_an_extension_that_means_nothing_is_refused(changes, reason):
    whole = {"activation": "topk", "init_from": {"source": "folder", "path": "x"}, "extend": {}}
    with pytest.raises(ValidationError, match=reason):
        Variant.model_validate({**whole, **changes})


@pytest.mark.parametrize(
    ("initialise", "d_sae", "reason"),
    [
        ("random", NEW, r"d_sae 16 leaves nothing .* set it to the width .* plus 16"),
        ("active", NEW + 3, r"extend.latents 16 exceeds the 3 latents"),
    ],
)
def test_a_width_without_room_is_refused(initialise, d_sae, reason):
    with pytest.raises(ValidationError, match=reason):
        wide(extended("topk", initialise), d_sae=d_sae, l0=1)
    assert wide(extended("topk", "random"), d_sae=NEW + 3, l0=1).start_width == 3


def of_activation(activation: nn.Module, **more: Any) -> SAE:
    draw = torch.Generator().manual_seed(0)
    W_dec = normalize(torch.randn(OLD, 32, generator=draw), dim=1)
    return SAE(W_dec.t().clone(), W_dec, torch.zeros(OLD), torch.zeros(32), activation, **more)


@pytest.mark.parametrize(
    ("name", "source", "more", "reason"),
    [
        ("topk", of_activation(TopK(3)), {"d_sae": 100}, "64 latents.*adds 16: set d_sae to 80"),
        ("relu", of_activation(TopK(3)), {}, "relu goes on from ReLU alone"),
        (
            "batchtopk",
            of_activation(JumpReLU(torch.ones(OLD)), apply_b_dec_to_input=False),
            {},
            "subtracts no b_dec from its input.*set apply_b_dec_to_input: false",
        ),
        (
            "jumprelu",
            of_activation(JumpReLU(torch.ones(OLD))),
            {},
            "subtracts b_dec from its input.*set apply_b_dec_to_input: true",
        ),
        ("relu", of_activation(nn.ReLU()), {"l0": 5}, r"has an L0 of .* leaves nothing of l0 5"),
    ],
)  # fmt: skip
def test_an_sae_that_cannot_be_extended_is_refused(name, source, more, reason):
    rows, _ = planted(200)
    with pytest.raises(ValueError, match=f"the SAE of init_from .*{reason}"):
        trainer_of(wide(extended(name), **more), rows, source)


def test_a_penalty_that_steers_nothing_leaves_l0_open():
    rows, _ = planted(200)
    variant = extended("relu", l1={"match_l0": False})
    trainer_of(wide(variant, l0=5), rows, of_activation(nn.ReLU())).step(rows[:64])


# The configuration

CONFIG_FOLDER = Path(__file__).resolve().parents[2] / "config"


def config_of(variant: dict[str, Any], **more: Any) -> Config:
    """Return a configuration whose grid trains a variant `extended` at 256 latents."""
    names = ["relu", "batchtopk", "matryoshka", "ortsae", "extended"]
    return load_config(
        {
            "scale": "smoke",
            "papers": ["ortsae"],
            "variants": {"extended": {"activation": "batchtopk", **variant}},
            "ortsae": {"grids": {"main": {"variants": names}}},
            **more,
        },
        CONFIG_FOLDER,
    )


def test_a_long_extension_is_well_formed():
    general = {"source": "trained", "variant": "batchtopk", "corpus": "docs"}
    extension = {"init_from": general, "extend": {"latents": 50_000}}
    with pytest.raises(ConfigError, match=r"d_sae: extended: .*d_sae 256 leaves nothing"):
        config_of(extension)
    config = config_of({**extension, "extend": {"latents": 16}})
    assert config.sae("extended", 256, 4, 0).start_width == 240


def test_the_width_on_disk_is_asked_for_before_the_first_job(tmp_path):
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / CONFIG).write_text(json.dumps({"d_sae": 100}))
    extension = {"init_from": {"source": "folder", "path": "base"}, "extend": {"latents": 16}}
    config = config_of(extension, data_dir=str(tmp_path))
    said = "main.d_sae: extended starts from base of 100 latents and adds 16: set 116, it is 256"
    with pytest.raises(ConfigError, match=said) as error:
        check_files(config, CONFIG_FOLDER.parent)
    assert str(error.value).count("extended starts") == 1
    for told in ({"d_sae": 240}, {}, []):
        (tmp_path / "base" / CONFIG).write_text(json.dumps(told))
        check_files(config, CONFIG_FOLDER.parent)


def test_gradients_of_frozen_weights_rank_no_documents():
    start = {"source": "trained", "variant": "gsae", "corpus": "docs"}
    variant = {"activation": "relu", "l1": {}, "init_from": start, "extend": {"latents": 16}}
    by_gradient = {"physics_bm25_tracin": {"tracin": {"sae": {"variant": "extended"}}}}
    tree = {"scale": "smoke", "papers": ["ssae"], "corpora": by_gradient}
    with pytest.raises(ConfigError, match=r"physics_bm25_tracin.*some are frozen"):
        load_config({**tree, "variants": {"extended": variant}}, CONFIG_FOLDER)


# The job


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """A general cache, one of a domain of other features, and an SAE of each activation."""
    root = tmp_path_factory.mktemp("world")
    rows, _ = planted(2000)
    planted_cache(root / "general", rows)
    planted_cache(root / "domain", planted(1000, seed=5)[0])
    for name in ACTIVATIONS:
        train_sae(settings(name, tokens=60 * 64), root / "general", SITE, root / name)
    return root


def job(name: str, steps: int = 20, frozen: bool = True, **training: Any) -> SAESettings:
    return wide(extended(name, frozen=frozen), l0=30, tokens=steps * 64, **training)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_the_checkpoint_keeps_what_is_frozen_and_tells_what_is_new(tmp_path, world, name):
    train_sae(job(name), world / "domain", SITE, tmp_path, init=world / name)
    base, found = load_sae(world / name), load_sae(tmp_path)
    for key in ("W_enc", "W_dec", "b_enc"):
        assert torch.equal(vectors(found, slice(OLD))[key], vectors(base, slice(OLD))[key])
    assert torch.equal(found.b_dec, base.b_dec)
    if isinstance(found.activation, Gated):
        torch.testing.assert_close(found.activation.scale[:OLD], base.activation.scale)
    manifest = read_manifest(tmp_path, kind="sae", deep=True)
    parts = manifest["stats"][EXTENDED]
    assert parts == [
        {"role": "base", "sha256": manifest["stats"]["init"]["sae"], "start": 0, "stop": OLD},
        {"role": "added", "start": OLD, "stop": OLD + NEW},
    ]
    assert json.loads((tmp_path / CONFIG).read_text())["metadata"][EXTENDED] == parts
    assert read_parts(manifest["stats"], OLD + NEW)[1] == Part("added", OLD, OLD + NEW)
    assert EXTENDED not in read_manifest(world / name, kind="sae")["stats"]


def test_new_latents_lower_the_error_on_a_domain(tmp_path, world):
    train_sae(job("batchtopk", 200), world / "domain", SITE, tmp_path, init=world / "batchtopk")
    rows = planted(3000, seed=5)[0][2000:]
    base, found = load_sae(world / "batchtopk"), load_sae(tmp_path)
    left = [(rows - sae(rows)).square().mean().item() for sae in (base, found)]
    assert left[1] < 0.8 * left[0]
    assert (found.encode(rows)[:, OLD:] > 0).any(0).float().mean() > 0.5


@pytest.mark.parametrize(
    ("name", "frozen"), [("gated", True), ("batchtopk", True), ("relu", False)]
)
def test_an_interrupted_training_ends_with_the_same_bytes(
    tmp_path, world, monkeypatch, name, frozen
):
    whole = job(name, frozen=frozen)
    train_sae(whole, world / "domain", SITE, tmp_path / "whole", init=world / name)
    config = job(name, frozen=frozen, checkpoint_minutes=0)
    for _ in range(2):
        with monkeypatch.context() as patch:
            interrupt_after(patch, 7)
            with pytest.raises(Stop):
                train_sae(config, world / "domain", SITE, tmp_path / "cut", init=world / name)
    train_sae(config, world / "domain", SITE, tmp_path / "cut", init=world / name)
    assert (tmp_path / "cut" / WEIGHTS).read_bytes() == (tmp_path / "whole" / WEIGHTS).read_bytes()
    train_sae(whole, world / "domain", SITE, tmp_path / "whole", init=world / name)  # finished


def test_extended_saes_share_a_read_with_others(tmp_path, world):
    chosen = {
        "frozen": ("batchtopk", job("batchtopk")),
        "all": ("batchtopk", job("batchtopk", frozen=False)),
        "relu": ("relu", job("relu")),
    }
    wanted = [Wanted(of, tmp_path / key, None, world / n) for key, (n, of) in chosen.items()]
    train_saes(wanted, world / "domain", SITE)
    for key, (name, of) in chosen.items():
        train_sae(of, world / "domain", SITE, tmp_path / "alone" / key, init=world / name)
        for file in (WEIGHTS, CONFIG):
            alone = (tmp_path / "alone" / key / file).read_bytes()
            assert (tmp_path / key / file).read_bytes() == alone
