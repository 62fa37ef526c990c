"""The real workflow at smoke scale: what it leaves, what an edit makes run again, and a kill.

All in one file, so that one process of the tests makes the run that they share.
"""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import yaml
from conftest import ROOT, Edit

from saeflow.artifacts import file_digest, read_manifest

pytestmark = pytest.mark.workflow
SAES = 2 * 4 * 2  # OrtSAE's L0 x variants x seeds of config/scales/smoke.yaml


def trainings(smoke):
    """Jobs that trained SAEs in the first run."""
    return len(list((smoke.folder / "results/smoke/benchmarks").glob("train_sae*/**/*.tsv")))


def test_every_artefact_is_whole(smoke):
    manifests = list((smoke.folder / "results/smoke").rglob("manifest.json"))
    assert len(manifests) > SAES
    for path in manifests:
        read_manifest(path.parent, kind=json.loads(path.read_text())["kind"], deep=True)
    assert not list((smoke.folder / "results").rglob(".tmp-*"))
    assert not list((smoke.folder / "results").rglob("trainer"))


LEFT_OUT = yaml.safe_load((ROOT / "config/scales/smoke.yaml").read_text())["ortsae"]["leave_out"]
FIGURES = [
    (paper, name)
    for paper in yaml.safe_load((ROOT / "config/config.yaml").read_text())["papers"]
    for name in yaml.safe_load((ROOT / f"config/papers/{paper}.yaml").read_text())["figures"]
    if name not in LEFT_OUT
]


@pytest.mark.parametrize(("paper", "name"), FIGURES)
def test_figures_come_in_every_format_with_their_data(smoke, paper, name):
    stem = smoke.folder / "results/smoke/figures" / paper / name
    for suffix in (".svg", ".png", ".pdf", ".parquet", ".csv"):
        assert stem.with_suffix(suffix).stat().st_size > 200


def test_a_second_run_does_nothing(smoke):
    assert smoke.planned() == {}


def test_editing_plot_code_plots_again_and_nothing_else(smoke):
    path = smoke.folder / "workflow/saeflow/figures/curves.py"
    with Edit(path, "def draw_curve", "MARK = 1\n\n\ndef draw_curve"):
        assert set(smoke.planned()) == {"figure", "report", "all"}
    assert smoke.planned() == {}


def test_comments_and_formatting_run_nothing(smoke):
    path = smoke.folder / "workflow/saeflow/sae/trainer.py"
    with Edit(path, "def train_sae", "# a remark\ndef train_sae"):
        assert smoke.planned() == {}


def test_editing_the_trainer_marks_the_saes(smoke):
    path = smoke.folder / "workflow/saeflow/sae/trainer.py"
    with Edit(path, "def train_sae", "MARK = 1\n\n\ndef train_sae"):
        planned, outputs = smoke.planned(), smoke.planned_outputs()
    assert planned["train_sae"] == trainings(smoke)
    assert not {"pretrain_subject", "index_documents"} & set(planned)
    # TracIn selects by what an SAE has learnt, so its selections are made again, and no others.
    made = {path.split("/")[-3] for path in outputs if "/activations/" in path}
    assert made and all(corpus.endswith("_tracin") for corpus in made)


def test_editing_a_figures_entry_plots_that_figure(smoke):
    path = smoke.folder / "config/papers/ortsae.yaml"
    with Edit(path, "Explained variance against sparsity", "Another heading"):
        assert smoke.planned() == {"figure": 1, "report": 1, "all": 1}


def test_one_variants_learning_rate_retrains_that_variant(smoke, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"variants": {"relu": {"training": {"learning_rate": 0.01}}}}))
    planned = smoke.planned("--configfile", str(path))
    # A job a seed with every L0, and one a seed at the second site, where BatchTopK shares it.
    assert planned["train_sae"] == 4
    outputs = smoke.planned_outputs("--configfile", str(path))
    assert sum("/metrics/core/" in output for output in outputs) >= 3
    trained = {tuple(p.split("/")[4:7:2]) for p in outputs if "/saes/" in p}
    at_main = {variant for site, variant in trained if site == "gpt_neox.layers.1"}
    assert at_main == {"relu"}
    assert "cache_activations" not in planned


