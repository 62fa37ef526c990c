"""Attribution: exact on what is linear, equal to the naive form, and only on what it should be."""

from __future__ import annotations

from dataclasses import replace

import pytest
import subjects_tiny
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from saeflow.debias import passes
from saeflow.debias.attribution import attribute, neurons, split
from saeflow.debias.patched import pool, states_at
from saeflow.sae.activation_functions import JumpReLU, TopK
from saeflow.sae.model import SAE
from saeflow.subjects.load import Subject
from saeflow.subjects.sites import SiteError
from saeflow.subjects.splice import spliced

FAMILIES = ("gpt_neox", "gpt2", "llama", "gemma2")
INNER = {
    "gpt_neox": ("gpt_neox.embed_in", "attention", "mlp"),
    "gpt2": ("transformer.drop", "attn", "mlp"),
    "llama": ("model.embed_tokens", "self_attn", "mlp"),
    "gemma2": ("model.embed_tokens", "self_attn", "mlp"),
}


@pytest.fixture(scope="module")
def subjects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Subject]:
    made = {f: subjects_tiny.make(f, tmp_path_factory.mktemp(f)) for f in FAMILIES}
    return {family: replace(subject, prepend_bos=False) for family, subject in made.items()}


def sites_of(family: str) -> list[str]:
    embed, attention, mlp = INNER[family]
    blocks = [f"{subjects_tiny.BLOCKS[family]}.{i}" for i in range(2)]
    return [embed, *(s for b in blocks for s in (f"{b}.{attention}", f"{b}.{mlp}", b))]


def random_sae(d_in: int = 16, d_sae: int = 24, seed: int = 0, **options: object) -> SAE:
    generator = torch.Generator().manual_seed(seed)
    W = normalize(torch.randn(d_sae, d_in, generator=generator), dim=1)
    activation = options.pop("activation", None) or nn.ReLU()
    b_dec = 0.1 * torch.randn(d_in, generator=generator)
    sae = SAE(W.T.clone(), W, torch.full((d_sae,), -0.05), b_dec, activation, **options)  # type: ignore[arg-type]
    return sae.requires_grad_(False)


def batch_of(lengths: tuple[int, ...] = (9, 6), seed: int = 0) -> passes.Batch:
    generator = torch.Generator().manual_seed(seed)
    tokens_bt = torch.randint(1, 250, (len(lengths), max(lengths)), generator=generator)
    return tokens_bt, torch.tensor(lengths), torch.arange(len(lengths)) % 2


def metric_at(subject: Subject, site: str, curved: bool = False) -> passes.Metric:
    """The signed logit of a probe on pooled activations; `curved` bends it."""
    weight_d = torch.randn(16, generator=torch.Generator().manual_seed(7))

    def metric(tokens_bt: Tensor, lengths_b: Tensor, labels_b: Tensor) -> Tensor:
        text_bt = passes.text_mask(subject, tokens_bt, lengths_b)
        logit_b = pool(states_at(subject, tokens_bt, site), text_bt) @ weight_d
        return torch.where(labels_b == 0, logit_b, -(logit_b.exp() if curved else logit_b))

    return metric


def naive(subject, sae, site, batch, metric, steps: int) -> tuple[Tensor, float]:
    """The formula as it is written: whole passes, gradients with respect to the latents."""
    tokens_bt, lengths_b, labels_b = batch
    text_bt = torch.arange(tokens_bt.shape[1]) < lengths_b[:, None]
    total_f, total_error = torch.zeros(sae.d_sae), 0.0
    for row in range(len(tokens_bt)):
        one = (tokens_bt[row : row + 1], lengths_b[row : row + 1], labels_b[row : row + 1])
        x_btd = passes.clean_pass(subject, [site], metric, one).outputs[site]
        clean_nf = sae.encode(x_btd[0])
        error_nd = x_btd[0] - sae.decode(clean_nf, x_btd[0])
        mean_nf, mean_nd = torch.zeros_like(clean_nf), torch.zeros_like(error_nd)
        for k in range(steps):
            acts_nf = ((1 - k / steps) * clean_nf).requires_grad_()
            error = error_nd.clone().requires_grad_()
            with torch.enable_grad():
                new = sae.decode(acts_nf, x_btd[0]) + error
                new = torch.where(text_bt[row][:, None], new, x_btd[0])
                with spliced(subject, site, lambda _, new=new: new[None]):
                    value = metric(*one).sum()
            grads = torch.autograd.grad(value, (acts_nf, error))
            mean_nf, mean_nd = mean_nf + grads[0] / steps, mean_nd + grads[1] / steps
        total_f -= (mean_nf * clean_nf).sum(0)
        total_error -= float((mean_nd * error_nd).sum())
    return total_f / len(tokens_bt), total_error / len(tokens_bt)


