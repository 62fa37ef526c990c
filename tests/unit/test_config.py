import copy
from pathlib import Path

import pytest
import yaml

from saeflow.config import ConfigError, load_config, merge

FOLDER = Path(__file__).resolve().parents[2] / "config"
USER = yaml.safe_load((FOLDER / "config.yaml").read_text())


def load(**changes):
    return load_config(merge(USER, changes), FOLDER)


@pytest.mark.parametrize("scale", ["smoke", "desk", "paper"])
def test_every_scale_is_valid(scale):
    config = load(scale=scale)
    grid = config.ortsae.grids["main"]
    points = list(grid.points())
    assert len(points) == len(grid.variants) * len(grid.l0)
    for point in points:
        settings = config.sae(point.variant, point.d_sae, point.l0, config.seeds[0])
        assert settings.l0 == point.l0


def test_the_paper_scale_is_the_papers_grid():
    grid = load(scale="paper").ortsae.grids["main"]
    assert grid.d_sae == 65_536
    assert grid.l0 == (25, 40, 55, 70, 85, 100, 115, 130)


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"sacle": "desk"}, ["config/config.yaml", "sacle", "unknown key", "'scale'"]),
        ({"scale": "dsk"}, ["scale", "'dsk'", "desk", "did you mean"]),
        ({"seeds": "three"}, ["config/config.yaml", "seeds", "'three'"]),
        ({"seeds": []}, ["seeds", "at least 1"]),
        ({"training": {"learnig_rate": 1}}, ["training.learnig_rate", "learning_rate"]),
        ({"training": {"tokens": "many"}}, ["training.tokens", "integer", "'many'"]),
        ({"training": {"warmup": 0.9, "decay": 0.9}}, ["training", "warmup + decay"]),
        ({"ortsae": {"grids": {"main": {"d_sae": 16}}}}, ["ortsae.grids.main", "exceeds d_sae 16"]),
        (
            {"ortsae": {"grids": {"main": {"variants": ["ortsea"]}}}},
            ["ortsae.grids.main.variants", "'ortsea'", "ortsae", "batchtopk"],
        ),
        (
            {"ortsae": {"grids": {"main": {"subject": "gpt5"}}}},
            ["ortsae.grids.main.subject", "'gpt5'", "desk"],
        ),
        (
            {
                "ortsae": {
                    "claims": [
                        {
                            "id": "x",
                            "grid": "man",
                            "statement": "",
                            "source": "",
                            "chain": {"metric": "l0", "ascending": ["relu", "ortsae"]},
                        }
                    ]
                }
            },
            ["ortsae.claims.x.grid", "'man'", "main"],
        ),
        (
            {"ortsae": {"figures": {"fig3a": {"variants": ["relu", "topk"]}}}},
            ["ortsae.figures.fig3a.variants", "'topk'", "matryoshka"],
        ),
        ({"variants": {"relu": {"l1": None}}}, ["variants.relu", "needs an l1 section"]),
        (
            {"evaluation": {"scr": None}},
            ["ortsae.figures.fig6a", "scr@20", "evaluation.scr", "ortsae.claims.scr_order"],
        ),
        (
            {"ortsae": {"grids": {"second": {"like": "mian"}}}},
            ["ortsae", "grids.second.like", "'mian'", "main"],
        ),
        (
            {"ortsae": {"grids": {"main": {"baseline": "topk"}}}},
            ["ortsae.grids.main.baseline", "'topk'", "batchtopk"],
        ),
        (
            {"variants": {"relu": {"training": {"tokens": 4096}}}},
            ["variants.relu.training.tokens", "ortsae.grids.main", "set training.tokens"],
        ),
        (
            {"variants": {"ortsae": {"tilt": {"t": 5.0, "over": "sequence"}}}},
            ["ortsae.timings.", "ortsae tilts over sequences", "tilt.over: token"],
        ),
        (
            {"ortsae": {"timings": {"widths": {"d_sae": [8, 1024]}}}},
            ["ortsae.timings.widths.d_sae", "batchtopk", "exceeds d_sae 8"],
        ),
        (
            {"ortsae": {"tables": {"table3": {"timing": "widths"}}}},
            ["ortsae.tables.table3.timing", "'widths'", "allowed: steps"],
        ),
        (
            {"ortsae": {"figures": {"fig_cost": {"timing": "steps"}}}},
            ["ortsae.figures.fig_cost.timing", "'steps'", "allowed: widths"],
        ),
        (
            {"variants": {"topk": {"training": {"learning_rte": 1.0}}}},
            ["variants.topk.training.learning_rte"],
        ),
        (
            {"corpora": {"docs": {"min_charz": 3}}},
            ["config/config.yaml", "corpora.docs.min_charz", "unknown key", "min_chars"],
        ),
        ({"corpora": {"docs": {"source": "the-web"}}}, ["corpora.docs", "installed-docs"]),
        (
            {"activations": {"dtype": "float8"}},
            ["activations.dtype", "'float16' or 'float32'", "'float8'"],
        ),
        ({"results": "a {b}"}, ["results"]),
        ({"papers": ["attention"]}, ["papers", "ortsae", "'attention'"]),
    ],
)
def test_a_mistake_is_named_with_key_value_and_what_is_allowed(changes, parts):
    with pytest.raises(ConfigError) as error:
        load(**changes)
    for part in parts:
        assert part in str(error.value)


def test_broken_yaml_is_named_with_its_line(tmp_path):
    folder = tmp_path / "config"
    (folder / "scales").mkdir(parents=True)
    (folder / "variants.yaml").write_text("variants: {}")
    (folder / "scales/desk.yaml").write_text("a: [1,\nb: 2")
    with pytest.raises(ConfigError, match=r"(?s)desk\.yaml is not valid YAML.*line 2"):
        load_config({"scale": "desk"}, folder)


def test_layers_merge_by_key_but_units_are_replaced():
    below = {
        "a": {"x": 1, "y": 2},
        "corpora": {"docs": {"source": "installed-docs", "min_chars": 5}},
        "training": {"mixture": {"docs": 1.0}},
        "l0": [1, 2],
    }
    kept = copy.deepcopy(below)
    above = {
        "a": {"y": 3},
        "corpora": {"docs": {"source": "files", "paths": "*.txt"}},
        "training": {"mixture": {"own": 1.0}},
        "l0": [4],
    }
    assert merge(below, above) == {
        "a": {"x": 1, "y": 3},
        "corpora": {"docs": {"source": "files", "paths": "*.txt"}},
        "training": {"mixture": {"own": 1.0}},
        "l0": [4],
    }
    assert below == kept


def test_a_variants_own_training_changes_that_variant_only():
    config = load(variants={"relu": {"training": {"learning_rate": 0.5}}})
    plain = load()
    assert config.sae("relu", 1536, 8, 0).training.learning_rate == 0.5
    assert config.sae("topk", 1536, 8, 0) == plain.sae("topk", 1536, 8, 0)


def test_figures_tables_and_claims_may_be_left_out():
    names = ["fig6d", "table1", "ravel_equal"]
    whole, less = (load(ortsae={"leave_out": given}).ortsae for given in ([], names))
    assert set(whole.figures) - set(less.figures) == {"fig6d"}
    assert set(whole.tables) - set(less.tables) == {"table1"}
    assert {c.id for c in whole.claims} - {c.id for c in less.claims} == {"ravel_equal"}
    with pytest.raises(ConfigError, match=r"ortsae\.leave_out: 'fig99'"):
        load(ortsae={"leave_out": ["fig99"]})
