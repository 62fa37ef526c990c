"""Spurious correlation removal: does ablating an attribute's latents mend a probe that used it?

As in SAEBench. Of two attributes with two classes each (profession and gender) three probes of the
site's activations, averaged over a document's tokens, are trained: one of each attribute on
documents in which the two are independent, and a biased one on documents in which they always
agree, so that it cannot tell them apart. To keep one attribute, the n latents with the largest
effects on the other's probe are taken to zero; the SAE's error stays. An effect is |difference of
the latent's means over the two classes, times what a unit of it adds to the logit|. On test
documents in which the attributes are independent, with the classes of the one that is kept,

    score = (accuracy after ablation - before) / (accuracy of the kept attribute's probe - before)

where before and after are the biased probe's; 0 where the denominator is below 0.001. Either
attribute may be the one to keep: the direction in which the biased probe is the worse counts. A
value is the mean over pairs of attributes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from saeflow.evaluation.labelled_text import (
    QUADRANTS,
    Documents,
    PairDocuments,
    Quadrant,
    corpus_inputs,
    count_tokens,
    read_pairs,
)
from saeflow.evaluation.labelled_text_rows import row_of
from saeflow.evaluation.linear_probes import LinearProbes, train_probes
from saeflow.evaluation.origin import Key, Member
from saeflow.evaluation.pooled import Site, groups_of, mean_difference, pool
from saeflow.evaluation.pooled_ablation import ablate, by_effect, logit_weights
from saeflow.evaluation.rows import Point, Row
from saeflow.evaluation.scr_settings import ScrSettings
from saeflow.evaluation.site_job import Inputs, Measured, SAEs, run_job
from saeflow.fingerprint import fingerprint

LEAST_GAP = 1e-3
"""Gap between the kept attribute's probe and the biased one below which a score is 0 (SAEBench)."""
DETAILS = pa.schema(
    [
        ("l0_target", pa.int64()),
        ("seed", pa.int64()),
        ("pair", pa.string()),
        ("kept", pa.string()),
        ("removed", pa.string()),
        ("reported", pa.bool_()),
        ("n", pa.int64()),
        ("ablated", pa.int64()),
        ("accuracy_before", pa.float64()),
        ("accuracy_after", pa.float64()),
        ("accuracy_kept", pa.float64()),
        ("gap", pa.float64()),
        ("score", pa.float64()),
        ("train_documents", pa.int64()),
        ("test_documents", pa.int64()),
        ("skipped", pa.string()),
    ]
)
"""A row for each SAE, pair, direction and n, with the latents that were in fact `ablated`; `gap` is
the score's denominator. And one for each pair that was skipped, with the reason."""
_BIASED = 2


class _Probed(NamedTuple):
    """The probes of a pair, and what they say of test documents."""

    probes: LinearProbes
    """Of the first attribute, of the second, and the biased one."""
    logits_nc: NDArray
    label_n2: NDArray
    """Whether each test document is of the first class of each attribute."""

    def accuracy(self, logits_nc: NDArray, probe: int, attribute: int) -> float:
        """Return the share of documents that a probe's logits place rightly."""
        return float(((logits_nc[:, probe] > 0) == self.label_n2[:, attribute]).mean())


