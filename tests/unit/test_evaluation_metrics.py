"""Each metric against its closed form."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from saeflow.evaluation import decoder, downstream, reconstruction
from saeflow.evaluation.decoder import max_decoder_cosine, random_decoder
from saeflow.evaluation.downstream import ZERO, Downstream
from saeflow.evaluation.moments import Moments
from saeflow.evaluation.reconstruction import Reconstruction
from saeflow.sae.model import SAE
from saeflow.subjects import head


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def moments(x: Tensor, batches: int = 1) -> Moments:
    result = Moments(x.shape[1])
    for part in x.chunk(batches):
        result.update(part)
    return result


def scaled_identity(d: int, scale: float, bias: float = 0.0) -> SAE:
    """An SAE with x_hat = scale * x + bias: a latent for either sign of each dimension."""
    both = torch.cat([torch.eye(d), -torch.eye(d)])
    zeros = torch.zeros(2 * d)
    return SAE(
        both.T.clone(), scale * both, zeros, torch.full((d,), bias), nn.ReLU(),
        apply_b_dec_to_input=False,
    )  # fmt: skip


def metrics_of(sae: SAE, x: Tensor) -> dict[str, float]:
    measured = Reconstruction(sae)
    measured.update(x)
    return measured.metrics(moments(x))


def test_moments_of_a_planted_gaussian() -> None:
    scale = torch.tensor([1.0, 2.0, 3.0])
    measured = moments(draw(100_000, 3) * scale + 5, batches=7)
    assert measured.variance() == pytest.approx(1 + 4 + 9, rel=0.02)
    assert measured.mean_square() == pytest.approx(14 + 3 * 25, rel=0.02)


def test_moments_are_exact_where_the_mean_dwarfs_the_spread() -> None:
    x = torch.tensor([[1e6 - 1.0], [1e6 + 1.0]]).repeat(500, 1)
    assert moments(x, batches=13).variance() == pytest.approx(1.0, abs=1e-9)


def test_moments_do_not_depend_on_the_batches() -> None:
    x = draw(1001, 5) + 3
    whole, parts = moments(x), moments(x, batches=10)
    parts.update(x[:0])
    assert parts.n == whole.n == 1001
    assert parts.variance() == pytest.approx(whole.variance(), rel=1e-12)
    torch.testing.assert_close(parts.mean_d, whole.mean_d)


def test_a_perfect_sae() -> None:
    found = metrics_of(scaled_identity(4, 1.0), draw(500, 4))
    assert found["explained_variance"] == pytest.approx(1, abs=1e-12)
    assert found["fvu"] == pytest.approx(0, abs=1e-12)
    assert found["l0"] == 4
    assert found["dead_latents"] == 0


def test_an_sae_that_says_the_mean() -> None:
    x = draw(500, 4) + 2
    sae = SAE(torch.zeros(4, 6), torch.zeros(6, 4), torch.zeros(6), x.mean(0), nn.ReLU())
    found = metrics_of(sae, x)
    assert found["explained_variance"] == pytest.approx(0, abs=1e-7)
    assert found["fvu"] == pytest.approx(1, rel=1e-6)
    assert (found["l0"], found["dead_latents"]) == (0, 1)


def test_a_shrinking_sae_leaves_the_square_of_what_it_takes_away() -> None:
    found = metrics_of(scaled_identity(4, 0.7), draw(500, 4) - draw(500, 4).mean(0))
    assert found["explained_variance"] == pytest.approx(1 - 0.3**2, rel=1e-5)
    assert found["fvu"] == pytest.approx(0.3**2, rel=1e-5)


def test_a_constant_error_counts_in_fvu_and_not_in_explained_variance() -> None:
    x = draw(500, 4)
    found = metrics_of(scaled_identity(4, 1.0, bias=0.5), x)
    assert found["explained_variance"] == pytest.approx(1, abs=1e-10)
    assert found["fvu"] == pytest.approx(4 * 0.25 / moments(x).variance(), rel=1e-5)


def test_latents_are_counted_in_chunks_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.tensor([[1.0, 0.0], [2.0, 0.0], [3.0, -1.0]])
    whole = Reconstruction(scaled_identity(2, 1.0))
    whole.update(x)
    monkeypatch.setattr(reconstruction, "_CHUNK_ENTRIES", 4)
    parts = Reconstruction(scaled_identity(2, 1.0))
    torch.testing.assert_close(parts.update(x), x)
    for measured in (whole, parts):
        assert measured.fired_f.tolist() == [3, 0, 0, 1]
        assert measured.activation_f.tolist() == [6, 0, 0, 1]
        assert measured.metrics(moments(x))["l0"] == pytest.approx(4 / 3)
        assert measured.metrics(moments(x))["dead_latents"] == 0.5


def brute_force(w: Tensor) -> Tensor:
    cosines = torch.nn.functional.cosine_similarity(w[:, None], w[None], dim=-1)
    return (cosines - 3 * torch.eye(len(w))).amax(1)


@pytest.mark.parametrize("entries", [1, 100, 2**20])
def test_decoder_cosine_against_brute_force(monkeypatch, entries: int) -> None:
    monkeypatch.setattr(decoder, "CHUNK_ENTRIES", entries)
    w = draw(37, 5) * draw(37, 1, seed=1).exp()
    torch.testing.assert_close(max_decoder_cosine(w), brute_force(w))


def test_decoder_cosine_is_signed_and_blind_to_length() -> None:
    opposite = torch.tensor([[1.0, 0.0], [-2.0, 0.0]])
    assert max_decoder_cosine(opposite).tolist() == [-1, -1]
    assert max_decoder_cosine(torch.eye(4)).tolist() == [0] * 4
    pair = torch.tensor([[1.0, 0.0], [5.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    assert max_decoder_cosine(pair).tolist() == [1, 1, 0, 0]


def test_one_latent_has_no_neighbour() -> None:
    with pytest.raises(ValueError, match="1 latent"):
        max_decoder_cosine(torch.ones(1, 3))


def test_the_random_reference_is_seeded_and_falls_with_the_width() -> None:
    means = [max_decoder_cosine(random_decoder(500, d, seed=1)).mean() for d in (8, 64, 512)]
    assert means[0] > means[1] > means[2] > 0
    assert torch.equal(random_decoder(5, 3, seed=1), random_decoder(5, 3, seed=1))
    assert not torch.equal(random_decoder(5, 3, seed=1), random_decoder(5, 3, seed=2))


@pytest.fixture
def headless(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A subject of 4 tokens whose final states are its logits."""
    monkeypatch.setattr(downstream, "logits", lambda subject, states_btd: states_btd)
    text = SimpleNamespace(vocab_size=4)
    return SimpleNamespace(name="headless", config=SimpleNamespace(get_text_config=lambda: text))


