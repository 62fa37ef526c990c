"""Absorption class by class, and the latents that absorb: the tables beside the tidy rows."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from saeflow.evaluation.absorption_classes import Probed
from saeflow.evaluation.absorption_latents import MainLatents
from saeflow.evaluation.absorption_rows import LabelledRows
from saeflow.evaluation.absorption_scores import (
    Absorption,
    Projections,
    absorption,
    cosines,
    projections,
)
from saeflow.evaluation.absorption_settings import AbsorptionSettings
from saeflow.sae.model import SAE
from saeflow.sae.preactivations import chunk_rows

_KEY = [
    ("l0_target", pa.int64()),
    ("seed", pa.int64()),
    ("concept", pa.string()),
    ("class", pa.string()),
]
CLASSES = pa.schema(
    [
        *_KEY,
        ("train_rows", pa.int64()),
        ("test_rows", pa.int64()),
        ("probe_f1", pa.float64()),
        ("rows", pa.int64()),
        ("full_absorption", pa.float64()),
        ("absorption_fraction", pa.float64()),
        ("main_latents", pa.list_(pa.int64())),
        ("main_cosines", pa.list_(pa.float64())),
        ("f1_by_k", pa.list_(pa.float64())),
        ("skipped", pa.string()),
    ]
)
"""A row for each SAE and class. `rows` are the held-out rows that the probe finds, over which both
scores are means; `f1_by_k` is of the k-sparse probes that were tried. Of a class that was skipped
there are counts, the probe's F1 where it has one, and the reason."""
LATENTS = pa.schema(
    [
        *_KEY,
        ("latent", pa.int64()),
        ("cosine", pa.float64()),
        ("full_rows", pa.int64()),
        ("fraction_rows", pa.int64()),
        ("share", pa.float64()),
        ("parts", pa.list_(pa.string())),
        ("part_rows", pa.list_(pa.int64())),
    ]
)
"""A row for each SAE, class and latent that absorbs: in how many rows fully, in how many as one of
those that absorb a fraction, its mean share of the total projection in these rows, and the parts
of the class that they are of (words, subpackages), most frequent first, at most ten."""
_PARTS = 10


class ClassAbsorption(NamedTuple):
    """One SAE's absorption of one class."""

    full: float
    """Means over the rows that the probe finds."""
    fraction: float
    details: dict[str, Any]
    """Its row of the table of classes, without SAE and concept."""
    absorbing: list[dict[str, Any]]
    """Its rows of the table of latents, likewise, those that absorb in most rows first."""


def class_absorption(
    settings: AbsorptionSettings, sae: SAE, rows: LabelledRows, of: Probed, main: MainLatents
) -> ClassAbsorption:
    """Return the absorption of the class's main latents over the rows that its probe finds."""
    full: list[bool] = []
    fraction: list[float] = []
    absorbing: list[_Absorbing] = []
    size = chunk_rows(len(of.found), sae.d_sae, rows.x_nd.is_cuda)
    for part_n in of.found.split(size):
        projected = projections(sae, rows.x_nd[part_n.to(rows.x_nd.device)], of.direction_d)
        scores = absorption(settings, projected, main.latents)
        full += scores.full_n.tolist()
        fraction += scores.fraction_n.tolist()
        absorbing += _absorbing(part_n.tolist(), projected, scores)
    cosine_f = cosines(sae, of.direction_d).tolist()
    full_mean, fraction_mean = sum(full) / len(full), sum(fraction) / len(fraction)
    details = {
        "class": of.name,
        "train_rows": of.train_rows,
        "test_rows": of.test_rows,
        "probe_f1": of.f1,
        "rows": len(full),
        "full_absorption": full_mean,
        "absorption_fraction": fraction_mean,
        "main_latents": main.latents,
        "main_cosines": [cosine_f[latent] for latent in main.latents],
        "f1_by_k": main.f1,
    }
    summaries = [
        {"class": of.name, "cosine": cosine_f[one["latent"]], **one}
        for one in _summaries(absorbing, rows.parts)
    ]
    return ClassAbsorption(full_mean, fraction_mean, details, summaries)


class _Absorbing(NamedTuple):
    """A latent that absorbs in a row."""

    latent: int
    row: int
    share: float
    """Of the total projection."""
    full: bool
    """Else it is one of those that absorb a fraction."""


def _absorbing(
    rows: Sequence[int], projected: Projections, scores: Absorption
) -> Iterator[_Absorbing]:
    share_nf = projected.projection_nf / projected.total_n[:, None]
    for i in scores.full_n.nonzero()[:, 0].tolist():
        latent = int(scores.top_n[i])
        yield _Absorbing(latent, rows[i], share_nf[i, latent].item(), True)
    for i in scores.fraction_n.nonzero()[:, 0].tolist():
        for latent, projection in zip(
            scores.absorber_na[i].tolist(), scores.absorbed_na[i].tolist(), strict=True
        ):
            if projection > 0:
                yield _Absorbing(latent, rows[i], share_nf[i, latent].item(), False)


def _summaries(absorbing: Sequence[_Absorbing], parts: Sequence[str]) -> list[dict[str, Any]]:
    by_latent: defaultdict[int, list[_Absorbing]] = defaultdict(list)
    for one in absorbing:
        by_latent[one.latent].append(one)
    found = []
    for latent, own in by_latent.items():
        share = {one.row: one.share for one in own}
        of_parts = Counter(parts[row] for row in share).most_common(_PARTS)
        found.append(
            {
                "latent": latent,
                "full_rows": sum(one.full for one in own),
                "fraction_rows": sum(not one.full for one in own),
                "share": sum(share.values()) / len(share),
                "parts": [part for part, _ in of_parts],
                "part_rows": [n for _, n in of_parts],
            }
        )
    return sorted(found, key=lambda one: (-one["full_rows"] - one["fraction_rows"], one["latent"]))
