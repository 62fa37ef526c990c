"""One seed of the debiasing experiment: every method's accuracies, the latents and the circuits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from saeflow.artifacts import Clock, atomic_path, begin, write_manifest
from saeflow.debias.biographies import BiographySets, read_sets
from saeflow.debias.circuits import named_circuit
from saeflow.debias.deciding import decider, read_people
from saeflow.debias.loading import load_saes, widths_before_probe
from saeflow.debias.methods import (
    NO_SAE,
    Experiment,
    Outcome,
    count,
    feature_skyline,
    neuron_skyline,
    random_latents,
    train_and_test,
)
from saeflow.debias.probe import Probe
from saeflow.debias.settings import DebiasSettings
from saeflow.debias.shift import Decide, Sliced, compressed, find_latents, shift, whole
from saeflow.evaluation.rows import Point, Row, make_row, write_rows
from saeflow.fingerprint import fingerprint
from saeflow.sae.identity import sae_digest
from saeflow.sae.model import SAE
from saeflow.subjects.load import load_subject

ROWS, LATENTS, NODES, EDGES = (
    "debias.parquet",
    "latents.parquet",
    "nodes.parquet",
    "edges.parquet",
)
LATENT_SCHEMA = pa.schema(
    {
        "sae": pa.string(),
        "compressed": pa.bool_(),
        "site": pa.string(),
        "module": pa.string(),
        "id": pa.int64(),
        "effect": pa.float64(),
        "label": pa.string(),
        "gender": pa.float64(),
        "profession": pa.float64(),
        "active": pa.int64(),
        "ablated": pa.bool_(),
        "decided_by": pa.string(),
    }
)


def run_debias(
    settings: DebiasSettings,
    *,
    paper: str,
    subject: Path,
    corpus: Path,
    saes: Mapping[str, Mapping[str, Path]],
    d_sae: Mapping[str, int],
    seed: int,
    out: Path,
    root: Path | None = None,
    device: str = "cpu",
) -> None:
    """Run every method with one seed, and write what came out into the folder `out`.

    `saes` maps kinds (gsae, ssae) to the SAE of each of `settings.sites`, in any layout that
    `load_sae` reads, and `d_sae` to the latents that each of these is said to have; the random
    choice and the feature skyline are of the first kind. `root` is the folder that a person's files
    lie below.

    Writes `debias.parquet` (tidy rows: `variant` is the method, `selection` the kind of SAE, shares
    between 0 and 1), `latents.parquet` (a row a latent above the threshold: its id in the whole
    SAE, effect, AUROCs and decision), `nodes.parquet` and `edges.parquet` (circuits of the whole
    SAEs by kind) and the manifest.

    Before any long work: ValueError for kinds whose sites are not those of the settings and for an
    SAE of another width or number of latents; SiteError for a site that the subject lacks or that
    the probe cannot see; BiographyError for a corpus that cannot give the sets; ProbeError for a
    probe that learns nothing; ArtifactError for a damaged input.
    """
    clock, out = Clock(), begin(out)
    model = load_subject(subject, device)
    widths = widths_before_probe(model, settings)
    loaded = {
        kind: load_saes(kind, folders, settings, widths, d_sae[kind], device)
        for kind, folders in saes.items()
    }
    if not loaded:
        raise ValueError("no kind of SAE is given")
    people = read_people(settings, loaded, root)
    _check_skyline(settings, next(iter(loaded.values())))
    sets = read_sets(settings, corpus, model, seed)
    experiment = Experiment(settings, model, sets, seed)
    decide = decider(experiment, people)
    probe, outcomes = train_and_test(experiment)
    studies = [_study(experiment, probe, whole(kind, loaded[kind]), decide) for kind in loaded]
    outcomes += [outcome for study in studies for outcome in study.outcomes]
    outcomes += _comparable(experiment, probe, studies[0])
    point = Point(paper, subject.name, settings.probe_site, corpus.name, NO_SAE, "", 0, 0)
    write_rows(out / ROWS, [row for o in outcomes for row in _rows(point, o, seed)])
    _write(out / LATENTS, pd.concat([s.latents for s in studies]), LATENT_SCHEMA)
    _write(out / NODES, pd.concat([s.nodes for s in studies]))
    _write(out / EDGES, pd.concat([s.edges for s in studies]))
    write_manifest(
        out,
        kind="debias",
        settings=settings.model_dump(mode="json"),
        files=[ROWS, LATENTS, NODES, EDGES],
        inputs={"subject": subject, "corpus": corpus},
        stats={**_counts(sets), "saes": _digests(saes)},
        seed=seed,
        device=device,
        code=fingerprint(__name__),
        clock=clock,
    )


def _counts(sets: BiographySets) -> dict[str, object]:
    return {
        "ambiguous": len(sets.ambiguous.tokens),
        "balanced": len(sets.balanced.tokens),
        "test": len(sets.test.tokens),
        "judge": len(sets.judge.tokens),
        "unlabelled": sets.dropped,
        "other_values": sets.other,
    }


def _digests(saes: Mapping[str, Mapping[str, Path]]) -> dict[str, str]:
    return {
        f"{kind}.{site}": sae_digest(path)
        for kind, by_site in saes.items()
        for site, path in by_site.items()
    }


def _check_skyline(settings: DebiasSettings, saes: Mapping[str, SAE]) -> None:
    latents = sum(sae.d_sae for sae in saes.values())
    if (settings.skyline.count or 0) > latents:
        raise ValueError(f"skyline.count {settings.skyline.count} exceeds the {latents} latents")


class _Study(NamedTuple):
    """What one kind of SAE came to, whole and compressed."""

    full: Sliced
    ablated: int
    """Latents that SHIFT ablates with the whole SAEs."""
    outcomes: list[Outcome]
    latents: pd.DataFrame
    nodes: pd.DataFrame
    edges: pd.DataFrame


def _study(experiment: Experiment, probe: Probe, full: Sliced, decide: Decide) -> _Study:
    """Return SHIFT with whole and compressed SAEs, and the circuit of the whole ones."""
    found = find_latents(experiment, probe, full, decide)
    nodes, edges = named_circuit(experiment, probe, full, found)
    small = compressed(experiment, full, found.effects)
    found_small = find_latents(experiment, probe, small, decide)
    return _Study(
        full,
        count(found.units()),
        [
            *shift(experiment, probe, full, found),
            *shift(experiment, probe, small, found_small),
        ],
        pd.concat([found.table, found_small.table], ignore_index=True),
        nodes.assign(sae=full.kind),
        edges.assign(sae=full.kind),
    )


def _comparable(experiment: Experiment, probe: Probe, first: _Study) -> list[Outcome]:
    """Return the rows that ablate as many units as SHIFT does: random, and the skylines."""
    kind, saes = first.full.kind, first.full.saes
    n = experiment.settings.skyline.count or first.ablated
    return [
        random_latents(experiment, probe, kind, saes, n),
        feature_skyline(experiment, probe, kind, saes, n),
        neuron_skyline(experiment, probe, n),
    ]


def _rows(point: Point, outcome: Outcome, seed: int) -> Iterable[Row]:
    point = point._replace(variant=outcome.method, selection=outcome.sae, d_sae=outcome.d_sae)
    for metric, (value, n) in outcome.metrics.items():
        yield make_row(point, split="test", seed=seed, metric=metric, value=value, n=n)


def _write(path: Path, frame: pd.DataFrame, schema: pa.Schema | None = None) -> None:
    if schema is not None:  # a person gives no AUROCs
        frame = frame.reindex(columns=schema.names).astype({"active": "Int64"})
    table = pa.Table.from_pandas(frame, schema=schema, preserve_index=False)
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary)
