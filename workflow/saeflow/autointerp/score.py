"""Explanations of sampled latents, how well they predict, and how varied the latents are.

Detection scoring (the protocol of the SSAE paper's Fig. 8): a judge explains a latent from contexts
that activate it, and then says of other contexts, going by the explanation alone, whether they
activate it. F1, precision, recall and accuracy compare that with what the latent does. The
diversity of a latent (Fig. 4, Tables 2 and 3) is the judge's rating from 0 to 100.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from saeflow.artifacts import (
    ArtifactError,
    Clock,
    begin,
    read_manifest,
    rebuild_command,
    write_manifest,
)
from saeflow.autointerp.contexts import collect
from saeflow.autointerp.endpoint import EndpointModel
from saeflow.autointerp.judges import Judge
from saeflow.autointerp.language import LanguageJudge
from saeflow.autointerp.lexical import LexicalJudge
from saeflow.autointerp.local import LocalModel
from saeflow.autointerp.settings import Autointerp, Endpoint, Local
from saeflow.autointerp.tables import summary, write_scores
from saeflow.autointerp.verdicts import verdicts
from saeflow.evaluation.rows import Point, write_rows
from saeflow.fingerprint import fingerprint
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
    device: str = "cpu",
) -> None:
    """Explain and score sampled latents of the SAEs of one point (checkpoint folders by seed).

    `activations` is any cache of the point's subject and site; only its exclusion rule is read.
    Writes into the folder `out`: `scores.parquet` (one row a latent), `explained.parquet` (tidy
    rows), `answers.parquet` where a language model judges, and the manifest. A latent that a judge
    fails on is a row with the reason as `status` and without scores. Raises ArtifactError for
    damaged inputs and an SAE of another point, JudgeRefused for a judge that will answer nothing,
    and ValueError where no latent is active often enough.
    """
    clock, out = Clock(), begin(out)
    if not saes:
        raise ValueError(f"no SAEs given for {point}")
    for seed, folder in saes.items():
        _check_point(folder, seed, point)
    judge = make_judge(settings, out, device)
    found = collect(
        settings,
        saes,
        subject=subject,
        tokens=tokens,
        split=split,
        activations=activations,
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
    write_scores(out / SCORES, judge.name, found.latents, judged)
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
            **{f"seed{seed}": folder for seed, folder in saes.items()},
        },
        stats={
            "judge": judge.name,
            "latents": len(judged),
            "failed": sum(verdict.status != "ok" for verdict in judged),
            **spent,
        },
        seed=settings.seed,
        device=device,
        code=fingerprint(__name__),
        clock=clock,
    )


def make_judge(settings: Autointerp, folder: Path, device: str) -> Judge:
    """Return the judge of the settings; a language model keeps its answers in `folder`."""
    match settings.judge:
        case Endpoint() as endpoint:
            return LanguageJudge(EndpointModel(endpoint), folder, settings.examples_per_prompt)
        case Local() as local:
            return LanguageJudge(LocalModel(local, device), folder, settings.examples_per_prompt)
        case lexical:
            return LexicalJudge(lexical)


def _check_point(folder: Path, seed: int, point: Point) -> None:
    """Raise ArtifactError unless `folder` holds an SAE of that site, size, L0 and seed."""
    manifest = read_manifest(folder, kind="sae", deep=True)
    found = {**manifest["settings"], "site": manifest["stats"].get("site")}
    wanted = {"d_sae": point.d_sae, "l0": point.l0_target, "seed": seed, "site": point.site}
    wrong = [f"{key} {found.get(key)} for {v}" for key, v in wanted.items() if found.get(key) != v]
    if wrong:
        raise ArtifactError(
            f"{folder} does not hold the SAE of this point: it has {', '.join(wrong)}; "
            f"train it anew with: {rebuild_command(folder)}"
        )
