"""What workflow/VARIANTS.md tells a reader to do works as it stands there."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

from saeflow.config import load_config

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "workflow" / "VARIANTS.md").read_text()
EDIT = re.compile(r"^In `([\w/.]+)`, (before|after) `([^`]+)`\n\n```python\n(.*?)```$", re.M | re.S)
TRAIN = """
import sys
sys.path.insert(0, sys.argv[1])
from sae_planted import planted, settings
from saeflow.sae.optimisation import Trainer
from saeflow.sae.settings import Variant

rows, _ = planted(2000)
mean = {}
for name, section in {"without": None, "with": {"coefficient": 3.0}}.items():
    variant = Variant.model_validate({"activation": "topk", "spread": section})
    trainer = Trainer(settings(variant), rows, rows.square().mean().item())
    for _ in range(100):
        outcome = trainer.step(rows[:256])
    assert ("spread" in outcome.losses) == (section is not None)
    mean[name] = outcome.step.values_p.sum().item()
print("lowered" if mean["with"] < 0.95 * mean["without"] else f"not lowered: {mean}")
"""


def test_the_example_variant_is_one_entry():
    entry = yaml.safe_load(re.search(r"```yaml\n(.*?)```", PAGE, re.S).group(1))
    config = load_config({"scale": "smoke", "papers": ["ortsae"], **entry}, ROOT / "config")
    settings = config.sae("tilted_matryoshka", 64, 4, 0)
    assert settings.variant.architecture == "batchtopk+matryoshka+tilt"
    assert settings.training.learning_rate == 1e-3
    assert "tilted_matryoshka" in {p.variant for p in config.ortsae.grids["main"].points()}


def test_the_example_loss_term_trains(tmp_path):
    shutil.copytree(
        ROOT / "workflow/saeflow",
        tmp_path / "saeflow",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    edits = EDIT.findall(PAGE)
    assert len(edits) == 4
    for file, place, anchor, block in edits:
        path = tmp_path / "saeflow" / file
        text = path.read_text()
        assert text.count(f"{anchor}\n") == 1, f"{file} has no one line {anchor!r}"
        line = f"{anchor}\n"
        path.write_text(text.replace(line, line + block if place == "after" else block + line))
    trained = subprocess.run(
        [sys.executable, "-c", TRAIN, str(ROOT / "tests/unit")],
        env={"PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert trained.stdout == "lowered\n", trained.stderr
