from __future__ import annotations

import math
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from saeflow.artifacts import ArtifactError
from saeflow.evaluation.rows import SCHEMA, Point, Row, make_row, read_rows, write_rows

POINT = Point("ortsae", "desk", "gpt_neox.layers.3", "docs", "all", "batchtopk", 1536, 16)


def row(seed: int = 0, value: float = 0.5, metric: str = "l0") -> Row:
    return make_row(POINT, split="test", seed=seed, metric=metric, value=value, n=100)


def test_rows_survive_the_file_in_the_order_of_their_key(tmp_path: Path) -> None:
    path = tmp_path / "core.parquet"
    write_rows(path, [row(seed=1), row(seed=0), row(seed=0, metric="fvu", value=0.25)])
    assert pq.read_schema(path).equals(SCHEMA)
    rows = read_rows([path])
    assert list(rows["seed"]) == [0, 0, 1]
    assert list(rows["metric"]) == ["fvu", "l0", "l0"]
    assert list(rows["value"]) == [0.25, 0.5, 0.5]
    assert set(rows["site"]) == {"gpt_neox.layers.3"}


def test_the_same_rows_give_the_same_bytes_in_any_order(tmp_path: Path) -> None:
    write_rows(tmp_path / "a", [row(0), row(1)])
    write_rows(tmp_path / "b", [row(1), row(0)])
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_undefined_value_is_refused_with_its_key(tmp_path: Path, value: float) -> None:
    with pytest.raises(ValueError, match=r"seed=3, metric=l0"):
        write_rows(tmp_path / "core.parquet", [row(seed=3, value=value)])
    assert not (tmp_path / "core.parquet").exists()


def test_no_rows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no rows"):
        write_rows(tmp_path / "core.parquet", [])


def test_a_key_may_occur_once_in_a_file_and_over_files(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"two rows for .*metric=l0"):
        write_rows(tmp_path / "core.parquet", [row(value=1), row(value=2)])
    for name in ("a.parquet", "b.parquet"):
        write_rows(tmp_path / name, [row()])
    with pytest.raises(ArtifactError, match=r"two rows for .*variant=batchtopk"):
        read_rows([tmp_path / "a.parquet", tmp_path / "b.parquet"])


def test_other_columns_and_damaged_files_are_named(tmp_path: Path) -> None:
    other = tmp_path / "other.parquet"
    pq.write_table(pa.table({"metric": ["l0"]}), other)
    with pytest.raises(ArtifactError, match=r"other\.parquet does not hold metric rows"):
        read_rows([other])
    truncated = tmp_path / "truncated.parquet"
    truncated.write_bytes(other.read_bytes()[:50])
    with pytest.raises(ArtifactError, match=r"truncated\.parquet is not a readable Parquet"):
        read_rows([truncated])
    with pytest.raises(ArtifactError, match=r"absent\.parquet"):
        read_rows([tmp_path / "absent.parquet"])
