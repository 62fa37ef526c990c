"""Which latents of an SAE are sums of a few of another's (OrtSAE Figs. 5, 8-10).

A latent's decoder vector is written as a sum of up to three of the other SAE's, by non-negative
orthogonal matching pursuit; the paper gives a rule for the result and no algorithm. Of the sums
that pass the rule the shortest counts. With one part, the other SAE has the latent itself; with
more, it has the latent's parts.

The paper's examples are latents of the baseline made of the variant's: metrics that begin with
`baseline_`. Those without are of the variant's latents, made of the baseline's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from saeflow.artifacts import Clock, atomic_path, begin, write_manifest
from saeflow.evaluation.decoder import unit_rows
from saeflow.evaluation.decoder_pairs import (
    Compared,
    Pair,
    check_widths,
    load_pairs,
    pair_inputs,
)
from saeflow.evaluation.decomposition_pursuit import Sums, pursue
from saeflow.evaluation.decomposition_settings import DecompositionSettings
from saeflow.evaluation.origin import Key
from saeflow.evaluation.rows import Point, Row, make_row, write_rows
from saeflow.fingerprint import fingerprint

ROWS, DETAILS = "decomposition.parquet", "decomposition_details.parquet"
DETAIL_SCHEMA = pa.schema(
    [
        ("l0_target", pa.int64()),
        ("seed", pa.int64()),
        ("side", pa.string()),
        ("latent", pa.int64()),
        ("parts", pa.list_(pa.int64())),
        ("coefficients", pa.list_(pa.float64())),
        ("cosine", pa.float64()),
    ]
)

Found = dict[int, tuple[list[int], list[float], float]]
"""By latent: the parts, their coefficients and the cosine."""


def evaluate_decomposition(
    settings: DecompositionSettings,
    pairs: Sequence[Pair],
    *,
    baseline: str,
    activations: Path,
    split: str,
    point: Point,
    out: Path,
    device: str = "cpu",
) -> None:
    """Compare the SAEs of a variant with those of the variant `baseline` at the same L0 and seed.

    `activations` is the cache that all were trained on; `split` is only written into the rows, so
    that they stand beside those of text. Writes `decomposition.parquet` (tidy rows),
    `decomposition_details.parquet` (a row a sum that passes) and the manifest into `out`. The
    point's `l0_target` is ignored: each row has its SAEs'. Raises what `load_pairs` and
    `measure_decomposition` raise.
    """
    clock, out = Clock(), begin(out)
    loaded = load_pairs(pairs, point, baseline, activations, device)
    rows, details = measure_decomposition(settings, loaded, point=point, split=split)
    write_rows(out / ROWS, rows)
    with atomic_path(out / DETAILS) as temporary:
        pq.write_table(details, temporary)
    write_manifest(
        out,
        kind="metrics",
        settings={
            "decomposition": settings.model_dump(),
            "baseline": baseline,
            "point": point._asdict(),
        },
        files=[ROWS, DETAILS],
        inputs={"activations": activations, **pair_inputs(pairs)},
        device=device,
        code=fingerprint(__name__),
        clock=clock,
    )


def measure_decomposition(
    settings: DecompositionSettings, pairs: Mapping[Key, Compared], *, point: Point, split: str
) -> tuple[list[Row], pa.Table]:
    """Return rows and details of pairs of SAEs; `side` is whose latents are decomposed.

    `matched_share` of the latents need one part, `decomposed_share` two or more,
    `decomposed_share@<parts>` so many; `decomposed_latents` is their number. n is the number of
    latents. Raises ValueError for SAEs of different widths.
    """
    check_widths(pairs)
    rows: list[Row] = []
    details: list[dict[str, Any]] = []
    for key, (variant, baseline) in pairs.items():
        vectors = {"variant": unit_rows(variant.W_dec), "baseline": unit_rows(baseline.W_dec)}
        row = partial(make_row, point._replace(l0_target=key.l0_target), split=split, seed=key.seed)
        for side, other, prefix in (
            ("variant", "baseline", ""),
            ("baseline", "variant", "baseline_"),
        ):
            latents = len(vectors[side])
            sums = pursue(vectors[side], vectors[other], settings.terms)
            found = passing(sums, settings.min_cosine, settings.min_coefficient)
            for metric, value in _metrics(found, latents, settings.terms):
                rows.append(row(metric=prefix + metric, value=value, n=latents))
            details.extend(_details(key, side, found))
    return rows, pa.Table.from_pylist(details, schema=DETAIL_SCHEMA)


def passing(sums: Sequence[Sums], min_cosine: float, min_coefficient: float) -> Found:
    """Return the shortest sum of each vector that passes the rule; `sums` are by rising length."""
    found: Found = {}
    for parts_ft, coefficients_ft, cosine_f in sums:
        passes_f = (cosine_f > min_cosine) & (coefficients_ft >= min_coefficient).all(1)
        latents = passes_f.nonzero()[:, 0]
        chosen = (latents, parts_ft[latents], coefficients_ft[latents], cosine_f[latents])
        for latent, *of in zip(*(part.tolist() for part in chosen), strict=True):
            found.setdefault(latent, tuple(of))
    return found


def _metrics(found: Found, latents: int, terms: int) -> Iterator[tuple[str, float]]:
    by_parts = Counter(len(parts) for parts, _, _ in found.values())
    decomposed = len(found) - by_parts[1]
    yield "matched_share", by_parts[1] / latents
    yield "decomposed_latents", decomposed
    yield "decomposed_share", decomposed / latents
    for count in range(2, terms + 1):
        yield f"decomposed_share@{count}", by_parts[count] / latents


def _details(key: Key, side: str, found: Found) -> Iterator[dict[str, Any]]:
    for latent in sorted(found):
        parts, coefficients, cosine = found[latent]
        yield {
            **key._asdict(),
            "side": side,
            "latent": latent,
            "parts": parts,
            "coefficients": coefficients,
            "cosine": cosine,
        }
