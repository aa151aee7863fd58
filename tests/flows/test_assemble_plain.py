"""What `test_assemble` and `test_midnight` prove on Spark, without Java: shuffle partitions that are plain lists."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from iotid import config, schemas
from iotid.capture import counters
from iotid.capture.splits.write import write_splits
from iotid.errors import AbsentError, AccountingError, SchemaError
from iotid.flows import (
    IDENTITY_COLUMNS,
    QUARANTINE_FILE,
    from_captures,
    later_flows,
    partition_files,
    read_counters,
    read_flows,
    write_flows,
)
from iotid.flows import assemble as assembly
from iotid.flows import partitions as partitions_of_flows
from iotid.flows import tasks as work
from iotid.partitions import Partition, PartitionKey, Store
from iotid.spark import shuffle

DAYS = ("2024-02-28", "2024-02-29", "2024-03-01")
SMALL = {"split_bytes": 4096, "task_bytes": 9000, "chunk_bytes": 4096}

Row = dict[str, Any]


def flow_settings(**changes: Any) -> config.Flow:
    return config.load_settings().flow.model_copy(update=changes)


def assemble(spark: Any, store: Store, captures: Path, flow: config.Flow, day: str = DAYS[1], **more: Any) -> Partition:
    capture = config.load_settings().capture.model_copy(update=SMALL | more)
    write_splits(spark, store, str(captures), "north", day, capture)
    return write_flows(spark, store, "north", day, capture, flow)


def each_flow_once(spark: Any, partitions: Sequence[Partition]) -> list[Row]:
    later, rows = later_flows(spark, partitions), []
    for file in partition_files(partitions):
        for batch in file.read(schemas.FLOWS.names):
            rows += batch.filter(pc.invert(file.superseded(batch, later))).to_pylist()
    return in_order(rows)


def table_below(folder: str) -> pa.Table:
    files = sorted(Path(folder).glob("part-*"))
    return pa.concat_tables([pq.read_table(path, partitioning=None) for path in files])


def in_order(rows: list[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: (row["first_seen"], str(row)))


def without(rows: list[Row], *names: str) -> list[Row]:
    return in_order([{name: value for name, value in row.items() if name not in names} for row in rows])


@pytest.fixture(scope="module")
def captures(tmp_path_factory: pytest.TempPathFactory, random_rows: Any, write_pcap: Any) -> Path:
    """Three captures whose times overlap."""
    folder = tmp_path_factory.mktemp("captures")
    paths = [str(folder / name) for name in ("a.pcap", "b.pcap", "c.pcap")]
    rows = [row for row in random_rows(5, 600, paths) if ":" not in row["source_ip"]]
    for path in paths:
        write_pcap(Path(path), [row for row in rows if row["capture_file"] == path])
    return folder


@pytest.fixture(scope="module")
def three_dates(tmp_path_factory: pytest.TempPathFactory, random_rows: Any, write_pcap: Any) -> Path:
    """Three dates, two captures each, cut out of one stream of packets; folders are dates."""
    folder = tmp_path_factory.mktemp("dates")
    rows = [row for row in random_rows(2, 500, ["any"]) if ":" not in row["source_ip"]]
    rows.sort(key=lambda row: row["timestamp"])
    borders = [0, 60, 130, 190, 250, 330, len(rows)]
    for number in range(6):
        own = folder / DAYS[number // 2]
        own.mkdir(exist_ok=True)
        write_pcap(own / f"{number}.pcap", rows[borders[number] : borders[number + 1]])
    return folder


@pytest.mark.parametrize(
    "rule",
    [
        {"idle_timeout_s": 10.0, "active_timeout_s": 25.0, "keep_bytes": 45, "keep_packets": 3, "header_fields": True},
        {"idle_timeout_s": None, "active_timeout_s": 25.0, "tcp_close": False, "length": "frame"},
        {"join_files": False},
    ],
)
def test_write_flows_plain__gives_what_from_captures_gives(
    rule: Row, plain_spark: Any, tmp_path: Path, captures: Path
) -> None:
    spark = plain_spark()
    partition = assemble(spark, Store(str(tmp_path)), captures, flow_settings(**rule))
    local = from_captures(captures, site="north", **rule)
    assert each_flow_once(spark, [partition]) == in_order(local.to_pylist())
    assert table_below(partition.uri).schema.equals(schemas.FLOWS.arrow_schema(stored=True))
    found = read_counters(partition)
    assert found.schema.equals(schemas.COUNTERS.arrow_schema())
    assert found.drop(["site", "capture_date"]).equals(counters(local))
    assert partition.metadata["rows"] == len(local)
    dates = [seen.date().isoformat() for seen in local["first_seen"].to_pylist()]
    assert partition.metadata["flows_by_date"] == {date: dates.count(date) for date in sorted(set(dates))}
    assert partition.metadata["packets"] == {"flow": pc.sum(found["packets"]).as_py()}
    assert partition.metadata["unreadable"] == partition.metadata["overlapping"] == 0
    capture = config.load_settings().capture.model_copy(update=SMALL)
    settings = {"capture": capture.model_dump(mode="json"), "flow": flow_settings(**rule).model_dump(mode="json")}
    assert partition.metadata["settings"] == settings
    assert partition.metadata["settings_hash"] == config.settings_hash(capture, flow_settings(**rule))
    assert partition.metadata["inputs"] == {"splits": Store(str(tmp_path)).open("splits", partition.key).metadata}


def test_write_flows_plain__flows_of_other_dates_are_one_warning(
    plain_spark: Any, tmp_path: Path, captures: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spark, store = plain_spark(), Store(str(tmp_path))
    assemble(spark, store, captures, flow_settings(), DAYS[2])
    assert not [line for line in caplog.messages if line.startswith("assemble-flows")]
    described = getattr(spark, "described", None)  # Spark shows what its jobs do
    assert described is None or any(each.startswith("assemble-flows: read captures, ") for each in described)
    assemble(spark, store, captures, flow_settings(), "2026-03-01")
    assert [line for line in caplog.messages if line.startswith("assemble-flows")] == [
        "assemble-flows: site north, 2026-03-01: 100.0 % of the flows began on other dates (2024-03-01, 2024-02-29); "
        "check --date, or give the captures of each date separately"
    ]


def test_write_flows_plain__partitions_and_batches_change_no_row(
    plain_spark: Any, tmp_path: Path, captures: Path
) -> None:
    tables = []
    for partitions, batch_rows in ((1, 1000), (3, 1), (5, 7)):
        spark = plain_spark(partitions=partitions, batch_rows=batch_rows)
        store = Store(f"{tmp_path}/{partitions}")
        partition = assemble(spark, store, captures, flow_settings(active_timeout_s=25.0))
        tables.append(each_flow_once(spark, [partition]))
    assert tables[0] == tables[1] == tables[2]


@pytest.mark.parametrize("plain_spark", ["cluster"], indirect=True)
def test_write_flows_plain__files_are_as_many_as_the_captures_size_asks_for(
    plain_spark: Any, tmp_path: Path, captures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spark, numbers, tables = plain_spark(derived=True), [], []
    for partition_bytes, least_bytes in ((512 << 20, 32 << 20), (512 << 20, 100), (300, 100)):
        monkeypatch.setattr(shuffle, "_PARTITION_BYTES", partition_bytes)
        monkeypatch.setattr(shuffle, "_LEAST_BYTES", least_bytes)
        partition = assemble(spark, Store(f"{tmp_path}/{partition_bytes}-{least_bytes}"), captures, flow_settings())
        numbers.append(len({path.name[:10] for path in Path(partition.uri).glob("part-*.parquet")}))
        tables.append(each_flow_once(spark, [partition]))
    assert numbers[:2] == [1, 2], "little: as many as are worth a task, at most one for each of two cores"
    assert numbers[2] > 2
    assert tables[0] == tables[1] == tables[2]


def test_size_of__long_records_count_as_short_ones_and_compressed_bytes_as_more() -> None:
    rows = [
        ("none", 10_000, 24, 9_024, 1_000),  # 9 bytes a record
        ("none", 100_000, 50_000, 99_000, 100),  # 490 bytes a record
        ("none", 7_000, 24, -1, -1),
        ("gzip", 7_000, 0, -1, -1),
        ("zstd", 7_000, 90_000, -1, 10),
    ]
    names = ("compression", "file_bytes", "start", "stop", "records")
    splits = pa.table(dict(zip(names, map(list, zip(*rows, strict=True)), strict=True)))
    sizes = [assembly._size_of(splits.slice(row, 1)) for row in range(len(rows))]
    assert sizes == [9_000, 8_500, 6_976, 28_000, 0]
    assert assembly._size_of(splits) == sum(sizes)


@pytest.mark.parametrize(
    "rule",
    [
        {"idle_timeout_s": 30.0, "active_timeout_s": 25.0},
        {"idle_timeout_s": 1000.0, "keep_bytes": 60, "keep_packets": 4, "header_fields": True},
    ],
)
def test_dates_plain__one_after_the_other_give_the_flows_of_one_run(
    rule: Row, plain_spark: Any, tmp_path: Path, three_dates: Path
) -> None:
    store, spark, flow = Store(str(tmp_path)), plain_spark(), flow_settings(**rule)
    partitions = [assemble(spark, store, three_dates / day, flow, day) for day in DAYS]
    whole = from_captures(three_dates, **rule)
    # the last flows of a date are open, those of one run are at an end
    not_of_the_flow = ("site", "capture_date", "end_reason")
    assert without(each_flow_once(spark, partitions), *not_of_the_flow) == without(whole.to_pylist(), *not_of_the_flow)
    assert in_order(read_flows(spark, partitions).toArrow().to_pylist()) == each_flow_once(spark, partitions)
    of_two = from_captures([three_dates / day for day in DAYS[:2]], **rule)
    assert without(each_flow_once(spark, partitions[:2]), *not_of_the_flow) == without(
        of_two.to_pylist(), *not_of_the_flow
    )
    later = later_flows(spark, partitions)
    superseded = sum(
        file.superseded(batch, later).true_count
        for file in partition_files(partitions)
        for batch in file.read(IDENTITY_COLUMNS)
    )
    assert sum(partition.metadata["rows"] for partition in partitions) == len(whole) + superseded > len(whole)
    for number, partition in enumerate(partitions):
        still_open, end_us = table_below(f"{partition.uri}/{work.OPEN_FOLDER}"), partition.metadata["last_us"]
        assert end_us == pc.max(table_below(partition.uri)["last_seen"].cast(pa.int64())).as_py()
        left = still_open.filter(pc.greater_equal(still_open["last_us"], end_us - int(flow.idle_timeout_s * 1e6)))
        assert partition.metadata["open_flows"] == len(left) == len(still_open) > 0
        assert partition.metadata["open_packets"] == pc.sum(left["packets_seen"]).as_py()
        if number:
            before = partitions[number - 1]
            assert partition.metadata["inputs"]["night_before"] == {**before.key, "last_us": before.metadata["last_us"]}
            assert 0 < partition.metadata["carried_packets"] <= before.metadata["open_packets"]
        else:
            assert "carried_packets" not in partition.metadata


def test_dates_plain__workers_read_those_of_an_object_store_with_the_same_result(
    plain_spark: Any, tmp_path: Path, three_dates: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow, tables = flow_settings(idle_timeout_s=30.0), []
    for is_object_store in (False, True):
        monkeypatch.setattr(partitions_of_flows, "is_object_store", lambda _, found=is_object_store: found)
        store, spark = Store(f"{tmp_path}/{is_object_store}"), plain_spark()
        partitions = [assemble(spark, store, three_dates / day, flow, day) for day in DAYS]
        found = [
            (partition.metadata["open_flows"], partition.metadata["carried_packets"]) for partition in partitions[1:]
        ]
        tables.append((found, in_order(read_flows(spark, partitions).toArrow().to_pylist())))
    assert tables[0] == tables[1]


def test_dates_plain__one_without_packets_has_no_open_flows(plain_spark: Any, tmp_path: Path, write_pcap: Any) -> None:
    (tmp_path / "captures").mkdir()
    write_pcap(tmp_path / "captures" / "a.pcap", [])
    partition = assemble(plain_spark(), Store(str(tmp_path)), tmp_path / "captures", flow_settings(idle_timeout_s=10.0))
    assert {name: partition.metadata[name] for name in ("rows", "open_flows", "open_packets")} == {
        "rows": 0, "open_flows": 0, "open_packets": 0,
    }  # fmt: skip


def test_write_flows_plain__captures_that_change_after_planning_are_in_quarantine(
    plain_spark: Any, tmp_path: Path, captures: Path
) -> None:
    folder = tmp_path / "captures"
    folder.mkdir()
    for name in ("a.pcap", "b.pcap", "c.pcap"):
        (folder / name).write_bytes((captures / name).read_bytes())
    (folder / "b2.pcap").symlink_to(folder / "nowhere")
    store, flow = Store(str(tmp_path)), flow_settings()
    capture = config.load_settings().capture.model_copy(update=SMALL | {"unreadable": "quarantine"})
    spark = plain_spark()
    write_splits(None, store, str(folder), "north", DAYS[1], capture)
    (folder / "b.pcap").unlink()
    (folder / "c.pcap").write_bytes((folder / "c.pcap").read_bytes()[:-1])
    partition = write_flows(spark, store, "north", DAYS[1], capture, flow)
    alone = from_captures(folder / "a.pcap", site="north")
    assert each_flow_once(spark, [partition]) == in_order(alone.to_pylist())
    quarantine = pq.read_table(f"{partition.uri}/{QUARANTINE_FILE}", partitioning=None)
    assert quarantine.schema.equals(schemas.QUARANTINE.arrow_schema())
    assert [Path(row["capture_file"]).name for row in quarantine.to_pylist()] == ["b.pcap", "b2.pcap", "c.pcap"]
    assert "plan it again" in quarantine.to_pylist()[2]["why"]
    assert partition.metadata["unreadable"] == 3
    counted = {(Path(row["capture_file"]).name, row["reason"]) for row in read_counters(partition).to_pylist()}
    assert counted == {("a.pcap", "flow"), ("b.pcap", "unreadable"), ("c.pcap", "unreadable")}


@pytest.mark.parametrize(
    ("lost", "why"),
    [("rows", r"the Parquet footers report"), ("packets", r"packets were decoded for flows, .* are in")],
)
def test_write_flows_plain__packets_or_files_that_got_lost_leave_no_partition(
    lost: str, why: str, plain_spark: Any, tmp_path: Path, captures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assembled = assembly._Assembly.assemble

    def one_too_many(whole: Any) -> Any:
        found = assembled(whole)
        found.totals.add(work.Totals(**{lost: 1}))
        return found

    monkeypatch.setattr(assembly._Assembly, "assemble", one_too_many)
    store = Store(str(tmp_path))
    with pytest.raises(AccountingError, match=why):
        assemble(plain_spark(), store, captures, flow_settings())
    assert not store.exists("flows", PartitionKey.of_date("north", DAYS[1]))


def test_write_flows_plain__absent_or_other_splits_name_the_step_to_run(plain_spark: Any, tmp_path: Path) -> None:
    store, capture = Store(str(tmp_path)), config.load_settings().capture
    with pytest.raises(AbsentError, match="run iotid split-pcaps first"):
        write_flows(plain_spark(), store, "north", DAYS[1], capture, flow_settings())
    with store.write("splits", PartitionKey.of_date("north", DAYS[1]), 1):
        pass
    with pytest.raises(SchemaError, match=r"splits of schema version 1, this iotid reads 3; plan .*split-pcaps"):
        write_flows(plain_spark(), store, "north", DAYS[1], capture, flow_settings())
