"""TracIn by outer products is the inner product of the gradients that autograd finds."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from activations_planted import SITES, WIDTH, Windows, make_subject, make_tokens, random_windows
from torch import Tensor, nn

from saeflow.activations.settings import ActivationSettings
from saeflow.activations.write import cache_activations
from saeflow.artifacts import ArtifactError, read_manifest
from saeflow.retrieval.tracin import Checkpoint, checkpoints_of, reranker, tracin_scores
from saeflow.retrieval.tracin_gradients import factors, inner_products, weighted_sum
from saeflow.retrieval.tracin_passages import Passages, Reader
from saeflow.retrieval.tracin_settings import TracIn
from saeflow.sae.activation_functions import Gated, JumpReLU, TopK
from saeflow.sae.formats import WEIGHTS, save_sae
from saeflow.sae.model import SAE, standardised
from saeflow.sae.settings import L1, AuxK, SAESettings, Training, Variant
from saeflow.sae.trainer import train_sae
from saeflow.subjects.load import load_subject

D_SAE, SITE = 24, SITES[1]
ACTIVATIONS = {
    "relu": nn.ReLU(),
    "topk": TopK(5),
    "jumprelu": JumpReLU(torch.linspace(0, 1.5, D_SAE, dtype=torch.float64)),
    "batchtopk": JumpReLU(torch.full((D_SAE,), 0.7, dtype=torch.float64)),
}


def random_sae(activation: nn.Module, d_in: int = 10, seed: int = 0, **more: Any) -> SAE:
    draw = torch.Generator().manual_seed(seed)
    shapes = ((d_in, D_SAE), (D_SAE, d_in), (D_SAE,), (d_in,))
    weights = (torch.randn(shape, generator=draw, dtype=torch.float64) / 3 for shape in shapes)
    return SAE(*weights, activation, **more)


def gradient(sae: SAE, x_bd: Tensor, l1: float) -> Tensor:
    """Gradient of the summed loss by all four tensors, by autograd."""
    x_bd = standardised(x_bd).x_bd if sae.standardise else x_bd
    input_bd = x_bd - sae.b_dec if sae.apply_b_dec_to_input else x_bd
    acts_bf = sae.activation(input_bd @ sae.W_enc + sae.b_enc)
    loss = (acts_bf @ sae.W_dec + sae.b_dec - x_bd).square().sum() + l1 * acts_bf.sum()
    parameters = (sae.W_enc, sae.W_dec, sae.b_enc, sae.b_dec)
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)])


@pytest.mark.parametrize("l1", [0.0, 0.3])
@pytest.mark.parametrize("standardise", [False, True])
@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_inner_products_are_those_of_autograd(name, centred, standardise, l1):
    sae = random_sae(ACTIVATIONS[name], apply_b_dec_to_input=centred, standardise=standardise)
    draw = torch.Generator().manual_seed(1)
    tokens = 3 * torch.randn(40, 10, generator=draw, dtype=torch.float64) + 0.5
    passages, seeds = tokens[:24].split([1, 10, 0, 13]), tokens[24:]
    mean = weighted_sum(sae, factors(sae, seeds, l1), torch.full((16,), 0.25).double())
    products = inner_products(sae, factors(sae, tokens[:24], l1), mean)
    found = [part.sum().item() for part in products.split([1, 10, 0, 13])]
    by_seeds = gradient(sae, seeds, l1) / 4
    naive = [(gradient(sae, p, l1) @ by_seeds).item() if len(p) else 0.0 for p in passages]
    assert found == pytest.approx(naive, rel=1e-12, abs=1e-12)


def test_dense_and_sparse_products_agree():
    """Of few latents a share is active above which products are dense."""
    sparse = random_sae(TopK(1))
    dense = random_sae(nn.ReLU())
    for sae in (sparse, dense):
        x_bd = torch.randn(9, 10, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        mean = weighted_sum(sae, factors(sae, x_bd), torch.ones(9).double())
        found = inner_products(sae, factors(sae, x_bd), mean).sum().item()
        assert found == pytest.approx(gradient(sae, x_bd, 0).square().sum().item(), rel=1e-12)


# From tokens to scores


class World(NamedTuple):
    root: Path
    windows: Windows
    sae: Path

    def passages(self, documents: list[int]) -> Passages:
        return Passages(self.root / "tokens", "train", documents)

    def scores(self, documents: list[int], seeds: list[int], **changes: Any) -> np.ndarray:
        settings = tracin(**changes)
        return tracin_scores(
            settings,
            checkpoints_of(self.sae, settings.checkpoints),
            subject=self.root / "subject",
            activations=self.root / "cache",
            candidates=self.passages(documents),
            seeds=self.passages(seeds),
        )


def tracin(**changes: Any) -> TracIn:
    sae = {"variant": "relu", "corpus": "docs", "d_sae": D_SAE, "l0": 4}
    return TracIn.model_validate({"site": SITE, "sae": sae, **changes})


def sae_settings(variant: Variant, shares: tuple[float, ...] = (0.5,)) -> SAESettings:
    training = Training(tokens=30 * 64, batch_size=64, learning_rate=1e-2, snapshots=shares)
    return SAESettings(variant=variant, training=training, d_sae=D_SAE, l0=4, seed=0)


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    """A subject with a planted sink, windows, their cache and an SAE with a snapshot."""
    root = tmp_path_factory.mktemp("world")
    make_subject(root / "subject", massive_token=7)
    windows = random_windows(120)
    make_tokens(root / "tokens", windows)
    settings = ActivationSettings(tokens={"train": 10**6}, dtype="float32", batch_tokens=128)
    cache_activations(
        settings, root / "subject", root / "tokens", "train", SITES[:2], root / "cache"
    )
    variant = Variant(activation="relu", l1=L1(coefficient=0.02))
    train_sae(sae_settings(variant), root / "cache", SITE, root / "sae")
    return World(root, windows, root / "sae")


def documents(world: World) -> list[int]:
    return sorted({document for document, _, _ in world.windows})


def naive(world: World, wanted: list[int], seeds: list[int], sae: Path, l1: float, by: str):
    """Score each document by gradients of its own, from states that the subject gives it alone."""
    subject, loaded = load_subject(world.root / "subject"), SAE_OF(sae)
    limits = read_manifest(world.root / "cache", kind="activations")["stats"]["sink_thresholds"]

    def states(document: int) -> Tensor:
        kept = []
        for _, _, tokens in (w for w in world.windows if w[0] == document):
            hidden = subject.model(torch.tensor([tokens]), output_hidden_states=True).hidden_states
            sites = {SITES[0]: hidden[1][0], SITES[1]: hidden[2][0]}
            keep = torch.tensor([token != 0 for token in tokens])
            for site, limit in limits.items():
                keep &= sites[site].norm(dim=-1) <= limit
            kept.append(sites[SITE][keep].detach())
        return torch.cat(kept).double()

    def part(document: int) -> Tensor:
        x_bd = states(document)
        return gradient(loaded, x_bd, l1) / (max(1, len(x_bd)) if by == "tokens" else 1)

    mean = torch.stack([part(seed) for seed in seeds]).mean(0)
    return np.array([(part(document) @ mean).item() for document in wanted])


def SAE_OF(path: Path) -> SAE:
    from saeflow.sae.formats import load_sae

    return load_sae(path).double()


@pytest.mark.parametrize("normalise", ["tokens", "none"])
@pytest.mark.parametrize("loss", ["reconstruction", "total"])
def test_scores_are_those_of_documents_one_by_one(world, loss, normalise):
    """Documents of several windows, and a sink and a begin token that count in none."""
    everything = documents(world)
    wanted, seeds = everything[3::2][::-1], everything[:6:2]
    found = world.scores(wanted, seeds, loss=loss, normalise=normalise, checkpoints="all")
    expected = np.zeros(len(wanted))
    checkpoints = checkpoints_of(world.sae, "all")
    assert len(checkpoints) == 2
    for path, rate, l1 in checkpoints:
        weight = l1 if loss == "total" else 0.0
        expected += rate * naive(world, wanted, seeds, path, weight, normalise)
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=1e-5 * np.abs(expected).max())


def test_seeds_are_in_memory_a_batch_at_a_time(world, monkeypatch):
    """A batch of the cache has 128 tokens; all seeds together have more."""
    seen: list[int] = []

    def watched(sae: SAE, found: Any, weights_b: Tensor) -> Any:
        seen.append(len(weights_b))
        return weighted_sum(sae, found, weights_b)

    monkeypatch.setattr("saeflow.retrieval.tracin.weighted_sum", watched)
    everything = documents(world)
    world.scores(everything[-2:], everything[:-2])
    assert max(seen) <= 128 < sum(seen)


def test_the_cache_has_dropped_a_sink_here(world):
    stats = read_manifest(world.root / "cache", kind="activations")["stats"]
    assert stats["sinks"] > 0 and set(stats["sink_thresholds"]) == set(SITES[:2])
    reader = Reader(load_subject(world.root / "subject"), SITE, world.root / "cache")
    kept = sum(len(rows.x_nd) for rows in reader.rows(world.passages(documents(world))))
    assert kept == stats["rows"]


def test_the_l1_weight_is_that_of_the_summed_squared_error(world):
    """c mean-square units of scaled activations are c d / s of summed squares of raw ones."""
    stats = read_manifest(world.sae, kind="sae")["stats"]
    snapshot, final = checkpoints_of(world.sae, "all")
    assert final == Checkpoint(world.sae, stats["learning_rate"], pytest.approx(
        stats["l1_coefficient"] * WIDTH / stats["scale"]))  # fmt: skip
    entry = stats["snapshots"][0]
    assert snapshot.path == world.sae / "snapshots/step00000015"
    assert snapshot.l1 == pytest.approx(entry["l1_coefficient"] * WIDTH / stats["scale"])
    assert snapshot.learning_rate > final.learning_rate


def test_a_step_along_the_gradient_of_the_best_lowers_the_seeds_loss_most(world):
    """What TracIn promises, to first order: the drop of the loss is the score."""
    everything = documents(world)
    wanted, seeds = everything[4:], everything[:4]
    found = world.scores(wanted, seeds, loss="reconstruction")
    subject = load_subject(world.root / "subject")
    reader = Reader(subject, SITE, world.root / "cache")

    def states(document: int) -> Tensor:
        return torch.cat([r.x_nd for r in reader.rows(world.passages([document]))]).double()

    def loss(sae: SAE) -> float:
        with torch.no_grad():
            errors = [sae(states(s)) - states(s) for s in seeds]
            return float(np.mean([e.square().sum(1).mean().item() for e in errors]))

    before, rate = loss(SAE_OF(world.sae)), 1e-9
    drops = []
    for document in (wanted[found.argmax()], wanted[found.argmin()]):
        sae, x_bd = SAE_OF(world.sae), states(document)
        ((sae(x_bd) - x_bd).square().sum() / len(x_bd)).backward()
        with torch.no_grad():
            for parameter in (sae.W_enc, sae.W_dec, sae.b_enc, sae.b_dec):
                parameter -= rate * parameter.grad
        drops.append((before - loss(sae)) / rate)
    (checkpoint,) = checkpoints_of(world.sae)
    extremes = np.array([found.max(), found.min()]) / checkpoint.learning_rate
    assert drops == pytest.approx(extremes, rel=1e-2)


def test_passages_of_the_seeds_domain_rank_first(tmp_path, world):
    """Documents of a few words each, seeds of the same words."""
    draw = np.random.default_rng(5)
    windows = []
    for document in range(40):
        low, high = ((8, 16), (16, 64))[document % 2]
        windows.append((document, 0, [0, *draw.integers(low, high, 20).tolist()]))
    make_tokens(tmp_path / "tokens", windows)
    settings = tracin()
    rerank = reranker(
        settings, world.sae, subject=world.root / "subject", activations=world.root / "cache",
        tokens=tmp_path / "tokens", seed_tokens=tmp_path / "tokens", seed_split="train",
    )  # fmt: skip
    rows = [NamedTuple("Row", [("document", int)])(d) for d in range(40)]
    scores = rerank(rows[10:], rows[:10:2])
    assert scores.shape == (30,)
    own, other = scores[0::2], scores[1::2]
    assert (own[:, None] > other).mean() > 0.8


@pytest.mark.parametrize("activation", ["topk", "batchtopk", "jumprelu", "gated"])
def test_other_activation_functions(tmp_path, world, activation):
    parts: dict[str, Any] = {"topk": {"auxk": AuxK()}, "jumprelu": {"l0": {}}, "gated": {"l1": {}}}
    variant = Variant.model_validate({"activation": activation, **parts.get(activation, {})})
    train_sae(sae_settings(variant, ()), world.root / "cache", SITE, tmp_path)
    other = world._replace(sae=tmp_path)
    everything = documents(world)
    if activation == "gated":
        with pytest.raises(ValueError, match="no gradient for the activation Gated"):
            other.scores(everything[2:], everything[:2])
        return
    found = other.scores(everything[2:8], everything[:2])
    expected = naive(world, everything[2:8], everything[:2], tmp_path, 0.0, "tokens")
    (checkpoint,) = checkpoints_of(tmp_path)
    expected *= checkpoint.learning_rate
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
    with pytest.raises(ArtifactError, match="has no snapshots"):
        other.scores(everything[2:], everything[:2], checkpoints="all")


def test_a_document_without_a_token_that_counts_scores_zero(tmp_path, world):
    make_tokens(tmp_path / "tokens", [(1, 0, [0, 7]), (2, 0, [0, 9, 11])])
    passages = Passages(tmp_path / "tokens", "train", [1, 2])
    settings = tracin()
    common = {"subject": world.root / "subject", "activations": world.root / "cache"}
    checkpoints = checkpoints_of(world.sae)
    found = tracin_scores(settings, checkpoints, candidates=passages,
                          seeds=passages._replace(documents=[2]), **common)  # fmt: skip
    assert found[0] == 0 and found[1] > 0
    found = tracin_scores(settings, checkpoints, candidates=passages._replace(documents=[1]),
                          seeds=passages, **common)  # fmt: skip
    assert found.tolist() == [0]
    with pytest.raises(ValueError, match=r"the 1 seeds have no token that counts"):
        tracin_scores(settings, checkpoints, candidates=passages,
                      seeds=passages._replace(documents=[1]), **common)  # fmt: skip


def test_documents_without_windows_are_told_before_the_subject_runs(world, monkeypatch):
    monkeypatch.setattr("saeflow.retrieval.tracin.load_subject", None)
    with pytest.raises(ArtifactError, match=r"no windows of 2 of 3 documents, the first is 5"):
        world.scores([documents(world)[0], 6, 5], documents(world)[:1])


def test_damaged_and_unfit_inputs_are_refused(tmp_path, world):
    some = documents(world)
    with pytest.raises(ArtifactError, match=r"has no site gpt_neox\.layers\.9"):
        world.scores(some[1:], some[:1], site="gpt_neox.layers.9")
    with pytest.raises(ArtifactError, match="has no split test"):
        Passages(world.root / "tokens", "test", some).token_count()
    narrow = random_sae(nn.ReLU())
    save_sae(narrow, tmp_path / "narrow", {})
    with pytest.raises(ValueError, match=r"narrow reads width 10, site \S+ has 16"):
        tracin_scores(
            tracin(), [Checkpoint(tmp_path / "narrow", 1.0, None)],
            subject=world.root / "subject", activations=world.root / "cache",
            candidates=world.passages(some), seeds=world.passages(some[:1]),
        )  # fmt: skip
    for name in ("manifest.json", "cfg.json", "log.parquet"):
        (tmp_path / name).write_bytes((world.sae / name).read_bytes())
    (tmp_path / WEIGHTS).write_bytes((world.sae / WEIGHTS).read_bytes()[:-4])
    with pytest.raises(ArtifactError, match=WEIGHTS):
        checkpoints_of(tmp_path)


def test_gated_gradients_are_refused():
    sae = random_sae(Gated(torch.ones(D_SAE), torch.zeros(D_SAE)))
    with pytest.raises(ValueError, match="take an SAE with relu, topk, batchtopk or jumprelu"):
        factors(sae, torch.zeros(1, 10).double())


def test_candidates_that_leave_nothing_to_choose_are_refused():
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        tracin(candidates=0.5)
