"""How well a probe tells professions, and how much it goes by gender."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from saeflow.debias.biographies import Examples
from saeflow.debias.names import AMBIGUOUS, SUBGROUPS, subgroup_metrics
from saeflow.debias.settings import DebiasSettings


class Share(NamedTuple):
    """A share, and of how many."""

    value: float
    n: int


def score(settings: DebiasSettings, predicted_n: Tensor, test: Examples) -> dict[str, Share]:
    """Return the metrics of predicted professions (n,) on the tested biographies.

    Profession and gender accuracy (the predictions held against the gender: 0.5 is ideal) are of
    the balanced set, as many of each subgroup as the smallest has; the accuracy of each subgroup
    is of all that it has, and the worst group is the least of these (SSAE Table 1, Marks et al.'s
    code). `ambiguous_accuracy` is of the two subgroups that the probe was trained on.
    """
    right_n = predicted_n == test.profession_n
    balanced, ambiguous = test.equal_parts(SUBGROUPS), test.equal_parts(AMBIGUOUS)
    groups = {
        metric: _share(right_n[test.where(subgroup)])
        for subgroup, metric in subgroup_metrics(settings).items()
    }
    return {
        "profession_accuracy": _share(right_n[balanced]),
        "gender_accuracy": _share((predicted_n == test.gender_n)[balanced]),
        "worst_group_accuracy": min(groups.values()),
        **groups,
        "ambiguous_accuracy": _share(right_n[ambiguous]),
    }


def _share(true_n: Tensor) -> Share:
    return Share(float(true_n.double().mean()), len(true_n))