@pytest.mark.parametrize("family", FAMILIES)
def test_equals_the_naive_form_at_every_site(subjects, family: str) -> None:
    subject, sites = subjects[family], sites_of(family)
    metric = metric_at(subject, sites[-1], curved=True)
    saes = {site: random_sae(seed=i) for i, site in enumerate(sites)}
    batch = batch_of()
    effects = attribute(subject, saes, [batch], metric, steps=4)
    for site in sites:
        expected_f, expected_error = naive(subject, saes[site], site, batch, metric, 4)
        assert expected_f.abs().max() > 1e-5
        torch.testing.assert_close(effects.latents[site], expected_f, rtol=2e-3, atol=1e-6)
        assert effects.error[site] == pytest.approx(expected_error, rel=2e-3, abs=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {"activation": TopK(3)},
        {"activation": JumpReLU(torch.full((24,), 0.1))},
        {"standardise": True},
        {"apply_b_dec_to_input": False},
    ],
    ids=lambda options: next(iter(options)) + type(next(iter(options.values()))).__name__,
)
def test_every_kind_of_sae_equals_the_naive_form(subjects, options: dict) -> None:
    subject, site = subjects["gpt_neox"], "gpt_neox.layers.0"
    metric = metric_at(subject, "gpt_neox.layers.1", curved=True)
    sae, batch = random_sae(**dict(options)), batch_of()
    effects = attribute(subject, {site: sae}, [batch], metric, steps=3)
    expected_f, expected_error = naive(subject, sae, site, batch, metric, 3)
    assert expected_f.abs().max() > 1e-4
    torch.testing.assert_close(effects.latents[site], expected_f, rtol=2e-3, atol=1e-6)
    assert effects.error[site] == pytest.approx(expected_error, rel=2e-3, abs=1e-6)


def test_where_the_metric_is_linear_the_effect_is_that_of_ablation_whatever_the_steps(
    subjects,
) -> None:
    subject, site = subjects["gpt_neox"], "gpt_neox.layers.1"
    metric, sae, batch = metric_at(subject, site), random_sae(), batch_of()
    clean_b = metric(*batch)
    for steps in (1, 7):
        effects = attribute(subject, {site: sae}, [batch], metric, steps=steps)
        for latent in range(sae.d_sae):

            def without(x_btd: Tensor, latent: int = latent) -> Tensor:
                acts_btf = sae.encode(x_btd)
                return x_btd - acts_btf[..., latent : latent + 1] * sae.W_dec[latent]

            with spliced(subject, site, without):
                change = float((metric(*batch) - clean_b).mean())
            assert float(effects.latents[site][latent]) == pytest.approx(change, abs=2e-5)


@pytest.mark.parametrize("path", ["latents", "joint"])
def test_effects_add_up_to_the_change_along_the_whole_path(subjects, path: str) -> None:
    subject, site = subjects["llama"], "model.layers.0"
    metric, sae, batch = metric_at(subject, "model.layers.1", curved=True), random_sae(), batch_of()
    effects = attribute(subject, {site: sae}, [batch], metric, steps=400, path=path)
    text_bt = passes.text_mask(subject, batch[0], batch[1])

    def ablated(x_btd: Tensor) -> Tensor:
        _, written, error, _ = split(sae, x_btd.flatten(0, 1))
        gone = written if path == "latents" else written + error
        return torch.where(text_bt[..., None], x_btd - gone.view_as(x_btd), x_btd)

    with spliced(subject, site, ablated):
        change = float((metric(*batch)).mean())
    change -= float(metric(*batch).mean())
    found = float(effects.latents[site].sum()) + (effects.error[site] if path == "joint" else 0)
    assert abs(change) > 1e-3
    assert found == pytest.approx(change, rel=5e-3)


def test_padding_batches_and_rows_change_nothing(subjects) -> None:
    subject, sites = subjects["gpt_neox"], sites_of("gpt_neox")
    metric = metric_at(subject, sites[-1], curved=True)
    saes = {site: random_sae(seed=i) for i, site in enumerate(sites)}
    tokens_bt, lengths_b, labels_b = batch_of((8, 5, 3))
    padded = (torch.cat([tokens_bt, torch.ones(3, 4, dtype=torch.long)], 1), lengths_b, labels_b)
    singles = [
        (tokens_bt[i : i + 1, : lengths_b[i]], lengths_b[i : i + 1], labels_b[i : i + 1])
        for i in range(3)
    ]
    whole = attribute(subject, saes, [padded], metric, steps=5, rows=1)
    parts = attribute(subject, saes, singles, metric, steps=5, rows=100)
    assert whole.examples == parts.examples == 3
    for site in sites:
        torch.testing.assert_close(whole.latents[site], parts.latents[site], rtol=1e-3, atol=1e-6)


