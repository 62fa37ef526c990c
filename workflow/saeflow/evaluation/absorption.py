"""Feature absorption: how often a class's latents are silent because more specific ones stand in.

As in SAEBench (Chanin et al. 2024), on first letters of words, and alike on packages and their
subpackages. A class has a linear probe of the site's activations and *main latents*, those by which
a few latents tell it best. On the held-out rows of the class that the probe finds, absorption is
full where main latents are silent and one other latent makes up the probe's direction, and is a
fraction where others make up part of it (`absorption_scores`). A class's score is the mean over
these rows, an SAE's the mean over its classes. Classes that the subject does not know are left out
and counted. SAEBench reads words a second time, behind other examples, to score them; here the
activations that the probe was judged on are scored.

An SAE without any latent for a class absorbs nothing by this measure: read scores beside
`absorption_main_f1`, the held-out F1 of the main latents.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean
from string import ascii_lowercase
from typing import Any, Literal, NamedTuple

import pyarrow as pa

from saeflow.evaluation.absorption_classes import Classes, probe_classes
from saeflow.evaluation.absorption_domains import domain_places
from saeflow.evaluation.absorption_latents import main_latents
from saeflow.evaluation.absorption_rows import LabelledRows, read_places
from saeflow.evaluation.absorption_settings import OVER_CONCEPTS, AbsorptionSettings
from saeflow.evaluation.absorption_tables import CLASSES, LATENTS, class_absorption
from saeflow.evaluation.absorption_words import corpus_words, letter_places, vocabulary_words
from saeflow.evaluation.origin import Key, Member
from saeflow.evaluation.pooled import Site
from saeflow.evaluation.rows import Point, Row, make_row
from saeflow.evaluation.site_job import Inputs, Measured, SAEs, run_job
from saeflow.fingerprint import fingerprint
from saeflow.progress import Progress
from saeflow.sae.boosted import Boosted
from saeflow.sae.model import SAE

Concept = Literal["letters", "domains"]
"""A section of the settings."""


class Found(NamedTuple):
    """What was found of one concept or several."""

    rows: list[Row]
    classes: list[dict[str, Any]]
    """Rows of the table of classes."""
    latents: list[dict[str, Any]]
    """Rows of the table of latents that absorb."""


def evaluate_absorption(
    settings: AbsorptionSettings,
    saes: Sequence[Member],
    *,
    subject: Path,
    activations: Path,
    point: Point,
    out: Path,
    corpus: Path | None = None,
    exclusion: Path | None = None,
    device: str = "cpu",
) -> None:
    """Measure the SAEs of one variant, all L0 targets and seeds, on the concepts of the settings.

    `activations` is the cache that the SAEs were trained on, `exclusion` the one whose rule says
    which tokens count, null takes `activations`. `corpus` is the folder of the documents that
    domains and `letters.words: corpus` are of. Writes `absorption.parquet` (tidy rows of split
    test), `absorption_details.parquet` (a row for each SAE and class),
    `absorption_latents.parquet` (one for each latent that absorbs) and the manifest into `out`. The
    point's `l0_target` is ignored: each row has its SAE's. Raises ArtifactError for inputs that are
    damaged or do not belong together, and ValueError where `measure_absorption` raises it and for a
    corpus that is needed and not given.
    """
    if settings.reads_documents and corpus is None:
        raise ValueError("absorption reads words or domains of a corpus, and none is given")

    def measure(site: Site, loaded: SAEs) -> Measured:
        found = _joined(
            measure_absorption(settings, concept, rows, loaded, point=point)
            for concept, rows in _read(settings, site, corpus)
        )
        return Measured(
            [*found.rows, *over_concepts(found.rows)],
            pa.Table.from_pylist(found.classes, schema=CLASSES),
            {"latents": pa.Table.from_pylist(found.latents, schema=LATENTS)},
        )

    run_job(
        "absorption",
        settings,
        saes,
        measure,
        Inputs(subject, activations, exclusion, {} if corpus is None else {"corpus": corpus}),
        point=point,
        out=out,
        device=device,
        code=fingerprint(__name__),
        seed=settings.seed,
    )


def measure_absorption(
    settings: AbsorptionSettings,
    concept: Concept,
    rows: LabelledRows,
    saes: SAEs,
    *,
    point: Point,
) -> Found:
    """Return the absorption that each SAE shows on the rows of a concept.

    Means over classes (n classes): `absorption_fraction`, `full_absorption`,
    `absorption_main_latents` (how many a class is split among), `absorption_main_f1` and
    `absorption_probe_f1`; besides `absorption_rows`, over which the scores are, and
    `absorption_classes_skipped` (n all classes). Names end with `@letters` or `@domains`. Raises
    ValueError for too few classes that count, for SAEs of another width than the rows, for residual
    ones, whose latents are only part of what is written, and for one that never fires.
    """
    of_concept = getattr(settings, concept)
    if of_concept is None:
        raise ValueError(f"the settings leave out {concept}: give them as `absorption.{concept}`")
    classes = probe_classes(of_concept, settings.probe, rows, settings.seed)
    found = []
    with Progress(len(saes), "SAEs", f"measuring absorption of {concept}") as progress:
        for key, sae in saes.items():
            whole = _whole(key, sae, rows)
            found.append(_measure_one(settings, concept, rows, classes, key, whole, point))
            progress.update(1)
    return _joined(found)


def _measure_one(
    settings: AbsorptionSettings,
    concept: Concept,
    rows: LabelledRows,
    classes: Classes,
    key: Key,
    sae: SAE,
    point: Point,
) -> Found:
    mains = main_latents(settings, sae, rows, classes.counted)
    scores = [
        class_absorption(settings, sae, rows, of, main)
        for of, main in zip(classes.counted, mains, strict=True)
    ]
    means: dict[str, list[float]] = {
        "absorption_fraction": [score.fraction for score in scores],
        "full_absorption": [score.full for score in scores],
        "absorption_main_latents": [float(len(main.latents)) for main in mains],
        "absorption_main_f1": [main.f1[len(main.latents) - 1] for main in mains],
        "absorption_probe_f1": [of.f1 for of in classes.counted],
    }
    counted, skipped = len(classes.counted), len(classes.skipped)
    n_rows = sum(len(of.found) for of in classes.counted)
    values: dict[str, tuple[float, int]]
    values = {metric: (sum(of) / counted, counted) for metric, of in means.items()}
    values["absorption_rows"] = (n_rows, n_rows)
    values["absorption_classes_skipped"] = (skipped, counted + skipped)
    row = partial(make_row, point._replace(l0_target=key.l0_target), split="test", seed=key.seed)
    named = {**key._asdict(), "concept": concept}
    left_out = [
        {
            "class": of.name,
            "train_rows": of.train_rows,
            "test_rows": of.test_rows,
            "probe_f1": of.f1,
            "skipped": of.reason,
        }
        for of in classes.skipped
    ]
    return Found(
        [
            row(metric=f"{metric}@{concept}", value=value, n=n)
            for metric, (value, n) in values.items()
        ],
        [{**named, **one} for one in [*(score.details for score in scores), *left_out]],
        [{**named, **one} for score in scores for one in score.absorbing],
    )


def _read(
    settings: AbsorptionSettings, site: Site, corpus: Path | None
) -> Iterator[tuple[Concept, LabelledRows]]:
    """Yield the rows of each concept of the settings."""
    if (letters := settings.letters) is not None:
        if letters.words == "corpus" and corpus is not None:
            words = corpus_words(corpus, letters.corpus_words)
        else:
            words = vocabulary_words(site.subject.tokenizer)
        places = letter_places(letters, site.subject, words, settings.seed)
        yield "letters", read_places(site, places, ascii_lowercase)
    if settings.domains is not None and corpus is not None:
        yield "domains", read_places(site, domain_places(settings.domains, corpus, site.subject))


def _whole(key: Key, sae: SAE | Boosted, rows: LabelledRows) -> SAE:
    if isinstance(sae, Boosted):
        raise ValueError(f"the SAE of {key} is residual: absorption is about whole dictionaries")
    if sae.d_in != rows.x_nd.shape[1]:
        raise ValueError(
            f"the SAE of {key} reads width {sae.d_in}, the rows are {rows.x_nd.shape[1]} wide"
        )
    return sae


def over_concepts(rows: Iterable[Row]) -> list[Row]:
    """Return the mean of each score over the concepts measured, of each SAE; n counts classes."""
    groups: dict[tuple[str, int, int], list[Row]] = {}
    for row in rows:
        if (score := row.metric.partition("@")[0]) in OVER_CONCEPTS:
            groups.setdefault((score, row.l0_target, row.seed), []).append(row)
    return [
        of[0]._replace(metric=score, value=fmean(r.value for r in of), n=sum(r.n for r in of))
        for (score, _, _), of in groups.items()
    ]


def _joined(parts: Iterable[Found]) -> Found:
    joined = Found([], [], [])
    for part in parts:
        joined.rows.extend(part.rows)
        joined.classes.extend(part.classes)
        joined.latents.extend(part.latents)
    return joined
