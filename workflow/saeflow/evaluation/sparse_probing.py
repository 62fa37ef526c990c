"""Sparse probing: how well a few latents tell a class of text from the rest.

As in SAEBench: latents are averaged over a document's tokens; of each class the k latents whose
means over its documents and over as many others differ most are chosen on training documents, and
a logistic regression on these (scikit-learn's, L2) is judged by its accuracy on test documents,
half of which are of the class. `@all` reads all latents and `@residual` the site's activations,
with the same regression; SAEBench trains these two by Adam and keeps the epoch that is best on the
test documents. A value is the mean over sets of the mean over their classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.sparse import csr_array
from sklearn.linear_model import LogisticRegression

from saeflow.evaluation.labelled_text import (
    ClassDocuments,
    corpus_inputs,
    count_tokens,
    read_class_sets,
)
from saeflow.evaluation.labelled_text_problems import balanced_problems
from saeflow.evaluation.labelled_text_rows import (
    mean_rows,
    measured_sets,
    skipped_classes,
    skipped_rows,
)
from saeflow.evaluation.origin import Member
from saeflow.evaluation.pooled import Site, groups_of, mean_difference, pool
from saeflow.evaluation.rows import Point
from saeflow.evaluation.site_job import Inputs, Measured, SAEs, run_job
from saeflow.evaluation.sparse_probing_settings import SparseProbingSettings
from saeflow.fingerprint import fingerprint

METRIC, ALL, RESIDUAL = "sparse_probing_accuracy", "all", "residual"
DETAILS = pa.schema(
    [
        ("l0_target", pa.int64()),
        ("seed", pa.int64()),
        ("dataset", pa.string()),
        ("class", pa.string()),
        ("probe", pa.string()),
        ("accuracy", pa.float64()),
        ("latents", pa.list_(pa.int64())),
        ("train_documents", pa.int64()),
        ("test_documents", pa.int64()),
        ("skipped", pa.string()),
    ]
)
"""A row for each SAE, class and probe (`1`, `5`, `all`, `residual`) with the latents that were
chosen, and one for each class that was skipped, with the reason."""
_ITERATIONS = 1000
"""Most iterations of a regression; scikit-learn's 100 leave those on all latents unfinished."""


def evaluate_sparse_probing(
    settings: SparseProbingSettings,
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
    `activations`. Writes `sparse_probing.parquet` (tidy rows of split test),
    `sparse_probing_details.parquet` and the manifest into `out`. Raises ArtifactError for inputs
    that are damaged or do not belong together, and ValueError for SAEs that do not fit the site,
    for a class that no document has and where no set has two classes with enough documents.
    """

    def measure(site: Site, loaded: SAEs) -> Measured:
        sets = read_class_sets(settings, settings.datasets, corpora, site.subject)
        return measure_sparse_probing(settings, sets, loaded, site=site, point=point)

    run_job(
        "sparse_probing",
        settings,
        saes,
        measure,
        Inputs(subject, activations, exclusion, corpus_inputs(corpora)),
        point=point,
        out=out,
        device=device,
        code=fingerprint(__name__),
    )


def measure_sparse_probing(
    settings: SparseProbingSettings,
    sets: Mapping[str, ClassDocuments],
    saes: SAEs,
    *,
    site: Site,
    point: Point,
) -> Measured:
    """Return `sparse_probing_accuracy@k`, `@all` and `@residual` of each SAE, and details.

    Of the settings only `k` counts. `n` is the number of classes. Nothing is drawn at random: the
    SAEs' seeds only name them.
    """
    skipped = skipped_classes(sets)
    found = [
        {"dataset": name, **one}
        for name, documents in measured_sets(sets).items()
        for some in groups_of(saes, count_tokens(documents))
        for one in _probe_set(settings.k, documents, some, site)
    ]
    rows = mean_rows(found, {METRIC: "accuracy"}, "probe", point)
    rows += skipped_rows("sparse_probing_classes_skipped", len(skipped), sets, saes, point)
    return Measured(rows, pa.Table.from_pylist([*found, *skipped], schema=DETAILS))


def _probe_set(
    sizes: Sequence[int], documents: ClassDocuments, saes: SAEs, site: Site
) -> Iterator[dict[str, Any]]:
    """Yield the details of one set of classes."""
    train, test = balanced_problems(documents.train), balanced_problems(documents.test)
    learn, judge = pool(site, train.documents, saes), pool(site, test.documents, saes)
    counts = {"train_documents": len(train.label_n), "test_documents": len(test.label_n)}
    for c, name in enumerate(train.names):
        y_train, y_test = train.label_n.numpy(), test.label_n.numpy()
        rows = train.rows_cn[c].numpy(), test.rows_cn[c].numpy()
        dense = learn.x_nd.numpy()[rows[0]], judge.x_nd.numpy()[rows[1]]
        residual = probe_accuracy(dense[0], y_train, dense[1], y_test)
        for key in saes:
            sparse = learn.latents[key][rows[0]], judge.latents[key][rows[1]]
            of = {**key._asdict(), "class": name, **counts}
            every = probe_accuracy(sparse[0], y_train, sparse[1], y_test)
            yield {**of, "probe": RESIDUAL, "accuracy": residual}
            yield {**of, "probe": ALL, "accuracy": every}
            order = latents_by_difference(sparse[0], y_train)
            for k in sizes:
                chosen = order[:k]
                few = [features[:, chosen].toarray() for features in sparse]
                accuracy = probe_accuracy(few[0], y_train, few[1], y_test)
                yield {**of, "probe": str(k), "accuracy": accuracy, "latents": chosen.tolist()}


def latents_by_difference(latents_nf: csr_array, label_n: NDArray) -> NDArray[np.int64]:
    """Return the latents by falling |mean over positives - mean over negatives|."""
    return np.argsort(-np.abs(mean_difference(latents_nf, label_n)), kind="stable")


def probe_accuracy(
    train_nf: NDArray | csr_array,
    label_n: NDArray,
    test_nf: NDArray | csr_array,
    test_label_n: NDArray,
) -> float:
    """Return the test accuracy of scikit-learn's logistic regression, L2 penalty with C = 1."""
    probe = LogisticRegression(max_iter=_ITERATIONS).fit(train_nf, label_n)
    return float(probe.score(test_nf, test_label_n))
