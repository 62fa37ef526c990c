"""Names of the debiasing experiment's methods and subgroups, which claims and tables give."""

from __future__ import annotations

from collections.abc import Iterable

from saeflow.debias.settings import DebiasSettings

Subgroup = tuple[int, int]
"""Class of gender and class of profession."""
SUBGROUPS: tuple[Subgroup, ...] = ((0, 0), (1, 0), (0, 1), (1, 1))
AMBIGUOUS: tuple[Subgroup, ...] = ((0, 0), (1, 1))

UNTOUCHED = ORIGINAL, ORACLE, CBP = ("original", "oracle", "cbp")
"""Methods that ablate nothing."""
COMPARABLE = RANDOM, FEATURE_SKYLINE, NEURON_SKYLINE = (
    "random",
    "feature_skyline",
    "neuron_skyline",
)
"""Methods that ablate as many units as SHIFT does, or `skyline.count`."""


def method_names(kinds: Iterable[str]) -> tuple[str, ...]:
    """Return the methods of an experiment with these kinds of SAE, in the order of the runs."""
    shifts = (
        name
        for kind in kinds
        for compressed in (False, True)
        for name in shift_names(slice_name(kind, compressed))
    )
    return (*UNTOUCHED, *shifts, *COMPARABLE)


def slice_name(kind: str, compressed: bool) -> str:
    """Return the kind, and whether the SAEs are compressed, e.g. `compressed_gsae`."""
    return f"compressed_{kind}" if compressed else kind


def shift_names(sliced: str) -> tuple[str, str]:
    """Return SHIFT's name with SAEs of that name, and the name with the probe retrained."""
    return f"{sliced}_shift", f"{sliced}_shift_retrain"


def subgroup_name(settings: DebiasSettings, subgroup: Subgroup) -> str:
    """Return e.g. `male_professor`."""
    gender, profession = subgroup
    return "_".join(
        (list(settings.genders.values)[gender], list(settings.professions.values)[profession])
    )


def subgroup_metrics(settings: DebiasSettings) -> dict[Subgroup, str]:
    """Return the metric of each subgroup's accuracy, e.g. `accuracy_male_professor`."""
    return {subgroup: f"accuracy_{subgroup_name(settings, subgroup)}" for subgroup in SUBGROUPS}
