"""Meanings, units and versions travel in the Parquet files, for pyarrow, DuckDB and Spark."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from iotid import schemas
from iotid.schemas import CENSUS, FLOWS, OPEN_FLOWS, SPLITS, Table
from iotid.schemas.table import SPARK_ROW
from iotid.storage import OutputFile, read_table

TABLES = [each for each in vars(schemas).values() if isinstance(each, Table)]


def _units(table: Table) -> dict[str, str | None]:
    return {column.name: column.unit for column in table.columns}


def test_unit__is_read_from_the_meaning() -> None:
    assert _units(SPLITS)["file_bytes"] == _units(FLOWS)["payload_length"] == "bytes"
    assert _units(FLOWS)["first_seen"] == "UTC"
    assert _units(FLOWS)["inter_arrival_us"] == "µs"
    assert _units(OPEN_FLOWS)["last_us"] == "µs since 1970 UTC"
    assert _units(CENSUS)["confidence"] == "probability, 0 to 1"
    assert _units(CENSUS)["addresses"] is None
    assert _units(schemas.GROUPS)["flows_per_hour"] == "flows/h"


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_unit__of_bytes_packets_and_times_is_never_missing(table: Table) -> None:
    for column in table.columns:
        if column.type not in ("string", "binary") and not column.meaning.startswith("as of"):
            for ending, unit in {"bytes": "bytes", "packets": "packets", "_us": "µs", "_length": "bytes"}.items():
                assert not column.name.endswith(ending) or str(column.unit).startswith(unit), column


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_file__has_meaning_unit_and_version(table: Table, tmp_path: Path) -> None:
    written = table.describe(table.arrow_schema(stored=True).empty_table())
    pq.write_table(written, tmp_path / "part.parquet")
    schema = pq.read_schema(tmp_path / "part.parquet")
    assert schema.metadata[b"iotid.table"].decode() == table.name
    assert schema.metadata[b"iotid.version"].decode() == str(table.version)
    columns = {column.name: column for column in table.columns}
    for field in schema:
        assert field.metadata[b"meaning"].decode() == columns[field.name].meaning
        assert field.metadata.get(b"unit", b"").decode() == (columns[field.name].unit or "")
    row = json.loads(schema.metadata[SPARK_ROW])
    assert [each["name"] for each in row["fields"]] == schema.names
    assert schema == table.arrow_schema(stored=True), "metadata changes no type"
    read = read_table(str(tmp_path / "part.parquet"), table.arrow_schema(stored=True), "write it again")
    table.check(pa.schema([*read.schema, *(f for f in table.arrow_schema() if f.name not in schema.names)]))


def test_file__of_a_worker_has_them_too(tmp_path: Path) -> None:
    schema = OPEN_FLOWS.described(OPEN_FLOWS.arrow_schema())
    row = {"capture_file": "a", "last_us": 1, "packets_seen": 1, "key": b"", "first_us": 1, "first_position": 1,
           "state": b"", "packets": b""}  # fmt: skip
    file = OutputFile(str(tmp_path), "part.parquet", 0, schema, 1)
    for _ in range(2):
        file.write(pa.Table.from_pylist([row], OPEN_FLOWS.arrow_schema()))
    file.close(whole=True)
    stored = pq.read_schema(tmp_path / "part.parquet")
    assert stored.metadata[b"iotid.table"] == b"open_flows"
    assert b"last packet" in stored.field("last_us").metadata[b"meaning"]


def test_files__of_an_earlier_iotid_are_read_with_those_of_this_one(tmp_path: Path) -> None:
    plain = CENSUS.arrow_schema(stored=True).empty_table()
    pq.write_table(plain, tmp_path / "part-0.parquet")
    pq.write_table(CENSUS.describe(plain), tmp_path / "part-1.parquet")
    assert pa.concat_tables(map(pq.read_table, sorted(tmp_path.iterdir()))).schema == plain.schema
    assert read_table(str(tmp_path), plain.schema, "write it again").schema == plain.schema


def test_columns_that_are_not_of_the_table__have_no_meaning() -> None:
    schema = CENSUS.described(pa.schema([("site", pa.string()), ("mine", pa.int32())]))
    assert schema.field("mine").metadata is None or not schema.field("mine").metadata
    assert json.loads(schema.metadata[SPARK_ROW])["fields"][1]["metadata"] == {}


@pytest.mark.spark
def test_spark__shows_meanings_as_comments_and_reads_the_types(spark: Any, tmp_path: Path) -> None:
    for table in TABLES:
        folder = tmp_path / table.name
        folder.mkdir()
        plain = table.arrow_schema(stored=True).empty_table()
        (tmp_path / "plain").mkdir(exist_ok=True)
        pq.write_table(plain, tmp_path / "plain" / f"{table.name}.parquet")
        pq.write_table(table.describe(plain), folder / "part-0.parquet")
        read = spark.read.parquet(str(folder))
        by_type = spark.read.parquet(str(tmp_path / "plain" / f"{table.name}.parquet"))
        assert [(f.name, f.dataType) for f in read.schema] == [(f.name, f.dataType) for f in by_type.schema]
        for column in table.columns:
            if column.name in read.columns:
                assert read.schema[column.name].metadata["comment"].startswith(column.meaning)
