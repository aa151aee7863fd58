"""``spark.read.format("pcap")`` gives what read_packets gives."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pyarrow as pa
import pytest

from iotid import config
from iotid.capture import read_packets
from iotid.capture.packets import Packets, to_arrow
from iotid.errors import SettingError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


def _sorted(table: pa.Table) -> list[dict[str, object]]:
    return table.sort_by([("capture_file", "ascending"), ("offset", "ascending")]).to_pylist()


@pytest.mark.spark
def test_source__many_splits_and_files_give_what_one_reader_gives(
    spark: SparkSession, tmp_path: Path, make: SimpleNamespace, capture_settings: config.Capture
) -> None:
    frames = [make.ethernet(make.ipv4(make.tcp(bytes(i % 50), ports=(1000 + i, 443)))) for i in range(500)]
    cooked = [b"\0\0\0\1\0\6" + make.mac_a + b"\0\0\x86\xdd" + make.ipv6(make.udp(), 17)] * 3
    (tmp_path / "a").write_bytes(make.pcap([frame for frame in frames for _ in (0, 1)]))
    (tmp_path / "b").write_bytes(make.pcapng(cooked, link=113))
    (tmp_path / "c.txt").write_text("no capture")
    options = {"split_bytes": 8192, "task_bytes": 16384, "duplicate_window_us": 2000, "duplicate_records": 4}
    reader = spark.read.format("pcap").options(**options)
    frame = reader.load(str(tmp_path))
    assert frame.rdd.getNumPartitions() > 3
    settings = capture_settings.model_copy(update=options)
    expected = read_packets(str(tmp_path), settings=settings)
    assert expected.num_rows == 501
    assert _sorted(frame.toArrow().cast(expected.schema)) == expected.to_pylist()
    several = reader.load([str(tmp_path / "b"), str(tmp_path / "a")])
    assert several.filter("destination_port = 443").count() == 500


def test_source__a_task_that_begins_in_a_later_file_names_the_files_of_its_packets(
    tmp_path: Path, make: SimpleNamespace
) -> None:
    from iotid.capture.source import PcapDataSource

    for number, name in enumerate("abcd"):
        packets = [make.ethernet(make.ipv4(make.udp(bytes(50 * number)), 17)) for _ in range(number + 1)]
        (tmp_path / name).write_bytes(make.pcap(packets))
    (tmp_path / "b2").symlink_to("nowhere")  # in quarantine
    options = {"path": str(tmp_path), "task_bytes": "1000", "unreadable": "quarantine"}
    source = PcapDataSource(options)
    reader = source.reader(source.schema())
    tasks = list(reader.partitions())
    assert [[Path(split.path).name for split in task.splits] for task in tasks] == [["a", "b", "c"], ["d"]]
    found = [Path(name).name for batch in reader.read(tasks[1]) for name in batch["capture_file"].to_pylist()]
    assert found == ["d"] * 4
    found = [Path(name).name for batch in reader.read(tasks[0]) for name in batch["capture_file"].to_pylist()]
    assert found == ["a", "b", "b", "c", "c", "c"]


@pytest.mark.spark
def test_source__only_the_columns_of_a_given_schema_are_made(
    spark: SparkSession, tmp_path: Path, make: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_bytes(make.pcap([make.ethernet(make.ipv4(make.udp()))] * 3))
    reader = spark.read.format("pcap")
    found = reader.schema("destination_port int, timestamp timestamp").load(str(tmp_path)).toArrow()
    expected = read_packets(str(tmp_path)).select(["destination_port", "timestamp"])
    assert found.cast(expected.schema).equals(expected)
    with pytest.raises(Exception, match="no column is port int; columns are capture_file string"):
        reader.schema("port int").load(str(tmp_path)).count()

    def fail(*_: object) -> None:
        raise AssertionError("addresses were printed though no column asks for them")

    monkeypatch.setattr("iotid.capture.packets.ip_text", fail)
    assert to_arrow(Packets.empty(), [], ["timestamp"]).column_names == ["timestamp"]


@pytest.mark.spark
def test_source__an_unknown_option_or_value_is_an_error_that_names_it(spark: SparkSession, tmp_path: Path) -> None:
    with pytest.raises(Exception, match="unknown option splitbytes; options are strict"):
        spark.read.format("pcap").option("splitbytes", 5).load(str(tmp_path)).count()
    with pytest.raises(Exception, match="split_bytes: Input should be greater than or equal to 4096, got '5'"):
        spark.read.format("pcap").option("split_bytes", 5).load(str(tmp_path)).count()


def test_source__options_are_settings_of_the_section_capture() -> None:
    from iotid.capture.source import _settings

    assert _settings({"strict": "true", "chunk_bytes": "65536"}).strict
    assert _settings({"tunnels": "gre, vxlan"}).tunnels == ("gre", "vxlan")
    assert _settings({"tunnels": ""}).tunnels == ()
    with pytest.raises(SettingError, match="tunnels"):
        _settings({"tunnels": "gre vxlan"})
    with pytest.raises(SettingError, match="chunk_bytes"):
        _settings({"chunk_bytes": "many"})
