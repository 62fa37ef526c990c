"""Ablation with the error kept: equal to decoding with latents at zero, at every site in turn."""

from __future__ import annotations

import pytest
import torch
from debias_planted import D_IN, PROBE_SITE, planted_subject
from torch import Tensor, nn

from saeflow.debias.biographies import Examples
from saeflow.debias.patched import (
    batches_by_length,
    pooled_states,
    states_at,
    with_means,
    without_latents,
)
from saeflow.debias.slicing import columns, kept_latents
from saeflow.sae.activation_functions import Gated, JumpReLU, TopK
from saeflow.sae.model import SAE
from saeflow.subjects.load import Subject
from saeflow.subjects.sites import SiteError

D_SAE = 24
ABLATED = [1, 5, 6, 20]


def activation(kind: str) -> nn.Module:
    generator = torch.Generator().manual_seed(1)
    draw = lambda: torch.rand(D_SAE, generator=generator)  # noqa: E731
    return {
        "relu": nn.ReLU(),
        "jumprelu": JumpReLU(draw()),
        "gated": Gated(0.5 + draw(), draw() - 0.5),
        "topk": TopK(5),
    }[kind]


def random_sae(kind: str = "relu", *, standardise: bool = False, seed: int = 0) -> SAE:
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    return SAE(
        draw(D_IN, D_SAE), draw(D_SAE, D_IN), draw(D_SAE), draw(D_IN),
        activation(kind), standardise=standardise,
    ).requires_grad_(False)  # fmt: skip


def decoded(sae: SAE, x_nd: Tensor, latents: list[int]) -> Tensor:
    """The definition: decode with latents at zero, and add the error of the whole SAE."""
    acts_nf = sae.encode(x_nd)
    error_nd = x_nd - sae.decode(acts_nf, x_nd)
    acts_nf[:, latents] = 0
    return sae.decode(acts_nf, x_nd) + error_nd


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    """One whose attention and MLP write something."""
    return planted_subject(tmp_path_factory.mktemp("subject"), noise=0.5)


def examples(lengths: tuple[int, ...] = (5, 3, 7, 4)) -> Examples:
    generator = torch.Generator().manual_seed(0)
    tokens = [
        [0, *torch.randint(1, D_IN + 1, (n - 1,), generator=generator).tolist()] for n in lengths
    ]
    zeros = torch.zeros(len(lengths), dtype=torch.long)
    return Examples(tokens, zeros, zeros)


