"""pcapng: sections, interfaces, times and packet blocks."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from iotid.capture import counters, read_packets

Read = Callable[..., tuple[list[dict[str, Any]], dict[str, tuple[int, int]]]]
Agrees = Callable[..., dict[str, tuple[int, int]]]


def _without(rows: list[dict[str, Any]], *names: str) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name not in names} for row in rows]


@pytest.mark.parametrize("order", ["<", ">"])
def test_pcapng__the_same_packets_as_pcap(
    order: str, read: Read, agrees: Agrees, make: SimpleNamespace, frames: list[bytes]
) -> None:
    data = make.pcapng(frames, order)
    agrees(data)
    assert _without(read(data)[0], "offset") == _without(read(make.pcap(frames))[0], "offset")


def test_pcapng__sections_of_both_orders_with_their_own_interfaces(
    read: Read, agrees: Agrees, make: SimpleNamespace, frames: list[bytes]
) -> None:
    packet = frames[5][14:]
    data = b""
    for order in "<>":
        data += make.section(order) + make.interface(101, order) + make.block(0xABC, b"unknown " * 5, order)
        data += make.interface(1, order, resolution=9, offset=100) + make.interface(
            228, order, snap=30, resolution=0x8A
        )
        data += make.enhanced(packet, 7, order) + make.enhanced(frames[5], 8_000_000_999, order, 1)
        data += (
            make.obsolete(packet, 3 << 10 | 512, order, 2)
            + make.enhanced(packet, 9, order, 3)
            + make.simple(packet, order)
        )
    agrees(data)
    rows, counted = read(data)
    times = [pa.scalar(row["timestamp"], pa.timestamp("us", "UTC")).value for row in rows]
    assert times == [7, 108_000_000, 3_500_000, 0] * 2
    assert [row["link_type"] for row in rows] == [101, 1, 228, 101] * 2
    assert counted["unknown_interface"][0] == 2


@pytest.mark.parametrize(
    "resolution", [0, 3, 6, 7, 9, 12, 19, 20, 26, 40, 127, 0x80, 0x81, 0x94, 0xA0, 0xA1, 0xBF, 0xC0, 0xD0, 0xE0, 0xFF]
)
def test_pcapng__every_time_resolution_is_exact(
    resolution: int, agrees: Agrees, make: SimpleNamespace, frames: list[bytes]
) -> None:
    ticks = [
        0,
        1,
        999_999,
        2**31,
        2**32 - 1,
        2**32,
        2**40 + 12345,
        1_700_000_000_123_456_789,
        2**62 + 1,
        2**63,
        2**64 - 1,
    ]
    data = (
        make.section() + make.interface(1, resolution=resolution) + make.interface(1, resolution=resolution, offset=-5)
    )
    agrees(data + b"".join(make.enhanced(frames[0], tick, number=number) for tick in ticks for number in (0, 1)))


def test_pcapng__simple_packets_are_cut_at_the_snap_length_of_interface_0(
    read: Read, agrees: Agrees, make: SimpleNamespace, frames: list[bytes]
) -> None:
    data = (
        make.section()
        + make.interface(1, snap=50)
        + make.simple(frames[11][:50], wire=len(frames[11]))
        + make.simple(frames[0])
    )
    agrees(data)
    assert [row["captured_length"] for row in read(data)[0]] == [50, 50]


def test_pcapng__contradicting_fields_of_a_packet_block_make_the_packet_malformed(
    read: Read, agrees: Agrees, make: SimpleNamespace, frames: list[bytes]
) -> None:
    broken = make.block(6, struct.pack("<IIIII", 0, 0, 0, 100, 100) + bytes(40))
    data = make.section() + make.interface() + broken + make.enhanced(frames[0])
    agrees(data)
    assert {reason: count for reason, (count, _) in read(data)[1].items()} == {"malformed": 1, "flow": 1}


def test_pcapng__thousands_of_interfaces_are_known(
    read: Read, agrees: Agrees, make: SimpleNamespace, frames: list[bytes]
) -> None:
    data = make.section() + make.interface(147) * 3000 + make.interface(1) + make.enhanced(frames[0], number=3000)
    agrees(data)
    assert len(read(data)[0]) == 1


@pytest.mark.captures
@pytest.mark.parametrize("order", ["le", "be"])
def test_conformance__pcapng_suite_has_the_printed_number_of_packet_blocks(
    order: str, captures: Path, agrees: Agrees
) -> None:
    files = sorted((captures / "conformance" / "pcapng" / f"output_{order}").glob("*/*.pcapng"))
    assert files
    for path in files:
        counts = path.with_suffix(".txt").read_text().split("Block counts:")[1]
        expected = sum(
            int(counts.split(f"\t{kind}: ")[1].split()[0]) for kind in ("EPB", "SPB", "PB") if f"\t{kind}: " in counts
        )
        table = read_packets(str(path))
        assert sum(pa.compute.sum(column).as_py() or 0 for column in [_packets(table)]) == expected, path.name
        agrees(path.read_bytes())


def _packets(table: pa.Table) -> Any:
    return counters(table)["packets"]
