"""What the config alone, and a person's file, tell before any SAE is trained."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from saeflow.config import Config, load_config, merge
from saeflow.preflight_debias import debias_mistakes

FOLDER = Path(__file__).resolve().parents[2] / "config"
USER = yaml.safe_load((FOLDER / "config.yaml").read_text())
MODULES = [
    "gpt_neox.embed_in",
    *(f"gpt_neox.layers.{i}{part}" for i in (0, 1) for part in ("", ".attention", ".mlp")),
]


def load(**protocol: Any) -> Config:
    changes = {"scale": "smoke", "papers": ["ssae"], "ssae": {"debias": {"protocol": protocol}}}
    return load_config(merge(USER, changes), FOLDER)


def mistakes(config: Config, data_dir: Path | None = None) -> list[str]:
    debias = config.ssae.debias
    assert debias is not None
    return list(debias_mistakes(debias, config.corpora[debias.corpus], MODULES, data_dir))


def test_the_config_as_it_is_has_none() -> None:
    assert mistakes(load()) == []


@pytest.mark.parametrize(
    ("protocol", "message"),
    [
        ({"probe_site": "gpt_neox.layers.7"}, r"^protocol\.probe_site: .*'gpt_neox\.layers\.7'$"),
        (
            {"genders": {"label": "sex", "values": {"male": "m", "female": "f"}}},
            r"^protocol\.genders\.label: .*bias_in_bios: 'sex' .*allowed: gender, profession",
        ),
        (
            {"professions": {"label": "profession", "values": {"poet": "poet", "nurse": "nurse"}}},
            r"^protocol\.professions\.values\.poet: 'poet' is not known.*professor, nurse",
        ),
        (
            {"person": {"gsae": "pythia70m_bias_in_bios"}},
            r"^protocol\.person\.gsae: .*embed has latent 946, its SAE has 0 to 63",
        ),
        ({"person": {"sae": "mine.json"}}, r"^protocol\.person\.sae: 'sae' .* mean 'ssae'"),
    ],
)
def test_a_mistake_is_named_by_its_key(protocol: dict[str, Any], message: str) -> None:
    (found,) = mistakes(load(**protocol))
    assert re.search(message, found)


def test_a_persons_file_is_read_early(tmp_path: Path) -> None:
    config = load(person={"ssae": "mine.json"})
    assert mistakes(config, tmp_path) == []  # that it is missing is said with the other files
    (tmp_path / "mine.json").write_text(json.dumps({"embd": [1]}))
    assert mistakes(config, tmp_path)[0].endswith("'embd'; did you mean embed?")
    (tmp_path / "mine.json").write_text(json.dumps({"embed": [63]}))
    assert mistakes(config, tmp_path) == []
