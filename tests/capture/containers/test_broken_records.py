"""Broken records and blocks: skipped up to the next provable one, counted, in linear time."""

from __future__ import annotations

import struct
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from iotid.errors import DataError

Read = Callable[..., tuple[list[dict[str, Any]], dict[str, tuple[int, int]]]]
Agrees = Callable[..., dict[str, tuple[int, int]]]


def test_truncation__at_every_offset_accounts_for_every_record(
    agrees: Agrees, make: SimpleNamespace, frames: list[bytes]
) -> None:
    for data, header in ((make.pcap(frames[:4]), 16), (make.pcapng(frames[:4]), 12)):
        starts = [data.index(frame) - (16 if header == 16 else 28) for frame in frames[:4]]
        ends = [*starts[1:], len(data)]
        for size in range(12, len(data)):
            counted = agrees(data[:size])
            packets = {reason: count for reason, (count, _) in counted.items() if count}
            whole = sum(end <= size for end in ends)
            begun = sum(start + header <= size for start in starts)
            assert packets == ({"flow": whole} if whole else {}) | ({"truncated_record": 1} if begun > whole else {})


@pytest.mark.parametrize("garbage", [b"\0", b"\xff", b"garbage "])
def test_broken_range__is_skipped_to_the_next_provable_record(
    garbage: bytes, read: Read, agrees: Agrees, make: SimpleNamespace, frames: list[bytes]
) -> None:
    skipped = garbage * (5000 // len(garbage) // 4 * 4)
    for data, cut in ((make.pcap(frames), 24 + 3 * 70 + 3), (make.pcapng(frames), 48 + 3 * 88)):
        cut = data.index(frames[3]) + len(frames[3]) + (-len(frames[3]) % 4 + 4 if data[:1] == b"\n" else 0)  # noqa: PLW2901
        broken = data[:cut] + skipped + data[cut:]
        for chunk_bytes in (4096, 1 << 20):
            agrees(broken, chunk_bytes=chunk_bytes, max_packet_bytes=2048)
        rows, counted = read(broken)
        assert len(rows) == 12
        assert counted["skipped_bytes"] == (0, len(skipped))


@pytest.mark.parametrize(
    ("changes", "proves"),
    [
        ({"seconds": 1_000_086_400}, True),
        ({"seconds": 1_000_086_401}, False),  # neighbours are at most a day apart
        ({"seconds": 999_913_600}, True),
        ({"seconds": 999_913_599}, False),
        ({"fraction": 999_999}, True),
        ({"fraction": 1_000_000}, False),
        ({"longer": -1}, False),  # fewer bytes on the wire than were captured
        ({"longer": 1}, True),
        ({"wire": 2**24}, True),
        ({"wire": 2**24 + 1}, False),
        ({"captured": 0}, False),
    ],
)
def test_broken_range__ends_where_three_plausible_records_follow_one_another(
    changes: dict[str, int], proves: bool, read: Read, agrees: Agrees, make: SimpleNamespace, frames: list[bytes]
) -> None:
    records = []
    for number, frame in enumerate(frames[:6]):
        own = changes if number == 1 else {}
        captured = own.get("captured", len(frame))
        wire = own.get("wire", len(frame) + own.get("longer", 0))
        head = (own.get("seconds", 1_000_000_000), own.get("fraction", 0), captured, wire)
        records.append(struct.pack("<IIII", *head) + frame[:captured])
    data = make.pcap([]) + b"\xff" * 100 + b"".join(records)
    agrees(data)
    first = 0 if proves else 2
    assert read(data)[1]["skipped_bytes"] == (0, 100 + sum(map(len, records[:first])))


_MAGIC = struct.pack("<I", 0x1A2B3C4D)


@pytest.mark.parametrize(
    ("kind", "body", "proves"),
    [
        (0, bytes(20), False),
        (4, b"", True),
        (0xFFFF, b"", True),
        (0x10000, b"", False),
        (0x7FFFFFFF, b"", False),
        (0x80000000, b"", True),
        (0xBAD, b"", True),
        (0x40000BAD, b"", True),
        # the shortest of each type, and a word less
        (1, bytes(8), True),
        (1, bytes(4), False),
        (2, bytes(20), True),
        (2, bytes(16), False),
        (3, bytes(4), True),
        (3, b"", False),
        (6, bytes(20), True),
        (6, bytes(16), False),
        (0x0A0D0D0A, _MAGIC + bytes(12), True),
        (0x0A0D0D0A, _MAGIC + bytes(8), False),
        (0x0A0D0D0A, bytes(16), False),
        # the most: a packet's and its options'
        (4, bytes(4096 + 65536 - 12), True),
        (4, bytes(4096 + 65536 - 8), False),
        (4, bytes(3), False),
    ],
    ids=lambda value: f"{len(value)} bytes" if isinstance(value, bytes) else None,
)
def test_broken_range__ends_where_three_plausible_blocks_follow_one_another(
    kind: int, body: bytes, proves: bool, read: Read, agrees: Agrees, make: SimpleNamespace, frames: list[bytes]
) -> None:
    first = make.block(kind, body)
    rest = b"".join(make.enhanced(frame) for frame in frames[:4])
    data = make.section() + make.interface() + b"\xff" * 100 + first + rest
    agrees(data, max_packet_bytes=4096)
    skipped = 100 + len(first) * (not proves)
    assert read(data, max_packet_bytes=4096)[1]["skipped_bytes"] == (0, skipped)


def test_broken_range__with_strict_names_file_offset_and_reason(
    read: Read, make: SimpleNamespace, frames: list[bytes]
) -> None:
    data = make.pcap(frames)
    with pytest.raises(DataError, match=r"capture\.bin: byte 24: skipped_bytes"):
        read(data[:24] + bytes(20) + data[24:], strict=True)
    with pytest.raises(DataError, match=r"byte \d+: truncated_record"):
        read(data[:-1], strict=True)
    with pytest.raises(DataError, match=r"byte 24: malformed"):
        read(make.pcap([make.ethernet(b"\x45")]), strict=True)
    foreign = make.pcap([make.ethernet(bytes(28), 0x0806)])
    assert read(foreign, strict=True)[1] == {"not_ip": (1, 42)}


@pytest.mark.parametrize(
    "body",
    [
        struct.pack("<III", 6, 0, 0),
        struct.pack("<III", 5, 0xFFFFFFFC, 0),
        struct.pack("<III", 5, 13, 0),
        struct.pack("<IIII", 1, 20, 1, 0) + struct.pack("<HH", 9, 0xFFFF) * 50,
        struct.pack("<III", 0x0A0D0D0A, 28, 0x11111111) + bytes(16),
    ],
    ids=["block of length 0", "block of 4 GB", "odd length", "endless options", "no byte order"],
)
def test_hostile_blocks__neither_hang_nor_hide_what_follows(
    body: bytes, agrees: Agrees, read: Read, make: SimpleNamespace, frames: list[bytes]
) -> None:
    start = make.section() + make.interface()
    data = start + body + b"".join(make.enhanced(frame) for frame in frames)
    agrees(data)
    assert len(read(data)[0]) == 12


def test_hostile_files__of_broken_records_only_are_read_in_time_linear_in_their_size(
    read: Read, make: SimpleNamespace
) -> None:
    data = make.pcap([]) + struct.pack("<IIII", 1, 1, 2**32 - 1, 2**32 - 1) * 200_000
    _, counted = read(data, chunk_bytes=1 << 20, max_packet_bytes=4096)
    assert counted == {"skipped_bytes": (0, 3_200_000)}
    blocks = (make.section() + make.interface()) * 50_000
    assert read(blocks)[1] == {}


def test_capture_inside_a_capture__is_payload(
    read: Read, agrees: Agrees, make: SimpleNamespace, frames: list[bytes]
) -> None:
    for write in (make.pcap, make.pcapng):
        inner = write(frames)
        data = write([make.ethernet(make.ipv4(make.tcp(inner)))] * 5)
        agrees(data)
        assert len(read(data)[0]) == 5
