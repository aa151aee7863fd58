"""Assembly on Spark gives the flows of ``from_captures``: splits, workers, a shuffle and partitions."""

from __future__ import annotations

import gzip
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.errors import PythonException

from iotid import schemas
from iotid.capture import counters
from iotid.capture.splits.write import write_splits
from iotid.config import Settings
from iotid.errors import AbsentError, AccountingError, InputError, SchemaError, StaleError
from iotid.flows import QUARANTINE_FILE, assemble, from_captures, read_counters, read_flows, write_flows
from iotid.flows.tasks import Totals
from iotid.partitions import Partition, PartitionKey, Store
from iotid.spark.worker_errors import raised_in_worker

pytestmark = pytest.mark.spark

KEY = PartitionKey.of_date("north", "2024-02-29")


@pytest.fixture
def captures(tmp_path: Path, random_rows: Callable[..., Any], write_pcap: Callable[..., None]) -> Path:
    """Three captures whose times overlap, and a file that is none."""
    folder = tmp_path / "captures"
    folder.mkdir()
    paths = [str(folder / name) for name in ("a.pcap", "b.pcap", "c.pcap")]
    rows = [row for row in random_rows(5, 900, paths) if ":" not in row["source_ip"]]
    for path in paths:
        write_pcap(Path(path), [row for row in rows if row["capture_file"] == path])
    (folder / "notes.txt").write_text("no capture")
    return folder


def in_pieces(settings: Settings, **flow: Any) -> Settings:
    capture = settings.capture.model_copy(update={"split_bytes": 4096, "task_bytes": 9000, "chunk_bytes": 4096})
    return settings.model_copy(update={"capture": capture, "flow": settings.flow.model_copy(update=flow)})


def ordered(table: pa.Table) -> list[dict[str, Any]]:
    return sorted(table.to_pylist(), key=lambda row: (row["first_seen"], str(row)))


def content(partition: Partition) -> list[str]:
    """All rows of the partition, whichever file each is in, and its other files."""
    files = [path for path in Path(partition.uri).rglob("*") if path.is_file()]
    found = [
        f"{path.parent.name} {row}" for path in files if path.suffix in (".parquet", ".pq") for row in _rows_of(path)
    ]
    return sorted(
        found + [f"{path.name} {path.read_text()}" for path in files if path.suffix not in (".parquet", ".pq")]
    )


def _rows_of(path: Path) -> list[Any]:
    return list(pq.ParquetFile(path).read().to_pylist())


def test_write_flows__gives_what_from_captures_gives_and_the_same_again(
    spark: Any, settings: Settings, captures: Path
) -> None:
    rule = {"active_timeout_s": 25.0, "idle_timeout_s": 10.0, "keep_bytes": 45, "keep_packets": 3}
    rule |= {"header_fields": True}
    settings = in_pieces(settings, **rule)
    store = Store(settings.storage.root)
    splits = write_splits(spark, store, str(captures), *KEY.values(), settings.capture)
    assert {name: splits.metadata[name] for name in ("files", "files_ignored")} == {"files": 3, "files_ignored": 1}
    assert splits.metadata["rows"] > 2 * splits.metadata["files"]

    partition = write_flows(spark, store, *KEY.values(), settings.capture, settings.flow)
    local = from_captures(captures, site="north", **rule)
    flows = read_flows(spark, [partition]).toArrow()
    schemas.FLOWS.check(flows.schema)
    assert flows.schema.names == schemas.FLOWS.names
    assert ordered(flows) == ordered(local)
    assert partition.metadata["rows"] == len(local)
    counted = read_counters(partition)
    assert counted.schema.equals(schemas.COUNTERS.arrow_schema())
    assert counted.drop(["site", "capture_date"]).equals(counters(local))
    assert partition.metadata["packets"] == {"flow": sum(counted["packets"].to_pylist())}

    again = write_flows(spark, store, *KEY.values(), settings.capture, settings.flow)
    assert ordered(read_flows(spark, [again]).toArrow()) == ordered(flows)
    assert content(again) == content(partition)


def test_write_flows__without_time_outs(spark: Any, settings: Settings, captures: Path) -> None:
    settings = in_pieces(settings)
    store = Store(settings.storage.root)
    write_splits(spark, store, str(captures), *KEY.values(), settings.capture)
    partition = write_flows(spark, store, *KEY.values(), settings.capture, settings.flow)
    assert ordered(read_flows(spark, [partition]).toArrow()) == ordered(from_captures(captures, site="north"))


def test_write_flows__without_splits_names_the_step_to_run(spark: Any, settings: Settings) -> None:
    with pytest.raises(AbsentError, match="run iotid split-pcaps first"):
        write_flows(spark, Store(settings.storage.root), *KEY.values(), settings.capture, settings.flow)