def test_the_begin_token_has_no_effect(subjects) -> None:
    subject, site = subjects["gpt_neox"], "gpt_neox.layers.1"
    metric, sae, batch = metric_at(subject, site), random_sae(), batch_of((1, 1))
    assert attribute(subject, {site: sae}, [batch], metric).latents[site].abs().max() > 0
    begun = replace(subject, prepend_bos=True)
    assert attribute(begun, {site: sae}, [batch], metric).latents[site].abs().max() == 0


def test_neurons_are_their_own_latents(subjects) -> None:
    subject, site = subjects["gpt_neox"], "gpt_neox.layers.1"
    metric, batch = metric_at(subject, site), batch_of((4,))
    effects = attribute(subject, {site: neurons(16)}, [batch], metric, steps=2)
    x_btd = passes.clean_pass(subject, [site], metric, batch).outputs[site]
    weight_d = torch.randn(16, generator=torch.Generator().manual_seed(7))
    torch.testing.assert_close(effects.latents[site], -x_btd[0].mean(0) * weight_d)
    assert effects.error[site] == pytest.approx(0, abs=1e-6)


def test_mixed_precision_is_close(subjects) -> None:
    subject, site = subjects["gpt_neox"], "gpt_neox.layers.0"
    metric, sae = metric_at(subject, "gpt_neox.layers.1", curved=True), random_sae()
    exact, mixed = (
        attribute(subject, {site: sae}, [batch_of()], metric, precision=precision).latents[site]
        for precision in ("float32", "bfloat16")
    )
    assert not torch.equal(exact, mixed)
    assert (exact - mixed).norm() < 0.05 * exact.norm()


@pytest.mark.parametrize(
    ("family", "attention_is_added", "mlp_is_added"),
    [("gpt_neox", True, True), ("llama", False, True), ("gemma2", False, False)],
)
def test_where_a_pass_may_start(
    subjects, family: str, attention_is_added: bool, mlp_is_added: bool
) -> None:
    subject, sites, batch = subjects[family], sites_of(family), batch_of()
    embed, _, _, first, attention, mlp, block = sites
    metric = metric_at(subject, block)
    outputs = passes.clean_pass(subject, sites, metric, batch).outputs

    def entry(site: str) -> passes.Entry:
        return passes.find_entry(subject, site, batch, outputs)

    at_block, behind = passes.Entry(block, splice=False), passes.Entry(first, splice=True)
    assert entry(block) == at_block
    assert entry(attention) == (at_block if attention_is_added else behind)
    assert entry(mlp) == (at_block if mlp_is_added else behind)
    assert entry(embed) == passes.Entry(None, splice=True)


def test_only_what_follows_a_site_is_run(subjects) -> None:
    subject = subjects["gpt_neox"]
    last = "gpt_neox.layers.1"
    metric, batch = metric_at(subject, last), batch_of()
    calls: list[str] = []
    handles = [
        subject.model.get_submodule(f"gpt_neox.layers.{i}.mlp").register_forward_hook(
            lambda *_, i=i: calls.append(str(i))
        )
        for i in range(2)
    ]
    try:
        attribute(subject, {f"{last}.mlp": random_sae()}, [batch], metric)  # decide by trial
        calls.clear()
        outputs = passes.clean_pass(
            subject, [f"{last}.mlp", *passes.blocks_of([f"{last}.mlp"])], metric, batch
        ).outputs
        entry = passes.find_entry(subject, f"{last}.mlp", batch, outputs)
        calls.clear()
        with passes.entered(subject, f"{last}.mlp", entry, outputs[last], outputs[last]):
            metric(*batch)
    finally:
        for handle in handles:
            handle.remove()
    assert entry == passes.Entry(last, splice=False)
    assert calls == []


def test_refusals(subjects) -> None:
    subject, site = subjects["gpt_neox"], "gpt_neox.layers.1"
    metric, batch = metric_at(subject, site), batch_of()
    with pytest.raises(ValueError, match="no examples"):
        attribute(subject, {site: random_sae()}, [], metric)
    with pytest.raises(ValueError, match=r"layers\.1 passes on 16 entries.* reads 8"):
        attribute(subject, {site: random_sae(d_in=8)}, [batch], metric)
    with pytest.raises(SiteError, match=r"ends before gpt_neox\.layers\.2"):
        attribute(subject, {"gpt_neox.layers.2": random_sae()}, [batch], metric)
    with pytest.raises(SiteError, match="no site matches"):
        attribute(subject, {"gpt_neox.layers.9": random_sae()}, [batch], metric)
    with pytest.raises(ValueError, match="no gradient"):
        attribute(subject, {site: random_sae()}, [batch], torch.no_grad()(metric))
    with pytest.raises(ValueError, match="steps 0"):
        attribute(subject, {site: random_sae()}, [batch], metric, steps=0)
