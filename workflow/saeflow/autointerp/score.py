"""Explanations of sampled latents, how well they predict, and how varied the latents are.

Detection scoring (the protocol of the SSAE paper's Fig. 8): a judge explains a latent from contexts
that activate it, and then says of other contexts, going by the explanation alone, whether they
activate it. F1, precision, recall and accuracy compare that with what the latent does. The
diversity of a latent (Fig. 4, Tables 2 and 3) is the judge's rating from 0 to 100.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from saeflow.artifacts import Clock, begin, write_manifest
from saeflow.autointerp.contexts import collect
from saeflow.autointerp.kinds import judge_code, make_judge
from saeflow.autointerp.settings import Autointerp
from saeflow.autointerp.tables import definition, summary, write_scores
from saeflow.autointerp.verdicts import verdicts
from saeflow.evaluation.origin import bases_of, check_members, of_one_point
from saeflow.evaluation.rows import Point, write_rows
from saeflow.progress import say

SCORES, EXPLAINED = "scores.parquet", "explained.parquet"


def explain_latents(
    settings: Autointerp,
    saes: Mapping[int, Path],
    *,
    subject: Path,
    tokens: Path,
    split: str,
    activations: Path,
    point: Point,
    out: Path,
    exclusion: Path | None = None,
    bases: Mapping[int, Path] | None = None,
    root: Path = Path(),
    device: str = "cpu",
) -> None:
    """Explain and score sampled latents of the SAEs of one point (checkpoint folders by seed).

    `tokens` is of the point's `corpus`; `activations` is the cache that the SAEs were trained on,
    of its `selection`; `exclusion` is the cache whose rule says which tokens count, null takes
    `activations`; `bases` are the frozen SAEs of residual ones by seed, of which the own latents
    alone are explained; `root` is what the path of a local judge is relative to. Writes into the
    folder `out`: `scores.parquet` (one row a latent), `explained.parquet` (tidy rows),
    `answers.parquet` where a language model judges, and the manifest. A latent that a judge fails
    on is a row with the reason as `status` and without what it failed on. Raises ArtifactError for
    damaged inputs and an SAE of another point, JudgeRefused for a judge that will answer nothing,
    and ValueError where no latent is active often enough.
    """
    clock, out = Clock(), begin(out)
    members = of_one_point(point, saes, bases)
    check_members(members, point, activations)
    rule = exclusion or activations
    judge = make_judge(settings, out, root=root, device=device)
    found = collect(
        settings,
        saes,
        subject=subject,
        tokens=tokens,
        split=split,
        exclusion=rule,
        site=point.site,
        contrast=judge.contrast,
        device=device,
    )
    if not found.latents:
        raise ValueError(
            f"{point.variant}: no latent is active in {settings.min_activations} contexts of each "
            "kind; read more tokens or lower min_activations"
        )
    say(judge.forecast(found.latents))
    judged = list(verdicts(judge, found.latents))
    write_scores(out / SCORES, judge, found.latents, judged)
    write_rows(out / EXPLAINED, summary(found, judged, point, split))
    spent = judge.finish()
    write_manifest(
        out,
        kind="metrics",
        settings={"autointerp": settings.model_dump(), "point": point._asdict(), "split": split},
        files=[SCORES, EXPLAINED, *judge.files],
        inputs={
            "subject": subject,
            "tokens": tokens,
            "activations": activations,
            "exclusion": rule,
            **{f"seed{seed}": folder for seed, folder in saes.items()},
        },
        stats={
            "judge": judge.name,
            "judge_definition": definition(judge),
            "latents": len(judged),
            "bases": bases_of(members),
            "failed": sum(verdict.status != "ok" for verdict in judged),
            **spent,
        },
        seed=settings.seed,
        device=device,
        code=judge_code(settings.judge.kind),
        clock=clock,
    )