def test_another_seed_trains_its_saes_only(smoke, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"seeds": [0, 1, 2]}))
    there = list((smoke.folder / "results/smoke/saes").rglob("manifest.json"))
    outputs = smoke.planned_outputs("--configfile", str(path))
    planned = [output for output in outputs if "/saes/" in output]
    assert len(planned) == len(there) // 2 and all("/seed2/" in output for output in planned)


def test_measured_alone_a_point_has_the_same_bytes(smoke, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"measure_together": 1}))
    folder = next(
        (smoke.folder / "results/smoke/metrics/core").rglob("ortsae/*/core.parquet")
    ).parent
    before = {path.name: file_digest(path) for path in folder.glob("*.parquet")}
    for file in folder.iterdir():
        file.unlink()
    target = str((folder / "manifest.json").relative_to(smoke.folder))
    result = smoke.snakemake("--configfile", str(path), "--", target)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "rule evaluate_core:" in result.stdout + result.stderr
    assert {path.name: file_digest(path) for path in folder.glob("*.parquet")} == before
    smoke.snakemake()


def test_threads_and_memory_run_nothing(smoke):
    assert smoke.planned("--set-resources", "train_sae:mem_mb=9000") == {}


def test_an_sae_made_again_has_the_same_bytes(smoke):
    folder = next((smoke.folder / "results/smoke/saes").rglob("ortsae/*/seed1"))
    before = file_digest(folder / "sae_weights.safetensors")
    (folder / "manifest.json").unlink()
    (folder / "sae_weights.safetensors").unlink()
    target = str((folder / "manifest.json").relative_to(smoke.folder))
    result = smoke.snakemake(target)
    assert result.returncode == 0, result.stdout + result.stderr
    assert file_digest(folder / "sae_weights.safetensors") == before
    smoke.snakemake()


def test_a_truncated_shard_ends_with_the_file_and_the_cure(smoke):
    cache = smoke.folder / "results/smoke/activations/tiny/docs"
    shard = next(cache.rglob("shard-00000.parquet"))
    sae = next((smoke.folder / "results/smoke/saes").rglob("relu/*/seed0/manifest.json"))
    whole = shard.read_bytes()
    shard.write_bytes(whole[:1000])
    sae.unlink()
    try:
        result = smoke.snakemake(str(sae.relative_to(smoke.folder)))
        assert result.returncode != 0
        output = result.stdout + result.stderr
        assert "shard-00000.parquet has 1000 bytes" in output
        assert "rebuild it with" in output
    finally:
        shard.write_bytes(whole)
        smoke.snakemake()


def test_kill_9_of_everything_and_a_rerun_end_with_the_same_bytes(smoke, tmp_path):
    always = tmp_path / "always.yaml"
    always.write_text(yaml.safe_dump({"training": {"checkpoint_minutes": 0}}))
    saes = smoke.folder / "results/smoke/saes"
    folders = sorted(saes.rglob("batchtopk/*/seed*"))
    before = {folder: file_digest(folder / "sae_weights.safetensors") for folder in folders}
    for folder in folders:
        (folder / "manifest.json").unlink()
        (folder / "sae_weights.safetensors").unlink()
    targets = [str((f / "manifest.json").relative_to(smoke.folder)) for f in folders]
    command = [sys.executable, "-m", "snakemake", "--config", "scale=smoke", "--cores", "2"]
    process = subprocess.Popen(
        [*command, "--configfile", str(always), "--", *targets],
        cwd=smoke.folder,
        env={**os.environ, "PYTHONPATH": str(smoke.folder / "workflow")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    # By its name: a state that is still being written lies beside it under another.
    while not list(saes.rglob("trainer/state.safetensors")) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert list(saes.rglob("trainer/state.safetensors")), "no checkpoint was written in time"
    assert smoke.snakemake("--unlock").returncode == 0
    result = smoke.snakemake(*targets)
    assert result.returncode == 0, result.stdout + result.stderr
    logs = (smoke.folder / "results/smoke/logs").glob("train_sae*/**/*.log")
    assert any("going on from step" in log.read_text() for log in logs)
    assert {f: file_digest(f / "sae_weights.safetensors") for f in folders} == before
    smoke.snakemake()
    assert smoke.planned() == {}
