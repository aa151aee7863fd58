"""Scans of byte ranges from candidate boundaries equal one sequential scan; wrong candidates are counted."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from iotid import config
from iotid.capture import find_captures, read_splits, split_captures
from iotid.capture.counters import Counters
from iotid.capture.file_split import FileSplit
from iotid.capture.packets import Packets, to_arrow
from iotid.capture.splits.plan import Plan
from iotid.errors import InputError

Counted = list[tuple[str, str, int, int, int]]


def _read(splits: list[FileSplit], settings: config.Capture) -> tuple[pa.Table, Counted]:
    counted = Counters()
    parts = [
        Packets.concat([packets]) for split in splits for packets in read_splits([split], settings, counted)
    ]  # copied
    return to_arrow(Packets.concat(parts), [splits[0].path]), list(counted)


class Cutter:
    """Cuts one capture in many ways and compares each with one reader of the whole."""

    def __init__(self, path: Path, settings: config.Capture, **changes: Any) -> None:
        changes = {"duplicate_window_us": 10_000, "duplicate_records": 9, "fragment_records": 7} | changes
        self._settings = settings.model_copy(update=changes)
        (self._whole,) = find_captures([str(path)]).captures
        self._expected = _read([self._whole], self._settings)

    def cut(self, split_bytes: int) -> Plan:
        settings = self._settings.model_copy(update={"split_bytes": split_bytes})
        plan = split_captures([self._whole], settings)
        splits, whole = plan.splits, self._whole
        assert (splits[0].start, splits[-1].stop) == (whole.start, whole.stop)
        assert [split.start for split in splits[1:]] == [split.stop for split in splits[:-1]]
        assert all(split.start < split.stop for split in splits) or len(splits) == 1
        assert [split.split for split in splits] == list(range(len(splits)))
        table, counted = _read(splits, settings)
        assert table.equals(self._expected[0])
        assert counted == self._expected[1]
        return plan


@pytest.fixture
def cutter(tmp_path: Path, capture_settings: config.Capture) -> Callable[..., Cutter]:
    def make_one(data: bytes, **changes: Any) -> Cutter:
        path = tmp_path / "capture.bin"
        path.write_bytes(data)
        return Cutter(path, capture_settings, **changes)

    return make_one


def _frames(make: SimpleNamespace, count: int, seed: int = 1) -> list[Any]:
    """Frames of any length, some of them there twice, some with no byte captured, some first or later fragments."""
    dice = random.Random(seed)
    frames: list[Any] = []
    for i in range(count):
        time = 1_500_000_000_000_000 + i * 3000
        payload = make.udp(dice.randbytes(dice.randrange(120)), ports=(1000 + i % 5, 443))
        fragment = dice.choice([0, 0, 0, 0x2000, 0x0005])
        frame = make.ethernet(make.ipv4(payload, 17, identification=i // 2, fragment=fragment))
        frames.append((time, frame) if dice.random() < 0.9 else (time, b"", len(frame)))
        if i % 3 == 0:
            frames.append((time + dice.randrange(-2000, 20000), frame))
    return frames


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("writer", ["pcap", "pcapng"])
def test_byte_ranges__of_any_size_give_what_one_reader_gives(
    writer: str, order: str, cutter: Callable[..., Cutter], make: SimpleNamespace
) -> None:
    data = getattr(make, writer)(_frames(make, 160), order=order)
    cuts = cutter(data)
    for count in (1, 2, 7, 64):
        assert len(cuts.cut(-(-len(data) // count)).splits) == count
    for split_bytes in (1, 13, 64, 200):
        assert len(cuts.cut(split_bytes).splits) > 75
    small = cutter(data, chunk_bytes=4096, max_packet_bytes=256)
    for split_bytes in (50, 3000, 10_000):
        small.cut(split_bytes)


@pytest.mark.parametrize("writer", ["pcap", "pcapng"])
def test_byte_ranges__of_plain_traffic_have_right_candidates(
    writer: str, cutter: Callable[..., Cutter], make: SimpleNamespace
) -> None:
    frames = [frame for frame in _frames(make, 400) if len(frame) == 2]
    plan = cutter(getattr(make, writer)(frames)).cut(2000)
    assert len(plan.splits) > 20
    assert (plan.splits_repaired, plan.bytes_repaired) == (0, 0)


def test_byte_ranges__that_begin_with_implausible_records_are_rescanned_and_counted(
    cutter: Callable[..., Cutter], make: SimpleNamespace
) -> None:
    empty = [(1_500_000_000_000_000 + i, b"", 60) for i in range(200)]
    frames = [*_frames(make, 40), *empty, *_frames(make, 40)]
    plan = cutter(make.pcap(frames)).cut(500)
    assert 5 <= plan.splits_repaired < len(plan.splits)
    assert plan.bytes_repaired >= 200 * 16 - 500


@pytest.mark.parametrize("writer", ["pcap", "pcapng"])
def test_byte_ranges__covered_by_one_long_record_are_empty(
    writer: str, cutter: Callable[..., Cutter], make: SimpleNamespace
) -> None:
    long = make.ethernet(make.ipv4(make.udp(bytes(60_000)), 17))
    data = getattr(make, writer)([*_frames(make, 30), (1_500_000_000_500_000, long), *_frames(make, 30, 2)])
    for split_bytes in (1000, 7000, 25_000):
        splits = cutter(data).cut(split_bytes).splits
        assert max(split.stop - split.start for split in splits) > 60_000
        assert len(splits) < len(data) / split_bytes - 60_000 // split_bytes + 3


@pytest.mark.parametrize("writer", ["pcap", "pcapng"])
def test_byte_ranges__a_broken_part_across_boundaries_is_counted_once(
    writer: str, cutter: Callable[..., Cutter], make: SimpleNamespace
) -> None:
    frames = _frames(make, 60)
    data = getattr(make, writer)(frames)
    head = getattr(make, writer)(frames[:30])
    for garbage in (bytes(5000), b"\xff" * 3000, random.Random(2).randbytes(4000)):
        broken = head + garbage + data[len(head) :]
        for split_bytes in (100, 999, 2500, 6000):
            cutter(broken, max_packet_bytes=2048).cut(split_bytes)
            cutter(broken[: len(head) + len(garbage)], max_packet_bytes=2048).cut(split_bytes)


def _inside(make: SimpleNamespace, writer: str, inner: bytes, prefix: int, segment: int) -> list[bytes]:
    """Frames that carry ``inner``, cut into segments, each behind ``prefix`` bytes."""
    parts = [inner[at : at + segment] for at in range(0, len(inner), segment)]
    return [make.ethernet(make.ipv4(make.tcp(bytes(prefix) + part), length=0)) for part in parts]


@pytest.mark.parametrize("segment", [1460, 300_000])
@pytest.mark.parametrize("inner_writer", ["pcap", "pcapng"])
@pytest.mark.parametrize("writer", ["pcap", "pcapng"])
def test_byte_ranges__a_capture_inside_a_capture_at_every_residue_misleads_none(
    writer: str, inner_writer: str, segment: int, cutter: Callable[..., Cutter], make: SimpleNamespace
) -> None:
    repaired = 0
    for prefix in range(16):
        order = "<>"[prefix % 2]
        inner = getattr(make, inner_writer)(_frames(make, 700, prefix), order=order)
        frames = [*_frames(make, 20), *_inside(make, writer, inner, prefix, segment), *_frames(make, 20, 2)]
        data = getattr(make, writer)(frames, order="<>"[prefix // 2 % 2])
        cuts = cutter(data)
        for split_bytes in (700 + prefix, 9_000 + 7 * prefix, 40_000 + prefix):
            plan = cuts.cut(split_bytes)
            repaired += plan.splits_repaired
            assert (plan.splits_repaired > 0) == (plan.bytes_repaired > 0)
    never_mistaken = (writer, inner_writer) == ("pcapng", "pcap")  # a block's length is at both its ends
    assert (repaired > 0) != never_mistaken


def test_byte_ranges__of_a_capture_sent_over_tcp_mostly_have_right_candidates(
    cutter: Callable[..., Cutter], make: SimpleNamespace
) -> None:
    """Records of 60 to 90 bytes, over 15 in each segment: only a long chain shows which capture is the outer."""
    inner = make.pcap([make.ethernet(bytes(30 + i % 30)) for i in range(20_000)])
    data = make.pcap(_inside(make, "pcap", inner, 0, 1460))
    plan = cutter(data).cut(20_000)
    assert len(plan.splits) > 70
    assert plan.splits_repaired <= 2


def test_byte_ranges__of_a_pcapng_take_interfaces_and_byte_order_from_those_before(
    cutter: Callable[..., Cutter], make: SimpleNamespace
) -> None:
    dice = random.Random(4)
    frames = [frame for _, frame, *_ in _frames(make, 360)]
    data = b""
    for i in range(6):
        order = "<>"[i % 2]
        data += make.section(order) + make.interface(147, order) + make.interface(1, order, resolution=9, offset=i)
        for j in range(60):
            if dice.random() < 0.05:
                data += make.interface(1, order, resolution=3)
            data += make.enhanced(frames[60 * i + j] or b"\0", (10**9 + j) * 1000, order, number=dice.randrange(4))
    cuts = cutter(data)
    for split_bytes in (1, 100, 1000, 5000, 20_000):
        plan = cuts.cut(split_bytes)
        assert len(plan.splits) > 1
    assert cuts.cut(1000).splits_repaired == 0


def test_byte_ranges__a_broken_first_section_leaves_no_split_without_interfaces(
    cutter: Callable[..., Cutter], make: SimpleNamespace
) -> None:
    body = b"".join(make.enhanced(make.ethernet(make.ipv4(make.udp(), 17, identification=i)), i) for i in range(60))
    broken = make.section()[:-4] + b"\0\0\0\1"
    for data in (broken + make.interface() + body, broken + make.section(">") + make.interface() + body + body):
        for split_bytes in (50, 300):
            cutter(data, duplicate_records=500).cut(split_bytes)


@pytest.mark.parametrize("writer", ["pcap", "pcapng"])
def test_byte_ranges__of_a_file_that_ends_inside_a_record(
    writer: str, cutter: Callable[..., Cutter], make: SimpleNamespace
) -> None:
    data = getattr(make, writer)(_frames(make, 12))
    for size in range(len(data) - 400, len(data)):
        cutter(data[:size]).cut(97)


_DAMAGE = st.lists(
    st.tuples(
        st.sampled_from(["set", "length", "cut", "insert", "zero"]),
        st.floats(0, 1),
        st.integers(0, 80),
        st.binary(min_size=4, max_size=4),
    ),
    max_size=8,
)


def _damaged(data: bytes, damage: list[tuple[str, float, int, bytes]]) -> bytes:
    out = bytearray(data)
    for kind, where, size, value in damage:
        at = 24 + int(where * max(len(out) - 28, 0))
        match kind:
            case "set":
                out[at : at + 4] = value
            case "length":
                out[at : at + 4] = struct.pack("<I", (0, 1, 60, 2**16, 2**31, 2**32 - 1)[size % 6])
            case "cut":
                del out[at : at + size]
            case "insert":
                out[at:at] = value * size
            case "zero":
                out[at : at + size * 8] = bytes(size * 8)
    return bytes(out)


@hypothesis_settings(
    max_examples=50, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    seed=st.integers(0, 50),
    writer=st.sampled_from(["pcap", "pcapng"]),
    order=st.sampled_from("<>"),
    nested=st.booleans(),
    damage=_DAMAGE,
    split_bytes=st.lists(st.integers(40, 4000), min_size=1, max_size=2),
    chunk_bytes=st.sampled_from([4096, 1 << 20]),
    reach=st.integers(1, 40),
)
def test_byte_ranges__of_damaged_captures_give_what_one_reader_gives(
    seed: int,
    writer: str,
    order: str,
    nested: bool,
    damage: list[tuple[str, float, int, bytes]],
    split_bytes: list[int],
    chunk_bytes: int,
    reach: int,
    cutter: Callable[..., Cutter],
    make: SimpleNamespace,
) -> None:
    write = getattr(make, writer)
    frames = _frames(make, 60, seed)
    if nested:
        frames = [*frames, *_inside(make, writer, write(frames, order=order), seed % 8, 1460), *frames]
    data = _damaged(write(frames, order=order), damage)
    cuts = cutter(
        data, chunk_bytes=chunk_bytes, max_packet_bytes=3000, duplicate_records=reach, fragment_records=reach // 2
    )
    for size in split_bytes:
        cuts.cut(size)


@pytest.mark.captures
@pytest.mark.parametrize("folder", ["aalto", "lsif", "conformance"])
def test_byte_ranges__of_real_captures_give_what_one_reader_gives(
    folder: str, captures: Path, capture_settings: config.Capture
) -> None:
    dice = random.Random(7)
    files = [path for path in sorted((captures / folder).rglob("*")) if path.is_file() and path.stat().st_size < 2**21]
    known = []
    for path in dice.sample(files, len(files)):
        try:
            (whole,) = find_captures([str(path)]).captures
        except InputError:
            continue
        if whole.compression == "none":
            known.append((path, whole.file_bytes))
    assert len(known) >= 40
    for path, size in known[: 60 if folder == "conformance" else 10]:
        cuts = Cutter(path, capture_settings)
        for count in (2, 7, 64, 1000) if size < 2**16 else (2, 7, 64):
            cuts.cut(max(size // count, 1))


def test_byte_ranges__a_candidate_must_have_the_right_byte_order(
    make: SimpleNamespace, capture_settings: config.Capture
) -> None:
    import numpy as np

    from iotid.capture.containers.pcapng import ANY_ORDER
    from iotid.capture.splits.byte_ranges import ScanResult, UnverifiedScan

    before = ScanResult(0, 100, 5, (), True, 1, np.empty((0, 5), np.int64), 0)
    after = replace(before, start=100, end=200)
    assert UnverifiedScan(after, 1).follows(before)
    assert UnverifiedScan(after, ANY_ORDER).follows(before)
    assert not UnverifiedScan(after, 0).follows(before)
    assert not UnverifiedScan(replace(after, start=101), 1).follows(before)
