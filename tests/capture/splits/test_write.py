"""The table of splits, walked in threads of this process or by workers of a cluster."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from iotid import config, schemas
from iotid.capture import find_captures, read_packets, read_splits
from iotid.capture.counters import Counters
from iotid.capture.file_split import FileSplit
from iotid.capture.packets import to_arrow
from iotid.capture.splits.sample import duplicates_warning
from iotid.capture.splits.write import write_splits
from iotid.partitions import Partition, PartitionKey, Store

KEY = ("north", "2024-02-29")


@pytest.fixture
def captures(tmp_path: Path, make: SimpleNamespace) -> Path:
    """A pcap, the same packets as pcapng, a copy of the first, and a file that is no capture."""
    dice = random.Random(3)
    frames = [make.ethernet(make.ipv4(make.tcp(dice.randbytes(60), sequence=i))) for i in range(400)]
    folder = tmp_path / "captures"
    folder.mkdir()
    (folder / "a.pcap").write_bytes(make.pcap(frames))
    (folder / "b.pcapng").write_bytes(make.pcapng(frames))
    (folder / "c.pcap").write_bytes(make.pcap(frames))
    (folder / "notes.txt").write_text("no capture")
    return folder


def table_of(partition: Partition) -> pa.Table:
    return pq.read_table(f"{partition.uri}/splits.parquet", partitioning=None)


def test_write_splits__of_a_cluster_are_those_of_this_process(
    captures: Path, tmp_path: Path, plain_spark: Any, capture_settings: config.Capture
) -> None:
    settings = capture_settings.model_copy(update={"split_bytes": 4096, "task_bytes": 9000})
    local, cluster = (
        write_splits(spark, Store(f"{tmp_path}/{number}"), str(captures), *KEY, settings)
        for number, spark in enumerate((None, plain_spark()))
    )
    assert table_of(local).equals(table_of(cluster))
    assert local.metadata == cluster.metadata
    assert local.key == PartitionKey.of_date("north", "2024-02-29")


def test_write_splits__store_their_inputs_and_all_that_a_reader_needs(
    captures: Path, tmp_path: Path, capture_settings: config.Capture
) -> None:
    settings = capture_settings.model_copy(update={"split_bytes": 4096, "task_bytes": 9000, "chunk_bytes": 4096})
    partition = write_splits(None, Store(str(tmp_path)), str(captures), *KEY, settings)
    table = table_of(partition)
    assert table.schema.equals(schemas.SPLITS.arrow_schema(stored=True))
    expected = {
        "rows": len(table), "files": 3, "files_ignored": 1, "files_same": 0, "files_alike": 2, "files_unplanned": 0,
        "unreadable": {}, "bytes": sum((captures / name).stat().st_size for name in ("a.pcap", "b.pcapng", "c.pcap")),
        "records_walked": 1200, "schema_version": schemas.SPLITS.version,
        "settings": {"capture": settings.model_dump(mode="json")}, "settings_hash": config.settings_hash(settings),
        "inputs": {"captures": str(captures)},
    }  # fmt: skip
    assert {name: partition.metadata[name] for name in expected} == expected
    of_task: dict[int, int] = {}
    paths = [str(captures / name) for name in ("a.pcap", "b.pcapng", "c.pcap")]
    parts = []
    for row in table.to_pylist():
        task = row.pop("task")
        of_task[task] = of_task.get(task, 0) + row["stop"] - row["start"]
        parts += [to_arrow(packets, paths) for packets in read_splits([FileSplit(**row)], settings, Counters())]
    assert pa.concat_tables(parts).to_pylist() == read_packets(str(captures)).to_pylist()
    assert list(of_task) == list(range(len(of_task)))
    assert all(4096 < size <= 9000 for size in list(of_task.values())[:-1])


def test_write_splits__names_other_dates_and_copies(
    captures: Path, tmp_path: Path, capture_settings: config.Capture, caplog: pytest.LogCaptureFixture
) -> None:
    write_splits(None, Store(str(tmp_path)), str(captures), "north", "2017-07-14", capture_settings)
    assert [message[:64] for message in caplog.messages] == [
        "2 captures begin with the same packet as an earlier one, so comm"
    ]
    assert f"such as {captures}/a.pcap and {captures}/b.pcapng; remove copies" in caplog.text
    caplog.clear()
    write_splits(None, Store(str(tmp_path)), str(captures / "a.pcap"), *KEY, capture_settings)
    assert caplog.messages == [
        "split-pcaps: site north, 2024-02-29: 100.0 % of the captures began on other dates (2017-07-14); check --date, "
        "or give the captures of each date separately"
    ]


@pytest.mark.parametrize("kind", ["pcap", "pcapng"])
def test_duplicates_warning__names_the_setting_of_mirror_ports(
    kind: str, tmp_path: Path, make: SimpleNamespace, capture_settings: config.Capture,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    dice = random.Random(3)
    frames = [make.ethernet(make.ipv4(make.tcp(dice.randbytes(60), sequence=i))) for i in range(100)]
    start = 1_500_000_000_000_000
    twice = [(start + i * 20_000 + late, frame) for i, frame in enumerate(frames) for late in (0, 300)]
    (tmp_path / "twice").write_bytes(getattr(make, kind)(twice))
    (tmp_path / "once").write_bytes(getattr(make, kind)(frames))
    found = find_captures([str(tmp_path)]).captures
    warning = duplicates_warning(found, capture_settings)
    assert warning == (
        f"{tmp_path}/twice: 50.0 % of its first 200 packets are duplicates within 10 ms, as mirror ports and Linux's "
        "device `any` record them; set capture.duplicate_window_us=10000 to drop them"
    )
    dropped = capture_settings.model_copy(update={"duplicate_window_us": 10_000})
    assert duplicates_warning(found, dropped) is None
    assert duplicates_warning([each for each in found if each.path.endswith("once")], capture_settings) is None
    write_splits(None, Store(f"{tmp_path}/store"), f"{tmp_path}/twice", "north", "2017-07-14", capture_settings)
    assert f"split-pcaps: {warning}" in caplog.messages
    larger = replace(found[0], path=f"{tmp_path}/gone", file_bytes=1 << 30)
    assert duplicates_warning([larger, *found], capture_settings) == warning, "one that cannot be read hides no other"


@pytest.mark.parametrize(("packets", "repeated", "is_reported"), [(500, 60, True), (400, 49, False), (900, 90, False)])
def test_duplicates_warning__needs_fifty_packets_and_a_tenth(
    packets: int, repeated: int, is_reported: bool, tmp_path: Path, make: SimpleNamespace,
    capture_settings: config.Capture,
) -> None:  # fmt: skip
    dice, start = random.Random(4), 1_500_000_000_000_000
    frames = [make.ethernet(make.ipv4(make.tcp(dice.randbytes(60), sequence=i))) for i in range(packets)]
    times = [(start + i * 20_000, frame) for i, frame in enumerate(frames)]
    again = [(time + 300, frame) for time, frame in times[:repeated]]
    (tmp_path / "capture").write_bytes(make.pcap(sorted([*times, *again])))
    found = find_captures([str(tmp_path)]).captures
    assert (duplicates_warning(found, capture_settings) is not None) == is_reported
