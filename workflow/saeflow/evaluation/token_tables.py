"""One row a token type and one a latent: what `types.parquet` and `latents.parquet` hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.sparse import csc_array, csr_array
from torch import Tensor

from saeflow.evaluation.frequency import Counts, ranks
from saeflow.evaluation.pair_sums import column_maxima, row_entropies
from saeflow.evaluation.settings import TokenMeasureSettings
from saeflow.evaluation.token_types import TypeStatistics

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Texts = Callable[[NDArray[np.int64]], list[str | None]]
"""From token ids to what they say, None for the id -1."""


@dataclass(frozen=True)
class Types:
    """The token types that the rows have, by rising id; every field is (types,)."""

    token: Counts
    count: Counts
    """Rows of the type."""
    frequency: Counts
    """Tokens of the type in the text that frequencies are taken from."""
    rank: Counts
    """Place by frequency among the whole vocabulary; 1 is the most frequent."""
    error_mean: Floats
    error_std: Floats
    error_max: Floats
    """Of ||x - x_hat||^2 over the type's rows."""
    entropy: Floats
    """In nats, of the type's mean latent activations divided by their sum; NaN where none fires."""
    max_activation: Floats
    """Largest activation of any latent on any row of the type; grows with the count."""
    peak_activation: Floats
    """Mean over the type's rows of the row's largest activation."""
    covered_argmax: Bools
    """Some latent stands for the type (`TokenMeasureSettings.argmax`)."""
    covered_mass: Bools
    """Some latent has enough of its activation mass on it (`TokenMeasureSettings.mass_share`)."""


@dataclass(frozen=True)
class Latents:
    """All latents; every field is (d_sae,). Of a latent that never fires, types are -1."""

    count: Counts
    """Rows on which it is not zero."""
    argmax_token: Counts
    """The type that it stands for (`TokenMeasureSettings.argmax`)."""
    mass_token: Counts
    """The type with the largest share of its activation mass."""
    mass_share: Floats
    """That share; NaN for a latent that never fires."""
    entropy: Floats
    """In nats, of its activation mass over types; NaN for a latent that never fires."""


def describe(
    settings: TokenMeasureSettings, measured: TypeStatistics, frequency_v: Counts
) -> tuple[Types, Latents]:
    """Return the types that were seen and all latents, from what was summed over the rows."""
    count_v = _host(measured.count_v)
    mass = measured.mass.total()
    latents = _latents(settings, measured, mass, count_v)
    covered_argmax_v, covered_mass_v = np.zeros((2, len(count_v)), dtype=bool)
    covered_argmax_v[latents.argmax_token[latents.argmax_token >= 0]] = True
    covered_mass_v[_with_share(mass, settings.mass_share)] = True
    seen = np.flatnonzero(count_v)
    n = count_v[seen]
    error_mean = _host(measured.error_v)[seen] / n
    variance = _host(measured.error_square_v)[seen] / n - error_mean**2
    types = Types(
        token=seen,
        count=n.astype(np.int64),
        frequency=frequency_v[seen],
        rank=ranks(frequency_v)[seen],
        error_mean=error_mean,
        error_std=np.sqrt(np.maximum(variance, 0)),
        error_max=_host(measured.error_max_v)[seen],
        entropy=row_entropies(mass)[seen],
        max_activation=_host(measured.largest_v)[seen],
        peak_activation=_host(measured.peaks_v)[seen] / n,
        covered_argmax=covered_argmax_v[seen],
        covered_mass=covered_mass_v[seen],
    )
    return types, latents


def _host(values: Tensor) -> NDArray:
    return values.cpu().numpy()


def _latents(
    settings: TokenMeasureSettings, measured: TypeStatistics, mass: csr_array, count_v: Floats
) -> Latents:
    total_f = np.asarray(mass.sum(axis=0), dtype=np.float64)
    heaviest = column_maxima(csc_array(mass))
    stands_for = _host(measured.best_type_f)
    if settings.argmax == "type":
        row_counts = np.repeat(count_v, np.diff(mass.indptr))
        means = csr_array((mass.data / row_counts, mass.indices, mass.indptr), shape=mass.shape)
        stands_for = column_maxima(csc_array(means)).rows
    with np.errstate(invalid="ignore"):
        share_f = heaviest.values / total_f
    return Latents(
        count=_host(measured.fired_f).astype(np.int64),
        argmax_token=stands_for,
        mass_token=heaviest.rows,
        mass_share=share_f,
        entropy=row_entropies(csr_array(mass.T)),
    )


def _with_share(mass: csr_array, least: float) -> Counts:
    """Return the types on which some latent has at least that share of its activation mass."""
    pairs = mass.tocoo()
    total_f = np.asarray(mass.sum(axis=0))
    return np.unique(pairs.row[pairs.data >= least * total_f[pairs.col]])


def types_table(types: Types, seed: int, texts: Texts) -> pa.Table:
    """Return the rows of one seed in `types.parquet`; an entropy that is undefined is null."""
    columns = dict(vars(types))
    table = {
        "seed": np.full(len(types.token), seed),
        "token": columns.pop("token"),
        "text": texts(types.token),
        **columns,
        "entropy": _or_null(types.entropy),
    }
    return pa.table(table)


def latents_table(latents: Latents, seed: int, texts: Texts) -> pa.Table:
    """Return the rows of one seed in `latents.parquet`; what is undefined is null."""
    n = len(latents.count)
    return pa.table(
        {
            "seed": np.full(n, seed),
            "latent": np.arange(n),
            "count": latents.count,
            "argmax_token": pa.array(latents.argmax_token, mask=latents.argmax_token < 0),
            "argmax_text": pa.array(texts(latents.argmax_token), pa.string()),
            "mass_token": pa.array(latents.mass_token, mask=latents.mass_token < 0),
            "mass_text": pa.array(texts(latents.mass_token), pa.string()),
            "mass_share": _or_null(latents.mass_share),
            "entropy": _or_null(latents.entropy),
        }
    )


def _or_null(values: Floats) -> pa.Array:
    return pa.array(values, mask=np.isnan(values))
