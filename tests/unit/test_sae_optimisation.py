"""The trainer's step: its invariants, its repeatability, and what it learns."""

from __future__ import annotations

import math

import pytest
import torch
from sae_planted import VARIANTS, planted, settings
from torch import Tensor
from torch.nn.functional import normalize

from saeflow.sae.activation_functions import JumpReLU
from saeflow.sae.initial import geometric_median
from saeflow.sae.model import SAE
from saeflow.sae.optimisation import NonFiniteLoss, Trainer, error_of, learning_rate
from saeflow.sae.settings import FolderBase, Training, Variant


def trained(variant: str | Variant, rows_nd: Tensor, steps: int, **options) -> Trainer:
    batch = options.get("batch_size", 64)
    config = settings(variant, **{"tokens": steps * batch, **options})
    trainer = Trainer(config, rows_nd[:2000], rows_nd.square().mean().item())
    for i in range(steps):
        start = i * batch % (len(rows_nd) - batch)
        trainer.step(rows_nd[start : start + batch])
    if trainer.needs_calibration:
        trainer.calibrate(rows_nd[:4000].split(batch))
    return trainer


def inference_l0(sae: SAE, rows_nd: Tensor) -> float:
    return (sae.encode(rows_nd) > 0).sum(1).float().mean().item()


def weights(trainer: Trainer) -> list[Tensor]:
    return [p.detach().clone() for p in trainer.sae.parameters()]


@pytest.mark.parametrize("name", VARIANTS)
def test_two_runs_are_bit_equal_and_another_seed_differs(name):
    rows, _ = planted(4000)
    first, again, other = (trained(name, rows, 12, seed=s) for s in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(weights(first), weights(again), strict=True))
    assert not torch.equal(weights(first)[0], weights(other)[0])


@pytest.mark.parametrize("name", ["relu", "matryoshka", "ortsae"])
def test_one_and_two_threads_are_bit_equal(name):
    # Wide enough that torch splits its loops (above 32,768 entries).
    rows, _ = planted(3000, features=300, d=128, active=6)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            trainer = trained(name, rows, 3, d_sae=640, l0=8, batch_size=512, clip_norm=0.01)
            results.append(weights(trainer))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_variants_of_a_seed_start_alike():
    rows, _ = planted(1000)
    scale = rows.square().mean().item()
    starts = [Trainer(settings(n), rows, scale).sae for n in ("topk", "matryoshka", "ortsae")]
    for sae in starts[1:]:
        for a, b in zip(starts[0].parameters(), sae.parameters(), strict=True):
            assert torch.equal(a, b)
    assert torch.equal(starts[0].W_enc, starts[0].W_dec.t())
    torch.testing.assert_close(starts[0].W_dec.norm(dim=1), torch.ones(64))


def test_relu_starts_at_four_times_its_l0():
    rows, _ = planted(2000, features=300, d=128, active=6)
    trainer = Trainer(settings("relu", d_sae=512, l0=8), rows, rows.square().mean().item())
    outcome = trainer.step(rows)
    assert len(outcome.step.values_p) / len(rows) == pytest.approx(32, rel=0.1)


def test_decoder_rows_keep_unit_norm_and_get_no_parallel_gradient():
    rows, _ = planted(2000)
    trainer = trained("batchtopk", rows, 20)
    W_dec = trainer.sae.W_dec
    torch.testing.assert_close(W_dec.norm(dim=1), torch.ones(64))
    before = W_dec.detach().clone()
    trainer.step(rows[:64])
    assert W_dec.grad is not None and W_dec.grad.abs().max() > 1e-4
    assert (W_dec.grad * before).sum(1).abs().max() < 1e-7


def test_idle_tokens_and_dead_latents_are_counted():
    rows, _ = planted(2000)
    trainer = trained("batchtopk", rows, 5, dead_after_tokens=4 * 64)
    idle = trainer.idle_tokens_f.clone()
    outcome = trainer.step(rows[:64])
    fired = torch.zeros(64, dtype=torch.bool)
    fired[outcome.step.pairs.latents_p] = True
    assert torch.equal(trainer.idle_tokens_f, (idle + 64) * ~fired)
    assert torch.equal(trainer.dead_f, trainer.idle_tokens_f >= 256)


@pytest.mark.parametrize("name", ["batchtopk", "matryoshka", "ortsae"])
def test_inference_l0_is_k_even_after_a_short_training(name):
    rows, _ = planted(20_000)
    trainer = trained(name, rows, 20, l0=3, learning_rate=3e-2)
    sae = trainer.finished()
    assert isinstance(sae.activation, JumpReLU)
    assert inference_l0(sae, rows[:4000]) == pytest.approx(3, rel=0.002)
    assert inference_l0(sae, rows[-8000:]) == pytest.approx(3, rel=0.04)


