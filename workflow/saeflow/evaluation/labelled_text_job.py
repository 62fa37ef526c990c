"""The job around a measurement on labelled text: inputs checked and loaded, results written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from saeflow.activations.exclusion import read_exclusion
from saeflow.artifacts import Clock, atomic_path, begin, write_manifest
from saeflow.evaluation.labelled_text_settings import LabelledTextSettings
from saeflow.evaluation.origin import Key, Member, check_members, load_members
from saeflow.evaluation.pooled import Site
from saeflow.evaluation.rows import Point, Row, write_rows
from saeflow.sae.boosted import Boosted
from saeflow.sae.model import SAE
from saeflow.subjects.load import load_subject

SAEs = Mapping[Key, SAE | Boosted]


class Measured(NamedTuple):
    """What a measurement found."""

    rows: list[Row]
    details: pa.Table
    """A row for each SAE and each thing that was averaged over, and for what was skipped."""


class Inputs(NamedTuple):
    """Folders that a measurement reads."""

    subject: Path
    corpora: Mapping[str, Path]
    """The corpora that the settings name."""
    activations: Path
    """The cache that the SAEs were trained on."""
    exclusion: Path | None = None
    """The cache whose rule says which tokens count; null takes `activations`."""


def run_job(
    name: str,
    settings: LabelledTextSettings,
    saes: Sequence[Member],
    measure: Callable[[Site, SAEs], Measured],
    inputs: Inputs,
    *,
    point: Point,
    out: Path,
    device: str,
    code: str,
) -> None:
    """Write `<name>.parquet`, `<name>_details.parquet` and the manifest into the folder `out`.

    The point's `l0_target` is ignored: each row has its SAE's. Raises ArtifactError for inputs that
    are damaged or do not belong together.
    """
    clock, out = Clock(), begin(out)
    check_members(saes, point, inputs.activations)
    model = load_subject(inputs.subject, device)
    exclusion = inputs.exclusion or inputs.activations
    rule = read_exclusion(exclusion, model.special_ids)
    site = Site(model, point.site, rule, settings.batch_tokens, settings.precision)
    measured = measure(site, load_members(saes, device))
    files = [f"{name}.parquet", f"{name}_details.parquet"]
    write_rows(out / files[0], measured.rows)
    with atomic_path(out / files[1]) as temporary:
        pq.write_table(measured.details, temporary)
    write_manifest(
        out,
        kind="metrics",
        settings={name: settings.model_dump(mode="json"), "point": point._asdict()},
        files=files,
        inputs={
            "subject": inputs.subject,
            "activations": inputs.activations,
            "exclusion": exclusion,
            **{f"corpus.{corpus}": folder for corpus, folder in inputs.corpora.items()},
            **{f"l0_{sae.l0_target}/seed{sae.seed}": sae.folder for sae in saes},
        },
        device=device,
        code=code,
        clock=clock,
    )
