"""The rows of SSAE's Table 1 but for SHIFT itself: baselines, a random choice and skylines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

import torch
from torch import Tensor

from saeflow.debias.activity import mean_states
from saeflow.debias.attribution import Effects, attribute, neurons
from saeflow.debias.biographies import BiographySets, Examples
from saeflow.debias.cbp import concept_vectors, similarities
from saeflow.debias.names import CBP, FEATURE_SKYLINE, NEURON_SKYLINE, ORACLE, ORIGINAL, RANDOM
from saeflow.debias.passes import Batch, Metric, text_mask
from saeflow.debias.patched import (
    Edit,
    padded,
    pool,
    pooled_states,
    states_at,
    with_means,
    without_latents,
)
from saeflow.debias.probe import Probe, check_learnt, fit_probe
from saeflow.debias.scoring import Share, score
from saeflow.debias.settings import DebiasSettings
from saeflow.sae.model import SAE
from saeflow.subjects.load import Subject

Units = dict[str, list[int]]
"""By module: latents or neurons."""
NO_SAE = "none"


class Outcome(NamedTuple):
    """What a method came to."""

    method: str
    sae: str
    """Kind of SAE, or `none`."""
    d_sae: int
    """Latents a site; 0 without an SAE."""
    metrics: dict[str, Share]


@dataclass
class Experiment:
    """One seed of everything: what all methods have in common."""

    settings: DebiasSettings
    subject: Subject
    sets: BiographySets
    seed: int

    def read(
        self, examples: Examples, what: str, edits: Mapping[str, Edit] | None = None
    ) -> Tensor:
        """Return what the probe sees of examples: (n, d), with `edits` by module active."""
        return pooled_states(
            self.subject,
            examples,
            self.settings.probe_site,
            batch_tokens=self.settings.batch_tokens,
            precision=self.settings.precision,
            edits=edits,
            what=what,
        )

    def fit(self, x_nd: Tensor, examples: Examples) -> Probe:
        """Return the probe of professions that this seed trains on these."""
        return fit_probe(self.settings.probe, x_nd, examples.profession_n, self.seed)

    def fit_to_learn(self, method: str, x_nd: Tensor, examples: Examples) -> Probe:
        """Return the probe as `fit` does; raises ProbeError if it has learnt nothing."""
        probe = self.fit(x_nd, examples)
        what = f"the probe of {method} at {self.settings.probe_site} of {self.subject.name}"
        check_learnt(self.settings.probe, probe, x_nd, examples.profession_n, what)
        return probe

    def outcome(
        self, method: str, predicted_n: Tensor, sae: str = NO_SAE, d_sae: int = 0, **counts: int
    ) -> Outcome:
        """Return the metrics of the professions predicted for the test set, and `counts`."""
        metrics = score(self.settings, predicted_n, self.sets.test)
        return Outcome(
            method, sae, d_sae, metrics | {name: Share(n, 1) for name, n in counts.items()}
        )

    def ablated(
        self, method: str, probe: Probe, edits: Mapping[str, Edit], units: Units, **labels: object
    ) -> Outcome:
        """Return the outcome of the biased probe on the test set with `edits` active."""
        x_nd = self.read(self.sets.test, f"{method}, test", edits)
        return self.outcome(
            method,
            probe.predict(x_nd),
            ablated_latents=count(units),
            **labels,  # type: ignore[arg-type]
        )

    def effects(
        self, probe: Probe, saes: Mapping[str, SAE], examples: Examples, label_n: Tensor, steps: int
    ) -> Effects:
        """Return the effects of latents on the probe's confidence in the labels (n,)."""
        return attribute(
            self.subject,
            saes,
            self.batches(examples, label_n),
            self.confidence(probe),
            steps=steps,
            path=self.settings.attribution.path,
            precision=self.settings.attribution.precision,
        )

    def batches(self, examples: Examples, label_n: Tensor) -> list[Batch]:
        """Return examples of similar length together, with their labels."""
        size = self.settings.attribution.batch_size
        order = sorted(range(len(label_n)), key=lambda row: len(examples.tokens[row]))
        parts = [order[start : start + size] for start in range(0, len(order), size)]
        return [(*padded([examples.tokens[row] for row in rows]), label_n[rows]) for rows in parts]

    def confidence(self, probe: Probe) -> Metric:
        """Return the metric that falls as the probe's answer gets right and confident.

        The logit where the label is 0, its negative where it is 1 (Marks et al.'s code).
        """

        def metric(tokens_bt: Tensor, lengths_b: Tensor, labels_b: Tensor) -> Tensor:
            states_btd = states_at(self.subject, tokens_bt, self.settings.probe_site)
            x_bd = pool(states_btd, text_mask(self.subject, tokens_bt, lengths_b))
            return probe.logits(x_bd) * (1 - 2 * labels_b.to(x_bd.device))

        return metric


