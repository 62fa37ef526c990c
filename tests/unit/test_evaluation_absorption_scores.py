"""The two absorption scores: each branch in closed form, and the rule word by word."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from saeflow.evaluation.absorption_scores import Absorption, Projections, absorption, projections
from saeflow.evaluation.absorption_settings import AbsorptionSettings
from saeflow.sae.model import SAE, standardised

COSINES = [0.9, 0.5, 0.3, 0.2, 0.1, 0.09, 0.024, -0.5]
MAIN = [0]


def score(
    projected: list[float], total: float, main: list[int] = MAIN, **changed: Any
) -> Absorption:
    """Of one activation: the projections of latents with `COSINES`; those that are 0 are silent."""
    projection_nf = torch.tensor([projected + [0.0] * (len(COSINES) - len(projected))])
    cosine_f = torch.tensor(COSINES)
    of = Projections(projection_nf / cosine_f, projection_nf, cosine_f, torch.tensor([total]))
    return absorption(AbsorptionSettings(**changed), of, main)


@pytest.mark.parametrize(
    ("projected", "total", "expected"),
    [
        ([10.0, 8.0], 10.0, 0.0),  # the main latent does all the work
        ([12.0, 8.0], 10.0, 0.0),
        ([3.0, 3.9], 10.0, 0.0),  # the others do less than 0.4 of it
        ([3.0, 4.0], 10.0, 4 / 7),
        ([0.0, 4.0], 10.0, 1.0),  # a silent main latent
        ([-1.0, 4.0], 10.0, 1.0),  # one that works against
        ([3.0, 5.0], 10.0, 5 / 8),
        ([3.0, 20.0], 10.0, 0.7),  # no more than what the main latent leaves
        ([3.0, 2.0, 2.0, 2.0], 10.0, 6 / 9),
        ([3.0, 2.0, 2.0, 2.0, 2.0], 10.0, 6 / 9),  # the three largest alone
        ([3.0, 1.0, 2.0, 1.0, 2.0], 10.0, 5 / 8),
        ([3.0, -2.0, 5.0], 10.0, 5 / 8),  # one that works against takes nothing off
        ([0.0, 0.0, 0.0, 0.0, 5.0], 10.0, 1.0),  # a cosine of 0.1 is enough
        ([0.0, 0.0, 0.0, 0.0, 0.0, 9.0], 10.0, 0.0),  # 0.09 is not
        ([0.0, 0.0], 10.0, 0.0),  # nobody does it
        ([0.0, 4.0], -1.0, 0.0),  # there is no work
        ([-2.0, 4.0], -1.0, 0.0),
        ([0.0, 4.0], 0.0, 0.0),
    ],
)
def test_absorption_fraction(projected: list[float], total: float, expected: float) -> None:
    assert score(projected, total).fraction_n.item() == pytest.approx(expected)


def test_all_main_latents_count_and_none_absorbs() -> None:
    found = score([3.0, 2.0, 5.0], 10.0, main=[0, 1])
    assert found.fraction_n.item() == pytest.approx(0.5)
    assert score([0.0, 9.0], 10.0, main=[0, 1]).fraction_n.item() == 0
    assert not score([0.0, 9.0], 10.0, main=[0, 1]).full_n.item()


@pytest.mark.parametrize(
    ("projected", "total", "expected"),
    [
        ([0.0, 4.0], 10.0, True),
        ([0.0, 3.9], 10.0, False),  # less than 0.4 of the work
        ([0.0, 2.0, 3.9], 10.0, False),  # by a single latent
        ([0.0, 2.0, 4.0], 10.0, True),
        ([1e-7, 4.0], 10.0, False),  # the main latent is not silent
        ([1e-9, 4.0], 10.0, True),
        ([0.0, 0.0, 0.0, 0.0, 0.0, 4.0], 10.0, True),  # a cosine of 0.09 is enough
        ([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 4.0], 10.0, False),  # 0.024 is not
        ([0.0, 4.0, 0.0, 0.0, 0.0, 0.0, 5.0], 10.0, False),  # the largest one decides
        ([0.0, 4.0], 0.0, True),
        ([0.0, 4.0], -1.0, False),
        ([0.0, 0.0], 10.0, False),
        ([0.0, 0.0], 0.0, False),
    ],
)
def test_full_absorption(projected: list[float], total: float, expected: bool) -> None:
    assert score(projected, total).full_n.item() is expected


def test_who_absorbs() -> None:
    found = score([3.0, 1.0, 2.5, 0.5, 2.0, 9.0], 10.0)
    assert found.top_n.tolist() == [5]
    assert found.absorber_na.tolist() == [[2, 4, 1]]
    assert found.absorbed_na.tolist() == [[2.5, 2.0, 1.0]]


def test_thresholds_are_settings() -> None:
    assert score([3.0, 3.0], 10.0, projection_share=0.3).fraction_n.item() == 0.5
    assert score([0.0, 3.0], 10.0, projection_share=0.3).full_n.item()
    assert score([3.0, 4.0, 3.0], 10.0, max_absorbers=1).fraction_n.item() == pytest.approx(4 / 7)
    assert score([0.0] * 5 + [4.0], 10.0, fraction_cosine=0.09).fraction_n.item() == 1
    assert score([0.0] * 6 + [4.0], 10.0, full_cosine=0.0).full_n.item()
    assert score([1e-3, 4.0], 10.0, silent=0.1).full_n.item()


def test_equal_to_the_rule_word_by_word() -> None:
    generator = torch.Generator().manual_seed(0)
    n, d_sae, main = 400, 12, [2, 7]
    fires_nf = torch.rand(n, d_sae, generator=generator) < 0.3
    acts_nf = fires_nf * torch.rand(n, d_sae, generator=generator) * 4
    cosine_f = torch.rand(d_sae, generator=generator) * 0.6 - 0.2
    total_n = torch.rand(n, generator=generator) * 2 - 0.4
    of = Projections(acts_nf, acts_nf * cosine_f, cosine_f, total_n)
    found = absorption(AbsorptionSettings(), of, main)
    expected = [
        by_hand(acts.tolist(), cosine_f.tolist(), total.item(), main)
        for acts, total in zip(acts_nf, total_n, strict=True)
    ]
    full, fraction = zip(*expected, strict=True)
    assert found.full_n.tolist() == list(full)
    np.testing.assert_allclose(found.fraction_n, fraction, atol=1e-5)
    assert 0 < sum(full) < n and {0.0, 1.0} < set(fraction)


def by_hand(
    acts: list[float], cosines: list[float], total: float, main: list[int]
) -> tuple[bool, float]:
    """SAEBench's `FeatureAbsorptionCalculator`, rewritten for one word."""
    parts = [a * c for a, c in zip(acts, cosines, strict=True)]
    top = max(range(len(parts)), key=parts.__getitem__)
    full = (
        all(acts[f] < 1e-8 for f in main)
        and cosines[top] >= 0.025
        and total >= 0
        and parts[top] / total >= 0.4
    )
    others = [
        part for f, part in enumerate(parts) if f not in main and cosines[f] >= 0.1 and part > 0
    ]
    absorbed, own = sum(sorted(others)[-3:]), sum(parts[f] for f in main)
    if own >= total or absorbed / total < 0.4:
        return full, 0.0
    if own <= 0:
        return full, 1.0
    absorbed = min(absorbed, total - own)
    return full, min(max(absorbed / (absorbed + own), 0.0), 1.0)


