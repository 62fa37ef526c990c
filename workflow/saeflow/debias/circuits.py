"""The circuit of a probe with the names and verdicts of its latents (SSAE Figs. 15 and 16)."""

from __future__ import annotations

import pandas as pd

from saeflow.debias.activity import top_tokens
from saeflow.debias.circuit import find_circuit
from saeflow.debias.methods import Experiment
from saeflow.debias.probe import Probe
from saeflow.debias.shift import Found, Sliced


def named_circuit(
    experiment: Experiment, probe: Probe, sliced: Sliced, found: Found
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the nodes and the edges of the circuit, as `find_circuit` does.

    Nodes have two more columns: `label`, the tokens that activate the latent most, and `judged`,
    `gender` or `profession` for latents that were decided on; both are empty for other nodes.
    """
    settings = experiment.settings
    examples = experiment.sets.ambiguous.first(settings.circuit.examples)
    nodes, edges = find_circuit(
        experiment.subject,
        sliced.saes,
        experiment.batches(examples, examples.profession_n),
        experiment.confidence(probe),
        found.effects,
        node_threshold=settings.circuit.node_threshold,
        edge_threshold=settings.circuit.edge_threshold,
        signs=settings.circuit.signs,
    )
    names = _names(experiment, sliced, nodes, found)
    verdicts = {
        (row.module, row.latent): "gender" if row.ablated else "profession"
        for row in found.table.itertuples()
    }
    places = list(zip(nodes["site"], nodes["latent"], strict=True))
    return (
        nodes.assign(
            label=[names.get(place, "") for place in places],
            judged=[verdicts.get(place, "") for place in places],
        ),
        edges,
    )


def _names(
    experiment: Experiment, sliced: Sliced, nodes: pd.DataFrame, found: Found
) -> dict[tuple[str, int], str]:
    """Return the tokens of each node that is a latent, by module and index.

    Latents that were decided on have their tokens already.
    """
    settings, latents = experiment.settings, nodes[nodes["part"] == "latent"]
    columns = (found.table[name].tolist() for name in ("module", "latent", "label"))
    known = {(module, latent): label for module, latent, label in zip(*columns, strict=True)}
    places = zip(latents["site"].tolist(), latents["latent"].tolist(), strict=True)
    unknown = [place for place in places if place not in known]
    lists = {module: [latent for of, latent in unknown if of == module] for module in sliced.saes}
    lines = top_tokens(
        experiment.subject, sliced.saes, lists, experiment.sets.judge,
        number=settings.top_tokens, batch_tokens=settings.batch_tokens,
    )  # fmt: skip
    return known | {
        (module, latent): line
        for module, of_module in lines.items()
        for latent, line in zip(lists[module], of_module, strict=True)
    }
