"""The table of the GPU benchmark: a row outlives a configuration that fails, and an abort."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "gpu.py"


@pytest.fixture
def gpu():
    spec = importlib.util.spec_from_file_location("gpu", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_rows_are_written_one_by_one_and_a_failure_is_one(gpu, monkeypatch, tmp_path):
    outcomes = iter(
        [(1e5, 3.0), RuntimeError("out of | memory\nat"), (2e5, 3.0), KeyboardInterrupt]
    )

    def train(*of):
        outcome = next(outcomes)
        if isinstance(outcome, tuple):
            return outcome
        raise outcome

    monkeypatch.setattr(gpu, "train", train)
    with pytest.raises(KeyboardInterrupt):
        gpu.write(gpu.rows([(512, 8192, 32)], 800.0, 8192, 20), tmp_path / "table.md")
    first, second, third = (tmp_path / "table.md").read_text().splitlines()
    assert "100,000" in first and "200,000" in third
    assert "failed, RuntimeError: out of / memory |" in second
    assert first.count("|") == second.count("|") == third.count("|")
