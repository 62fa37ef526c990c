"""What a fresh project plans, and how it refuses a wrong configuration: no job runs here."""

import pytest
import yaml


def configured(project, tmp_path, **changes):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"papers": ["ortsae"], **changes}))
    return project.snakemake("-n", "--configfile", str(path))


def test_a_single_figure_plans_only_what_it_needs(fresh):
    planned = fresh.planned("results/smoke/figures/ortsae/fig1.svg")
    assert planned["figure"] == 1
    assert "report" not in planned
    assert "time_variants" not in planned
    # Fig 1 shows three of the four variants.
    whole = fresh.planned("results/smoke/figures/ortsae/fig3a.svg")
    assert planned["train_sae"] * 4 == whole["train_sae"] * 3


def test_a_figure_of_one_selection_trains_no_other(fresh, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"papers": ["ssae"]}))
    outputs = fresh.planned_outputs(
        "results/smoke/figures/ssae/fig2.svg", "--configfile", str(path)
    )
    corpora = {path.split("/")[5] for path in outputs if "/saes/" in path}
    assert corpora == {"docs", "physics_dense"}
    assert not any("/debias/" in path for path in outputs)


def test_the_paper_scale_plans_without_network_or_gpu(fresh, tmp_path):
    for name in ("bias_in_bios", "ag_news"):  # what SCR, TPP and sparse probing read
        (tmp_path / "data" / name).mkdir(parents=True)
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"papers": ["ortsae"], "data_dir": str(tmp_path / "data")}))
    planned = fresh.planned("--configfile", str(path), scale="paper")
    # Four variants at 8 L0, at another site and of another subject; 9 of other numbers of chunks
    # and 3 of other gammas.
    assert planned["train_sae"] == (8 * 4 + 4 + 4 + 9 + 3) * 3


COPIES = ("physics-papers", "camel-ai-physics", "pile-toxicity-balanced2", "bias_in_bios")


def test_the_paper_scale_names_the_data_that_it_needs_a_copy_of(fresh, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"papers": ["ssae"], "data_dir": str(tmp_path / "data")}))
    result = fresh.snakemake("-n", "--configfile", str(path), scale="paper")
    assert result.returncode != 0
    for name in COPIES:
        assert f"{tmp_path}/data/{name} does not exist" in result.stdout + result.stderr
    for name in COPIES:
        (tmp_path / "data" / name).mkdir(parents=True)
    encoder = tmp_path / "data" / "contriever"
    assert f"{encoder} holds no config.json" in result.stdout + result.stderr
    encoder.mkdir()
    blocks = [f"layers.{n}{part}" for n in range(5) for part in ("", ".attention", ".mlp")]
    for module in ("embed_in", *blocks):
        (tmp_path / f"data/pythia-70m-deduped-saes/gpt_neox.{module}").mkdir(parents=True)
    (encoder / "config.json").write_text("{}")
    planned = fresh.planned("--configfile", str(path), scale="paper")
    # GSAE and 16 SSAEs at 8 L0; of the planted text 4 and 2 of ERM against TERM at one.
    assert planned["train_sae"] > 3 * 8 * 17


def test_the_slurm_profile_plans(fresh):
    assert fresh.planned("--profile", "workflow/profiles/slurm")["train_sae"] > 0


def test_targets_are_listed_before_anything_has_run(fresh, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"papers": ["ortsae", "ssae"]}))
    result = fresh.snakemake("--configfile", str(path), "--quiet", "all", "--", "list_targets")
    for target in (
        "figures/ortsae/fig3a.svg",
        "figures/ssae/fig16.svg",
        "tables/ssae/table1.md",
        "report.html",
    ):
        assert f"results/smoke/{target}" in result.stdout


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"seed": [1]}, ["seed", "unknown key", "seeds"]),
        ({"ortsae": {"grids": {"main": {"l0": [4, 16, 999]}}}}, ["999", "exceeds d_sae"]),
        (
            {
                "subjects": {"tiny": {"sites": ["gpt_neox.layers.*"]}},
                "ortsae": {"grids": {"main": {"site": "gpt_neox.layers.9"}}},
            },
            ["ortsae.grids.main.site", "gpt_neox.layers.9", "gpt_neox.layers.2"],
        ),
        (
            {"corpora": {"docs": {"source": "files", "paths": "no/*.txt", "domain": "x"}}},
            ["corpora.docs.paths", "data_dir"],
        ),
        ({"ortsae": {"grids": {"main": {"variants": ["relus"]}}}}, ["relus", "did you mean"]),
        (
            {"ortsae": {"grids": {"main": {"site": "gpt_neox.layers.2"}}}},
            ["ortsae.grids.main.site", "not cached", "subjects.tiny.sites"],
        ),
        ({"evaluation": {"core": {"splits": {"validation": 100}}}}, [".split", "'test'"]),
        ({"ortsae": {"figures": {"fig3a": {"metric": "explaned"}}}}, ["metric", "did you mean"]),
        ({"ortsae": {"tables": {"table4": {"l0": [5]}}}}, ["table4.l0", "allowed: 4, 16"]),
        ({"ortsae": {"timings": {"steps": {"steps": 7}}}}, ["steps.steps", "every 5"]),
        ({"ortsae": {"timings": {"steps": {"rounds": 3}}}}, ["steps.rounds", "3"]),
        ({"subjects": {"tiny": {"min_window": 99}}}, ["subjects.tiny", "min_window"]),
        (
            {
                "subjects": {
                    "tiny": {
                        "source": "folder",
                        "path": "no",
                        "context": 9,
                        "min_window": 2,
                        "sites": ["gpt_neox.layers.[0-1]"],
                    }
                }
            },
            ["subjects.tiny.path", "config.json does not exist"],
        ),
    ],
)
def test_a_wrong_config_ends_before_the_first_job(fresh, tmp_path, changes, parts):
    result = configured(fresh, tmp_path, **changes)
    output = result.stdout + result.stderr
    assert result.returncode != 0
    assert "nothing was started" in output
    assert "Traceback" not in output
    for part in parts:
        assert part in output


def test_the_workflow_passes_snakemakes_own_lint(fresh):
    result = fresh.snakemake("--lint")
    assert result.returncode == 0, result.stdout + result.stderr
