"""Targeted probe perturbation: does ablating a class's latents hurt its probe and no other?

As in SAEBench: one-vs-rest probes of the site's activations, averaged over a document's tokens. A
latent's effect on a class is the difference of its means over the class's documents and over as
many others, zero if negative, times what a unit of it adds to the probe's logit. The n latents with
the largest effects are taken to zero, the SAE's error stays; the score is the fall of the accuracy
of the class's probe less the mean fall of the others', on test documents, each probe's own, half
of which are of its class. A value is the mean over sets of the mean over their classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from saeflow.evaluation.labelled_text import (
    ClassDocuments,
    corpus_inputs,
    count_tokens,
    read_class_sets,
)
from saeflow.evaluation.labelled_text_problems import Problems, balanced_problems
from saeflow.evaluation.labelled_text_rows import (
    mean_rows,
    measured_sets,
    skipped_classes,
    skipped_rows,
)
from saeflow.evaluation.linear_probes import accuracy_c, train_probes
from saeflow.evaluation.origin import Member
from saeflow.evaluation.pooled import Site, groups_of, mean_difference, pool
from saeflow.evaluation.pooled_ablation import ablate, by_effect, logit_weights
from saeflow.evaluation.rows import Point
from saeflow.evaluation.site_job import Inputs, Measured, SAEs, run_job
from saeflow.evaluation.tpp_settings import TppSettings
from saeflow.fingerprint import fingerprint

METRICS = {"tpp": "score", "tpp_intended": "fall", "tpp_unintended": "fall_of_others"}
"""Metric -> column of the details; a metric is called `tpp@20` where 20 latents are ablated."""
DETAILS = pa.schema(
    [
        ("l0_target", pa.int64()),
        ("seed", pa.int64()),
        ("dataset", pa.string()),
        ("class", pa.string()),
        ("n", pa.int64()),
        ("ablated", pa.int64()),
        ("accuracy", pa.float64()),
        ("fall", pa.float64()),
        ("fall_of_others", pa.float64()),
        ("score", pa.float64()),
        ("train_documents", pa.int64()),
        ("test_documents", pa.int64()),
        ("skipped", pa.string()),
    ]
)
"""A row for each SAE, class and n, with the latents that were in fact `ablated` and the `accuracy`
without any ablation, and one for each class that was skipped, with the reason."""


def evaluate_tpp(
    settings: TppSettings,
    saes: Sequence[Member],
    *,
    subject: Path,
    corpora: Mapping[str, Path],
    activations: Path,
    point: Point,
    out: Path,
    exclusion: Path | None = None,
    device: str = "cpu",
) -> None:
    """Measure the SAEs of one variant, all L0 targets and seeds, in one pass over the text.

    `corpora` are the folders of the corpora that the settings name; `activations` is the cache that
    the SAEs were trained on, `exclusion` the one whose rule says which tokens count, null takes
    `activations`. Writes `tpp.parquet` (tidy rows of split test), `tpp_details.parquet` and the
    manifest into `out`. Raises ArtifactError for inputs that are damaged or do not belong together,
    and ValueError for SAEs that do not fit the site, for a class that no document has and where no
    set has two classes with enough documents.
    """

    def measure(site: Site, loaded: SAEs) -> Measured:
        sets = read_class_sets(settings, settings.datasets, corpora, site.subject)
        return measure_tpp(settings, sets, loaded, site=site, point=point)

    run_job(
        "tpp",
        settings,
        saes,
        measure,
        Inputs(subject, activations, exclusion, corpus_inputs(corpora)),
        point=point,
        out=out,
        device=device,
        code=fingerprint(__name__),
    )


def measure_tpp(
    settings: TppSettings,
    sets: Mapping[str, ClassDocuments],
    saes: SAEs,
    *,
    site: Site,
    point: Point,
) -> Measured:
    """Return `tpp@n` of each SAE, its parts `tpp_intended@n` and `tpp_unintended@n`, and details.

    Of the settings `n`, `probe` and `seed` count. A row's `n` is the number of classes.
    """
    skipped = skipped_classes(sets)
    found = [
        {"dataset": name, **one}
        for name, documents in measured_sets(sets).items()
        for some in groups_of(saes, count_tokens(documents))
        for one in _perturb_set(settings, documents, some, site)
    ]
    rows = mean_rows(found, METRICS, "n", point)
    rows += skipped_rows("tpp_classes_skipped", len(skipped), sets, saes, point)
    return Measured(rows, pa.Table.from_pylist([*found, *skipped], schema=DETAILS))


def _perturb_set(
    settings: TppSettings, documents: ClassDocuments, saes: SAEs, site: Site
) -> Iterator[dict[str, Any]]:
    """Yield the details of one set of classes."""
    train, test = balanced_problems(documents.train), balanced_problems(documents.test)
    learn = pool(site, train.documents, saes, written=True)
    judge = pool(site, test.documents, saes, written=True)
    label_nc = train.label_n[:, None].expand(-1, len(train.names))
    probes = train_probes(settings.probe, learn.x_nd[train.rows_cn], label_nc, seed=settings.seed)
    logits_nc = probes.logits(judge.x_nd).numpy()
    clean_c = problem_accuracies(logits_nc, test)
    counts = {"train_documents": len(train.label_n), "test_documents": len(test.label_n)}
    for key, sae in saes.items():
        weights_fc = logit_weights(sae, probes)
        for c, name in enumerate(train.names):
            latents_nf = learn.latents[key][train.rows_cn[c].numpy()]
            order = by_effect(class_effects(latents_nf, train.label_n.numpy(), weights_fc[:, c]))
            for after in ablate(logits_nc, judge.latents[key], weights_fc, order, settings.n):
                fall_c = clean_c - problem_accuracies(after.logits_nc, test)
                others = float(np.delete(fall_c, c).mean())
                yield {
                    **key._asdict(),
                    "class": name,
                    "n": after.asked,
                    "ablated": after.latents,
                    "accuracy": float(clean_c[c]),
                    "fall": float(fall_c[c]),
                    "fall_of_others": others,
                    "score": float(fall_c[c]) - others,
                    **counts,
                }


def class_effects(latents_nf: Any, label_n: NDArray, weight_f: NDArray) -> NDArray:
    """Return each latent's effect on a class's probe, given what a unit of it adds to the logit."""
    return np.maximum(mean_difference(latents_nf, label_n), 0) * weight_f


def problem_accuracies(logits_nc: NDArray, problems: Problems) -> NDArray:
    """Return the accuracy (c,) of each class's probe on the documents of its own problem."""
    own_nc = torch.from_numpy(logits_nc.T).gather(1, problems.rows_cn).T
    return accuracy_c(own_nc > 0, problems.label_n[:, None]).numpy()
