"""Concept recall: which of the concepts planted in a corpus some latent detects, by frequency.

A sentence counts with the largest activation of a latent over its tokens. For each concept the
latent with the best AUROC on validation sentences is chosen, and its AUROC on test sentences is
the concept's number, so that trying all latents buys nothing. Positives are the sentences of the
concept; negatives are those of all others and of none, in the same frames, and stretches of
unplanted text. The best axis of the site itself, either sign, is measured alike for comparison.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from saeflow.activations.exclusion import read_exclusion
from saeflow.artifacts import (
    ArtifactError,
    Clock,
    atomic_path,
    begin,
    read_manifest,
    write_manifest,
)
from saeflow.evaluation.concept_recall_auroc import aurocs
from saeflow.evaluation.concept_recall_instances import (
    find_instances,
    planted_documents,
    token_shares,
)
from saeflow.evaluation.concept_recall_maxima import Maxima, maxima_over
from saeflow.evaluation.concept_recall_settings import ConceptRecallSettings
from saeflow.evaluation.origin import bases_of, check_members, load_members, of_one_point
from saeflow.evaluation.rows import Point, Row, make_row, write_rows
from saeflow.fingerprint import fingerprint
from saeflow.subjects.load import load_subject

ROWS, CONCEPTS = "concept_recall.parquet", "concepts.parquet"
LATENT, AXIS = "latent", "axis"
CHOSEN_ON, JUDGED_ON = "validation", "test"


class _Found(NamedTuple):
    """The best detector of a concept."""

    detector: int
    """A latent; of axes i is the axis i, and d_in + i the same with its sign turned."""
    validation: float
    test: float


def measure_concept_recall(
    settings: ConceptRecallSettings,
    saes: Mapping[int, Path],
    *,
    subject: Path,
    tokens: Path,
    corpus: Path,
    activations: Path,
    point: Point,
    out: Path,
    exclusion: Path | None = None,
    bases: Mapping[int, Path] | None = None,
    device: str = "cpu",
) -> None:
    """Measure the SAEs of one point (folders by seed) on the planted corpus in folder `corpus`.

    `tokens` are those of that corpus; `activations` is the cache that the SAEs were trained on,
    `exclusion` the one whose rule says which tokens count, null takes `activations`; `bases` are
    the frozen SAEs of residual ones by seed, whose own latents are measured alone. Writes
    `concept_recall.parquet` (tidy rows of split test: `concept_recall`, `concept_auroc` and the
    same of axes, over all concepts and with `@<frequency>` over those of one level),
    `concepts.parquet` (a row a seed, detector and concept) and the manifest into `out`. Raises
    ArtifactError for inputs that are damaged or do not belong together and for a concept without
    sentences in a split, and ValueError for SAEs that do not fit the site.
    """
    clock, out = Clock(), begin(out)
    members = of_one_point(point, saes, bases)
    check_members(members, point, activations)
    described = read_manifest(corpus, kind="corpus")["stats"].get("concepts")
    if not described:
        raise ArtifactError(f"{corpus} tells of no planted concepts: give one of source `planted`")
    stats = read_manifest(tokens, kind="tokens")["stats"]
    documents = planted_documents(corpus, subject)
    shares = token_shares(documents.values(), stats)
    model = load_subject(subject, device)
    loaded = {key.seed: sae for key, sae in load_members(members, device).items()}
    rule = read_exclusion(exclusion or activations, model.special_ids)
    maxima: dict[str, Maxima] = {}
    for split in (CHOSEN_ON, JUDGED_ON):
        instances = find_instances(documents, tokens, split, settings.unplanted, settings.seed)
        maxima[split] = maxima_over(settings, model, loaded, point.site, rule, instances)
    names = [concept["concept"] for concept in described]
    found = {seed: _choose(names, maxima, seed, corpus) for seed in maxima[JUDGED_ON].values}
    for concept in described:
        concept["token_share"] = shares.get(concept["concept"], 0.0)
    _write(settings, described, found, maxima, point, out)
    write_manifest(
        out,
        kind="metrics",
        settings={"concepts": settings.model_dump(), "point": point._asdict()},
        files=[ROWS, CONCEPTS],
        inputs={
            "subject": subject,
            "tokens": tokens,
            "corpus": corpus,
            "activations": activations,
            "exclusion": exclusion or activations,
            **{f"seed{seed}": folder for seed, folder in saes.items()},
        },
        stats={
            "instances": {split: found.counts() for split, found in maxima.items()},
            "bases": bases_of(members),
        },
        seed=settings.seed,
        device=device,
        code=fingerprint(__name__),
        clock=clock,
    )


def _choose(
    names: Sequence[str], maxima: Mapping[str, Maxima], seed: int | None, corpus: Path
) -> dict[str, _Found]:
    """Return concept -> the detector that is best on validation text, with both its AUROCs."""
    scores = {}
    for split, found in maxima.items():
        present = np.array(found.concepts)
        positive_cn = present == np.array(names)[:, None]
        if missing := [n for n, row in zip(names, positive_cn, strict=True) if not row.any()]:
            raise ArtifactError(
                f"{corpus}: split {split} has no sentence left of {', '.join(missing)}; plant more "
                "instances"
            )
        scores[split] = aurocs(found.values[seed], positive_cn)
    best_c = scores[CHOSEN_ON].argmax(axis=1)
    return {
        name: _Found(int(best), scores[CHOSEN_ON][i, best], scores[JUDGED_ON][i, best])
        for i, (name, best) in enumerate(zip(names, best_c, strict=True))
    }


def _write(
    settings: ConceptRecallSettings,
    described: Sequence[Mapping[str, Any]],
    found: Mapping[int | None, Mapping[str, _Found]],
    maxima: Mapping[str, Maxima],
    point: Point,
    out: Path,
) -> None:
    rows: list[Row] = []
    table: list[dict[str, Any]] = []
    counts = {split: of_split.counts() for split, of_split in maxima.items()}
    for seed in (seed for seed in found if seed is not None):
        for kind, best in ((LATENT, found[seed]), (AXIS, found[None])):
            test = {name: one.test for name, one in best.items()}
            rows += _rows(settings.bar, described, test, point, seed, kind)
            table += [
                {
                    "seed": seed,
                    "detector": kind,
                    **{key: of[key] for key in ("concept", "kind", "frequency", "achieved")},
                    "token_share": of["token_share"],
                    "train_instances": of["instances"]["train"],
                    "index": best[of["concept"]].detector,
                    "auroc_validation": best[of["concept"]].validation,
                    "auroc_test": best[of["concept"]].test,
                    "detected": bool(best[of["concept"]].test >= settings.bar),
                    "n_validation": counts[CHOSEN_ON][of["concept"]],
                    "n_test": counts[JUDGED_ON][of["concept"]],
                }
                for of in described
            ]
    write_rows(out / ROWS, rows)
    with atomic_path(out / CONCEPTS) as temporary:
        pq.write_table(pa.Table.from_pylist(table), temporary)


def _rows(
    bar: float,
    described: Sequence[Mapping[str, Any]],
    test: Mapping[str, float],
    point: Point,
    seed: int,
    kind: str,
) -> Iterator[Row]:
    """Yield the share of concepts at or above the bar and the mean AUROC, by level and over all."""
    levels: defaultdict[str, list[float]] = defaultdict(list)
    for of in described:
        for level in ("", f"@{of['frequency']:g}"):
            levels[level].append(test[of["concept"]])
    prefix = "concept" if kind == LATENT else "axis"
    for level, values in levels.items():
        recall = sum(value >= bar for value in values) / len(values)
        for measure, value in (("recall", recall), ("auroc", float(np.mean(values)))):
            yield make_row(
                point,
                split=JUDGED_ON,
                seed=seed,
                metric=f"{prefix}_{measure}{level}",
                value=value,
                n=len(values),
            )
