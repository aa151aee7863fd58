"""Splits tile a file, and reading them gives what one reader gives; duplicates are dropped in the same way."""

from __future__ import annotations

import random
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from iotid import config
from iotid.capture import find_captures, first_day, read_packets, read_splits, split_captures
from iotid.capture.counters import Counters
from iotid.capture.file_split import FileSplit
from iotid.capture.packets import Packets, to_arrow
from iotid.capture.splits.plan import pack_tasks
from iotid.errors import DataError, InputError


def _changed(settings: config.Capture, **changes: Any) -> config.Capture:
    return settings.model_copy(update={"chunk_bytes": 4096, **changes})


def _split(path: Path, settings: config.Capture, file_index: int = 0) -> list[FileSplit]:
    (whole,) = find_captures([str(path)]).captures
    return split_captures([replace(whole, file_index=file_index)], settings).splits


def _read_all(splits: list[FileSplit], settings: config.Capture) -> tuple[pa.Table, list[tuple[str, str, int, int]]]:
    counted = Counters()
    parts = [deepcopy(packets) for split in splits for packets in read_splits([split], settings, counted)]
    return to_arrow(Packets.concat(parts), [splits[0].path]), list(counted)


def _assert_invariant(path: Path, settings: config.Capture, count: int) -> list[FileSplit]:
    size = path.stat().st_size
    whole, counted_whole = _read_all(_split(path, settings), settings)
    cutting = _changed(settings, split_bytes=max(size // count, 4096))
    splits = _split(path, cutting)
    unwalked = split_captures(find_captures([str(path)]).captures, cutting, walk_last=False).splits
    assert unwalked[:-1] == splits[:-1]
    assert unwalked[-1] in (splits[-1], replace(splits[-1], records=-1))
    assert splits[0].start == (24 if splits[0].container == "pcap" else 0)
    assert [split.start for split in splits[1:]] == [split.stop for split in splits[:-1]]
    assert splits[-1].stop == size
    assert [split.split for split in splits] == list(range(len(splits)))
    cut, counted_cut = _read_all(splits, settings)
    assert cut.equals(whole)
    assert counted_cut == counted_whole
    return splits


@pytest.fixture(scope="module")
def traffic(make: SimpleNamespace) -> list[Any]:
    """800 frames of few flows in which one in three is there twice, some of them far apart or late."""
    dice = random.Random(5)
    frames: list[Any] = []
    for i in range(800):
        time = 1_500_000_000_000_000 + i * 3000
        payload = make.tcp(dice.randbytes(dice.randrange(90)), sequence=i, ports=(1000 + i % 5, 443))
        frame = make.ethernet(make.ipv4(payload, identification=i))
        if i % 7 == 0:
            frame = make.ethernet(bytes(28), 0x0806)
        frames.append((time, frame))
        if i % 3 == 0:
            frames.append((time + dice.randrange(-2000, 20000), frame))
        if i % 11 == 0:
            frames.insert(-dice.randrange(1, min(40, len(frames) + 1)), (time, frame))
    return frames


@pytest.mark.parametrize("window_us", [0, 10_000])
@pytest.mark.parametrize("count", [1, 2, 7])
@pytest.mark.parametrize("writer", ["pcap", "pcapng"])
def test_splits__any_number_gives_the_same_packets_and_counts(
    writer: str,
    count: int,
    window_us: int,
    traffic: list[Any],
    tmp_path: Path,
    make: SimpleNamespace,
    capture_settings: config.Capture,
) -> None:
    path = tmp_path / "capture"
    path.write_bytes(getattr(make, writer)(traffic))
    settings = _changed(capture_settings, duplicate_window_us=window_us, duplicate_records=20)
    assert len(_assert_invariant(path, settings, count)) >= count


def test_splits__of_a_pcapng_that_changes_its_interfaces_know_them(
    traffic: list[Any], tmp_path: Path, make: SimpleNamespace, capture_settings: config.Capture
) -> None:
    path = tmp_path / "capture"
    data = b""
    for i in range(8):
        order = "<>"[i % 2]
        data += make.section(order) + make.interface(147, order) + make.interface(1, order, resolution=9, offset=i)
        for time, frame in traffic[i * 100 : i * 100 + 100]:
            data += make.enhanced(frame, time * 1000, order, number=1) + make.block(5, b"statistic", order) * 0
    path.write_bytes(data)
    settings = _changed(capture_settings, duplicate_window_us=10_000, duplicate_records=30, fragment_records=30)
    assert len(_assert_invariant(path, settings, 12)) > 4


def test_splits__of_broken_files_agree(
    traffic: list[Any], tmp_path: Path, make: SimpleNamespace, capture_settings: config.Capture
) -> None:
    path = tmp_path / "capture"
    dice = random.Random(3)
    settings = _changed(capture_settings, duplicate_window_us=10_000, duplicate_records=20, max_packet_bytes=1024)
    for writer in (make.pcap, make.pcapng):
        for _ in range(10):
            data = bytearray(writer(traffic))
            for _ in range(6):
                at = dice.randrange(100, len(data))
                data[at : at + dice.randrange(60)] = dice.randbytes(dice.randrange(60))
            path.write_bytes(bytes(data[: -dice.randrange(1, 200)]))
            _assert_invariant(path, settings, 9)


def test_splits__small_and_compressed_files_stay_whole(
    traffic: list[Any], tmp_path: Path, make: SimpleNamespace, capture_settings: config.Capture
) -> None:
    import gzip

    path = tmp_path / "capture"
    path.write_bytes(make.pcap(traffic))
    (split,) = _split(path, capture_settings, file_index=3)
    assert (split.start, split.stop, split.records, split.file_index) == (24, path.stat().st_size, -1, 3)
    path.write_bytes(gzip.compress(make.pcap(traffic)))
    (split,) = _split(path, _changed(capture_settings, split_bytes=4096), file_index=3)
    assert (split.start, split.stop, split.compression) == (24, -1, "gzip")


def test_splits__count_their_records_and_say_where_to_warm_up(
    traffic: list[Any], tmp_path: Path, make: SimpleNamespace, capture_settings: config.Capture
) -> None:
    path = tmp_path / "capture"
    path.write_bytes(make.pcap(traffic))
    settings = _changed(capture_settings, split_bytes=10_000, duplicate_records=5, fragment_records=3)
    splits = _split(path, settings)
    starts = [24]
    for _, frame in traffic:
        starts.append(starts[-1] + 16 + len(frame))
    assert sum(split.records for split in splits) == len(traffic)
    for split in splits[1:]:
        assert split.warm_up == starts[starts.index(split.start) - 5]


def test_split__of_a_file_that_was_changed_is_refused(
    traffic: list[Any], tmp_path: Path, make: SimpleNamespace, capture_settings: config.Capture
) -> None:
    path = tmp_path / "capture"
    path.write_bytes(make.pcap(traffic))
    first, *_ = _split(path, _changed(capture_settings, split_bytes=20_000))
    longer = make.pcap([(time, frame + b"x") for time, frame in traffic])
    path.write_bytes(longer)
    with pytest.raises(DataError, match="plan it again"):
        list(read_splits([first], _changed(capture_settings), Counters()))
    path.write_bytes(make.pcap(traffic[:5]))
    with pytest.raises(DataError, match="plan it again"):
        list(read_splits([first], _changed(capture_settings), Counters()))


def test_split__of_a_file_that_grew_reads_what_was_planned(
    traffic: list[Any], tmp_path: Path, make: SimpleNamespace, capture_settings: config.Capture
) -> None:
    path = tmp_path / "capture"
    path.write_bytes(make.pcap(traffic[:100]))
    planned = _split(path, capture_settings)
    before = _read_all(planned, capture_settings)
    path.write_bytes(make.pcap(traffic))
    assert _read_all(planned, capture_settings) == before


def test_pack_tasks__fills_tasks_with_neighbours(capture_settings: config.Capture) -> None:
    def split(start: int, end: int, size: int) -> FileSplit:
        return FileSplit(0, "", size, "pcap", "none", 0, start, end, start, "", -1)

    splits = [split(24, 40, 40), split(24, 60, 60), split(0, -1, 50), split(0, 500, 500), split(500, 510, 510)]
    assert pack_tasks(splits, _changed(capture_settings, task_bytes=100)) == [0, 0, 1, 2, 3]
    assert pack_tasks([], capture_settings) == []


def test_duplicates__within_window_and_records_are_dropped_and_counted(
    read: Callable[..., Any], agrees: Callable[..., Any], make: SimpleNamespace
) -> None:
    def frame(identification: int, sequence: int = 1, payload: bytes = b"same", ttl: bytes = b"@") -> bytes:
        packet = make.ipv4(make.tcp(payload, sequence=sequence), identification=identification)
        return make.ethernet(packet[:8] + ttl + packet[9:])

    frames = [
        (1000, frame(1)), (1500, frame(1)), (1600, frame(1, ttl=b"?")), (1700, frame(2)), (1800, frame(1, 2)),
        (1900, frame(1, payload=b"else")), (2600, frame(1)), (600, frame(1)), (4000, frame(1)), (5001, frame(1)),
    ]  # fmt: skip
    data = make.pcap(frames)
    for records in (1, 2, 3, 6, 512):
        agrees(data, duplicate_window_us=1000, duplicate_records=records)
    rows, counted = read(data, duplicate_window_us=1000)
    assert [row["timestamp"].microsecond for row in rows] == [1000, 1700, 1800, 1900, 4000, 5001]
    assert counted["duplicate"][0] == 4
    assert "duplicate" not in read(data)[1]


def test_duplicates__in_random_traffic_agree_with_the_reference(
    agrees: Callable[..., Any], make: SimpleNamespace, traffic: list[Any]
) -> None:
    for records in (1, 7, 64):
        counted = agrees(make.pcap(traffic), duplicate_window_us=9000, duplicate_records=records, chunk_bytes=4096)
        assert counted["duplicate"][0] > 100 or records == 1


def test_first_day__is_that_of_the_earliest_first_record(
    tmp_path: Path, make: SimpleNamespace, capture_settings: config.Capture
) -> None:
    day = 86_400_000_000
    (tmp_path / "a").write_bytes(make.pcap([(day * 3 - 1, b"x" * 60), (0, b"y" * 60)]))
    (tmp_path / "b").write_bytes(make.pcapng([(day * 2 - 1, b"x" * 60)]))
    assert first_day(str(tmp_path), capture_settings) == "1970-01-02"
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "a").write_bytes(make.pcap([]))
    with pytest.raises(InputError, match="no capture there holds a record"):
        first_day(str(tmp_path / "none"), capture_settings)


def test_read_packets__of_several_files_orders_them_by_path_and_counts_each_once(
    tmp_path: Path, make: SimpleNamespace, traffic: list[Any]
) -> None:
    from iotid.capture import counters

    (tmp_path / "b").write_bytes(make.pcap(traffic[:10]))
    (tmp_path / "a").write_bytes(make.pcapng(traffic[10:30]))
    table = read_packets([str(tmp_path / "b"), str(tmp_path)])
    assert table["capture_file"].unique().to_pylist() == [str(tmp_path / "a"), str(tmp_path / "b")]
    counted = counters(table)
    assert counted.column_names == ["capture_file", "reason", "packets", "bytes", "first_offset"]
    assert pa.compute.sum(counted["packets"]).as_py() == 20 + 10
    with pytest.raises(DataError, match="has no counters"):
        counters(table.replace_schema_metadata(None))
