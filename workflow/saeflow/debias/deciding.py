"""Who decides which latents are ablated: a person's file where there is one, else the judge."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from torch import Tensor

from saeflow.debias.gender import judge_gender
from saeflow.debias.methods import Experiment
from saeflow.debias.settings import DebiasSettings
from saeflow.debias.shift import Decide, Sliced
from saeflow.debias.trimming import (
    Decisions,
    TrimmingError,
    decide_by_person,
    decisions_path,
    read_decisions,
)
from saeflow.sae.model import SAE


def read_people(
    settings: DebiasSettings, saes: Mapping[str, Mapping[str, SAE]], root: Path | None
) -> dict[str, Decisions]:
    """Return the decisions of `settings.person` by kind of SAE; `saes` are by kind and module.

    A file is one that is shipped, by its name, or lies below `root`. Raises TrimmingError for a
    kind that is not there, a file without a root, and a file that cannot be used.
    """
    people = {}
    for kind, file in settings.person.items():
        if kind not in saes:
            raise TrimmingError(f"person names SAEs of kind {kind!r}; there are {', '.join(saes)}")
        widths = {site: saes[kind][module].d_sae for site, module in settings.sites.items()}
        people[kind] = read_decisions(decisions_path(file, root), widths)
    return people


def decider(experiment: Experiment, people: Mapping[str, Decisions]) -> Decide:
    """Return the function that decides on candidates, as `find_latents` takes it."""
    settings = experiment.settings

    def decide(sliced: Sliced, candidates: Mapping[str, Tensor]) -> pd.DataFrame:
        if sliced.kind in people:
            return _by_person(settings, people[sliced.kind], sliced, candidates)
        return judge_gender(
            experiment.subject,
            sliced.saes,
            candidates,
            experiment.sets.judge,
            settings.judge,
            batch_tokens=settings.batch_tokens,
        )

    return decide


def _by_person(
    settings: DebiasSettings,
    decisions: Decisions,
    sliced: Sliced,
    candidates: Mapping[str, Tensor],
) -> pd.DataFrame:
    """Return the decisions with latents as indices in a slice, which may lack some of them."""
    names = {module: site for site, module in settings.sites.items()}
    ids = {names[module]: sliced.ids[module][latents] for module, latents in candidates.items()}
    table = decide_by_person(decisions, ids).assign(
        module=lambda rows: rows["site"].map(settings.sites)
    )
    places = {
        module: {latent: place for place, latent in enumerate(of.tolist())}
        for module, of in sliced.ids.items()
    }
    found = [
        places[module].get(latent)
        for module, latent in zip(table["module"], table["latent"], strict=True)
    ]
    kept = table.assign(latent=pd.array(found, dtype="Int64")).dropna(subset="latent")
    return kept.astype({"latent": "int64"}).drop(columns="site")