def sae_of(w_dec_fd: Tensor, standardise: bool = False) -> SAE:
    d_sae, d_in = w_dec_fd.shape
    return SAE(
        w_dec_fd.T.clone(), w_dec_fd, torch.zeros(d_sae), torch.zeros(d_in), nn.ReLU(),
        standardise=standardise,
    )  # fmt: skip


def test_projections_of_a_decoder() -> None:
    sae = sae_of(torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, -2.0]]))
    of = projections(sae, torch.tensor([[2.0, 1.0]]), torch.tensor([5.0, 0.0]))
    assert of.acts_nf.tolist() == [[2.0, 2.0, 0.0]]
    torch.testing.assert_close(of.projection_nf, torch.tensor([[2.0, 1.2, 0.0]]))
    torch.testing.assert_close(of.cosine_f, torch.tensor([1.0, 0.6, 0.0]))
    assert of.total_n.tolist() == [2.0]


@pytest.mark.parametrize("standardise", [False, True])
def test_projections_add_up_to_what_is_reconstructed(standardise: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    sae = sae_of(torch.randn(20, 6, generator=generator), standardise)
    x_nd = torch.randn(5, 6, generator=generator) * 3
    direction_d = torch.randn(6, generator=generator)
    of = projections(sae, x_nd, direction_d)
    unit_d = direction_d / direction_d.norm()
    written_nd = sae.decode(sae.encode(x_nd), x_nd)
    if standardise:
        written_nd = written_nd - standardised(x_nd).mean_b1
    torch.testing.assert_close(of.projection_nf.sum(1), written_nd @ unit_d, rtol=1e-4, atol=1e-4)
