"""The queries of docs/how-to.md ("Read the tables") run on stored tables and give the right numbers."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from iotid.census.stored import stored_totals
from iotid.census.totals import totals_of
from iotid.dataset import FlowSets, read_sets, read_test_sets
from iotid.dataset.store import write_sets
from iotid.flows import read_counters
from iotid.partitions import PartitionKey, Store
from iotid.schemas import CENSUS, COUNTERS, FLOWS, GROUPS, LEFT_OUT

from .census.report_tables import census_of, groups_of, kind, left_out_of

DATE = "2026-01-31"
SECTION = (Path(__file__).parents[1] / "docs" / "how-to.md").read_text(encoding="utf-8").split("## Read the tables")[1]


def _block(title: str, language: str) -> str:
    match = re.search(rf"\*\*{title}\*\*[^`]*(?:`_`[^`]*)?```{language}\n(.*?)```", SECTION, re.DOTALL)
    assert match, title
    return match[1]


@pytest.fixture
def root(tmp_path: Path) -> str:
    """Tables of two dates as the steps store them, with other tables beside the rows."""
    store = Store(str(tmp_path / "run"))
    rows = [{"kinds": [kind("plug"), kind("cam", type="camera")]}, {"status": "unknown"}, {"change": "gone"}]
    flow = {"client_ip": "10.0.0.1", "client_mac": "02:00:00:00:00:01", "server_port": 443, "client_bytes": 10,
            "server_bytes": 5}  # fmt: skip
    for day in ("2026-01-30", DATE):
        key = PartitionKey.of_date("home", day)
        with store.write("census", key, CENSUS.version) as staged:
            pq.write_table(census_of(rows), f"{staged.path}/part-0.parquet", filesystem=staged.filesystem)
            for name, table in (("groups", groups_of(g1=[])), ("left_out", left_out_of({}))):
                assert table.schema in (GROUPS.arrow_schema(), LEFT_OUT.arrow_schema())
                pq.write_table(table, f"{staged.path}/_{name}.pq", filesystem=staged.filesystem)
        with store.write("flows", key, FLOWS.version) as staged:
            schema = FLOWS.arrow_schema(stored=True)
            stored = pa.Table.from_pylist([flow, flow], pa.schema([schema.field(name) for name in flow]))
            pq.write_table(stored, f"{staged.path}/part-0.parquet", filesystem=staged.filesystem)
    return str(tmp_path / "run")


def _run(code: str, root: str, **names: Any) -> tuple[str, dict[str, Any]]:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(code.replace("var/run", root), names)
    return out.getvalue(), names


def test_pandas_and_pyarrow__read_the_tables_as_documented(root: str) -> None:
    printed, names = _run(_block("pandas and pyarrow", "python"), root)
    assert len(names["census"]) == 3
    assert len(names["present"]) == 2
    assert re.search(r"home +known +1\n +unknown +1", printed)
    assert re.search(r"home +camera +1\n +socket +1", printed)
    assert re.search(r"home +02:00:00:00:00:01 +20", printed)
    assert names["table"].num_rows == 4


def test_duckdb__reads_the_tables_as_documented(root: str) -> None:
    statuses, types, ports = (
        duckdb.sql(query).fetchall() for query in _block("DuckDB", "sql").replace("var/run", root).split(";")[:3]
    )
    assert [row[2:] for row in statuses] == [("absent", 1), ("known", 1), ("unknown", 1)] * 2
    assert sorted(types) == [("home", "camera", 1), ("home", "socket", 1)]
    assert ports == [(443, 60)]


@pytest.mark.spark
def test_spark__reads_the_tables_as_documented(root: str, spark: Any) -> None:
    printed, names = _run(_block("Spark", "python"), root, spark=spark)
    assert names["census"].count() == 6
    assert re.search(r"home\| *known\| *1", printed)
    assert re.search(r"home\| *camera\| *1", printed)
    assert names["flows"].count() == 4


def test_former_names__of_side_tables_are_read(tmp_path: Path) -> None:
    store, key = Store(str(tmp_path)), PartitionKey.of_date("home", DATE)
    counters = COUNTERS.arrow_schema(stored=True)
    counted = pa.Table.from_pylist(
        [{"capture_file": "a", "reason": "flow", "packets": 3, "bytes": 9, "first_offset": 0}], counters
    )
    with store.write("flows", key, FLOWS.version) as staged:
        pq.write_table(counted, f"{staged.path}/_counters.parquet", filesystem=staged.filesystem)
    assert read_counters(store.open("flows", key))["packets"].to_pylist() == [3]
    totals = totals_of(census_of([{}]))
    with store.write("census", key, CENSUS.version) as staged:
        pq.write_table(totals, f"{staged.path}/_totals.parquet", filesystem=staged.filesystem)
    found = stored_totals(store, store.open("census", key))
    assert found is not None
    assert found.equals(totals)


def test_former_names__of_the_sets_of_a_dataset_are_read(tmp_path: Path) -> None:
    store, key = Store(str(tmp_path)), PartitionKey.named("d")
    ids = np.zeros(2, np.int64)
    sets = FlowSets.of({"packet_length": np.ones((2, 3), np.int32)}, ids, ids, ids + 1, ids)
    with store.write("datasets", key) as staged:
        write_sets(staged, "sets.parquet", sets)
    uri = store.open("datasets", key).uri
    assert read_sets(uri).to_arrow().equals(sets.to_arrow())
    assert read_test_sets(uri) is None, "a dataset of an earlier version has none"
