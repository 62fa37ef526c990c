import copy
from pathlib import Path

import pytest
import yaml

from saeflow.config import ConfigError, load_config, merge
from saeflow.preflight import check_files

FOLDER = Path(__file__).resolve().parents[2] / "config"
USER = yaml.safe_load((FOLDER / "config.yaml").read_text())


def load(**changes):
    return load_config(merge(USER, changes), FOLDER)


def curve(metric):
    return {"ortsae": {"figures": {"fig3a": {"metric": metric}}}}


def bars(variant, metric):
    panel = {"label": "", "bars": [{"variant": variant, "metric": metric, "label": ""}]}
    return {"ortsae": {"figures": {"fig4d": {"panels": [panel]}}}}


def a_claim(of, name, **comparison):
    described = {"id": "x", of: name, "statement": "", "source": ""}
    if "baseline" not in comparison:
        comparison |= {"variant": "gsae", "compare": "value"}
    return {**described, "comparisons": [{**comparison, "expect": {"above": 0}}]}


def claim(**comparison):
    return {"ortsae": {"claims": [a_claim("grid", "main", **comparison)]}}


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
            {"evaluation": {"scr": {"n": [2, 5]}}},
            [
                "ortsae.figures.fig6a: scr@20 is not measured; evaluation.scr.n has 2, 5",
                "ortsae.tables.table1: scr@20",
                "ortsae.claims.scr_order: scr@20",
            ],
        ),
        ({"evaluation": {"tpp": {"n": [2]}}}, ["figures.fig6b: tpp@20", "tpp.n has 2"]),
        (
            {"evaluation": {"sparse_probing": {"k": [2]}}},
            ["figures.fig6c: sparse_probing_accuracy@1", "sparse_probing.k has 2, all, residual"],
        ),
        (
            {"evaluation": {"uniqueness": {"thresholds": [0.3]}}},
            ["fig4d: unique_share@0.2", "fig4d: baseline_unique_share@0.2", "thresholds has 0.3"],
        ),
        (
            {"evaluation": {"clustering": {"levels": [0.01]}}},
            ["claims.clustering: clustering_coefficient@0.005", "clustering.levels has 0.01"],
        ),
        (
            {"evaluation": {"composition": {"random_reference": False}}},
            ["figures.fig4a: composition_rate_random", "composition.random_reference is false"],
        ),
        (curve("absorption_fraction@letters"), ["fig3a: absorption", "absorption has domains"]),
        (curve("scr"), ["fig3a: scr without a level", "evaluation.scr.n has 2, 5, 10"]),
        (curve("l0@4"), ["fig3a: l0@4 is not measured; l0 has no levels"]),
        (
            {"ortsae": {"figures": {"fig4c": {"y": "explained_variance"}}}},
            ["fig4c: explained_variance is not measured; explained_variance has no levels"],
        ),
        (
            curve("unique_share"),
            ["fig3a: unique_share is of a variant against the baseline batchtopk, which has none"],
        ),
        (
            bars("batchtopk", "unique_share"),
            ["fig4d: unique_share is of a variant against the baseline batchtopk"],
        ),
        (
            claim(metric="unique_share", variant="ortsae", baseline="batchtopk"),
            ["claims.x: unique_share is of a variant against the baseline batchtopk"],
        ),
        (
            claim(
                metric="explained_variance",
                variant="ortsae",
                baseline="relu",
                baseline_metric="scr@3",
            ),
            ["claims.x: scr@3 is not measured"],
        ),
        (
            {"ortsae": {"figures": {"fig5": {"baseline": "relu"}}}},
            ["ortsae.figures.fig5.baseline: 'relu'", "allowed: batchtopk"],
        ),
        (
            {"ortsae": {"figures": {"fig5": {"variant": "batchtopk"}}}},
            ["ortsae.figures.fig5.variant: 'batchtopk'", "allowed: relu, matryoshka, ortsae"],
        ),
        (
            {"ortsae": {"figures": {"fig5": {"example": 4}}}},
            ["ortsae.figures.fig5.example: 4", "allowed: 0, 1, 2, 3"],
        ),
        (
            {"evaluation": {"decomposed_latents": {"parts": [2, 3]}}},
            ["ortsae.figures.fig9.example: 2", "ortsae.tables.sums.examples: 3", "allowed: 0, 1"],
        ),
        (
            {"ssae": {"claims": [a_claim("sweep", "physics", metric="unique_share")]}},
            ["ssae.claims.x: unique_share is measured of grids, not of sweeps"],
        ),
        (
            {"evaluation": {"tpp": {"datasets": {"packages": {"corpus": "dosc"}}}}},
            ["evaluation.tpp.datasets.packages.corpus: 'dosc'", "did you mean 'docs'"],
        ),
        (
            {"evaluation": {"scr": {"pairs": {"torch_sympy": {"corpus": "dosc"}}}}},
            ["evaluation.scr.pairs.torch_sympy.corpus: 'dosc'", "did you mean 'docs'"],
        ),
        (
            {
                "ortsae": {"timings": {"widths": {"d_sae": [1024]}}},
                "variants": {"ortsae_whole": {"orthogonality": {"chunks": 600}}},
            },
            ["ortsae.timings.widths.d_sae", "chunks 600", "half of d_sae 1024"],
        ),
        (
            {"variants": {"ortsae": {"orthogonality": {"chunks": 769, "chunk_size": 8192}}}},
            ["ortsae.grids.", "chunks 769", "half of d_sae 1536"],
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


def test_only_what_the_chosen_papers_ask_for_has_to_be_there():
    ravel = {"ravel": {"file": "cities.json"}}
    mistaken = ravel | {"tpp": {"datasets": {"packages": {"corpus": "dosc"}}}, "scr": {"n": [3]}}
    check_files(load(scale="smoke", papers=["ssae"], evaluation=mistaken), FOLDER.parent)
    check_files(load(scale="smoke", papers=["ortsae"], evaluation=ravel), FOLDER.parent)


def test_files_that_only_evaluations_read_are_looked_for(tmp_path):
    def mistakes(**changes):
        with pytest.raises(ConfigError) as found:
            check_files(load(papers=["ortsae"], **changes), FOLDER.parent)
        return str(found.value)

    own = {"corpora": {"own": {"source": "files", "paths": "*.txt", "domain": "folder"}}}
    own["evaluation"] = {"tpp": {"datasets": {"packages": {"corpus": "own"}}}}
    assert mistakes(**own).startswith("corpora.own.paths: set data_dir")
    ravel = {"evaluation": {"ravel": {"file": "cities.json"}}}
    assert mistakes(**ravel).startswith("evaluation.ravel.file: set data_dir")
    missing = f"evaluation.ravel.file: {tmp_path / 'cities.json'} does not exist"
    assert mistakes(**ravel, data_dir=str(tmp_path)) == missing
    (tmp_path / "cities.json").touch()
    check_files(load(papers=["ortsae"], **ravel, data_dir=str(tmp_path)), FOLDER.parent)
