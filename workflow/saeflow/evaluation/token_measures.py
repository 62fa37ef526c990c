"""Which token types an SAE covers, and its error and activations by token frequency.

Rows are those of the core evaluation: tokens that the activation cache would hold. A "token" of
the paper's figures is read as a token type, an entry of the vocabulary. What the paper leaves
open is a key of `TokenMeasureSettings`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from saeflow.activations.exclusion import read_exclusion
from saeflow.artifacts import Clock, atomic_path, begin, write_manifest
from saeflow.evaluation.curve_rows import write_curves
from saeflow.evaluation.frequency import Counts, token_counts
from saeflow.evaluation.held_out import held_out_batches
from saeflow.evaluation.origin import (
    Key,
    bases_of,
    check_members,
    load_members,
    of_one_point,
)
from saeflow.evaluation.pair_cosines import PairCosines, pair_cosines
from saeflow.evaluation.rows import Point, make_row, write_rows
from saeflow.evaluation.settings import TokenMeasureSettings
from saeflow.evaluation.site_rows import arithmetic, check_width, read_site
from saeflow.evaluation.token_curves import curves, scalars
from saeflow.evaluation.token_tables import Bools, Texts, describe, latents_table, types_table
from saeflow.evaluation.token_types import TypeStatistics
from saeflow.fingerprint import fingerprint
from saeflow.progress import Progress
from saeflow.subjects.load import Subject, load_subject

TYPES, LATENTS, CURVES, SCALARS = FILES = (
    "types.parquet",
    "latents.parquet",
    "curves.parquet",
    "tokens.parquet",
)


def measure_tokens(
    settings: TokenMeasureSettings,
    saes: Mapping[int, Path],
    *,
    subject: Path,
    tokens: Path,
    activations: Path,
    split: str,
    point: Point,
    out: Path,
    exclusion: Path | None = None,
    bases: Mapping[int, Path] | None = None,
    device: str = "cpu",
) -> None:
    """Measure SAEs of one point (folders by seed) by token type, in one pass over a split.

    `tokens` is of the point's `corpus`, the text measured on, and gives the token frequencies too;
    `activations` is the cache that the SAEs were trained on; `exclusion` is the cache whose rule
    says which rows count, null takes `activations`; `bases` are the frozen SAEs of residual ones by
    seed, whose reconstructions add up, while latents are the residual's. Writes `types.parquet` (a
    row a seed and token type seen), `latents.parquet` (a row a seed and latent), `curves.parquet`
    (tidy rows and their `x`), `tokens.parquet` (tidy rows) and the manifest into the folder `out`.
    Raises ArtifactError for inputs that are damaged or do not belong together, and ValueError for
    SAEs that do not fit the site and for text without a single row.
    """
    clock, out = Clock(), begin(out)
    members = of_one_point(point, saes, bases)
    check_members(members, point, activations)
    model = load_subject(subject, device)
    vocab_size = model.config.get_text_config().vocab_size
    frequency_v = token_counts(tokens, settings.frequency_split, vocab_size, model.special_ids)
    measured = {
        key: TypeStatistics(sae, vocab_size) for key, sae in load_members(members, device).items()
    }
    rule = exclusion or activations
    _pass(settings, model, measured, tokens, split, rule, point.site)
    _write(settings, measured, frequency_v, _texts(model), split, point, out)
    write_manifest(
        out,
        kind="metrics",
        settings={"tokens": settings.model_dump(), "split": split, "point": point._asdict()},
        files=FILES,
        inputs={
            "subject": subject,
            "tokens": tokens,
            "activations": activations,
            "exclusion": rule,
            **{f"seed{seed}": folder for seed, folder in saes.items()},
        },
        stats={"text_length": int(frequency_v.sum()), "bases": bases_of(members)},
        device=device,
        code=fingerprint(__name__),
        clock=clock,
    )


def _pass(
    settings: TokenMeasureSettings,
    model: Subject,
    measured: Mapping[Key, TypeStatistics],
    tokens: Path,
    split: str,
    exclusion: Path,
    site: str,
) -> None:
    """Add the rows of the split's first windows to all SAEs."""
    rule = read_exclusion(exclusion, model.special_ids)
    context = arithmetic(model, settings.precision)
    total = 0
    with Progress(settings.tokens, "tok", "measuring by token") as progress:
        for batch in held_out_batches(tokens, split, settings.tokens, settings.batch_tokens):
            rows = read_site(model, site, rule, batch, context)
            x_nd, types_n = rows.x_nd, rows.types_n
            for statistics in measured.values():
                check_width(model, site, x_nd.shape[1], statistics.sae.W_dec.shape[1])
                statistics.update(x_nd, types_n)
            total += len(x_nd)
            progress.update(int(batch[1].sum()))
    if total == 0:
        raise ValueError(f"{tokens}: no token of split {split} counts, all are excluded")


def _write(
    settings: TokenMeasureSettings,
    measured: Mapping[Key, TypeStatistics],
    frequency_v: Counts,
    texts: Texts,
    split: str,
    point: Point,
    out: Path,
) -> None:
    type_tables, latent_tables, marks, rows = [], [], [], []
    for key, statistics in measured.items():
        types, latents = describe(settings, statistics, frequency_v)
        cosines = _cosines(settings, statistics, latents.count > 0, key.seed)
        type_tables.append(types_table(types, key.seed, texts))
        latent_tables.append(latents_table(latents, key.seed, texts))
        row = partial(make_row, point, split=split, seed=key.seed)
        for mark in curves(settings, types, latents, cosines, int(frequency_v.sum())):
            marks.append((row(metric=mark.metric, value=mark.value, n=mark.n), mark.x))
        for scalar in scalars(settings, types, latents, cosines):
            rows.append(row(metric=scalar.metric, value=scalar.value, n=scalar.n))
    _write_table(out / TYPES, pa.concat_tables(type_tables))
    _write_table(out / LATENTS, pa.concat_tables(latent_tables))
    write_curves(out / CURVES, marks)
    write_rows(out / SCALARS, rows)


def _cosines(
    settings: TokenMeasureSettings, statistics: TypeStatistics, fires_f: Bools, seed: int
) -> PairCosines | None:
    """Compare the latents that fire: the others' vectors are no part of what the SAE writes.

    None where no two of them fire.
    """
    if fires_f.sum() < 2:
        return None
    decoder_fd = statistics.sae.W_dec
    rows_f = torch.from_numpy(fires_f).to(decoder_fd.device)
    return pair_cosines(decoder_fd[rows_f], settings.cosine_bins, settings.cosine_latents, seed)


def _texts(model: Subject) -> Texts:
    def texts(ids_n: Counts) -> list[str | None]:
        said = model.tokenizer.batch_decode([[int(i)] for i in ids_n if i >= 0])
        following = iter(said)
        return [next(following) if i >= 0 else None for i in ids_n]

    return texts


def _write_table(path: Path, table: pa.Table) -> None:
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary)
