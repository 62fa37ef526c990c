"""The commands of the README are commands that work."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

README = (Path(__file__).resolve().parents[2] / "README.md").read_text()
BLOCKS = re.findall(r"^```bash\n(.*?)^```", README, re.M | re.S)
LINES = [line.split("  #")[0].strip() for block in BLOCKS for line in block.splitlines()]
# These need files of the user's own.
OWN = ("config/own.yaml", "data_dir=")
COMMANDS = [
    line for line in LINES if line.startswith("snakemake ") and not any(o in line for o in OWN)
]


def test_the_readme_shows_commands():
    assert len(COMMANDS) >= 4


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_readme_plans(fresh, command):
    arguments = shlex.split(command)[1:]
    scale = next((a.split("=")[1] for a in arguments if a.startswith("scale=")), "desk")
    arguments = [a for a in arguments if a != "--config" and not a.startswith("scale=")]
    arguments = [a for a in arguments if a not in ("--cores",) and not a.isdigit()]
    result = fresh.snakemake("-n", *arguments, scale=scale)
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_template_in_the_readme_is_the_file():
    template = (Path(__file__).resolve().parents[2] / "config/own.yaml").read_text()
    shown = re.findall(r"^```yaml\n(.*?)^```", README, re.M | re.S)
    assert yaml.safe_load(template) in [yaml.safe_load(block) for block in shown]
