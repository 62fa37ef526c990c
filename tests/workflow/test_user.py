"""What a user does beyond the defaults: another subject and corpus."""

from pathlib import Path

import pandas as pd
import pytest
import yaml

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
    made = "results/stories260k/desk"
    targets = (f"{made}/figures/ortsae/fig3a.svg", f"{made}/tables/ortsae/table2.md")
    files = ("--configfile", "config/stories260k.yaml", str(path))
    result = fresh.snakemake(*targets, *files, scale="desk")
    assert result.returncode == 0, result.stdout + result.stderr
    root = fresh.folder / made
    assert "OrtSAE" in (root / "tables/ortsae/table2.md").read_text()
    drawn = pd.read_csv(root / "figures/ortsae/fig3a.csv")
    assert len(drawn) > 0
    clean = pd.concat(pd.read_parquet(p) for p in root.rglob("core.parquet"))
    # stories260K knows English stories; general text is foreign to it but not noise.
    assert clean.loc[clean["metric"] == "ce_clean", "value"].max() < 6.2
