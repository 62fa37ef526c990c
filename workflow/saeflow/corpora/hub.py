"""Source `hub`: a `datasets` data set by hub id and pinned revision, or a folder on disk."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import datasets

from saeflow.corpora.documents import CorpusError, Document, Tally
from saeflow.corpora.rows import check_columns, columns_of, document_of, values_of
from saeflow.corpora.settings import Hub

_BATCH_ROWS = 128
_SAVED = ("state.json", "dataset_dict.json")  # what `save_to_disk` leaves


def documents(settings: Hub, root: Path, tally: Tally) -> Iterator[Document]:
    """Yield the documents of a data set, row by row; no more than a batch of rows is held.

    Code that a data set brings along is never run. Raises CorpusError for a data set that cannot
    be had, that has several parts of which none is named, or that lacks a column.
    """
    name = settings.folder or settings.dataset
    assert name is not None, "the settings refuse this"
    part = _part(_load(settings, root, tally), settings, name)
    if part.column_names is not None:
        check_columns(part.column_names, name, settings)
        part = part.select_columns(columns_of(settings))
    for number, row in enumerate(islice(_rows(part), settings.max_rows), start=1):
        document = document_of(row, name, number, settings, tally)
        if document is not None:
            yield document


def _rows(part: Any) -> Iterator[dict[str, Any]]:
    """Yield the rows from Arrow tables: made into Python's strings by `datasets`, bytes that are
    not UTF-8 would end the job whatever `on_undecodable` says."""
    for table in part.with_format("arrow").iter(_BATCH_ROWS):
        columns = [values_of(column.combine_chunks()) for column in table.columns]
        for row in zip(*columns, strict=True):
            yield dict(zip(table.column_names, row, strict=True))


def _load(settings: Hub, root: Path, tally: Tally) -> Any:
    if settings.folder is not None:
        return _load_folder(root / settings.folder, tally)
    assert settings.dataset is not None, "the settings refuse this"
    return _load_from_hub(settings.dataset, settings, tally)


def _load_from_hub(dataset: str, settings: Hub, tally: Tally) -> Any:
    if Path(dataset).exists():  # `datasets` would read it and ignore the revision
        raise CorpusError(
            f"hub: {dataset!r} is a hub id, but also a path in {Path.cwd()}; name it as `folder` "
            "if that is meant, or move it away"
        )
    tally.facts["dataset"] = f"{dataset}@{settings.revision}"
    try:
        return datasets.load_dataset(
            dataset, settings.config_name, revision=settings.revision, streaming=True
        )
    except OSError as error:
        raise CorpusError(
            f"hub: cannot get data set {dataset!r} at revision {settings.revision} ({error}). "
            "Without network, mirror it: on a machine with network run "
            f"`hf download {dataset} --repo-type dataset --revision {settings.revision} "
            "--local-dir DIR`, copy DIR below data_dir, and name it as `folder` in place of "
            "`dataset` and `revision`"
        ) from error
    except ValueError as error:
        raise CorpusError(f"hub: cannot read data set {dataset!r}: {error}") from error


def _load_folder(folder: Path, tally: Tally) -> Any:
    if not folder.is_dir():
        raise CorpusError(f"hub: there is no folder {folder}; check `folder` and data_dir")
    tally.inputs.update(
        {
            path.relative_to(folder).as_posix(): path
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
    )
    try:
        if any((folder / name).is_file() for name in _SAVED):
            return datasets.load_from_disk(str(folder))
        return datasets.load_dataset(str(folder), streaming=True)
    except (OSError, ValueError) as error:
        raise CorpusError(
            f"hub: {folder} is neither a `save_to_disk` folder nor one of Parquet files ({error})"
        ) from error


def _part(loaded: Any, settings: Hub, name: str) -> Any:
    if not isinstance(loaded, dict):
        if settings.part is not None:
            raise CorpusError(f"{name}: it has no parts; leave `part` out (got {settings.part!r})")
        return loaded
    if settings.part is None and len(loaded) == 1:
        return next(iter(loaded.values()))
    if settings.part not in loaded:
        raise CorpusError(f"{name}: part {settings.part!r} is not among {', '.join(loaded)}")
    return loaded[settings.part]
