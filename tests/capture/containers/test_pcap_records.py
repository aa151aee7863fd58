"""pcap: every magic, nanoseconds under the magic of microseconds, records that claim too much."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

Read = Callable[..., tuple[list[dict[str, Any]], dict[str, tuple[int, int]]]]
Agrees = Callable[..., dict[str, tuple[int, int]]]


def _without(rows: list[dict[str, Any]], *names: str) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name not in names} for row in rows]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("magic", "ticks"), [(0xA1B2C3D4, 1), (0xA1B23C4D, 1000), (0xA1B2CD34, 1)])
def test_pcap__every_magic_and_byte_order_gives_the_same_packets(
    order: str, magic: int, ticks: int, read: Read, agrees: Agrees, make: SimpleNamespace, frames: list[bytes]
) -> None:
    plain, _ = read(make.pcap(frames))
    data = make.pcap(frames, order=order, magic=magic, ticks=ticks)
    agrees(data)
    assert _without(read(data)[0], "offset") == _without(plain, "offset")


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("magic", [0xA1B2C3D4, 0xA1B2CD34])
def test_pcap__nanoseconds_under_the_magic_of_microseconds_are_read_as_such(
    magic: int, order: str, pack: Callable[[bytes], bytes], read: Read, agrees: Agrees, make: SimpleNamespace,
    frames: list[bytes],
) -> None:  # fmt: skip
    times = [10**15 + i * 250_001 for i in range(len(frames))]  # over several seconds
    data = make.pcap(list(zip(times, frames, strict=True)), order=order, magic=magic, ticks=1000)
    agrees(data)
    rows, counted = read(pack(data))
    assert [pa.scalar(row["timestamp"], pa.timestamp("us", "UTC")).value for row in rows] == times
    assert counted.keys() == {"flow"}


@pytest.mark.parametrize(
    ("fractions", "magic", "flows"),
    [
        ([5, 999_999, 1_000_000, 6, 7], 0xA1B2C3D4, [0, 1, 3, 4]),
        ([1_000_000, 5, 6], 0xA1B2C3D4, [1, 2]),
        ([1_000_000, 2_000_000, 6], 0xA1B2C3D4, [0, 1, 2]),
        ([1_500_000, 5, 2_500_000, 6], 0xA1B2C3D4, [1, 3]),
        ([2**32 - 1, 5], 0xA1B2C3D4, [1]),
        ([2_000_000, 3_000_000, 1_000_000_000], 0xA1B2C3D4, []),
        ([0, 999_999_999, 1_000_000_000, 5], 0xA1B23C4D, [0, 1, 3]),
        ([0, 2_000_000, 999_999_999], 0xA1B2C3D4, [0, 1, 2]),
        ([5, 6, 7], 0xA1B2C3D4, [0, 1, 2]),
    ],
)
def test_pcap__an_invalid_fraction_of_a_second_makes_only_its_record_malformed(
    fractions: list[int], magic: int, flows: list[int], read: Read, agrees: Agrees, make: SimpleNamespace,
    frames: list[bytes],
) -> None:  # fmt: skip
    header, frame = make.pcap([], magic=magic), frames[0]
    size = struct.pack("<II", len(frame), len(frame))
    data = header + b"".join(struct.pack("<II", 7, fraction) + size + frame for fraction in fractions)
    agrees(data)
    rows, counted = read(data)
    assert [(row["offset"] - 24) // (16 + len(frame)) for row in rows] == flows
    assert counted.get("malformed", (0, 0))[0] == len(fractions) - len(flows)
    times = [row["timestamp"] for row in rows]
    assert [times[i] for i in sorted(range(len(times)), key=lambda i: fractions[flows[i]])] == sorted(times)


@pytest.mark.parametrize(
    ("fractions", "nanoseconds"),
    [
        ([10**6], True),
        ([10**6 - 1], False),
        ([10**6, 0, 0], True),  # 0 says nothing
        ([10**6, 1], False),
        ([10**6, 1, 10**6], True),
        ([10**9 - 1], True),
        ([10**6, 10**9], False),
        ([1] * 64 + [10**6] * 65, True),
        ([1] * 65 + [10**6] * 66, False),  # by then it is plain
    ],
)
def test_pcap__nanoseconds_are_fractions_mostly_beyond_the_range_of_microseconds(
    fractions: list[int], nanoseconds: bool, read: Read, agrees: Agrees, make: SimpleNamespace, frames: list[bytes]
) -> None:
    head = struct.pack("<IHHIIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)
    frame = frames[0]
    sizes = (len(frame), len(frame))
    data = head + b"".join(struct.pack("<IIII", 1_700_000_000, each, *sizes) + frame for each in fractions)
    agrees(data)
    rows, counted = read(data)
    ticks = 1000 if nanoseconds else 1
    expected = [each // ticks for each in fractions if each < 10**6 * ticks]
    assert [row["timestamp"].microsecond for row in rows] == expected
    assert counted.get("malformed", (0, 0))[0] == len(fractions) - len(expected)


@pytest.mark.parametrize("claim", [2**20 + 1, 2**31, 2**32 - 1])
def test_pcap__a_record_that_claims_too_much_is_skipped_and_the_next_ones_are_read(
    claim: int, read: Read, agrees: Agrees, make: SimpleNamespace, frames: list[bytes]
) -> None:
    data = make.pcap(frames)
    start = 24 + sum(16 + len(frame) for frame in frames[:4])
    broken = data[: start + 8] + struct.pack("<I", claim) + data[start + 12 :]
    for chunk_bytes in (4096, 1 << 20):
        agrees(broken, chunk_bytes=chunk_bytes)
    rows, counted = read(broken)
    assert [row["source_port"] - 1000 for row in rows] == [0, 1, 2, 3, *range(5, 12)]
    assert counted["skipped_bytes"] == (0, 16 + len(frames[4]))