def test_an_uncalibrated_batchtopk_is_not_finished():
    rows, _ = planted(1000)
    with pytest.raises(RuntimeError, match="calibrate"):
        Trainer(settings("batchtopk"), rows, 1.0).finished()


@pytest.mark.parametrize("name", VARIANTS)
def test_a_batch_that_activates_nothing_is_survived(name):
    rows, _ = planted(1000)
    trainer = trained(name, rows, 5, dead_after_tokens=64)
    with torch.no_grad():
        trainer.sae.b_enc -= 100
    for _ in range(3):  # all latents dead: AuxK, too, finds nothing
        outcome = trainer.step(rows[:64])
        assert len(outcome.step.values_p) == 0 and math.isfinite(outcome.loss)
    assert trainer.dead_f.all()
    if trainer.needs_calibration:
        trainer.calibrate([rows])
        assert trainer.threshold == 0
    assert inference_l0(trainer.finished(), rows) == 0


def in_training(trainer: Trainer, raw_bd: Tensor) -> Tensor:
    """Reconstruction by the selected pairs of the trainer's own space, brought back."""
    with torch.no_grad():
        outcome = trainer.step(raw_bd)
        return outcome.step.prefixes_bd[-1] / trainer.scales.target


@torch.no_grad()
def above_threshold(trainer: Trainer, raw_bd: Tensor) -> Tensor:
    """Reconstruction by what exceeds the threshold in the trainer's own space, brought back."""
    sae, x_bd = trainer.sae, raw_bd * trainer.scales.input
    pre_bf = (x_bd - sae.b_dec) @ sae.W_enc + sae.b_enc
    acts_bf = pre_bf.relu() * (pre_bf > trainer.threshold)
    return (acts_bf @ sae.W_dec + sae.b_dec) / trainer.scales.target


