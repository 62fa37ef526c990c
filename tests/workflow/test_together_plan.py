"""What `train_together` plans: the same SAEs in fewer jobs. No job runs here."""

import re

import yaml


def groups(project, *arguments):
    """Output folders of each job that trains SAEs together, and the text of the plan."""
    result = project.snakemake("-n", *arguments)
    text = result.stdout + result.stderr
    assert result.returncode == 0, text
    jobs = re.findall(r"^rule train_saes_\d+:\n.*\n    output: (.*)$", text, re.M)
    return [job.replace(" (update)", "").split(", ") for job in jobs], text


def configured(tmp_path, **changes):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"papers": ["ortsae"], "train_together": 4, **changes}))
    return ("--configfile", str(path))


WHOLE_GRID = "results/smoke/figures/ortsae/fig3a.svg"  # all four variants of the main grid


def test_jobs_hold_all_saes_once_and_one_seed_each(fresh, tmp_path):
    jobs, _ = groups(fresh, WHOLE_GRID, *configured(tmp_path))
    listed = [sae for job in jobs for sae in job]
    planned = fresh.planned_outputs(WHOLE_GRID, *configured(tmp_path, train_together=1))
    alone = {path for path in planned if "/saes/" in path}
    assert len(listed) == len(set(listed)) and {*listed} == alone
    # Eight SAEs of each of two seeds, which differ in the order of their batches.
    assert sorted(len(job) for job in jobs) == [4, 4, 4, 4]
    assert all(len({sae.split("/")[-2] for sae in job}) == 1 for job in jobs)


def test_a_single_figure_plans_only_the_jobs_that_it_needs(fresh, tmp_path):
    figure = "results/smoke/figures/ortsae/fig1.svg"  # three of the four variants
    options = configured(tmp_path, train_together=2)
    planned = [len(groups(fresh, target, *options)[0]) for target in (WHOLE_GRID, figure)]
    assert planned == [8, 6]


def test_a_variant_stays_whole_where_it_fits(fresh, tmp_path):
    """So that a changed variant trains no other one again."""
    jobs, _ = groups(fresh, WHOLE_GRID, *configured(tmp_path, train_together=3))
    parts = [{(sae.split("/")[6], sae.split("/")[-2]) for sae in job} for job in jobs]
    assert len(jobs) == 8 and len(set.union(*parts)) == sum(map(len, parts))


def test_the_saes_of_all_sites_are_one_job(fresh, tmp_path):
    changes = {"papers": ["ssae"], "train_together": 1, "seeds_together": 1}
    jobs, _ = groups(fresh, *configured(tmp_path, **changes))
    assert sorted(len({sae.split("/")[4] for sae in job}) for job in jobs) == [7, 7, 7, 7]


def first_job(text, rule):
    return text[text.index(f"rule {rule}:") :].split("\n\n")[0]


def test_what_is_set_for_one_sae_holds_for_jobs_of_several(fresh, tmp_path):
    options = ["train_sae:gpu=1", "train_sae:mem_mb=1000", "train_sae:runtime=1h"]
    _, text = groups(
        fresh,
        *configured(tmp_path),
        "--set-threads",
        "train_sae=2",
        "--set-resources",
        *options,
    )
    job = first_job(text, "train_saes_0")
    assert "threads: 2" in job
    for resource in ("gpu=1", "mem_mb=4000", "runtime=240"):  # of four SAEs
        assert resource in job


def test_each_process_has_a_thread_and_its_memory(fresh, tmp_path):
    alone = configured(tmp_path, train_together=1)
    _, text = groups(fresh, *alone, "--set-resources", "train_sae:processes=2")
    job = first_job(text, "train_sae")
    for part in ("threads: 2", "processes=2", "mem_mb=3000", "runtime=720"):
        assert part in job
    _, text = groups(fresh, *configured(tmp_path), "--set-resources", "train_sae:processes=2")
    job = first_job(text, "train_saes_0")
    for part in ("threads: 2", "processes=2", "mem_mb=12000", "runtime=2880"):
        assert part in job


def test_no_process_is_refused(fresh):
    result = fresh.snakemake("-n", "--set-resources", "train_sae:processes=0")
    assert result.returncode != 0
    assert "train_sae:processes is 0" in result.stdout + result.stderr


def test_a_residual_sae_is_not_trained_with_its_base(fresh, tmp_path):
    base = {"source": "trained", "variant": "topk", "corpus": "docs", "d_sae": 256, "l0": 4}
    variants = ["relu", "batchtopk", "matryoshka", "ortsae", "topk", "residual"]
    jobs, _ = groups(
        fresh,
        *configured(
            tmp_path,
            variants={"residual": {"activation": "batchtopk", "error_of": base}},
            ortsae={"grids": {"main": {"variants": variants}}},
        ),
    )
    assert sum("residual" in sae for job in jobs for sae in job) == 4
    assert not [job for job in jobs if len({"residual" in sae for sae in job}) > 1]


def test_seeds_of_what_starts_from_an_sae_share_a_job(fresh, tmp_path):
    def tuned(number):
        """SAEs of each job that starts from an SAE on a selection, and their seeds."""
        options = {"papers": ["ssae"], "train_together": 1, "seeds_together": number}
        jobs, _ = groups(fresh, *configured(tmp_path, **options))
        of_one_site = [job for job in jobs if len({sae.split("/")[4] for sae in job}) == 1]
        return [{sae.split("/")[-2] for sae in job} for job in of_one_site]

    assert tuned(1) == []
    assert len(tuned(2)) > 5 and all(len(seeds) == 2 for seeds in tuned(2))


def test_snakemakes_own_lint_passes(fresh):
    result = fresh.snakemake("--lint", "--config", "scale=smoke", "train_together=3")
    assert result.returncode == 0, result.stdout + result.stderr


def test_a_wrong_number_is_refused(fresh):
    result = fresh.snakemake("-n", "--config", "scale=smoke", "train_together=0")
    assert result.returncode != 0
    assert "train_together: Input should be greater than 0" in result.stdout + result.stderr


SHOWN = ("results/smoke/figures/ortsae/fig1.svg", "results/smoke/figures/ssae/fig2.svg")


def test_fewer_jobs_measure_the_same_and_a_figure_nothing_more(fresh, tmp_path):
    papers = {"papers": ["ortsae", "ssae"]}
    alone = configured(tmp_path, measure_together=1, select_together=1, **papers)
    outputs = [fresh.planned_outputs(*alone), *(fresh.planned_outputs(t, *alone) for t in SHOWN)]
    jobs = sum(fresh.planned(*alone).values())
    several = configured(tmp_path, measure_together=16, select_together=8, **papers)
    together = [fresh.planned_outputs(*several)]
    together += [fresh.planned_outputs(target, *several) for target in SHOWN]
    assert together == outputs
    assert sum(fresh.planned(*several).values()) < 0.8 * jobs


def test_no_job_measures_more_than_is_set(fresh, tmp_path):
    options = configured(tmp_path, measure_together=3)
    result = fresh.snakemake("-n", *options)
    assert result.returncode == 0, result.stdout + result.stderr
    jobs = re.findall(r"^rule measure_absorption_\d+:\n.*\n    output: (.*)$", result.stdout, re.M)
    assert max(len(job.split(", ")) for job in jobs) == 3
