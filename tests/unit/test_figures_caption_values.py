"""Captions say the settings in force."""

from __future__ import annotations

from typing import Any

import pytest
from keys_config import ROOT, lookups
from snakemake.iocontainers import Wildcards
from test_figures_sweeps import SCATTER

from saeflow.config import Config, ConfigError, load_config
from saeflow.figures.caption_values import CaptionError, filled
from saeflow.figures.settings import parse_figure

USER = {"scale": "smoke", "papers": ["ortsae", "ssae"]}


@pytest.fixture(scope="module")
def config() -> Config:
    return load_config(USER, ROOT / "config")


def caption(config: Config, text: str, **changes: Any) -> str:
    return filled(parse_figure(SCATTER | {"caption": text} | changes), config, "ssae").caption


def test_a_placeholder_is_the_value_of_a_key(config: Config) -> None:
    bar = config.evaluation.concepts.bar
    assert caption(config, "at {evaluation.concepts.bar:g}, {{so}}") == f"at {bar:g}, {{so}}"
    assert caption(config, "on {sweeps[second].tested[second].corpus}") == "on graphs"
    assert caption(config, "of {shown.kind}, {scale} scale") == "of scatter, smoke scale"
    assert caption(config, "nothing") == "nothing"


def test_a_value_may_have_words(config: Config) -> None:
    text = "{shown.layout:panels=side by side|overlay=in one}"
    assert caption(config, text) == "side by side"
    assert caption(config, text, layout="overlay") == "in one"
    other = "{shown.layout:panels=side by side|in one, 50%}"
    assert caption(config, other, layout="overlay") == "in one, 50%"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{evaluation.concepts.no}", "has no attribute 'no'"),
        ("{nothing}", "KeyError: 'nothing'"),
        ("{sweeps[nowhere].site}", "KeyError: 'nowhere'"),
        ("{shown.layout:overlay=in one|other=no}", "KeyError: 'panels'"),
        ("{scale:g}", "Unknown format code 'g'"),
        ("a { brace", "braces that stand for themselves are doubled"),
        ("{}", "cannot be filled"),
    ],
)
def test_what_cannot_be_filled_is_refused(config: Config, text: str, why: str) -> None:
    with pytest.raises(CaptionError, match=why):
        caption(config, text)
    user = USER | {"ssae": {"figures": {"fig19": {"caption": text}}}}
    with pytest.raises(ConfigError, match=r"ssae\.figures\.fig19\.caption: "):
        load_config(user, ROOT / "config")


@pytest.mark.parametrize(
    ("figure", "changes", "said"),
    [
        (
            "fig2",
            {"evaluation": {"tokens": {"mass_share": 0.25}}},
            "at least 0.25 of its activation",
        ),
        ("fig2", {"evaluation": {"tokens": {"argmax": "type"}}}, "its largest mean activation;"),
        ("fig2", {"evaluation": {"tokens": {"frequency_split": "test"}}}, "in the test split"),
        ("fig6", {"evaluation": {"tokens": {"cumulative": "tokens"}}}, "tokens that are of these"),
        ("fig20", {"evaluation": {"tokens": {"cosine_latents": 2048}}}, "of 2,048 of them at most"),
        ("fig17", {"evaluation": {"counts": {"epsilon": 0.5}}}, "0.5 is added to each count"),
        ("concepts", {"evaluation": {"concepts": {"bar": 0.77}}}, "reaches 0.77;"),
        ("table1", {"ssae": {"debias": {"protocol": {"slice": {"share": 0.2}}}}}, "cut to 0.2 of"),
        (
            "fig15",
            {"ssae": {"debias": {"protocol": {"circuit": {"node_threshold": 0.3}}}}},
            "classifier above 0.3",
        ),
    ],
)
def test_a_changed_key_changes_the_caption(
    config: Config, figure: str, changes: dict[str, Any], said: str
) -> None:
    """What the rules give to the figure and to the report."""
    for one, is_said in ((config, False), (load_config(USER | changes, ROOT / "config"), True)):
        rules, here = lookups(one), Wildcards(fromdict={"paper": "ssae", "name": figure})
        of = rules.table_settings if figure.startswith("table") else rules.figure_settings
        [paper] = [paper for paper in rules.report_papers() if paper["name"] == "ssae"]
        shown = {item["name"]: item["settings"] for item in (*paper["figures"], *paper["tables"])}
        for settings in (of(here), shown[figure]):
            assert (said in settings["caption"]) == is_said, settings["caption"]
