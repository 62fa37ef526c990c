"""SHIFT, skylines and baselines where gender and profession are planted directions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import pytest
import torch
from debias_planted import (
    D_IN,
    HE,
    SHE,
    SITES,
    axes_sae,
    planted_corpus,
    planted_settings,
    planted_subject,
)
from torch import Tensor

from saeflow.debias.biographies import read_sets
from saeflow.debias.methods import (
    Experiment,
    Outcome,
    feature_skyline,
    neuron_skyline,
    random_latents,
    train_and_test,
)
from saeflow.debias.probe import Probe
from saeflow.debias.shift import Sliced, compressed, find_latents, shift, whole
from saeflow.sae.model import SAE

GENDERED = {HE, SHE}


class Planted:
    """An experiment in the planted world, with its biased probe."""

    def __init__(self, root: Path, **changes: object) -> None:
        settings = planted_settings(**changes)
        subject = planted_subject(root / "subject")
        sets = read_sets(settings, planted_corpus(root / "corpus"), subject, 0)
        self.experiment = Experiment(settings, subject, sets, 0)
        self.probe, rows = train_and_test(self.experiment)
        self.baselines = {outcome.method: outcome for outcome in rows}

    @property
    def saes(self) -> dict[str, SAE]:
        return {module: axes_sae() for module in SITES.values()}


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    return Planted(tmp_path_factory.mktemp("world"))


def decide_by_axis(sliced: Sliced, candidates: Mapping[str, Tensor]) -> pd.DataFrame:
    """The truth: axes of gender are ablated."""
    rows = [
        {"module": module, "latent": latent, "ablated": int(sliced.ids[module][latent]) in GENDERED}
        for module, latents in candidates.items()
        for latent in latents.tolist()
    ]
    return pd.DataFrame(rows, columns=["module", "latent", "ablated"])


def value(outcome: Outcome, metric: str) -> float:
    return outcome.metrics[metric].value


def test_the_probe_of_ambiguous_people_goes_by_gender(planted: Planted) -> None:
    original, oracle = planted.baselines["original"], planted.baselines["oracle"]
    assert value(original, "gender_accuracy") == 1.0
    assert value(original, "ambiguous_accuracy") == 1.0
    assert value(original, "worst_group_accuracy") == 0.0
    assert value(oracle, "worst_group_accuracy") == 1.0


def test_shift_reaches_the_oracle(planted: Planted) -> None:
    full = whole("gsae", planted.saes)
    found = find_latents(planted.experiment, planted.probe, full, decide_by_axis)
    assert set(found.table["id"]) >= GENDERED
    rows = shift(planted.experiment, planted.probe, full, found)
    assert [row.method for row in rows] == ["gsae_shift", "gsae_shift_retrain"]
    for row in rows:
        assert value(row, "worst_group_accuracy") == 1.0
        assert value(row, "gender_accuracy") == 0.5
        assert value(row, "ablated_latents") == found.table["ablated"].sum()
        large = [effect_f > 0.1 for effect_f in found.effects.latents.values()]
        assert value(row, "circuit_latents") == sum(int(kept_f.sum()) for kept_f in large)
        assert value(row, "circuit_latents") < len(found.table)


def test_found_latents_are_described(planted: Planted) -> None:
    full = whole("gsae", planted.saes)
    found = find_latents(planted.experiment, planted.probe, full, decide_by_axis)
    table = found.table.set_index(["site", "id"])
    assert table.loc[("embed", SHE), "label"] == "she"
    assert table.loc[("embed", HE), "label"] == "he"
    assert (table["effect"] > planted.experiment.settings.attribution.threshold).all()
    for module, effect_f in found.effects.latents.items():
        listed = found.table[found.table["module"] == module]
        assert listed["latent"].tolist() == (effect_f > 0.05).nonzero()[:, 0].tolist()


def test_nothing_above_the_threshold_ablates_nothing(tmp_path: Path) -> None:
    world = Planted(tmp_path, attribution={"threshold": 1e6, "examples": 4, "steps": 1})
    full = whole("gsae", world.saes)
    found = find_latents(world.experiment, world.probe, full, decide_by_axis)
    assert found.table.empty and found.units() == {}
    row = shift(world.experiment, world.probe, full, found)[0]
    original = world.baselines["original"]
    assert {m: row.metrics[m] for m in original.metrics} == original.metrics


def test_slices_by_effect_keep_gender_and_slices_by_rank_lose_it(tmp_path: Path) -> None:
    """Latents 0 and 1 are dead here, so that the first half of the SAE knows nothing."""
    changes = {"share": 0.25, "rule": "attribution"}
    world = Planted(tmp_path, slice=changes)
    saes = {module: shuffled_axes() for module in SITES.values()}
    full = whole("ssae", saes)
    found = find_latents(world.experiment, world.probe, full, decide_by_axis)
    small = compressed(world.experiment, full, found.effects)
    assert small.name == "compressed_ssae" and small.d_sae == 2 * D_IN // 4
    assert {HE + D_IN, SHE + D_IN} <= set(small.ids[SITES["embed"]].tolist())
    first = Experiment(
        planted_settings(slice={"share": 0.25, "rule": "first"}),
        *(world.experiment.subject, world.experiment.sets, 0),
    )
    kept = compressed(first, full, found.effects)
    assert kept.ids[SITES["embed"]].tolist() == list(range(D_IN // 2))
    blind = find_latents(first, world.probe, kept, decide_by_axis)
    assert blind.table.empty


def shuffled_axes() -> SAE:
    """An SAE whose first half is dead and whose second half are the axes."""
    sae = axes_sae(copies=2)
    with torch.no_grad():
        sae.b_enc[:D_IN] = -100.0
        sae.W_dec[D_IN:] *= 2
    return sae.requires_grad_(False)


def test_slices_by_frequency_keep_what_is_active(planted: Planted) -> None:
    settings = planted_settings(slice={"share": 0.5, "rule": "frequency"})
    experiment = Experiment(settings, planted.experiment.subject, planted.experiment.sets, 0)
    full = whole("ssae", {module: shuffled_axes() for module in SITES.values()})
    found = find_latents(experiment, planted.probe, full, decide_by_axis)
    small = compressed(experiment, full, found.effects)
    assert small.ids[SITES["embed"]].tolist() == list(range(D_IN, 2 * D_IN))


def test_the_feature_skyline_finds_the_latents_of_gender(planted: Planted) -> None:
    row = feature_skyline(planted.experiment, planted.probe, "gsae", planted.saes, 2 * 2)
    assert value(row, "worst_group_accuracy") == 1.0
    assert (row.sae, row.d_sae, value(row, "ablated_latents")) == ("gsae", D_IN, 4)


def test_the_neuron_skyline_finds_the_axes_of_gender(planted: Planted) -> None:
    row = neuron_skyline(planted.experiment, planted.probe, 4)
    assert value(row, "worst_group_accuracy") == 1.0
    assert (row.sae, row.d_sae) == ("none", 0)


def test_random_latents_follow_the_seed(planted: Planted) -> None:
    old = planted.experiment

    def rows(seed: int) -> Outcome:
        experiment = Experiment(old.settings, old.subject, old.sets, seed)
        return random_latents(experiment, planted.probe, "gsae", planted.saes, 6)

    assert rows(0) == rows(0)
    assert any(rows(0).metrics != rows(seed).metrics for seed in range(1, 6))


def test_the_confidence_falls_where_the_answer_is_right(planted: Planted) -> None:
    experiment = planted.experiment
    probe = Probe(torch.eye(D_IN)[SHE] - torch.eye(D_IN)[HE], torch.tensor(0.0))
    examples = experiment.sets.ambiguous.first(6)
    for tokens_bt, lengths_b, labels_b in experiment.batches(examples, examples.gender_n):
        values_b = experiment.confidence(probe)(tokens_bt, lengths_b, labels_b)
        share_b = 3 / (lengths_b - 1)  # three pronouns of all words
        torch.testing.assert_close(values_b, -share_b)