@pytest.mark.parametrize("kind", ["relu", "jumprelu", "gated", "topk"])
@pytest.mark.parametrize("standardise", [False, True])
def test_ablation_is_decoding_with_the_latents_at_zero(kind: str, standardise: bool) -> None:
    sae = random_sae(kind, standardise=standardise)
    x_nd = 2 * torch.randn(50, D_IN, generator=torch.Generator().manual_seed(2)) + 1
    new_nd = without_latents(sae, ABLATED)(x_nd)
    torch.testing.assert_close(new_nd, decoded(sae, x_nd, ABLATED), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(new_nd, x_nd, atol=0.1)


def test_ablating_nothing_changes_nothing() -> None:
    x_nd = torch.randn(10, D_IN)
    assert torch.equal(without_latents(random_sae(), [])(x_nd), x_nd)


def test_neurons_go_to_their_means() -> None:
    x_nd, means_d = torch.randn(10, D_IN), torch.arange(D_IN).float()
    new_nd = with_means([3, 1], means_d)(x_nd)
    assert new_nd[:, [1, 3]].tolist() == [[1.0, 3.0]] * 10
    kept = [0, 2, 4, 5, 6, 7]
    assert torch.equal(new_nd[:, kept], x_nd[:, kept])


def test_edits_act_one_after_the_other(subject: Subject) -> None:
    """Every site sees what the ablations before it left: by hand, one text at a time."""
    sites = ["gpt_neox.embed_in", "gpt_neox.layers.0.mlp", "gpt_neox.layers.0", PROBE_SITE]
    saes = {site: random_sae(seed=i) for i, site in enumerate(sites)}
    texts = examples()
    edits = {site: without_latents(sae, ABLATED) for site, sae in saes.items()}
    found_nd = pooled_states(subject, texts, PROBE_SITE, batch_tokens=12, edits=edits)
    for tokens, found_d in zip(texts.tokens, found_nd, strict=True):
        expected_d = by_hand(subject, saes, torch.tensor([tokens]))
        torch.testing.assert_close(found_d, expected_d, rtol=1e-4, atol=1e-5)
    clean_nd = pooled_states(subject, texts, PROBE_SITE, batch_tokens=12)
    assert (clean_nd - found_nd).abs().amax(1).min() > 0.1


def test_mixed_precision_is_of_the_subject_alone(subject: Subject) -> None:
    sae, seen = random_sae(), []

    def edit(x_nd: Tensor) -> Tensor:
        seen.append(torch.is_autocast_enabled("cpu"))
        return without_latents(sae, ABLATED)(x_nd)

    found = {
        precision: pooled_states(
            subject, examples(), PROBE_SITE, batch_tokens=12, precision=precision,
            edits={"gpt_neox.layers.0.mlp": edit},
        )
        for precision in ("float32", "bfloat16")
    }  # fmt: skip
    assert not any(seen)
    error_nd = found["bfloat16"] - found["float32"]
    assert 0 < error_nd.norm() < 0.02 * found["float32"].norm()


def by_hand(subject: Subject, saes: dict[str, SAE], tokens_bt: Tensor) -> Tensor:
    def edited(site: str, x_btd: Tensor) -> Tensor:
        if site not in saes:
            return x_btd
        new_td = decoded(saes[site], x_btd[0, 1:], ABLATED)
        return torch.cat([x_btd[:, :1], new_td[None]], 1)

    model = subject.model.gpt_neox
    x_btd = edited("gpt_neox.embed_in", model.embed_in(tokens_bt))
    rotary = model.rotary_emb(x_btd, torch.arange(tokens_bt.shape[1])[None])
    mask = torch.full((tokens_bt.shape[1],) * 2, float("-inf")).triu(1)[None, None]
    for i in (0, 1):
        layer = model.layers[i]
        attention = layer.attention(
            layer.input_layernorm(x_btd), attention_mask=mask, position_embeddings=rotary
        )[0]
        mlp = layer.mlp(layer.post_attention_layernorm(x_btd))
        mlp = edited(f"gpt_neox.layers.{i}.mlp", mlp)
        x_btd = edited(f"gpt_neox.layers.{i}", x_btd + attention + mlp)
    return x_btd[0, 1:].mean(0)


def test_pooling_leaves_out_padding_and_the_begin_token(subject: Subject) -> None:
    texts = examples()
    together_nd = pooled_states(subject, texts, PROBE_SITE, batch_tokens=1000)
    alone_nd = pooled_states(subject, texts, PROBE_SITE, batch_tokens=1)
    torch.testing.assert_close(together_nd, alone_nd, rtol=1e-4, atol=1e-5)
    states_btd = states_at(subject, torch.tensor([texts.tokens[0]]), PROBE_SITE)
    torch.testing.assert_close(alone_nd[0], states_btd[0, 1:].mean(0), rtol=1e-4, atol=1e-5)


def test_without_a_begin_token_the_first_position_counts(subject: Subject) -> None:
    texts = examples()
    bare = Subject(**{**vars(subject), "prepend_bos": False})
    found_nd = pooled_states(bare, texts, PROBE_SITE, batch_tokens=1)
    states_btd = states_at(subject, torch.tensor([texts.tokens[0]]), PROBE_SITE)
    torch.testing.assert_close(found_nd[0], states_btd[0].mean(0), rtol=1e-4, atol=1e-5)


def test_hooks_are_gone_after_an_error(subject: Subject) -> None:
    def fail(x_nd: Tensor) -> Tensor:
        raise RuntimeError("no")

    before_nd = pooled_states(subject, examples(), PROBE_SITE, batch_tokens=1000)
    with pytest.raises(RuntimeError, match="no"):
        pooled_states(
            subject, examples(), PROBE_SITE, batch_tokens=9, edits={"gpt_neox.embed_in": fail}
        )
    after_nd = pooled_states(subject, examples(), PROBE_SITE, batch_tokens=1000)
    assert torch.equal(before_nd, after_nd)


def test_a_site_that_is_not_there_is_refused(subject: Subject) -> None:
    with pytest.raises(SiteError, match=r"layers\.9"):
        states_at(subject, torch.zeros(1, 2, dtype=torch.long), "gpt_neox.layers.9")


def test_batches_hold_each_row_once_and_few_tokens() -> None:
    tokens = [[0] * n for n in (5, 2, 9, 2, 3, 30)]
    batches = list(batches_by_length(tokens, 10))
    assert sorted(row for batch in batches for row in batch) == list(range(6))
    sizes = [len(batch) * max(len(tokens[row]) for row in batch) for batch in batches]
    assert [size for size in sizes if size > 10] == [30]


@pytest.mark.parametrize("kind", ["relu", "jumprelu", "gated"])
def test_a_slice_keeps_its_latents_as_active_as_they_were(kind: str) -> None:
    sae, index = random_sae(kind), torch.tensor([0, 3, 11, 20])
    x_nd = torch.randn(50, D_IN)
    small = columns(sae, index)
    assert small.d_sae == 4
    torch.testing.assert_close(small.encode(x_nd), sae.encode(x_nd)[:, index])


def test_a_slice_of_topk_has_no_more_active_than_k() -> None:
    small = columns(random_sae("topk"), torch.arange(10))
    assert (small.encode(torch.randn(50, D_IN)) > 0).sum(1).max() == 5
    assert columns(random_sae("topk"), torch.arange(3)).encode(torch.randn(5, D_IN)).shape == (5, 3)


def test_slices_by_rule() -> None:
    score_f = torch.tensor([1.0, -9.0, 3.0, 3.0, 0.0, 3.0, 2.0, 0.5])
    assert kept_latents(8, 0.25, "first", None).tolist() == [0, 1]
    assert kept_latents(8, 0.25, "attribution", score_f).tolist() == [1, 2]
    assert kept_latents(8, 0.5, "frequency", score_f).tolist() == [1, 2, 3, 5]
    assert kept_latents(8, 0.01, "first", None).tolist() == [0]
    with pytest.raises(ValueError, match="frequency needs a score"):
        kept_latents(8, 0.5, "frequency", None)