@pytest.mark.parametrize("scaling", ["none", "rms", "unit_norm"])
@pytest.mark.parametrize("name", VARIANTS)
def test_scales_and_norms_are_folded_back(name, scaling, monkeypatch):
    rows, _ = planted(4000)
    rows = 100 * rows
    trainer = trained(name, rows, 40, input_scaling=scaling)
    if scaling == "none":
        assert trainer.scales == (1, 1)
    else:
        norm = (rows * trainer.scales.input).square().sum(1).mean().item()
        assert norm == pytest.approx(32 if scaling == "rms" else 1, rel=1e-3)
    sae = trainer.finished()
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(64))
    if trainer.needs_calibration:  # its threshold selects other pairs than a batch's top k
        expected = above_threshold(trainer, rows[:200])
        torch.testing.assert_close(sae(rows[:200]), expected, rtol=1e-4, atol=1e-3)
        return
    monkeypatch.setattr(trainer, "_update", lambda outcome: None)
    monkeypatch.setattr(Tensor, "backward", lambda self: None)
    expected = in_training(trainer, rows[:200])
    torch.testing.assert_close(sae(rows[:200]), expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("name", ["topk", "jumprelu", "gated"])
def test_a_standardising_sae_does_so_at_inference(name):
    rows, _ = planted(4000)
    trainer = trained(name, rows, 40, input_scaling="standardise")
    sae, again = trainer.finished(), 5 * rows[:100] + 7
    assert sae.standardise
    torch.testing.assert_close(sae.encode(again), sae.encode(rows[:100]), atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(sae(again), 5 * sae(rows[:100]) + 7, atol=1e-2, rtol=1e-3)
    error = (rows[:100] - sae(rows[:100])).square().mean()
    assert error < rows[:100].var(1).mean()
    with pytest.raises(ValueError, match="needs x as well"):
        sae.decode(sae.encode(again))


def test_the_error_of_a_frozen_sae_is_reconstructed_from_the_activations():
    rows, _ = planted(8000)
    base = trained("topk", rows, 15).finished()
    before = [p.clone() for p in base.parameters()]
    variant = Variant(
        activation="batchtopk",
        error_of=FolderBase(source="folder", path="base"),
        decoder_bias=False,
    )
    config = settings(variant, tokens=300 * 64, learning_rate=1e-2)
    trainer = Trainer(config, rows[:2000], rows.square().mean().item(), base=base)
    for i in range(300):
        trainer.step(rows[i * 64 % 7000 :][:64])
    trainer.calibrate(rows[:4000].split(64))
    residual = trainer.finished()
    assert all(torch.equal(a, b) for a, b in zip(before, base.parameters(), strict=True))
    assert not residual.apply_b_dec_to_input and residual.b_dec.abs().max() == 0
    alone = (rows - base(rows)).square().sum()
    both = (rows - base(rows) - residual(rows)).square().sum()
    assert both < 0.5 * alone
    scaled = (error_of(base, rows) * trainer.scales.target).square().mean().item()
    assert scaled == pytest.approx(1, rel=0.1)


def test_a_frozen_sae_is_needed_where_the_target_is_its_error_and_only_there():
    rows, _ = planted(1000)
    base = trained("topk", rows, 2).finished()
    with pytest.raises(ValueError, match="needed where the variant has error_of"):
        Trainer(settings("topk"), rows, 1.0, base=base)
    variant = Variant(activation="topk", error_of=FolderBase(source="folder", path="base"))
    with pytest.raises(ValueError, match="needed where the variant has error_of"):
        Trainer(settings(variant), rows, 1.0)
    with pytest.raises(ValueError, match=r"width 32, the activations have 16"):
        Trainer(settings(variant), rows[:, :16], 1.0, base=base)


@pytest.mark.parametrize("name", ["jumprelu", "gated"])
def test_a_steered_sae_starts_at_four_times_its_l0_and_ends_near_it(name):
    rows, _ = planted(40_000)
    start = Trainer(settings(name, l0=4), rows[:2000], rows.square().mean().item())
    assert start.step(rows[:2000]).step.l0 == pytest.approx(16, rel=0.1)
    trainer = trained(name, rows, 400, batch_size=128, l0=4, learning_rate=1e-2)
    assert inference_l0(trainer.finished(), rows[-4000:]) == pytest.approx(4, rel=0.15)


def test_non_finite_input_stops_before_the_update():
    rows, _ = planted(1000)
    trainer = trained("batchtopk", rows, 3)
    before = weights(trainer)
    rows[5, 7] = float("nan")
    with pytest.raises(NonFiniteLoss, match="step 3"):
        trainer.step(rows[:64])
    assert all(torch.equal(a, b) for a, b in zip(before, weights(trainer), strict=True))


@pytest.mark.parametrize("clip_norm", [None, 1.0])
def test_a_gradient_that_is_not_finite_stops_before_the_update(clip_norm, monkeypatch):
    rows, _ = planted(1000)
    trainer = trained("topk", rows, 3, clip_norm=clip_norm)
    before = weights(trainer)
    trainer.sae.W_dec.register_hook(lambda grad: grad * float("inf"))
    with pytest.raises(NonFiniteLoss, match=r"gradient norm is .* at step 3"):
        trainer.step(rows[:64])
    assert all(torch.equal(a, b) for a, b in zip(before, weights(trainer), strict=True))


def test_a_frozen_sae_without_error_is_refused():
    rows, _ = planted(200)
    eye = torch.cat([torch.eye(32), -torch.eye(32)])
    perfect = SAE(eye.t(), eye, torch.zeros(64), torch.zeros(32), torch.nn.ReLU())
    variant = Variant(activation="topk", error_of=FolderBase(source="folder", path="base"))
    with pytest.raises(ValueError, match="no error on these activations"):
        Trainer(settings(variant), rows, 1.0, base=perfect)


def test_learning_rate_rises_holds_and_falls():
    training = Training(tokens=100, batch_size=1, learning_rate=1.0, warmup=0.1, decay=0.2)
    rates = [learning_rate(training, i, 100) for i in range(100)]
    assert rates[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert rates[10:80] == [1.0] * 70
    assert rates[80:] == pytest.approx([(100 - i) / 20 for i in range(80, 100)])


def test_geometric_median_ignores_an_outlier():
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(400, 3, generator=generator) + 1
    points[:20] += 1e4
    assert (geometric_median(points) - 1).abs().max() < 0.3
    assert (points.mean(0) - 1).abs().min() > 100


def recovery(trainer: Trainer, directions: Tensor) -> float:
    """Mean over the true directions of the largest cosine to a decoder row."""
    cosines = normalize(trainer.sae.W_dec.detach(), dim=1) @ directions.t()
    return cosines.max(0).values.mean().item()


@pytest.mark.parametrize("name", VARIANTS)
def test_a_known_dictionary_is_recovered(name):
    rows, directions = planted(40_000)
    start = Trainer(settings(name), rows[:2000], rows.square().mean().item())
    assert recovery(start, directions) < 0.5
    trainer = trained(name, rows, 400, batch_size=128, learning_rate=1e-2)
    assert recovery(trainer, directions) > 0.9


@pytest.mark.parametrize("seed", range(3))
def test_ortsae_lowers_the_decoder_cosine(seed):
    rows, _ = planted(10_000)
    means = {}
    for name in ("batchtopk", "ortsae"):
        W_dec = trained(name, rows, 150, seed=seed).sae.W_dec.detach()
        means[name] = (W_dec @ W_dec.t() - 2 * torch.eye(64)).max(1).values.mean().item()
    assert means["ortsae"] < 0.8 * means["batchtopk"]


def test_a_relu_sae_ends_near_the_grids_l0():
    rows, _ = planted(40_000)
    trainer = trained("relu", rows, 400, batch_size=128, l0=4)
    assert inference_l0(trainer.finished(), rows[-4000:]) == pytest.approx(4, rel=0.05)
