"""The real SAELens opens what saeflow writes: every kind of SAE, a trained one of every variant,
and base and residual SAEs as one.

It runs in the environment of `envs/export.txt`, because SAELens cannot share the workflow's own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import pytest
import torch

from saeflow.sae.formats import load_sae
from saeflow.sae.settings import Training
from saeflow.sae.stitch import save_stitched
from saeflow.sae.trainer import train_sae

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "tests" / "unit"))
from sae_planted import SITE, VARIANTS, planted, planted_cache, settings  # noqa: E402
from stitch_planted import train_residual  # noqa: E402

VARIABLE = "SAEFLOW_EXPORT_PYTHON"
PYTHON = Path(os.environ.get(VARIABLE, ROOT / ".venv-export" / "bin" / "python"))
SCALINGS = get_args(Training.model_fields["input_scaling"].annotation)
# Every variant as it trains by default, and every input scaling, which is folded or kept on saving.
TRAINED = [(name, "rms") for name in VARIANTS] + [
    (name, scaling) for name in ("gated", "batchtopk") for scaling in SCALINGS if scaling != "rms"
]
# Variants of a trained base, and what its residual SAEs have for an activation function.
STITCHED = {
    "batchtopk": ("batchtopk", "batchtopk"),
    "relu": ("batchtopk",),
    "jumprelu": ("gated",),
    "gated": ("batchtopk",),
}
GEMMA_SCOPE = ROOT / "tests" / "fixtures" / "saes" / "gemma_scope" / "jumprelu"

pytestmark = pytest.mark.skipif(
    VARIABLE not in os.environ and not PYTHON.exists(),
    reason="SAELens has no environment here: build it with `make export` (minutes), or name an "
    f"interpreter that has sae-lens in {VARIABLE}",
)


@pytest.fixture(scope="module")
def compared(tmp_path_factory) -> subprocess.CompletedProcess[str]:
    """Train every SAE for some steps and let SAELens open them and the random ones."""
    parent = tmp_path_factory.mktemp("trained")
    rows_nd, _ = planted(2048)
    cache = planted_cache(parent / "cache", rows_nd)
    folders = []
    for variant, scaling in TRAINED:
        folders.append(parent / f"{variant}-{scaling}")
        job = settings(variant, tokens=30 * 64, input_scaling=scaling, calibration_batches=4)
        train_sae(job, cache, SITE, folders[-1])
    for variant, activations in STITCHED.items():
        folders.append(stitched(parent / f"{variant}-rms", cache, activations, parent))
    narrow = planted_cache(parent / "narrow", planted(2048, features=20, d=8)[0])
    folders.append(stitched(GEMMA_SCOPE, narrow, ("batchtopk",), parent))
    script = ROOT / "tests" / "compat" / "check_saelens.py"
    return subprocess.run(
        [PYTHON, script, *folders],
        env={**os.environ, "PYTHONPATH": str(ROOT / "workflow"), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )


def stitched(base: Path, cache: Path, activations: Sequence[str], parent: Path) -> Path:
    """Write a base with residual SAEs as one and return its folder, which reconstructs their sum.

    As `load_sae` reads it; that SAELens computes the same is compared with all others.
    """
    name, residuals = f"stitched-{base.name}", []
    for seed, activation in enumerate(activations):
        out = parent / f"residual-{base.name}-{seed}"
        residuals.append(train_residual(base, cache, out, activation=activation, seed=seed))
    save_stitched(base, residuals, parent / name)
    one, saes = load_sae(parent / name), [load_sae(path) for path in (base, *residuals)]
    x_bd = 1 + 3 * torch.randn(256, one.d_in, generator=torch.Generator().manual_seed(1))
    summed_bd = sum(sae(x_bd) for sae in saes)
    torch.testing.assert_close(one(x_bd), summed_bd, atol=1e-4, rtol=1e-4)
    assert all(sae.encode(x_bd).any() for sae in saes)
    return parent / name


def test_saelens_computes_what_saeflow_does(compared):
    """Encode, decode and forward within 1e-5 of the largest entry."""
    assert compared.returncode == 0, compared.stdout + compared.stderr


def test_nothing_was_left_out(compared):
    lines = compared.stdout.splitlines()
    names = {line.split(":")[0] for line in lines if line.endswith(" ok")}
    sums = {f"stitched-{variant}-rms" for variant in STITCHED} | {"stitched-jumprelu"}
    assert names >= {f"{variant}-{scaling}" for variant, scaling in TRAINED} | sums
    assert len(names) == len(TRAINED) + len(sums) + 4 * 2 * 2
