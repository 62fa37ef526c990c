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
from saeflow.sae.optimisation import NonFiniteLoss, Trainer, clip_gradients, learning_rate
from saeflow.sae.settings import Training, Variant


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


@pytest.mark.parametrize("name", ["relu", "topk", "batchtopk"])
def test_the_input_scale_is_folded_back(name):
    rows, _ = planted(4000)
    rows = 100 * rows
    trainer = trained(name, rows, 40)
    sae, inner = trainer.finished(), trainer.sae
    x_bd = rows[:200]
    inner.activation = trainer._inference_activation()
    if isinstance(inner.activation, JumpReLU):
        inner.activation.threshold = inner.activation.threshold * trainer.scale
    expected = inner(x_bd * trainer.scale) / trainer.scale
    torch.testing.assert_close(sae(x_bd), expected, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(64))


def test_non_finite_input_stops_before_the_update():
    rows, _ = planted(1000)
    trainer = trained("batchtopk", rows, 3)
    before = weights(trainer)
    rows[5, 7] = float("nan")
    with pytest.raises(NonFiniteLoss, match="step 3"):
        trainer.step(rows[:64])
    assert all(torch.equal(a, b) for a, b in zip(before, weights(trainer), strict=True))


def test_learning_rate_rises_holds_and_falls():
    training = Training(tokens=100, batch_size=1, learning_rate=1.0, warmup=0.1, decay=0.2)
    rates = [learning_rate(training, i, 100) for i in range(100)]
    assert rates[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert rates[10:80] == [1.0] * 70
    assert rates[80:] == pytest.approx([(100 - i) / 20 for i in range(80, 100)])


def test_gradients_are_clipped_jointly():
    rows, _ = planted(1000)
    sae = trained("topk", rows, 1).sae
    before = [p.grad.clone() for p in sae.parameters() if p.grad is not None]
    norm = torch.cat([g.flatten() for g in before]).norm()
    clip_gradients(sae, 10 * norm.item())
    assert all(torch.equal(p.grad, g) for p, g in zip(sae.parameters(), before, strict=True))
    clip_gradients(sae, norm.item() / 10)
    for p, g in zip(sae.parameters(), before, strict=True):
        torch.testing.assert_close(p.grad, g / 10)


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


@pytest.mark.parametrize("name", ["relu", "topk", "batchtopk"])
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