def evaluate_scr(
    settings: ScrSettings,
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
    `activations`. Writes `scr.parquet` (tidy rows of split test), `scr_details.parquet` and the
    manifest into `out`. Raises ArtifactError for inputs that are damaged or do not belong together,
    and ValueError for SAEs that do not fit the site, for a class that no document has and where no
    pair has enough documents.
    """

    def measure(site: Site, loaded: SAEs) -> Measured:
        pairs, skipped = read_pairs(settings, settings.pairs, corpora, site.subject)
        return measure_scr(settings, pairs, loaded, skipped, site=site, point=point)

    run_job(
        "scr",
        settings,
        saes,
        measure,
        Inputs(subject, activations, exclusion, corpus_inputs(corpora)),
        point=point,
        out=out,
        device=device,
        code=fingerprint(__name__),
    )


def measure_scr(
    settings: ScrSettings,
    pairs: Mapping[str, PairDocuments],
    saes: SAEs,
    skipped: Mapping[str, str],
    *,
    site: Site,
    point: Point,
) -> Measured:
    """Return `scr@n` of each SAE and details; `skipped` says why other pairs have no documents.

    Of the settings `n`, `probe` and `seed` count. A row's `n` is the number of pairs. Of these
    `scr_pairs_without_gap` have a score of 0 because the biased probe is no worse than the other.
    Raises ValueError where there is no pair.
    """
    if not pairs:
        why = "; ".join(f"{pair}: {reason}" for pair, reason in skipped.items())
        raise ValueError(
            f"no pair of attributes has enough documents ({why}); lower train_documents and "
            "test_documents, or give the corpora more documents"
        )
    found = [
        {"pair": name, **one}
        for name, documents in pairs.items()
        for some in groups_of(saes, count_tokens(documents))
        for one in _remove(settings, documents, some, site)
    ]
    lost = [{"pair": pair, "skipped": why} for pair, why in skipped.items()]
    rows = [row for key in saes for row in _rows(found, key, len(skipped), point)]
    return Measured(rows, pa.Table.from_pylist([*found, *lost], schema=DETAILS))


def _rows(
    found: Iterable[Mapping[str, Any]], key: Key, skipped: int, point: Point
) -> Iterator[Row]:
    """Yield the rows of one SAE: means over pairs of the direction that counts."""
    own = [of for of in found if of["reported"] and (of["l0_target"], of["seed"]) == key]
    for n in dict.fromkeys(of["n"] for of in own):
        at_n = [of for of in own if of["n"] == n]
        score = float(np.mean([of["score"] for of in at_n]))
        yield row_of(point, key, f"scr@{n}", score, len(at_n))
    pairs = {of["pair"]: of["gap"] for of in own}
    without = sum(gap < LEAST_GAP for gap in pairs.values())
    yield row_of(point, key, "scr_pairs_without_gap", without, len(pairs))
    yield row_of(point, key, "scr_pairs_skipped", skipped, len(pairs) + skipped)


def _remove(
    settings: ScrSettings, documents: PairDocuments, saes: SAEs, site: Site
) -> Iterator[dict[str, Any]]:
    """Yield the details of one pair of attributes."""
    size = len(documents.train[0, 1])
    train, train_label_n2 = _independent(documents.train, size)
    test, test_label_n2 = _independent(documents.test, len(documents.test[0, 1]))
    learn = pool(site, train, saes, written=True)
    more = pool(site, documents.train[0, 0][size:] + documents.train[1, 1][size:], {})
    judge = pool(site, test, saes, written=True)
    probes = _train(settings, learn.x_nd, more.x_nd, train_label_n2)
    logits_nc = probes.logits(judge.x_nd).numpy()
    probed = _Probed(probes, logits_nc, test_label_n2.numpy() > 0)
    before = [probed.accuracy(logits_nc, _BIASED, attribute) for attribute in (0, 1)]
    names = documents.first, documents.second
    for key, sae in saes.items():
        weights_fc = logit_weights(sae, probes)
        for kept, removed in ((0, 1), (1, 0)):
            label_n = train_label_n2[:, removed].numpy()
            effect_f = mean_difference(learn.latents[key], label_n) * weights_fc[:, removed]
            order = by_effect(np.abs(effect_f))
            own = probed.accuracy(logits_nc, kept, kept)
            for after in ablate(logits_nc, judge.latents[key], weights_fc, order, settings.n):
                accuracy = probed.accuracy(after.logits_nc, _BIASED, kept)
                yield {
                    **key._asdict(),
                    "kept": names[kept],
                    "removed": names[removed],
                    "reported": kept == int(before[1] < before[0]),
                    "n": after.asked,
                    "ablated": after.latents,
                    "accuracy_before": before[kept],
                    "accuracy_after": accuracy,
                    "accuracy_kept": own,
                    "gap": own - before[kept],
                    "score": scr_score(before[kept], accuracy, own),
                    "train_documents": len(train),
                    "test_documents": len(test),
                }


def _independent(documents: Mapping[Quadrant, Documents], size: int) -> tuple[Documents, Tensor]:
    """Return `size` documents of each quadrant and whether (n, 2) they are of the first classes."""
    label = [[1.0 - a, 1.0 - b] for a, b in QUADRANTS for _ in range(size)]
    return [tokens for at in QUADRANTS for tokens in documents[at][:size]], torch.tensor(label)


def _train(settings: ScrSettings, x_nd: Tensor, more_nd: Tensor, label_n2: Tensor) -> LinearProbes:
    """Return the probes of both attributes and the biased one.

    `x_nd` are documents of all quadrants and `more_nd` as many again of the two that agree.
    """
    agree_n = label_n2[:, 0] == label_n2[:, 1]
    agreeing_n = label_n2[agree_n, 0]
    biased_nd = torch.cat([x_nd[agree_n], more_nd])
    label_nc = torch.stack([*label_n2.T, agreeing_n.repeat(2)], dim=1)
    x_cnd = torch.stack([x_nd, x_nd, biased_nd])
    return train_probes(settings.probe, x_cnd, label_nc, seed=settings.seed)


def scr_score(before: float, after: float, kept: float) -> float:
    """Return the share of the gap from `before` to `kept` that `after` closes; 0 without a gap."""
    gap = kept - before
    return (after - before) / gap if gap >= LEAST_GAP else 0.0
