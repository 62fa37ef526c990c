"""The file format of one shard: Parquet with one column of raw row bytes for each site.

A row of a site is the little-endian float16 or float32 vector as `fixed_size_binary`: numpy and
Arrow share its buffer without a copy either way, where a list column is decoded value by value.
Nothing is compressed or dictionary-encoded, as activations do not shrink (zstd saves 8%).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from saeflow.artifacts import MANIFEST, ArtifactError, atomic_path

ID_TYPES = {"document": np.int64, "position": np.int32, "token": np.int32}
ROW_ID_BYTES = sum(np.dtype(t).itemsize for t in ID_TYPES.values())
GROUP_BYTES = 4 << 20
"""Bytes of a row group at the widest site: large enough to read at full speed."""


def stored_type(dtype: str) -> np.dtype:
    """Return the little-endian numpy type of stored values, `float16` or `float32`."""
    return np.dtype(dtype).newbyteorder("<")


def group_rows(widths: Mapping[str, int], dtype: str) -> int:
    """Return the rows of a row group; `widths` maps each site to its d_in."""
    return max(1, GROUP_BYTES // (max(widths.values()) * stored_type(dtype).itemsize))


def row_bytes(widths: Mapping[str, int], dtype: str) -> int:
    """Return the bytes of one row on disk, ids included."""
    return sum(widths.values()) * stored_type(dtype).itemsize + ROW_ID_BYTES


def schema(widths: Mapping[str, int], dtype: str) -> pa.Schema:
    """Return the columns of a shard: document, position, token and one for each site."""
    itemsize = stored_type(dtype).itemsize
    ids = [pa.field(n, pa.from_numpy_dtype(t), nullable=False) for n, t in ID_TYPES.items()]
    sites = [pa.field(s, pa.binary(d * itemsize), nullable=False) for s, d in widths.items()]
    return pa.schema(ids + sites)


def write_shard(
    path: Path,
    ids: Mapping[str, np.ndarray],
    acts: Mapping[str, np.ndarray],
    order: np.ndarray,
) -> None:
    """Write rows `order` of `ids` (n,) and `acts` (n, d_in) to `path`, atomically.

    Gathers one row group at a time, so that the permuted copy stays small.
    """
    widths = {site: values.shape[1] for site, values in acts.items()}
    dtype = next(iter(acts.values())).dtype.name
    columns = schema(widths, dtype)
    size = group_rows(widths, dtype)
    with (
        atomic_path(path) as temporary,
        pq.ParquetWriter(
            temporary, columns, use_dictionary=False, compression="NONE", write_statistics=False
        ) as writer,
    ):
        for start in range(0, len(order), size):
            rows = order[start : start + size]
            arrays = [pa.array(ids[name][rows]) for name in ID_TYPES]
            arrays += [_to_binary(as_rows(values)[rows]) for values in acts.values()]
            writer.write_batch(pa.record_batch(arrays, schema=columns), row_group_size=size)


def as_rows(values_nd: np.ndarray) -> np.ndarray:
    """View a contiguous (n, d) array as (n,) opaque rows, which numpy moves 100 times faster."""
    return values_nd.view(f"V{values_nd.shape[1] * values_nd.itemsize}")[:, 0]


def _to_binary(rows_n: np.ndarray) -> pa.Array:
    buffers = [None, pa.py_buffer(rows_n)]
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(rows_n.itemsize), len(rows_n), buffers)


def open_shard(path: Path) -> pq.ParquetFile:
    """Open a shard and parse its footer; raises ArtifactError naming the file if damaged."""
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise damaged(path, error) from error


def read_group(
    file: pq.ParquetFile, path: Path, group: int, names: Iterable[str]
) -> dict[str, np.ndarray]:
    """Return columns of one row group: ids as (n,) numbers, sites as (n,) opaque rows.

    The arrays are read-only views of Arrow's buffers. Raises ArtifactError naming a damaged file.
    """
    try:
        table = file.read_row_group(group, columns=list(names), use_threads=False)
        return {name: _to_numpy(table.column(name)) for name in table.column_names}
    except (pa.ArrowException, OSError) as error:
        raise damaged(path, error) from error


def _to_numpy(column: pa.ChunkedArray) -> np.ndarray:
    array = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    if not pa.types.is_fixed_size_binary(array.type):
        return array.to_numpy()
    width = array.type.byte_width
    rows = np.frombuffer(array.buffers()[1], dtype=f"V{width}")
    return rows[array.offset : array.offset + len(array)]


def damaged(path: Path, error: object) -> ArtifactError:
    """Return the error for a shard that cannot be read, with the command that rebuilds it."""
    manifest = path.parent / MANIFEST
    return ArtifactError(
        f"{path} cannot be read as a shard of activations ({error}); "
        f"rebuild it with: rm {manifest} && snakemake --cores all {manifest}"
    )
