"""Sums of latents that were found by their decoder vectors, and which of them are shown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq

from saeflow.artifacts import MANIFEST, ArtifactError, file_digest, read_manifest, rebuild_command
from saeflow.evaluation.decoder_pairs import Pair, pair_inputs
from saeflow.evaluation.decomposition import DETAILS
from saeflow.evaluation.origin import Key

_SIDE = "baseline"
"""Whose latents are sums in the paper's figures."""


class Sum(NamedTuple):
    """A latent of the baseline that is a sum of the variant's."""

    latent: int
    parts: tuple[int, ...]
    coefficients: tuple[float, ...]
    cosine: float
    """Between the latent's decoder vector and the sum."""


class Example(NamedTuple):
    """One example to be shown, or that there is none."""

    parts: int
    """Number of parts that was asked for."""
    drawn: Sum | None
    found: int
    """Sums of so many parts."""
    eligible: int
    """Those of them that could be drawn."""


def read_sums(decomposition: Path, pair: Pair) -> list[Sum]:
    """Return the baseline's latents that are sums of two parts or more, by rising number.

    Raises ArtifactError for a folder that is damaged or was made of other SAEs than `pair`.
    """
    manifest = read_manifest(decomposition, kind="metrics", deep=True)
    for name, folder in pair_inputs([pair]).items():
        digest = manifest["inputs"].get(name, {}).get("sha256")
        if digest != file_digest(folder / MANIFEST):
            raise ArtifactError(
                f"{decomposition} decomposes another SAE than {folder}; rebuild it with: "
                f"{rebuild_command(decomposition)}"
            )
    return sums_of(pq.read_table(decomposition / DETAILS).to_pylist(), pair.variant.key)


def sums_of(details: Sequence[Mapping[str, Any]], key: Key) -> list[Sum]:
    """Return the sums of two parts or more in rows of the table of decompositions."""
    here = [
        row
        for row in details
        if Key(row["l0_target"], row["seed"]) == key
        and row["side"] == _SIDE
        and len(row["parts"]) > 1
    ]
    return [
        Sum(row["latent"], tuple(row["parts"]), tuple(row["coefficients"]), row["cosine"])
        for row in sorted(here, key=lambda row: row["latent"])
    ]


def drawn(
    asked: Sequence[int], sums: Sequence[Sum], eligible: Sequence[Sum], seed: int
) -> Iterator[Example]:
    """Yield an example for each number of parts asked for, none twice.

    Those of one number are the first of a random order of the `eligible` ones of the `sums`, so
    that all have the same chance; where there are too few, an example has no sum.
    """
    found = Counter(len(one.parts) for one in sums)
    able = Counter(len(one.parts) for one in eligible)
    left: dict[int, list[Sum]] = {}
    for parts in set(asked):
        of_parts = [one for one in eligible if len(one.parts) == parts]
        order = np.random.default_rng([seed, parts]).permutation(len(of_parts))
        left[parts] = [of_parts[i] for i in order]
    for parts in asked:
        one = left[parts].pop(0) if left[parts] else None
        yield Example(parts, one, found[parts], able[parts])