@pytest.mark.parametrize("lost", ["rows", "packets"])
def test_write_flows__packets_or_files_that_got_lost_leave_no_partition(
    lost: str, spark: Any, settings: Settings, captures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(settings.storage.root)
    write_splits(spark, store, str(captures), *KEY.values(), settings.capture)
    assembled = assemble._Assembly.assemble

    def one_too_many(assembly: Any) -> Any:
        result = assembled(assembly)
        result.totals.add(Totals(**{lost: 1}))
        return result

    monkeypatch.setattr(assemble._Assembly, "assemble", one_too_many)
    with pytest.raises(AccountingError, match=r"flows: .* (are in them|footers report)"):
        write_flows(spark, store, *KEY.values(), settings.capture, settings.flow)
    assert not store.exists("flows", KEY)


def test_write_flows__captures_that_cannot_be_read_fail_or_are_in_quarantine(
    spark: Any, settings: Settings, captures: Path
) -> None:
    """One is gone when it is planned, one vanishes after that, one is cut shorter."""
    store = Store(settings.storage.root)
    settings = in_pieces(settings)
    lenient = settings.capture.model_copy(update={"unreadable": "quarantine"})
    (captures / "b2.pcap").symlink_to(captures / "nowhere")
    with pytest.raises(InputError, match=r"b2\.pcap: cannot be read .*No such file"):
        write_splits(spark, store, str(captures), *KEY.values(), settings.capture)
    write_splits(spark, store, str(captures), *KEY.values(), lenient)
    alone = from_captures(captures / "a.pcap", join_files=True)
    (captures / "b.pcap").unlink()
    (captures / "c.pcap").write_bytes((captures / "c.pcap").read_bytes()[:-1])
    with pytest.raises(PythonException) as caught:
        write_flows(spark, store, *KEY.values(), settings.capture, settings.flow)
    cause = raised_in_worker(caught.value)
    assert isinstance(cause, StaleError)
    assert re.search(r"b\.pcap: was deleted|c\.pcap: has ", str(cause))
    assert not store.exists("flows", KEY)

    partition = write_flows(spark, store, *KEY.values(), lenient, settings.flow)
    assert ordered(read_flows(spark, [partition]).toArrow().drop(["site"])) == ordered(alone.drop(["site"]))
    quarantine = pq.read_table(f"{partition.uri}/{QUARANTINE_FILE}", partitioning=None)
    assert quarantine.schema.equals(schemas.QUARANTINE.arrow_schema())
    why = {Path(row["capture_file"]).name: row["why"] for row in quarantine.to_pylist()}
    assert set(why) == {"b.pcap", "b2.pcap", "c.pcap"}
    assert "plan it again" in why["c.pcap"]
    assert partition.metadata["unreadable"] == 3
    counted = {(Path(row["capture_file"]).name, row["reason"]) for row in read_counters(partition).to_pylist()}
    assert counted == {("a.pcap", "flow"), ("b.pcap", "unreadable"), ("c.pcap", "unreadable")}


def test_write_flows__a_late_capture_changes_its_date_and_no_other(
    spark: Any, settings: Settings, captures: Path
) -> None:
    store = Store(settings.storage.root)
    settings = in_pieces(settings)
    (captures.parent / "late.pcap").write_bytes((captures / "c.pcap").read_bytes())
    (captures / "c.pcap").unlink()
    other = PartitionKey.of_date(KEY.site, "2024-03-01")
    made = {}
    for keys in (KEY, other):
        write_splits(spark, store, str(captures), *keys.values(), settings.capture)
        made[keys["capture_date"]] = content(write_flows(spark, store, *keys.values(), settings.capture, settings.flow))
    (captures.parent / "late.pcap").rename(captures / "c.pcap")
    write_splits(spark, store, str(captures), *KEY.values(), settings.capture)
    again = write_flows(spark, store, *KEY.values(), settings.capture, settings.flow)
    assert ordered(read_flows(spark, [again]).toArrow()) == ordered(from_captures(captures, site="north"))
    assert content(again) != made["2024-02-29"]
    assert content(store.open("flows", other)) == made["2024-03-01"]


def test_write_flows__any_root_and_file_names_and_a_hint_at_duplicate_captures(
    spark: Any, settings: Settings, captures: Path, tmp_path: Path
) -> None:
    (captures / "b.pcap").rename(os.fsdecode(os.fsencode(captures) + b"/b\xff.pcap"))
    (captures / "d.pcap.gz").write_bytes(gzip.compress((captures / "c.pcap").read_bytes()))
    (captures / "latest.pcap").symlink_to("c.pcap")
    settings = in_pieces(settings)
    store = Store(f"{tmp_path}/a?b #c*[1]{{x,y}}%20")
    splits = write_splits(spark, store, str(captures), *KEY.values(), settings.capture)
    assert [splits.metadata[name] for name in ("files", "files_same", "files_alike")] == [4, 1, 1]
    flow = settings.flow.model_copy(update={"idle_timeout_s": 10.0})
    partition = write_flows(spark, store, *KEY.values(), settings.capture, flow)
    local = from_captures(captures, idle_timeout_s=10, site="north")
    assert ordered(read_flows(spark, [partition]).toArrow()) == ordered(local)
    assert read_counters(partition).drop(["site", "capture_date"]).equals(counters(local))
    assert partition.metadata["overlapping"] == 2


def test_write_flows__splits_of_another_version_are_refused_with_the_step_to_run(
    spark: Any, settings: Settings
) -> None:
    store = Store(settings.storage.root)
    with store.write("splits", KEY, 1):
        pass
    with pytest.raises(SchemaError, match=r"splits of schema version 1, this iotid reads 3; plan .*split-pcaps"):
        write_flows(spark, store, *KEY.values(), settings.capture, settings.flow)
