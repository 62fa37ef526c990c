"""The core evaluation: reconstruction, sparsity, decoder geometry and loss with the SAE spliced in.

Definitions. Rows are the tokens that the activation cache would hold (`activations.exclude`):
no padding, special tokens, skipped first positions or attention sinks. At these, and only there,
the site's output is replaced: by decode(encode(x)) without an error term, or by zeros for the
ablation; all other positions keep their clean activation. Cross entropy and KL divergence are
averaged over the next-token predictions made *from* replaced positions, as in SAEBench, whose
mask of special tokens also governs both the replacement and the average.

A residual SAE, trained on the error of a frozen base, is judged and spliced in as base(x) +
residual(x). Whatever is said of latents is about its own ones: l0, dead_latents, the decoder
cosines, and the rows of `latents.parquet`. The latents of the base come on top.

Where latents were added to those of a base, l0_base and l0_added tell the two apart, and their sum
is the L0 of both: of a residual SAE on its base l0 is l0_added, of one checkpoint that holds base
and additions (see `saeflow.sae.parts`) l0 is the sum. dead_latents_added is of the added ones, and
what was added and never fires is named on standard error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from saeflow.activations.exclusion import read_exclusion
from saeflow.artifacts import Clock, atomic_path, begin, write_manifest
from saeflow.evaluation.held_out import held_out_batches
from saeflow.evaluation.origin import (
    Member,
    added_parts,
    bases_of,
    check_members,
    inputs_of,
    load_members,
    of_one_point,
)
from saeflow.evaluation.rows import Point, Row, write_rows
from saeflow.evaluation.settings import CoreSettings, SeriesSettings
from saeflow.evaluation.site_rows import arithmetic
from saeflow.evaluation.spliced import Spliced, decoder_geometry
from saeflow.fingerprint import fingerprint
from saeflow.progress import Progress, say
from saeflow.subjects.load import load_subject

ROWS, LATENTS = "core.parquet", "latents.parquet"


def evaluate_core(
    settings: CoreSettings,
    saes: Mapping[int, Path],
    *,
    subject: Path,
    tokens: Path,
    activations: Path,
    point: Point,
    out: Path,
    bases: Mapping[int, Path] | None = None,
    device: str = "cpu",
) -> None:
    """Measure the SAEs of one point (checkpoint folders by seed) in one pass over held-out text.

    `activations` is a cache of the point's subject and corpus; only its manifest is read, for the
    exclusion rule. `bases` are the frozen SAEs of residual ones by seed, in any layout that
    `load_sae` reads. Writes `core.parquet` (tidy rows), `latents.parquet` (one row a split, seed
    and latent) and the manifest into the folder `out`. Decoder metrics do not depend on the split
    and are repeated in each. Raises ArtifactError for an SAE that is damaged, of another point, of
    another cache or of another base, and ValueError for one that does not fit the site or its base
    and for text without variance.
    """
    clock, out = Clock(), begin(out)
    members = of_one_point(point, saes, bases)
    check_members(members, point, activations)
    splits = list(settings.splits.items())
    _measure(settings, splits, members, subject, tokens, activations, point, out, device)
    write_manifest(
        out,
        kind="metrics",
        settings={"core": settings.model_dump(), "point": point._asdict()},
        files=[ROWS, LATENTS],
        inputs={
            "subject": subject,
            "tokens": tokens,
            "activations": activations,
            **{f"seed{seed}": folder for seed, folder in saes.items()},
        },
        stats={"bases": bases_of(members)},
        device=device,
        code=fingerprint(__name__),
        clock=clock,
    )


def evaluate_series(
    settings: SeriesSettings,
    saes: Sequence[Member],
    *,
    subject: Path,
    tokens: Path,
    activations: Path,
    split: str,
    point: Point,
    out: Path,
    exclusion: Path | None = None,
    device: str = "cpu",
) -> None:
    """Measure the SAEs of one series, all L0 targets and seeds, in one pass over a split.

    The text may be another than the one trained on: `tokens` is of the point's `corpus`,
    `activations` is the cache that the SAEs were trained on, of its `selection`. `exclusion` is
    the cache whose rule says which rows count; null takes `activations`. Thresholds for attention
    sinks differ from cache to cache, so series that are to be compared need the same one. The
    point's `l0_target` is ignored: each row has its SAE's. Writes the files of `evaluate_core`
    and raises what that raises.
    """
    clock, out = Clock(), begin(out)
    check_members(saes, point, activations)
    rule = exclusion or activations
    splits = [(split, settings.tokens)]
    _measure(settings, splits, saes, subject, tokens, rule, point, out, device)
    write_manifest(
        out,
        kind="metrics",
        settings={"series": settings.model_dump(), "split": split, "point": point._asdict()},
        files=[ROWS, LATENTS],
        inputs={
            "subject": subject,
            "tokens": tokens,
            "activations": activations,
            "exclusion": rule,
            **inputs_of(saes),
        },
        stats={
            "bases": {
                f"l0_{sae.l0_target}/seed{sae.seed}": str(sae.base)
                for sae in saes
                if sae.base is not None
            }
        },
        device=device,
        code=fingerprint(__name__),
        clock=clock,
    )


def _measure(
    settings: CoreSettings | SeriesSettings,
    splits: Sequence[tuple[str, int]],
    members: Sequence[Member],
    subject: Path,
    tokens: Path,
    exclusion: Path,
    point: Point,
    out: Path,
    device: str,
) -> None:
    """Write the rows and the latents of all members on `splits`, each with its budget of tokens."""
    model = load_subject(subject, device)
    saes = load_members(members, device)
    rule = read_exclusion(exclusion, model.special_ids)
    context = arithmetic(model, settings.precision)
    decoders, added = decoder_geometry(saes), added_parts(members, saes)
    rows: list[Row] = []
    latents: list[pa.Table] = []
    for split, budget in splits:
        measured = Spliced(model, saes, added, point.site, rule, context)
        with Progress(total=budget, unit="tok", what=f"evaluating {point.variant}") as progress:
            for batch in held_out_batches(tokens, split, budget, settings.batch_tokens):
                measured.update(batch)
                progress.update(int(batch[1].sum()))
        for key, decoder in decoders.items():
            rows.extend(measured.rows(key, decoder, point, split))
            latents.append(measured.latents(key, decoder, point, split))
        for key, part in measured.silent():
            say(f"{point.variant}, {key}: {part} never fires on {split}")
    write_rows(out / ROWS, rows)
    with atomic_path(out / LATENTS) as temporary:
        pq.write_table(pa.concat_tables(latents), temporary)
