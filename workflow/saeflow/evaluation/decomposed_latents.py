"""Latents of one SAE that are sums of another's, with what each stands for (OrtSAE Figs. 5, 8-10).

Which latents are sums is known from their decoder vectors (`decomposition`). Here a few of them are
drawn at random, and it is read off held-out text on which words and in which contexts the latent
and its parts fire, and how often they fire together: a sum that holds of decoder vectors alone says
nothing about when latents are active.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from saeflow.activations.exclusion import Exclusion, read_exclusion
from saeflow.artifacts import Clock, atomic_path, begin, write_manifest
from saeflow.autointerp.examples import pieces_of
from saeflow.autointerp.firing import Text, fire, read_text
from saeflow.evaluation.decoder_pairs import Compared, Pair, load_pairs, pair_inputs
from saeflow.evaluation.decomposed_latents_choice import Sum, drawn, read_sums
from saeflow.evaluation.decomposed_latents_settings import DecomposedLatentsSettings
from saeflow.evaluation.decomposed_latents_table import SCHEMA, Sides, members_of
from saeflow.evaluation.decomposed_latents_text import Latents, Reader, share_of, union
from saeflow.evaluation.origin import Key
from saeflow.evaluation.rows import Point, Row, make_row, write_rows
from saeflow.fingerprint import fingerprint
from saeflow.subjects.load import Subject, load_subject

ROWS, TABLE = FILES = ("decomposed_cofiring.parquet", "decomposed_latents.parquet")


class Measured(NamedTuple):
    """What was found of one pair of SAEs."""

    rows: list[Row]
    table: pa.Table
    """Of `SCHEMA`."""


def evaluate_decomposed_latents(
    settings: DecomposedLatentsSettings,
    pairs: Sequence[Pair],
    *,
    decomposition: Path,
    subject: Path,
    tokens: Path,
    activations: Path,
    exclusion: Path,
    split: str,
    baseline: str,
    point: Point,
    out: Path,
    device: str = "cpu",
) -> None:
    """Show latents of the variant `baseline` that are sums of those of the point's variant.

    Of `pairs` the first at the point's `l0_target` is taken: one seed. `decomposition` is the
    folder of `evaluate_decomposition` of these SAEs, `activations` the cache that they were trained
    on, `exclusion` the one whose rule says which of the split's `tokens` count. Writes
    `decomposed_cofiring.parquet` (tidy rows), `decomposed_latents.parquet` (`SCHEMA`) and the
    manifest into `out`. Raises ValueError where no pair is of that L0, ArtifactError for inputs
    that are damaged or do not belong together, and what `measure_decomposed_latents` raises.
    """
    clock, out = Clock(), begin(out)
    pair = _first(pairs, point.l0_target)
    [(key, saes)] = load_pairs([pair], point, baseline, activations, device).items()
    sums = read_sums(decomposition, pair)
    model = load_subject(subject, device)
    text = read_text(tokens, split, settings.tokens, 2 * settings.context + 1, model.special_ids)
    found = measure_decomposed_latents(
        settings, key, saes, sums, text, model, read_exclusion(exclusion, model.special_ids),
        baseline=baseline, point=point, split=split,
    )  # fmt: skip
    write_rows(out / ROWS, found.rows)
    with atomic_path(out / TABLE) as temporary:
        pq.write_table(found.table, temporary)
    write_manifest(
        out,
        kind="metrics",
        settings={
            "decomposed_latents": settings.model_dump(),
            "baseline": baseline,
            "split": split,
            "point": point._asdict(),
        },
        files=FILES,
        inputs={
            "decomposition": decomposition,
            "subject": subject,
            "tokens": tokens,
            "activations": activations,
            "exclusion": exclusion,
            **pair_inputs([pair]),
        },
        seed=settings.seed,
        device=device,
        code=fingerprint(__name__),
        clock=clock,
    )


def measure_decomposed_latents(
    settings: DecomposedLatentsSettings,
    key: Key,
    saes: Compared,
    sums: Sequence[Sum],
    text: Text,
    subject: Subject,
    rule: Exclusion,
    *,
    baseline: str,
    point: Point,
    split: str,
) -> Measured:
    """Return rows and examples of a pair of SAEs whose `sums` are known.

    `text` is cut into contexts of twice the settings' `context` and one. Over the sums that could
    be drawn (n), `decomposed_cofiring` is the mean share of a latent's tokens on which at least one
    part fires, and `decomposed_cofiring_chance` the mean share of all tokens on which one does;
    without any they have no row. `decomposed_eligible` counts these of all sums with a number of
    parts asked for, `decomposed_examples` the examples of those asked for. Raises ValueError for
    SAEs that do not fit the site.
    """
    asked = [one for one in sums if len(one.parts) in settings.parts]
    latents = _read(settings, saes, asked, text, subject, point, rule)
    eligible = [one for one in asked if _fires_often(one, latents, settings.min_tokens)]
    examples = list(drawn(settings.parts, asked, eligible, settings.seed))
    shown = sum(example.drawn is not None for example in examples)
    values: dict[str, tuple[float, int]] = {
        "decomposed_examples": (shown, len(examples)),
        "decomposed_eligible": (len(eligible), len(asked)),
        **_cofiring(eligible, latents, text.tokens_ct.size),
    }
    at = point._replace(l0_target=key.l0_target)
    row = partial(make_row, at, split=split, seed=key.seed)
    reader = Reader(settings, text, pieces_of(subject.tokenizer, np.unique(text.tokens_ct)))
    origin = {
        "split": split,
        "selection": point.selection,
        "variant": point.variant,
        "baseline": baseline,
        **key._asdict(),
    }
    members = [
        {**origin, "example": number, **member}
        for number, example in enumerate(examples)
        for member in members_of(example, latents, reader)
    ]
    return Measured(
        [row(metric=metric, value=value, n=n) for metric, (value, n) in values.items()],
        pa.Table.from_pylist(members, schema=SCHEMA),
    )


def _first(pairs: Sequence[Pair], l0_target: int) -> Pair:
    for pair in pairs:
        if pair.variant.l0_target == l0_target:
            return pair
    given = sorted({pair.variant.l0_target for pair in pairs})
    raise ValueError(f"no pair of SAEs of L0 {l0_target} is given; there are L0s {given}")


def _read(
    settings: DecomposedLatentsSettings,
    saes: Compared,
    sums: Sequence[Sum],
    text: Text,
    subject: Subject,
    point: Point,
    rule: Exclusion,
) -> Sides:
    """Return where the latents of the sums fire, of both SAEs from one pass of the subject."""
    wanted = {
        "variant": {part for one in sums for part in one.parts},
        "baseline": {one.latent for one in sums},
    }
    candidates = {name: np.array(sorted(latents), np.int64) for name, latents in wanted.items()}
    firings = fire(
        subject, saes._asdict(), candidates, text, point.site, rule, settings.batch_tokens
    )
    return Sides(**{name: Latents(firing, text) for name, firing in firings.items()})


def _fires_often(one: Sum, latents: Sides, least: int) -> bool:
    parts = [len(latents.variant.fires(part)) for part in one.parts]
    return min(*parts, len(latents.baseline.fires(one.latent))) >= least


def _cofiring(eligible: Sequence[Sum], latents: Sides, tokens: int) -> dict[str, tuple[float, int]]:
    """Return the metrics of firing together, over the sums that could be drawn."""
    shares, chances = [], []
    for one in eligible:
        some_n = union([latents.variant.fires(part) for part in one.parts])
        of = latents.baseline.fires(one.latent)
        shares.append(share_of(of.token_n, some_n))
        chances.append(len(some_n) / tokens)
    if not eligible:
        return {}
    n = len(eligible)
    return {
        "decomposed_cofiring": (sum(shares) / n, n),
        "decomposed_cofiring_chance": (sum(chances) / n, n),
    }
