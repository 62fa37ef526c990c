"""What a fresh project plans, and how it refuses a wrong configuration: no job runs here."""

import time

import pytest
import yaml


def configured(project, tmp_path, **changes):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(changes))
    return project.snakemake("-n", "--configfile", str(path))


def test_a_single_figure_plans_only_what_it_needs(fresh):
    planned = fresh.planned("results/smoke/figures/ortsae/fig1.svg")
    assert planned["figure"] == 1
    assert "report" not in planned
    assert "time_variants" not in planned
    # Fig 1 shows three of the four variants.
    whole = fresh.planned()
    assert planned["train_sae"] * 4 == whole["train_sae"] * 3


def test_the_paper_scale_plans_without_network_or_gpu_in_seconds(fresh):
    started = time.monotonic()
    planned = fresh.planned(scale="paper")
    assert planned["train_sae"] == 8 * 4 * 3
    assert time.monotonic() - started < 20


def test_the_slurm_profile_plans(fresh):
    assert fresh.planned("--profile", "workflow/profiles/slurm")["train_sae"] > 0


def test_targets_are_listed_before_anything_has_run(fresh):
    result = fresh.snakemake("--quiet", "all", "--", "list_targets")
    for target in ("figures/ortsae/fig3a.svg", "tables/ortsae/table4.md", "report.html"):
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
                        "sites": ["gpt_neox.layers.1"],
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
