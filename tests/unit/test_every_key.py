"""No option that does nothing: each config key, changed alone on a real run, changes what it makes.

The cases are in the tables of `keys_*.py`, one a stage; this file holds them to the settings
classes, so that a key without a case is an error.
"""

from __future__ import annotations

from pathlib import Path

import keys_absorption
import keys_activations
import keys_autointerp
import keys_claims
import keys_concept_recall
import keys_config
import keys_corpora
import keys_debias
import keys_decoders
import keys_decomposed_latents
import keys_detection
import keys_evaluation
import keys_labelled_text
import keys_ravel
import keys_retrieval
import keys_retrieval_tracin
import keys_sae
import keys_shown
import keys_single_l0
import keys_subjects
import pytest
from keys_case import Stage, keys_of, owner

from saeflow.config import Config

ROOMS = (
    keys_corpora,
    keys_retrieval,
    keys_retrieval_tracin,
    keys_subjects,
    keys_activations,
    keys_sae,
    keys_evaluation,
    keys_concept_recall,
    keys_decoders,
    keys_decomposed_latents,
    keys_labelled_text,
    keys_absorption,
    keys_autointerp,
    keys_detection,
    keys_ravel,
    keys_debias,
    keys_shown,
    keys_single_l0,
    keys_claims,
    keys_config,
)
STAGES: dict[str, Stage] = {name: stage for room in ROOMS for name, stage in room.STAGES.items()}
CASES = [(name, key) for name, stage in STAGES.items() for key in stage.cases]


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders with what each stage reads, made when first asked for."""

    class Worlds(dict):
        def __missing__(self, name: str) -> Path:
            self[name] = tmp_path_factory.mktemp(name)
            STAGES[name].prepare(self[name])
            return self[name]

    return Worlds()


def test_every_key_has_one_case() -> None:
    named = [key for _, key in CASES]
    assert len(set(named)) == len(named)
    # `debias: true` stands in place of grid and sweep, so that it cannot change alone.
    assert set(named) | {"ClaimSettings.debias"} == keys_of(Config)


@pytest.mark.parametrize(("name", "key"), CASES)
def test_a_changed_key_changes_the_result(
    name: str, key: str, worlds: dict[str, Path], tmp_path: Path
) -> None:
    stage, case = STAGES[name], STAGES[name].cases[key]
    changed = stage.parse(stage.tree(case, changed=True))
    assert owner(changed, case.path) == key
    before = stage.before(case, worlds[name], tmp_path / "before")
    after = stage.run(changed, worlds[name], tmp_path / "after")
    parts = [case.looks] if case.looks else before.keys() | after.keys()
    assert any(before[part] != after[part] for part in parts)


@pytest.mark.parametrize("name", STAGES)
def test_without_a_change_nothing_differs(
    name: str, worlds: dict[str, Path], tmp_path: Path
) -> None:
    """A difference seen above is the key's own and not chance."""
    stage = STAGES[name]
    case = next(iter(stage.cases.values()))
    before = stage.before(case, worlds[name], tmp_path / "before")
    again = stage.run(stage.parse(stage.tree(case, changed=False)), worlds[name], tmp_path / "out")
    assert before == again
