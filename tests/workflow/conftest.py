"""A copy of the project in which the real workflow runs at smoke scale."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("Snakefile", "config", "envs", "profiles", "workflow")


class Project:
    """A checkout of its own, whose library shadows the installed one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in COPIED:
            source = ROOT / name
            if source.is_dir():
                skip = shutil.ignore_patterns("__pycache__", "*.egg-info")
                shutil.copytree(source, folder / name, ignore=skip)
            else:
                shutil.copy2(source, folder / name)

    def snakemake(self, *arguments: str, scale: str = "smoke") -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "snakemake", "--config", f"scale={scale}", "--cores", "2"]
        environment = {**os.environ, "PYTHONPATH": str(self.folder / "workflow")}
        return subprocess.run(
            [*command, *arguments],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
        )

    def planned(self, *arguments: str, scale: str = "smoke") -> dict[str, int]:
        """Jobs by rule that a run would start; empty when there is nothing to be done.

        A rule that does several jobs of another in one counts as that: `train_saes_3` as
        `train_sae`, `evaluate_core_0` as `evaluate_core`.
        """
        result = self.snakemake("-n", *arguments, scale=scale)
        assert result.returncode == 0, result.stdout + result.stderr
        if "Nothing to be done" in result.stdout + result.stderr:
            return {}
        table = re.search(r"^job +count\n-[- ]+\n(.*?)^total", result.stdout, re.M | re.S)
        assert table, result.stdout + result.stderr
        counts: Counter[str] = Counter()
        for rule, n in (line.split() for line in table[1].splitlines()):
            counts[re.sub(r"(?<=train_sae)s_\d+$|_\d+$", "", rule)] += int(n)
        return dict(counts)

    def planned_outputs(self, *arguments: str) -> set[str]:
        """Output files of the jobs that a run would start."""
        result = self.snakemake("-n", *arguments)
        assert result.returncode == 0, result.stdout + result.stderr
        outputs = re.findall(r"^    output: (.*)$", result.stdout, re.M)
        return {path for line in outputs for path in line.replace(" (update)", "").split(", ")}


class Edit:
    """Replace text in a file of the project for the time of a test."""

    def __init__(self, path: Path, old: str, new: str) -> None:
        self.path, self.text = path, path.read_text()
        assert old in self.text, f"{path} no longer holds {old!r}"
        path.write_text(self.text.replace(old, new, 1))

    def __enter__(self) -> Edit:
        return self

    def __exit__(self, *_: object) -> None:
        self.path.write_text(self.text)


@pytest.fixture(scope="session")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project in which nothing has run."""
    return Project(tmp_path_factory.mktemp("fresh"))


@pytest.fixture(scope="session")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project in which the smoke scale has run to its end."""
    project = Project(tmp_path_factory.mktemp("smoke"))
    result = project.snakemake()
    assert result.returncode == 0, result.stdout + result.stderr
    return project