def count(units: Units) -> int:
    """Return how many there are at all sites."""
    return sum(map(len, units.values()))


def train_and_test(experiment: Experiment) -> tuple[Probe, list[Outcome]]:
    """Return the biased probe, and the rows without ablation: original, oracle and bottleneck.

    Raises ProbeError where the biased probe or the oracle learns nothing.
    """
    sets, settings = experiment.sets, experiment.settings
    ambiguous_nd = experiment.read(sets.ambiguous, "ambiguous set")
    balanced_nd = experiment.read(sets.balanced, "balanced set")
    probe = experiment.fit_to_learn(ORIGINAL, ambiguous_nd, sets.ambiguous)
    oracle = experiment.fit_to_learn(ORACLE, balanced_nd, sets.balanced)
    test_nd = experiment.read(sets.test, "test set")
    concepts_kd = concept_vectors(experiment.subject, settings.cbp.keywords, settings.probe_site)
    seen = [similarities(x, concepts_kd, settings.cbp.normalise) for x in (ambiguous_nd, test_nd)]
    bottleneck = experiment.fit(seen[0], sets.ambiguous)
    return probe, [
        experiment.outcome(ORIGINAL, probe.predict(test_nd)),
        experiment.outcome(ORACLE, oracle.predict(test_nd)),
        experiment.outcome(CBP, bottleneck.predict(seen[1])),
    ]


def random_latents(
    experiment: Experiment, probe: Probe, sae: str, saes: Mapping[str, SAE], n: int
) -> Outcome:
    """Return what ablating `n` latents drawn from all sites does."""
    everything = [(module, i) for module in saes for i in range(saes[module].d_sae)]
    units: Units = {}
    for module, latent in Random(experiment.seed).sample(everything, n):
        units.setdefault(module, []).append(latent)
    return experiment.ablated(RANDOM, probe, zeroed(saes, units), units, **_labels(sae, saes))


def feature_skyline(
    experiment: Experiment, probe: Probe, sae: str, saes: Mapping[str, SAE], n: int
) -> Outcome:
    """Return what ablating the `n` latents with the largest effect on gender does."""
    units = _for_gender(experiment, probe, saes, n)
    edits = zeroed(saes, units)
    return experiment.ablated(FEATURE_SKYLINE, probe, edits, units, **_labels(sae, saes))


def neuron_skyline(experiment: Experiment, probe: Probe, n: int) -> Outcome:
    """Return what putting the `n` neurons with the largest effect on gender to their means does.

    Means are over the tokens of the examples that effects are averaged over.
    """
    settings, subject = experiment.settings, experiment.subject
    examples = experiment.sets.balanced.first(settings.attribution.examples)
    means = mean_states(subject, list(settings.sites.values()), examples, settings.batch_tokens)
    identity = {module: neurons(len(mean), subject.device) for module, mean in means.items()}
    units = _for_gender(experiment, probe, identity, n)
    edits = {module: with_means(units[module], means[module]) for module in units}
    return experiment.ablated(NEURON_SKYLINE, probe, edits, units)


def _for_gender(experiment: Experiment, probe: Probe, saes: Mapping[str, SAE], n: int) -> Units:
    """Return the `n` units by which the probe's answer goes with the gender most.

    Effects are on its confidence where the gender is the label, on the balanced training set.
    """
    settings = experiment.settings
    examples = experiment.sets.balanced.first(settings.attribution.examples)
    effects = experiment.effects(
        probe, saes, examples, examples.gender_n, settings.skyline.steps
    ).latents
    modules = [module for module in saes for _ in range(saes[module].d_sae)]
    latents = [i for module in saes for i in range(saes[module].d_sae)]
    order = torch.cat([effects[module] for module in saes]).argsort(descending=True, stable=True)
    units: Units = {}
    for place in order[:n].tolist():
        units.setdefault(modules[place], []).append(latents[place])
    return units


def zeroed(saes: Mapping[str, SAE], units: Units) -> dict[str, Edit]:
    """Return the edits that take latents to zero."""
    return {module: without_latents(saes[module], units[module]) for module in units}


def _labels(sae: str, saes: Mapping[str, SAE]) -> dict[str, object]:
    return {"sae": sae, "d_sae": next(iter(saes.values())).d_sae}
