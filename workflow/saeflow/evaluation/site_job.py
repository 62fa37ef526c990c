"""The job around a measurement at one site: inputs checked and loaded, results written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from saeflow.activations.exclusion import read_exclusion
from saeflow.artifacts import Clock, atomic_path, begin, write_manifest
from saeflow.evaluation.origin import Key, Member, check_members, inputs_of, load_members
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
    more: Mapping[str, pa.Table] = {}
    """Further tables by name."""


class Inputs(NamedTuple):
    """Files and folders that a measurement reads."""

    subject: Path
    activations: Path
    """The cache that the SAEs were trained on."""
    exclusion: Path | None = None
    """The cache whose rule says which tokens count; null takes `activations`."""
    own: Mapping[str, Path] = {}
    """What only this measurement reads, by names for the manifest."""


class SiteSettings(Protocol):
    """Settings of a measurement, which say how the subject is read."""

    @property
    def batch_tokens(self) -> int:
        """Tokens, padding included, in one forward pass of the subject."""

    @property
    def precision(self) -> Literal["auto", "float32", "bfloat16"]:
        """Arithmetic of the subject, as in `CoreSettings`."""

    def model_dump(self, *, mode: str) -> dict[str, Any]:
        """Return all of them, as pydantic does."""


def run_job(
    name: str,
    settings: SiteSettings,
    saes: Sequence[Member],
    measure: Callable[[Site, SAEs], Measured],
    inputs: Inputs,
    *,
    point: Point,
    out: Path,
    device: str,
    code: str,
    seed: int | None = None,
) -> None:
    """Write `<name>.parquet`, `<name>_<table>.parquet` and the manifest into the folder `out`.

    Tables are `details` and those of `Measured.more`. The point's `l0_target` is ignored: each row
    has its SAE's. Raises ArtifactError for inputs that are damaged or do not belong together.
    """
    clock, out = Clock(), begin(out)
    check_members(saes, point, inputs.activations)
    model = load_subject(inputs.subject, device)
    exclusion = inputs.exclusion or inputs.activations
    rule = read_exclusion(exclusion, model.special_ids)
    site = Site(model, point.site, rule, settings.batch_tokens, settings.precision)
    measured = measure(site, load_members(saes, device))
    write_manifest(
        out,
        kind="metrics",
        settings={name: settings.model_dump(mode="json"), "point": point._asdict()},
        files=_write(name, measured, out),
        inputs={
            "subject": inputs.subject,
            "activations": inputs.activations,
            "exclusion": exclusion,
            **inputs.own,
            **inputs_of(saes),
        },
        seed=seed,
        device=device,
        code=code,
        clock=clock,
    )


def _write(name: str, measured: Measured, out: Path) -> list[str]:
    """Write rows and tables, and return the names of the files."""
    tables = {"details": measured.details, **measured.more}
    files = {f"{name}_{table}.parquet": found for table, found in tables.items()}
    write_rows(out / f"{name}.parquet", measured.rows)
    for file, found in files.items():
        with atomic_path(out / file) as temporary:
            pq.write_table(found, temporary)
    return [f"{name}.parquet", *files]
