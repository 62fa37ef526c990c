"""SHIFT: find the latents that the probe relies on, judge them, ablate those of gender.

Marks et al. 2024, section 4; SSAE section 3.1.3 does it with SAEs of a domain and with slices.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import pandas as pd
import torch
from torch import Tensor

from saeflow.debias.activity import count_active, top_tokens
from saeflow.debias.attribution import Effects
from saeflow.debias.circuit import circuit_latents
from saeflow.debias.methods import Experiment, Outcome, Units, count, zeroed
from saeflow.debias.names import shift_names, slice_name
from saeflow.debias.probe import Probe
from saeflow.debias.slicing import columns, kept_latents
from saeflow.sae.model import SAE


class Sliced(NamedTuple):
    """SAEs, whole or cut down, and which latents of the whole ones they have."""

    kind: str
    """Name of the kind of SAE, e.g. gsae."""
    compressed: bool
    saes: dict[str, SAE]
    """By module."""
    ids: dict[str, Tensor]
    """By module, the latent of the whole SAE that each latent is."""

    @property
    def name(self) -> str:
        """The kind, and whether it is compressed, as methods are named by it."""
        return slice_name(self.kind, self.compressed)

    @property
    def d_sae(self) -> int:
        """Latents a site."""
        return next(iter(self.saes.values())).d_sae


Decide = Callable[[Sliced, Mapping[str, Tensor]], pd.DataFrame]
"""decide(saes, candidates by module) -> a row a candidate: `module`, `latent` (index in the SAE),
`ablated` and what the decision rests on."""


DESCRIBED = ("sae", "compressed", "site", "module", "latent", "id", "effect", "label")


class Found(NamedTuple):
    """The latents that the probe relies on."""

    effects: Effects
    """Of all latents."""
    table: pd.DataFrame
    """A row a latent that was decided on: those above the threshold and those that a person names
    besides; columns `DESCRIBED`, `ablated` and what the decision rests on."""

    def units(self) -> Units:
        """Return the latents to be ablated, by module and index in the SAE."""
        ablated = self.table[self.table["ablated"].astype(bool)]
        return {
            str(module): group["latent"].tolist() for module, group in ablated.groupby("module")
        }


def whole(kind: str, saes: Mapping[str, SAE]) -> Sliced:
    """Return SAEs as they are."""
    ids = {module: torch.arange(sae.d_sae) for module, sae in saes.items()}
    return Sliced(kind, False, dict(saes), ids)


def compressed(experiment: Experiment, full: Sliced, effects: Effects) -> Sliced:
    """Return the SAEs cut down by the rule of the settings; `effects` are those of the full ones.

    Frequency is counted on the examples that effects are averaged over.
    """
    settings, scores = experiment.settings, dict(effects.latents)
    if settings.slice.rule == "frequency":
        examples = experiment.sets.ambiguous.first(settings.attribution.examples)
        scores = count_active(experiment.subject, full.saes, examples, settings.batch_tokens)
    ids = {
        module: kept_latents(sae.d_sae, settings.slice.share, settings.slice.rule, scores[module])
        for module, sae in full.saes.items()
    }
    saes = {module: columns(sae, ids[module]) for module, sae in full.saes.items()}
    return Sliced(full.kind, True, saes, ids)


def find_latents(experiment: Experiment, probe: Probe, sliced: Sliced, decide: Decide) -> Found:
    """Return the latents whose effect on the probe's confidence exceeds the threshold, judged.

    Effects are averaged over the first examples of the ambiguous training set.
    """
    settings = experiment.settings.attribution
    examples = experiment.sets.ambiguous.first(settings.examples)
    effects = experiment.effects(
        probe, sliced.saes, examples, examples.profession_n, settings.steps
    )
    candidates = {
        module: (effect_f > settings.threshold).nonzero()[:, 0]
        for module, effect_f in effects.latents.items()
    }
    table = decide(sliced, candidates)
    found = _described(experiment, sliced, effects, table)
    return Found(effects, found)


def _described(
    experiment: Experiment, sliced: Sliced, effects: Effects, table: pd.DataFrame
) -> pd.DataFrame:
    """Return the decisions with each latent's site, id in the whole SAE, effect and tokens."""
    settings = experiment.settings
    names = {module: site for site, module in settings.sites.items()}
    lists = {m: table.loc[table["module"] == m, "latent"].tolist() for m in sliced.saes}
    lines = top_tokens(
        experiment.subject, sliced.saes, lists, experiment.sets.judge,
        number=settings.top_tokens, batch_tokens=settings.batch_tokens,
    )  # fmt: skip
    rows = [
        {
            "sae": sliced.kind,
            "compressed": sliced.compressed,
            "site": names[module],
            "module": module,
            "latent": latent,
            "id": int(sliced.ids[module][latent]),
            "effect": float(effects.latents[module][latent]),
            "label": line,
        }
        for module, of_module in lines.items()
        for latent, line in zip(lists[module], of_module, strict=True)
    ]
    described = pd.DataFrame(rows, columns=list(DESCRIBED)).astype({"latent": "int64"})
    decided = table.astype({"latent": "int64"})
    return described.merge(decided, on=["module", "latent"], validate="one_to_one")


def shift(experiment: Experiment, probe: Probe, sliced: Sliced, found: Found) -> list[Outcome]:
    """Return what ablating the judged latents does to the biased probe, and to one trained so.

    Both have the latents of the circuit (`circuit_latents`): those above `circuit.node_threshold`,
    which need not be those above `attribution.threshold`, that are judged.
    """
    sets, units, circuit = experiment.sets, found.units(), experiment.settings.circuit
    edits = zeroed(sliced.saes, units)
    nodes = circuit_latents(found.effects, circuit.node_threshold, circuit.signs)
    counts = {
        "ablated_latents": count(units),
        "circuit_latents": sum(map(len, nodes.values())),
    }
    train_nd = experiment.read(sets.ambiguous, f"{sliced.name} SHIFT, ambiguous set", edits)
    test_nd = experiment.read(sets.test, f"{sliced.name} SHIFT, test set", edits)
    retrained = experiment.fit(train_nd, sets.ambiguous)
    return [
        experiment.outcome(method, used.predict(test_nd), sliced.kind, sliced.d_sae, **counts)
        for method, used in zip(shift_names(sliced.name), (probe, retrained), strict=True)
    ]
