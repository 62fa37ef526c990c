"""Cases of TracIn's keys: a tiny subject, random windows and SAEs with snapshots.

Which SAE is meant by name and how many candidates there are is for the rules and the selection.
"""

from __future__ import annotations

from pathlib import Path

from activations_planted import SITES, make_subject, make_tokens, random_windows
from keys_case import Case, Result, Stage

from saeflow.activations.settings import ActivationSettings
from saeflow.activations.write import cache_activations
from saeflow.retrieval.tracin import checkpoints_of, tracin_scores
from saeflow.retrieval.tracin_passages import Passages
from saeflow.retrieval.tracin_settings import TracIn
from saeflow.sae.settings import L1, SAESettings, Training, Variant
from saeflow.sae.trainer import train_sae

D_SAE = 24


def prepare(world: Path) -> None:
    """Write a subject, tokens, their cache and an SAE of each of two sites."""
    make_subject(world / "subject")
    make_tokens(world / "tokens", random_windows(60))
    settings = ActivationSettings(tokens={"train": 10**6}, dtype="float32", batch_tokens=128)
    cache = world / "cache"
    cache_activations(settings, world / "subject", world / "tokens", "train", SITES[:2], cache)
    for site in SITES[:2]:
        training = Training(tokens=20 * 64, batch_size=64, learning_rate=1e-2, snapshots=(0.5,))
        variant = Variant(activation="relu", l1=L1(coefficient=0.02))
        sae = SAESettings(variant=variant, training=training, d_sae=D_SAE, l0=4, seed=0)
        train_sae(sae, cache, site, world / site)


def run(settings: TracIn, world: Path, out: Path) -> Result:
    passages = Passages(world / "tokens", "train", sorted({w[0] for w in random_windows(60)}))
    scores = tracin_scores(
        settings,
        checkpoints_of(world / settings.site, settings.checkpoints),
        subject=world / "subject",
        activations=world / "cache",
        candidates=passages._replace(documents=passages.documents[4:]),
        seeds=passages._replace(documents=passages.documents[:4]),
    )
    return {"scores": scores.tolist()}


STAGES = {
    "tracin": Stage(
        TracIn.model_validate,
        {
            "site": SITES[0],
            "sae": {"variant": "relu", "corpus": "docs", "d_sae": D_SAE, "l0": 4},
        },
        run,
        {
            "TracIn.site": Case("site", SITES[1], "scores"),
            "TracIn.loss": Case("loss", "reconstruction", "scores"),
            "TracIn.normalise": Case("normalise", "none", "scores"),
            "TracIn.checkpoints": Case("checkpoints", "all", "scores"),
        },
        prepare,
    )
}
