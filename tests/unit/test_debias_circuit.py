"""Circuits: known path products, edges that add up to effects, and what is kept."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pandas as pd
import pytest
import subjects_tiny
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from saeflow.debias.attribution import Effects, attribute, neurons
from saeflow.debias.circuit import find_circuit, place_of
from saeflow.debias.passes import Batch, Metric, text_mask
from saeflow.debias.patched import pool, states_at
from saeflow.sae.activation_functions import JumpReLU, TopK
from saeflow.sae.model import SAE
from saeflow.subjects.load import Subject

EMBED, MLP, RESID = "body.embed", "body.blocks.0.mlp", "body.blocks.0"
ALL = {"node_threshold": -1.0, "edge_threshold": -1.0, "signs": "both"}


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mlp = nn.Linear(3, 3, bias=False)

    def forward(self, x_btd: Tensor) -> Tensor:
        return x_btd + self.mlp(x_btd)


class Body(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 3)
        self.blocks = nn.ModuleList([Block()])

    def forward(self, tokens_bt: Tensor, use_cache: bool = False) -> SimpleNamespace:
        return SimpleNamespace(last_hidden_state=self.blocks[0](self.embed(tokens_bt)))


class Linear(nn.Module):
    """A subject in which everything is linear: m = sum_t w . (x_t + A x_t)."""

    base_model_prefix = "body"

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = Body()
        self.requires_grad_(False)

    @property
    def base_model(self) -> Body:
        return self.body

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")


WEIGHT = torch.tensor([1.0, -2.0, 0.5])


@pytest.fixture(scope="module")
def linear() -> Subject:
    return Subject("linear", Linear(), None, 8, prepend_bos=False)  # type: ignore[arg-type]


def linear_metric(subject: Subject) -> Metric:
    def metric(tokens_bt: Tensor, lengths_b: Tensor, labels_b: Tensor) -> Tensor:
        states_btd = subject.model.base_model(tokens_bt).last_hidden_state
        text_bt = torch.arange(tokens_bt.shape[1]) < lengths_b[:, None]
        return (states_btd @ WEIGHT * text_bt).sum(1)

    return metric


BATCHES: list[Batch] = [
    (torch.tensor([[1, 2, 3], [4, 5, 0]]), torch.tensor([3, 2]), torch.tensor([0, 1])),
    (torch.tensor([[6]]), torch.tensor([1]), torch.tensor([0])),
]


def edge_effects(edges: pd.DataFrame) -> dict[tuple[str, str], float]:
    return dict(
        zip(zip(edges["source"], edges["target"], strict=True), edges["effect"], strict=True)
    )


def test_edges_of_a_linear_network_are_products_along_paths(linear: Subject) -> None:
    saes = {site: neurons(3) for site in (RESID, MLP, EMBED)}  # in any order
    metric = linear_metric(linear)
    effects = attribute(linear, saes, BATCHES, metric, steps=3)
    nodes, edges = find_circuit(linear, saes, BATCHES, metric, effects, **ALL)
    A = linear.model.body.blocks[0].mlp.weight.T
    tokens = torch.tensor([1, 2, 3, 4, 5, 6])
    x_d = linear.model.body.embed(tokens).sum(0) / 3  # three examples
    expected: dict[tuple[str, str], float] = {}
    for i in range(3):
        expected[f"{EMBED}/{i}", f"{RESID}/{i}"] = -x_d[i] * WEIGHT[i]
        expected[f"{MLP}/{i}", f"{RESID}/{i}"] = -(x_d @ A)[i] * WEIGHT[i]
        expected[f"{RESID}/{i}", "output"] = -(x_d + x_d @ A)[i] * WEIGHT[i]
        for j in range(3):
            expected[f"{EMBED}/{i}", f"{MLP}/{j}"] = -x_d[i] * A[i, j] * WEIGHT[j]
    found = {pair: value for pair, value in edge_effects(edges).items() if abs(value) > 1e-7}
    assert set(found) == set(expected)
    for pair, value in expected.items():
        assert found[pair] == pytest.approx(float(value), abs=1e-5)
    assert nodes["site"].drop_duplicates().tolist() == [EMBED, MLP, RESID, "output"]
    assert nodes.drop_duplicates("site")["order"].tolist() == [0, 1, 2, 3]
    assert nodes.drop_duplicates("site")["layer"].tolist() == [-1, 0, 0, 1]
    assert nodes.drop_duplicates("site")["kind"].tolist() == ["embed", "mlp", "resid", "output"]


def test_thresholds_and_signs_choose_nodes_and_edges(linear: Subject) -> None:
    saes, metric = {EMBED: neurons(3), RESID: neurons(3)}, linear_metric(linear)
    effects = attribute(linear, saes, BATCHES, metric)
    _, every = find_circuit(linear, saes, BATCHES, metric, effects, **ALL)
    values_f = torch.cat([effects.latents[EMBED], effects.latents[RESID]])
    middle = float(values_f.abs().median())
    for signs in ("positive", "both"):
        nodes, edges = find_circuit(
            linear, saes, BATCHES, metric, effects, node_threshold=middle, edge_threshold=0.3,
            signs=signs,
        )  # fmt: skip
        chosen_f = values_f if signs == "positive" else values_f.abs()
        assert (nodes["part"] == "latent").sum() == int((chosen_f > middle).sum())
        names = set(nodes["node"])
        effect = every["effect"] if signs == "positive" else every["effect"].abs()
        kept = every[(effect > 0.3) & every["source"].isin(names) & every["target"].isin(names)]
        assert len(kept) and edge_effects(edges).keys() == edge_effects(kept).keys()


def random_sae(seed: int, activation: nn.Module | None = None, d_sae: int = 24) -> SAE:
    generator = torch.Generator().manual_seed(seed)
    W = normalize(torch.randn(d_sae, 16, generator=generator), dim=1)
    b_dec = 0.1 * torch.randn(16, generator=generator)
    return SAE(
        W.T.clone(), W, torch.full((d_sae,), -0.02), b_dec, activation or nn.ReLU()
    ).requires_grad_(False)


PARTS = {
    "gpt_neox": ("gpt_neox.embed_in", "attention", "mlp"),
    "llama": ("model.embed_tokens", "self_attn", "mlp"),
}


@pytest.fixture(scope="module", params=list(PARTS))
def tiny(request: pytest.FixtureRequest, tmp_path_factory) -> tuple[Subject, list[str], Metric]:
    made = subjects_tiny.make(request.param, tmp_path_factory.mktemp(request.param))
    embed, attention, mlp = PARTS[request.param]
    blocks = [f"{subjects_tiny.BLOCKS[request.param]}.{i}" for i in range(2)]
    sites = [embed, *(s for b in blocks for s in (f"{b}.{attention}", f"{b}.{mlp}", b))]
    weight_d = torch.randn(16, generator=torch.Generator().manual_seed(7))

    def metric(tokens_bt: Tensor, lengths_b: Tensor, labels_b: Tensor) -> Tensor:
        text_bt = text_mask(made, tokens_bt, lengths_b)
        logit_b = pool(states_at(made, tokens_bt, sites[-1]), text_bt) @ weight_d
        return torch.where(labels_b == 0, logit_b.exp(), -logit_b)

    return made, sites, metric


def text_batch() -> Batch:
    tokens_bt = torch.randint(1, 250, (3, 7), generator=torch.Generator().manual_seed(0))
    return tokens_bt, torch.tensor([7, 6, 4]), torch.tensor([0, 1, 0])


@pytest.mark.parametrize("activation", [nn.ReLU(), TopK(4), JumpReLU(torch.full((24,), 0.02))])
def test_edges_that_leave_a_node_add_up_to_its_effect(tiny, activation: nn.Module) -> None:
    subject, sites, metric = tiny
    saes = {site: random_sae(i, activation) for i, site in enumerate(sites)}
    effects = attribute(subject, saes, [text_batch()], metric, steps=1)
    nodes, edges = find_circuit(subject, saes, [text_batch()], metric, effects, **ALL)
    # All latents and errors are nodes; the decoder's bias is none, and does not change.
    leaving = edges.groupby("source")["effect"].sum()
    sources = nodes[nodes["part"] != "output"].set_index("node")["effect"]
    assert len(sources) == len(sites) * 25
    assert sources.abs().max() > 1e-3
    pd.testing.assert_series_equal(
        leaving.reindex(sources.index), sources, check_names=False, check_dtype=False,
        rtol=2e-3, atol=1e-6,
    )  # fmt: skip


def test_only_direct_paths_are_edges(tiny) -> None:
    subject, sites, metric = tiny
    embed, attn_0, mlp_0, resid_0, attn_1, mlp_1, resid_1 = sites
    saes = {site: random_sae(i) for i, site in enumerate(sites)}
    effects = attribute(subject, saes, [text_batch()], metric, steps=1)
    _, edges = find_circuit(subject, saes, [text_batch()], metric, effects, **ALL)
    strong = edges[edges["effect"].abs() > 1e-9]
    found = set(zip(strong["source_site"], strong["target_site"], strict=True))
    expected = {(resid_1, "output")}
    for before, attn, mlp, after in (
        (embed, attn_0, mlp_0, resid_0),
        (resid_0, attn_1, mlp_1, resid_1),
    ):
        expected |= {(before, attn), (before, mlp), (before, after), (attn, after), (mlp, after)}
        if subject.name == "llama":  # attention comes before the MLP instead of beside it
            expected.add((attn, mlp))
    assert found == expected


def test_the_begin_token_is_on_no_edge(tiny) -> None:
    subject, sites, _ = tiny
    saes = {sites[0]: random_sae(0), sites[3]: random_sae(1)}
    batch = (torch.tensor([[3]]), torch.tensor([1]), torch.tensor([0]))

    def of_one_token(tokens_bt: Tensor, lengths_b: Tensor, labels_b: Tensor) -> Tensor:
        return states_at(subject, tokens_bt, sites[-1]).sum((1, 2))

    for prepend_bos in (True, False):
        read = replace(subject, prepend_bos=prepend_bos)
        effects = attribute(read, saes, [batch], of_one_token)
        _, edges = find_circuit(read, saes, [batch], of_one_token, effects, **ALL)
        assert (edges["effect"].abs().max() == 0) == prepend_bos


def test_an_empty_circuit_has_the_output_alone(linear: Subject) -> None:
    saes, metric = {EMBED: neurons(3)}, linear_metric(linear)
    effects = attribute(linear, saes, BATCHES, metric)
    nodes, edges = find_circuit(
        linear, saes, BATCHES, metric, effects, node_threshold=1e9, edge_threshold=0.0, signs="both"
    )
    assert nodes["node"].tolist() == ["output"]
    assert edges.empty and "source_site" in edges


def test_places() -> None:
    assert place_of("gpt_neox.embed_in") == (-1, "embed")
    assert place_of("gpt_neox.layers.4") == (4, "resid")
    assert place_of("gpt_neox.layers.3.attention") == (3, "attn")
    assert place_of("model.layers.11.self_attn") == (11, "attn")
    assert place_of("transformer.h.2.mlp") == (2, "mlp")
    assert place_of("model.layers.2.input_layernorm") == (2, "input_layernorm")


def test_refusals(linear: Subject) -> None:
    saes, metric = {EMBED: neurons(3)}, linear_metric(linear)
    effects = attribute(linear, saes, BATCHES, metric)
    with pytest.raises(ValueError, match="no examples"):
        find_circuit(linear, saes, [], metric, effects, **ALL)
    other = Effects({EMBED: torch.zeros(7)}, {EMBED: 0.0}, 1)
    with pytest.raises(ValueError, match="has 3 latents, there are effects of 7"):
        find_circuit(linear, saes, BATCHES, metric, other, **ALL)
    with pytest.raises(ValueError, match="effects of 0"):
        find_circuit(linear, saes, BATCHES, metric, Effects({}, {}, 1), **ALL)