def test_cross_entropy_and_divergence_of_known_logits(headless: SimpleNamespace) -> None:
    p = torch.tensor([[0.5, 0.25, 0.125, 0.125]])
    q = torch.tensor([[0.25, 0.25, 0.25, 0.25]])
    measured = Downstream(headless, [ZERO, 7])
    # Logits are log-probabilities up to a constant, which must not matter.
    measured.update(p.log() + 3, {ZERO: q.log(), 7: p.log() - 5}, torch.tensor([1]))
    assert "ce_loss_score" not in measured.metrics(7)  # token 1 is as likely under p as under q
    measured.update(p.log() + 3, {ZERO: q.log(), 7: p.log() - 5}, torch.tensor([0]))
    found = measured.metrics(7)
    log2 = torch.tensor(2.0).log().item()
    assert found["ce_clean"] == pytest.approx((2 * log2 + log2) / 2, rel=1e-6)
    assert found["ce_zero"] == pytest.approx(2 * log2, rel=1e-6)
    assert found["perplexity_clean"] == pytest.approx(2**1.5, rel=1e-6)
    assert found["perplexity_sae"] == pytest.approx(2**1.5, rel=1e-6)
    assert found["kl_zero"] == pytest.approx(0.25 * log2, rel=1e-5)
    assert found["kl_sae"] == pytest.approx(0, abs=1e-6)
    assert found["ce_loss_score"] == pytest.approx(1, abs=1e-6)
    assert found["kl_score"] == pytest.approx(1, abs=1e-5)


def test_divergence_is_of_the_clean_from_the_new(headless: SimpleNamespace) -> None:
    p, q = draw(50, 4).softmax(-1), draw(50, 4, seed=1).softmax(-1)
    targets = p.argmax(-1)
    measured = Downstream(headless, [ZERO, 0])
    measured.update(p.log(), {ZERO: torch.zeros(50, 4), 0: q.log()}, targets)
    expected = (p * (p / q).log()).sum(-1).mean().item()
    assert measured.metrics(0)["kl_sae"] == pytest.approx(expected, rel=1e-5)
    zero, new = measured.metrics(0)["kl_zero"], measured.metrics(0)["kl_sae"]
    assert measured.metrics(0)["kl_score"] == pytest.approx((zero - new) / zero)
    assert measured.metrics(0)["ce_sae"] == pytest.approx(
        torch.nn.functional.nll_loss(q.log(), targets).item(), rel=1e-6
    )


def test_predictions_pass_in_blocks(headless: SimpleNamespace, monkeypatch) -> None:
    clean, zero, targets = 3 * draw(50, 4), draw(50, 4, seed=1), (3 * draw(50, 4)).argmax(-1)
    whole = Downstream(headless, [ZERO])
    whole.update(clean, {ZERO: zero}, targets)
    monkeypatch.setattr(head, "LOGIT_BYTES", 4 * 4 * 7)
    parts = Downstream(headless, [ZERO])
    parts.update(clean, {ZERO: zero}, targets)
    for name, value in whole.metrics(ZERO).items():
        assert parts.metrics(ZERO)[name] == pytest.approx(value, rel=1e-6), name


def test_only_the_undefined_scores_are_left_out(
    headless: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    clean, uniform = torch.tensor([[1.0, 0.0, 0.0, 0.0]]), torch.zeros(1, 4)
    others = {"ce_clean", "ce_zero", "ce_sae", "kl_zero", "kl_sae"}
    others |= {"perplexity_clean", "perplexity_sae"}
    for zero, target, scores in (
        (uniform, 0, {"ce_loss_score", "kl_score"}),
        (uniform, 1, {"kl_score"}),  # ablation makes this token likelier
        (clean, 0, set()),  # ablation changes nothing
    ):
        measured = Downstream(headless, [ZERO, 0])
        measured.update(clean, {ZERO: zero, 0: uniform}, torch.tensor([target]))
        found = measured.metrics(0)
        assert found.keys() == others | scores
        assert all(map(math.isfinite, found.values()))
        said = capsys.readouterr().err
        for score in ("ce_loss_score", "kl_score"):
            assert (f"{score} is undefined" in said) == (score not in scores)
