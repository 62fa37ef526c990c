"""The frame of a job, and several jobs in one process."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from saeflow.job import job, run_script

SCRIPT = """
from saeflow.job import job

with job(snakemake.log[0], snakemake.threads):
    import sys

    given = [snakemake.wildcards.series, snakemake.input.saes, snakemake.input.get("corpus")]
    print(*given, snakemake.params.split, snakemake.resources.gpu, file=sys.stderr)
    if snakemake.params.split == "none":
        raise {error}
    open(snakemake.output[0], "w").close()
"""


@pytest.fixture
def outer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    monkeypatch.setattr(sys, "stderr", sys.stderr)
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"):
        monkeypatch.setenv(variable, "1")
    log = [str(tmp_path / "logs" / "job.log")]
    return SimpleNamespace(log=log, threads=1, resources=SimpleNamespace(gpu=0))


def run(outer: SimpleNamespace, folder: Path, splits: list[str], error: str = "") -> str:
    """Run the script once a split, in one job; return its log."""
    script = folder / "script.py"
    script.write_text(SCRIPT.format(error=error or "ValueError"))
    try:
        with job(outer.log[0], outer.threads):
            for split in splits:
                given = {
                    "wildcards": {"series": "bm25"},
                    "input": {"saes": ["a", "b"]},
                    "output": [str(folder / split)],
                    "params": {"split": split},
                }
                run_script(script, outer, given)
    finally:
        sys.stderr.close()
    return Path(outer.log[0]).read_text()


def test_each_script_has_its_own_and_all_share_a_log(
    outer: SimpleNamespace, tmp_path: Path
) -> None:
    log = run(outer, tmp_path, ["test", "train"])
    assert log == "bm25 ['a', 'b'] None test 0\nbm25 ['a', 'b'] None train 0\n"
    assert (tmp_path / "test").exists() and (tmp_path / "train").exists()
    assert run(outer, tmp_path, ["other"]) == "bm25 ['a', 'b'] None other 0\n"


def test_an_error_that_names_its_cause_ends_the_job_with_it(
    outer: SimpleNamespace, tmp_path: Path
) -> None:
    named = "__import__('saeflow.config').config.ConfigError('no such corpus')"
    with pytest.raises(SystemExit):
        run(outer, tmp_path, ["test", "none", "train"], named)
    log = Path(outer.log[0]).read_text()
    assert log.splitlines()[-1] == "error: no such corpus" and log.count("error:") == 1
    assert (tmp_path / "test").exists() and not (tmp_path / "train").exists()
