"""A pair of SAEs whose latents fire on known words and whose decoder vectors are known sums."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from autointerp_planted import SITE, VOCAB, write_subject, write_tokens
from decoders_planted import cache
from numpy.random import default_rng
from torch import Tensor, nn

from saeflow.artifacts import write_manifest
from saeflow.evaluation.decoder_pairs import Pair
from saeflow.evaluation.decomposed_latents import evaluate_decomposed_latents
from saeflow.evaluation.decomposed_latents_settings import DecomposedLatentsSettings
from saeflow.evaluation.decomposition import evaluate_decomposition
from saeflow.evaluation.decomposition_settings import DecompositionSettings
from saeflow.evaluation.origin import Member
from saeflow.evaluation.rows import Point
from saeflow.sae.formats import save_sae
from saeflow.sae.model import SAE

VARIANT: Sequence[dict[int, float]] = (
    {7: 1.0}, {9: 1.0}, {11: 1.0}, dict.fromkeys(range(20, 30), 1.0), {}, {40: 1.0},
)  # fmt: skip
"""By latent: the words that it fires on, with how strongly; its decoder vector is an axis."""
BASELINE: Sequence[dict[int, float]] = (
    {7: 1.0, 9: 0.5}, {7: 1.0, 50: 0.9}, {7: 1.0, 9: 0.8, 11: 0.6}, {20: 1.0}, {40: 1.0}, {},
)  # fmt: skip
SUMS = (
    {0: 0.8, 1: 0.6},
    {0: 0.6, 2: 0.8},
    {0: 0.8, 1: 0.2**0.5, 2: 0.4},
    {3: 0.8, 4: 0.6},
    {5: 1.0},
)
"""By latent of the baseline: the axes that its decoder vector is a sum of, with coefficients.

The sum of latent 3 has a part that never fires, latent 4 is one of the variant's, and the last is
no sum of any.
"""
POINT = Point("ortsae", "subject", SITE, "docs", "all", "ortsae", len(VARIANT), 4)


def make_world(root: Path) -> Path:
    """Write subject, tokens, SAEs of two seeds and their decomposition below `root`."""
    write_subject(root / "subject")
    words_dt = default_rng(0).integers(1, VOCAB, (80, 40))
    write_tokens(root / "tokens", "test", words_dt)
    write_manifest(root / "tokens", kind="tokens", settings={}, files=["test.parquet"])
    write_manifest(
        cache(root / "cache"),
        kind="activations",
        settings={"activations": {"skip_positions": 1}},
        files=[],
        stats={"sink_thresholds": None},
    )
    evaluate_decomposition(
        DecompositionSettings(), [write_pair(root, seed) for seed in (0, 1)], baseline="batchtopk",
        activations=root / "cache", split="test", point=POINT, out=root / "decomposition",
    )  # fmt: skip
    return root


def pair_of(root: Path, seed: int) -> Pair:
    return Pair(*(Member(4, seed, root / name / f"seed{seed}") for name in ("ortsae", "batchtopk")))


def evaluate(
    settings: DecomposedLatentsSettings, root: Path, out: Path, seeds: Sequence[int] = (0,)
) -> None:
    """Run the job on the SAEs of these seeds."""
    evaluate_decomposed_latents(
        settings,
        [pair_of(root, seed) for seed in seeds],
        decomposition=root / "decomposition",
        subject=root / "subject",
        tokens=root / "tokens",
        activations=root / "cache",
        exclusion=root / "cache",
        split="test",
        baseline="batchtopk",
        point=POINT,
        out=out,
    )


def write_pair(root: Path, seed: int) -> Pair:
    pair = pair_of(root, seed)
    axes_fd = torch.eye(VOCAB)[: len(VARIANT)]
    _write(root, pair.variant, VARIANT, axes_fd)
    sums = [sum(c * axes_fd[part] for part, c in of.items()) for of in SUMS]
    _write(root, pair.baseline, BASELINE, torch.stack([*sums, torch.eye(VOCAB)[60]]))
    return pair


def _write(root: Path, member: Member, latents: Sequence[dict[int, float]], w_dec: Tensor) -> None:
    w_enc = torch.zeros(VOCAB, len(latents))
    for latent, words in enumerate(latents):
        for word, strength in words.items():
            w_enc[word, latent] = strength
    sae = SAE(w_enc, w_dec.clone(), torch.zeros(len(latents)), torch.zeros(VOCAB), nn.ReLU())
    write_manifest(
        member.folder,
        kind="sae",
        settings={"d_sae": len(latents), "l0": member.l0_target, "seed": member.seed},
        files=save_sae(sae, member.folder, {}),
        inputs={"activations": root / "cache"},
        stats={"site": SITE},
    )
