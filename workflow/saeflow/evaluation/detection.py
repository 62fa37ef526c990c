"""Detection: how well explanations of latents predict in which sequences they are active.

A judge explains a latent in words from sequences that activate it, and then says of other
sequences, going by the words alone, whether they activate it. A latent's score is the share of
these on which it is right, an SAE's the mean over its latents: OrtSAE's autointerp score (Fig. 3d),
and the same by SAEBench's protocol, which differ in the sequences (`detection_settings`). What a
score says depends on the judge: both used GPT-4o-mini.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from saeflow.activations.exclusion import Exclusion, read_exclusion
from saeflow.artifacts import Clock, atomic_path, begin, write_manifest
from saeflow.autointerp.examples import Contexts, Examples, pieces_of
from saeflow.autointerp.firing import Text, read_text
from saeflow.autointerp.judges import Judge
from saeflow.autointerp.kinds import judge_code, make_judge
from saeflow.autointerp.settings import Autointerp
from saeflow.autointerp.tables import definition
from saeflow.autointerp.verdicts import asked, judged_each, score
from saeflow.evaluation.detection_latents import DrawnSAE, draw_latents
from saeflow.evaluation.detection_settings import DetectionSettings
from saeflow.evaluation.detection_tables import DETAILS, Outcome, summary
from saeflow.evaluation.detection_text import Line
from saeflow.evaluation.origin import Key, Member, check_members, inputs_of, load_members
from saeflow.evaluation.rows import Point, Row, write_rows
from saeflow.progress import say
from saeflow.sae.boosted import Boosted
from saeflow.sae.model import SAE
from saeflow.subjects.load import Subject, load_subject

ROWS, TABLE = "detection.parquet", "detection_details.parquet"


class Measured(NamedTuple):
    """What was found."""

    rows: list[Row]
    details: list[dict[str, Any]]
    """Rows of the table of latents."""


def evaluate_detection(
    settings: DetectionSettings,
    autointerp: Autointerp,
    saes: Sequence[Member],
    *,
    subject: Path,
    tokens: Path,
    activations: Path,
    split: str,
    point: Point,
    out: Path,
    exclusion: Path | None = None,
    device: str = "cpu",
    data_dir: Path = Path(),
) -> None:
    """Measure the SAEs of one variant, all L0 targets and seeds, in one pass over the text.

    Of `autointerp` the judge counts and how many sequences a prompt has; `data_dir` is what a local
    judge's path is relative to. `tokens` is of the point's `corpus`; `activations` is the cache
    that the SAEs were trained on, `exclusion` the one whose rule says which tokens count, null
    takes `activations`. Writes `detection.parquet` (tidy rows), `detection_details.parquet` (a row
    for each SAE, protocol and latent), `answers.parquet` where a language model judges, and the
    manifest into `out`. The point's `l0_target` is ignored: each row has its SAE's. Raises
    ArtifactError for inputs that are damaged or do not belong together, JudgeRefused for a judge
    that will answer nothing, and ValueError where `measure_detection` raises it.
    """
    clock, out = Clock(), begin(out)
    check_members(saes, point, activations)
    rule = exclusion or activations
    judge = make_judge(autointerp, out, root=data_dir, device=device)
    model = load_subject(subject, device)
    measured = measure_detection(
        settings,
        judge,
        load_members(saes, device),
        read_text(tokens, split, settings.tokens, 2 * settings.side_tokens + 1, model.special_ids),
        subject=model,
        rule=read_exclusion(rule, model.special_ids),
        point=point,
        split=split,
    )
    write_rows(out / ROWS, measured.rows)
    with atomic_path(out / TABLE) as temporary:
        pq.write_table(pa.Table.from_pylist(measured.details, schema=DETAILS), temporary)
    asking = autointerp.model_dump(include={"judge", "examples_per_prompt"})
    write_manifest(
        out,
        kind="metrics",
        settings={
            "detection": settings.model_dump(),
            "autointerp": asking,
            "point": point._asdict(),
            "split": split,
        },
        files=[ROWS, TABLE, *judge.files],
        inputs={
            "subject": subject,
            "tokens": tokens,
            "activations": activations,
            "exclusion": rule,
            **inputs_of(saes),
        },
        stats={"judge": judge.name, "judge_definition": definition(judge), **judge.finish()},
        seed=settings.seed,
        device=device,
        code=judge_code(autointerp.judge.kind, __name__),
        clock=clock,
    )


def measure_detection(
    settings: DetectionSettings,
    judge: Judge,
    saes: Mapping[Key, SAE | Boosted],
    text: Text,
    *,
    subject: Subject,
    rule: Exclusion,
    point: Point,
    split: str,
) -> Measured:
    """Return what `judge` makes of sampled latents of each SAE: `summary`, and a row a latent.

    `text` is cut into contexts of `2 * side_tokens + 1` tokens. Of residual SAEs the own latents
    are explained. Raises ValueError where a protocol has enough sequences of no latent, and
    JudgeRefused where the judge answers nothing.
    """
    line = Line(text, pieces_of(subject.tokenizer, np.unique(text.tokens_ct)))
    drawn = draw_latents(
        settings, saes, text, line,
        subject=subject, rule=rule, site=point.site, contrast=judge.contrast,
    )  # fmt: skip
    measured = Measured([], [])
    for number, (key, of) in enumerate(drawn.items(), 1):
        tasks = list(_tasks(key, of, line))
        forecast = judge.forecast(tasks, diversity=False)
        say(f"{key}, SAE {number} of {len(drawn)}, latents by each protocol: {forecast}")
        outcomes = [*judged_each(judge, tasks, _outcome), *_without_sequences(of)]
        measured.rows.extend(summary(of, outcomes, key, point=point, split=split))
        measured.details.extend(outcome.details(key, judge) for outcome in outcomes)
    return measured


class _Task(NamedTuple):
    """A latent that the judge is asked about, with what it is shown."""

    where: str
    latent: int
    protocol: str
    firings: int
    examples: Examples
    contrast: Contexts
    held_out: Contexts
    active_c: np.ndarray
    """Whether the latent is active in each of `held_out` (bool)."""


def _tasks(key: Key, of: DrawnSAE, line: Line) -> Iterator[_Task]:
    for one in of.latents:
        if (chosen := one.sequences) is not None:
            yield _Task(
                f"{key}, latent {one.latent}, {one.protocol}",
                one.latent,
                one.protocol,
                len(one.active.place_n),
                line.examples(chosen.explain, one.active, one.least),
                line.contexts(chosen.contrast),
                line.contexts(chosen.held_out),
                chosen.active_c,
            )


def _outcome(judge: Judge, task: _Task) -> Outcome:
    """Return what comes of one latent; where the judge fails there is the reason."""
    outcome = Outcome(task.latent, task.protocol, task.firings)
    explanation, status = asked(task.where, judge.explain, task.examples, task.contrast)
    if explanation is None:
        return outcome._replace(not_scored=f"explaining: {status}")
    outcome = outcome._replace(explanation=explanation)
    predicted, status = asked(task.where, judge.detect, explanation, task.held_out)
    if predicted is None:
        return outcome._replace(not_scored=f"predicting: {status}")
    active = int(task.active_c.sum())
    return outcome._replace(
        scores=score(np.array(predicted), task.active_c),
        active=active,
        silent=len(task.active_c) - active,
    )


def _without_sequences(of: DrawnSAE) -> Iterator[Outcome]:
    for one in of.latents:
        if one.sequences is None:
            firings = len(one.active.place_n)
            yield Outcome(one.latent, one.protocol, firings, not_scored=one.missing)
