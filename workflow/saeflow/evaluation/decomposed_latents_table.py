"""The table of latents that are sums: a row for each latent of an example."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import pyarrow as pa

from saeflow.evaluation.decomposed_latents_choice import Example
from saeflow.evaluation.decomposed_latents_text import Fires, Latents, Reader, share_of, union

_SEEN = pa.struct(
    [
        ("before", pa.string()),
        ("token", pa.string()),
        ("after", pa.string()),
        ("activation", pa.float64()),
    ]
)
SCHEMA = pa.schema(
    [
        ("split", pa.string()),
        ("selection", pa.string()),
        ("variant", pa.string()),
        ("baseline", pa.string()),
        ("l0_target", pa.int64()),
        ("seed", pa.int64()),
        ("example", pa.int64()),
        ("parts", pa.int64()),
        ("found", pa.int64()),
        ("eligible", pa.int64()),
        ("cosine", pa.float64()),
        ("role", pa.string()),
        ("latent", pa.int64()),
        ("coefficient", pa.float64()),
        ("tokens", pa.int64()),
        ("cofiring", pa.float64()),
        ("words", pa.list_(pa.string())),
        ("contexts", pa.list_(_SEEN)),
    ]
)
"""A row for each latent of an example: the baseline's (role `latent`), of which `cofiring` is the
share of its tokens on which some part fires, then its parts (role `part`), of which it is the share
of the latent's tokens on which this one does. An example without a sum has one row of role `none`.
"""


class Sides(NamedTuple):
    """Where the latents of two SAEs fire in the same text."""

    variant: Latents
    baseline: Latents


def members_of(example: Example, latents: Sides, reader: Reader) -> Iterator[dict[str, Any]]:
    """Yield a table row for the latent and each part of an example."""
    counts = {"parts": example.parts, "found": example.found, "eligible": example.eligible}
    one = example.drawn
    if one is None:
        yield {**counts, "role": "none", "words": [], "contexts": []}
        return
    of = latents.baseline.fires(one.latent)
    parts = [latents.variant.fires(part) for part in one.parts]
    some = share_of(of.token_n, union(parts))
    shown: list[tuple[str, int, float | None, Fires, float]] = [
        ("latent", one.latent, None, of, some),
        *(
            ("part", part, coefficient, fires, share_of(of.token_n, fires.token_n))
            for part, coefficient, fires in zip(one.parts, one.coefficients, parts, strict=True)
        ),
    ]
    for role, latent, coefficient, fires, share in shown:
        meaning = reader.meaning(latent, fires)
        yield {
            **counts,
            "cosine": one.cosine,
            "role": role,
            "latent": latent,
            "coefficient": coefficient,
            "tokens": len(fires),
            "cofiring": share,
            "words": meaning.words,
            "contexts": [seen._asdict() for seen in meaning.contexts],
        }
