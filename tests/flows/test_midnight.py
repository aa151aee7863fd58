"""Flows that cross midnight are one flow: dates assembled one after the other give what one run over all gives."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from iotid.capture.splits.write import write_splits
from iotid.config import Settings
from iotid.flows import IDENTITY_COLUMNS, from_captures, later_flows, partition_files, read_flows, write_flows
from iotid.partitions import Partition, Store

pytestmark = pytest.mark.spark

DAYS = ("2024-02-28", "2024-02-29", "2024-03-01")
NOT_OF_THE_FLOW = (
    "site",
    "capture_date",
    "end_reason",
)  # the last flows of a date are open, those of one run are at an end


def write_dates(folder: Path, seed: int, random_rows: Any, write_pcap: Any) -> None:
    """Three dates, two captures each, cut out of one stream of packets."""
    rows = [row for row in random_rows(seed, 900, ["any"]) if ":" not in row["source_ip"]]
    rows.sort(key=lambda row: row["timestamp"])
    dice = random.Random(seed)
    ends = [*sorted(dice.sample(range(100, len(rows) - 100), 5)), len(rows)]
    for number, (begin, end) in enumerate(zip([0, *ends], ends, strict=False)):
        own = folder / DAYS[number // 2]
        own.mkdir(parents=True, exist_ok=True)
        write_pcap(own / f"{number}.pcap", rows[begin:end])


def assemble(spark: Any, store: Store, captures: Path, day: str, settings: Settings) -> Partition:
    write_splits(spark, store, str(captures / day), "north", day, settings.capture)
    return write_flows(spark, store, "north", day, settings.capture, settings.flow)


def content(flows: pa.Table) -> Counter[str]:
    kept = flows.drop([name for name in NOT_OF_THE_FLOW if name in flows.column_names])
    return Counter(str(row) for row in kept.to_pylist())


@pytest.mark.parametrize(
    ("seed", "rule"),
    [
        (2, {"idle_timeout_s": 30.0, "active_timeout_s": 25.0}),
        (3, {"idle_timeout_s": 1000.0, "tcp_close": False}),
        (4, {"idle_timeout_s": 60.0, "active_timeout_s": 200.0, "keep_bytes": 60, "keep_packets": 4}),
        (4, {"idle_timeout_s": 60.0, "active_timeout_s": 200.0, "header_fields": True}),
    ],
)
def test_dates__one_after_the_other_give_the_flows_of_one_run(
    seed: int,
    rule: dict[str, Any],
    spark: Any,
    settings: Settings,
    tmp_path: Path,
    random_rows: Any,
    write_pcap: Callable[..., None],
) -> None:
    captures = tmp_path / "captures"
    write_dates(captures, seed, random_rows, write_pcap)
    small = settings.capture.model_copy(update={"split_bytes": 8192, "task_bytes": 9000, "chunk_bytes": 4096})
    settings = settings.model_copy(update={"capture": small, "flow": settings.flow.model_copy(update=rule)})
    store = Store(settings.storage.root)
    partitions = [assemble(spark, store, captures, day, settings) for day in DAYS]
    expected = from_captures(captures, **rule)
    assert content(read_flows(spark, partitions).toArrow()) == content(expected)
    later = later_flows(spark, partitions)
    superseded = sum(
        file.superseded(batch, later).true_count
        for file in partition_files(partitions)
        for batch in file.read(IDENTITY_COLUMNS)
    )
    assert superseded > 0
    assert sum(partition.metadata["rows"] for partition in partitions) == expected.num_rows + superseded
    assert sum(partition.metadata["carried_packets"] for partition in partitions[1:]) > 0
    assert partitions[2].metadata["open_flows"] > 0

    again = assemble(spark, store, captures, DAYS[1], settings)
    assert again.metadata == partitions[1].metadata


@pytest.mark.captures
def test_dates__of_real_captures_give_the_flows_of_one_run(
    spark: Any, settings: Settings, tmp_path: Path, captures: Path
) -> None:
    rule = {"idle_timeout_s": 3600.0}
    settings = settings.model_copy(update={"flow": settings.flow.model_copy(update=rule)})
    days = ("2019-07-03", "2019-07-04", "2019-07-05")
    for day in days:
        (tmp_path / "captures" / day).mkdir(parents=True)
        for device in ("Chime_Doorbell", "Goumia_Coffemaker"):
            link = tmp_path / "captures" / day / f"{device}.pcap"
            link.symlink_to(captures / "lsif" / device / f"{day}.pcap")
    store = Store(settings.storage.root)
    partitions = [assemble(spark, store, tmp_path / "captures", day, settings) for day in days]
    assert content(read_flows(spark, partitions).toArrow()) == content(from_captures(tmp_path / "captures", **rule))
    assert partitions[1].metadata["carried_packets"] > 0


def test_dates__without_an_idle_timeout_are_independent(
    spark: Any, settings: Settings, tmp_path: Path, random_rows: Any, write_pcap: Any
) -> None:
    captures = tmp_path / "captures"
    write_dates(captures, 5, random_rows, write_pcap)
    store = Store(settings.storage.root)
    partitions = [assemble(spark, store, captures, day, settings) for day in DAYS[:2]]
    assert all("open_flows" not in partition.metadata for partition in partitions)
    expected = Counter()
    for day in DAYS[:2]:
        expected += content(from_captures(captures / day))
    assert content(read_flows(spark, partitions).toArrow()) == expected
