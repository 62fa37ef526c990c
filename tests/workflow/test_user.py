"""What a user does beyond the defaults: another subject and corpus, and a machine that dies."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import yaml

from saeflow.artifacts import file_digest

pytestmark = pytest.mark.workflow
DATA = Path(__file__).resolve().parents[3] / "shared" / "data"

# The shipped example, cut to seconds.
SMALL = {
    "data_dir": str(DATA),
    "seeds": [0, 1],
    "train_together": 1,
    "activations": {"tokens": {"train": 20_000}, "shuffle_rows": 8192},
    "training": {"tokens": 20_000, "batch_size": 256},
    "evaluation": {"core": {"splits": {"test": 2048}}},
    "ortsae": {
        "grids": {"main": {"d_sae": 128, "l0": [8], "reference_l0": 8}},
        "timings": {"steps": {"rounds": 5, "steps": 5}},
    },
}


@pytest.mark.skipif(not DATA.is_dir(), reason="the shared data sets are not here")
def test_a_converted_llama_on_files_runs_by_config_alone(fresh, tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(SMALL))
    result = fresh.snakemake("--configfile", "config/stories260k.yaml", str(path), scale="desk")
    assert result.returncode == 0, result.stdout + result.stderr
    root = fresh.folder / "results/stories260k/desk"
    drawn = pd.read_csv(root / "figures/ortsae/fig3a.csv")
    assert len(drawn) > 0
    clean = pd.concat(pd.read_parquet(p) for p in root.rglob("core.parquet"))
    # stories260K knows English stories; general text is foreign to it but not noise.
    assert clean.loc[clean["metric"] == "ce_clean", "value"].max() < 6.2


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
