"""Containers: pcap and pcapng in all their kinds, compression, what is broken, what is hostile."""

from __future__ import annotations

import bz2
import gzip
import lzma
import struct
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from iotid import config
from iotid.capture import counters, find_captures, read_packets
from iotid.capture.containers import streams
from iotid.capture.containers.streams import uri_of
from iotid.errors import DataError, InputError

Read = Callable[..., tuple[list[dict[str, Any]], dict[str, tuple[int, int]]]]
Agrees = Callable[..., dict[str, tuple[int, int]]]


@pytest.fixture(scope="module")
def frames(make: SimpleNamespace) -> list[bytes]:
    """Twelve packets, no two alike."""
    return [make.ethernet(make.ipv4(make.tcp(bytes(range(i)), window=i, ports=(1000 + i, 443)))) for i in range(12)]


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
def test_pcap__a_fraction_of_a_second_that_is_none_makes_the_record_alone_malformed(
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
def test_pcap__nanoseconds_are_told_by_fractions_that_are_mostly_above_what_microseconds_can_be(
    fractions: list[int], nanoseconds: bool, read: Read, agrees: Agrees, make: SimpleNamespace, frames: list[bytes]
) -> None:
    head = struct.pack("<IHHIIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)
    frame = frames[0]
    sizes = (len(frame), len(frame))
    data = head + b"".join(struct.pack("<IIII", 1_700_000_000, each, *sizes) + frame for each in fractions)
    agrees(data)
    rows, counted = read(data)
    ticks = 1000 if nanoseconds else 1
    told = [each // ticks for each in fractions if each < 10**6 * ticks]
    assert [row["timestamp"].microsecond for row in rows] == told
    assert counted.get("malformed", (0, 0))[0] == len(fractions) - len(told)


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


def test_pcapng__fields_of_a_packet_block_that_contradict_it_make_the_packet_malformed(
    read: Read, agrees: Agrees, make: SimpleNamespace, frames: list[bytes]
) -> None:
    lying = make.block(6, struct.pack("<IIIII", 0, 0, 0, 100, 100) + bytes(40))
    data = make.section() + make.interface() + lying + make.enhanced(frames[0])
    agrees(data)
    assert {reason: count for reason, (count, _) in read(data)[1].items()} == {"malformed": 1, "flow": 1}


def test_pcapng__thousands_of_interfaces_are_known(
    read: Read, agrees: Agrees, make: SimpleNamespace, frames: list[bytes]
) -> None:
    data = make.section() + make.interface(147) * 3000 + make.interface(1) + make.enhanced(frames[0], number=3000)
    agrees(data)
    assert len(read(data)[0]) == 1


_COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "two gzip members, padded": lambda data: gzip.compress(data[:100]) + gzip.compress(data[100:]) + bytes(600),
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zstd": lambda data: pa.compress(data, "zstd", asbytes=True),
}


@pytest.mark.parametrize("chunk_bytes", [4096, 1 << 20])
@pytest.mark.parametrize("compression", _COMPRESSIONS)
def test_compression__is_told_by_magic_and_changes_nothing(
    compression: str, chunk_bytes: int, read: Read, make: SimpleNamespace, frames: list[bytes]
) -> None:
    for data in (make.pcap(frames * 300), make.pcapng(frames * 300), make.pcap(frames)[:-3], make.pcap([])):
        packed = _COMPRESSIONS[compression](data)
        assert read(packed, chunk_bytes=chunk_bytes) == read(data, chunk_bytes=chunk_bytes)


@pytest.mark.parametrize("compression", ["gzip", "bz2", "xz", "zstd"])
def test_compression__a_broken_file_gives_what_stands_before_the_break(
    compression: str, read: Read, make: SimpleNamespace
) -> None:
    import random

    dice = random.Random(1)
    packets = [make.ethernet(make.ipv4(make.udp(dice.randbytes(700)), 17)) for _ in range(3000)]
    packed = _COMPRESSIONS[compression](make.pcap(packets))
    rows, counted = read(packed[: len(packed) // 2])
    assert len(rows) > 800
    assert "broken_compression" in counted
    with pytest.raises(DataError, match=r"truncated_record|broken_compression"):
        read(packed[: len(packed) // 2], strict=True)
    damaged = bytearray(packed)
    damaged[len(packed) // 2 : len(packed) // 2 + 40] = bytes(40)
    rows, counted = read(bytes(damaged))
    assert len(rows) <= 3000


@pytest.mark.parametrize(
    "changes", [{"max_expansion": 1}, {"max_expanded_bytes": 1 << 16}], ids=["by ratio", "by total"]
)
@pytest.mark.parametrize("compression", ["gzip", "bz2", "xz", "zstd"])
def test_compression__a_file_that_expands_beyond_the_bound_is_one_line_with_its_name(
    compression: str,
    changes: dict[str, int],
    tmp_path: Path,
    make: SimpleNamespace,
    frames: list[bytes],
    capture_settings: config.Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(streams, "_ANY_EXPANSION", 1 << 15)
    data = make.pcap(frames * 10)
    (tmp_path / "bomb.pcap").write_bytes(_COMPRESSIONS[compression](data + bytes(1 << 24)))
    (tmp_path / "whole.pcap").write_bytes(_COMPRESSIONS[compression](make.pcap(frames[1:] * 10)))
    settings = capture_settings.model_copy(update={**changes, "chunk_bytes": 4096})
    with pytest.raises(InputError, match=rf"bomb\.pcap: its [\d,]+ bytes expand .* capture\.{next(iter(changes))};"):
        read_packets(str(tmp_path), settings=settings)
    kept = read_packets(str(tmp_path), settings=settings.model_copy(update={"unreadable": "quarantine"}))
    rows = counters(kept).to_pylist()
    assert [(Path(row["capture_file"]).name, row["reason"], row["packets"]) for row in rows] == [
        ("bomb.pcap", "flow", 120),
        ("bomb.pcap", "unreadable", 0),
        ("whole.pcap", "flow", 110),
    ]


@pytest.mark.parametrize("compression", ["gzip", "bz2", "xz", "zstd"])
def test_compression__members_that_hold_nothing_or_a_byte_cost_no_more_than_their_bytes(
    compression: str, read: Read, make: SimpleNamespace, frames: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = 0

    def count(kind: Any) -> Any:
        class Counting:
            def __init__(self, *of: Any, **more: Any) -> None:
                self._inner = kind(*of, **more)

            def __getattr__(self, name: str) -> Any:
                return getattr(self._inner, name)

            def decompress(self, data: bytes, size: int) -> bytes:
                nonlocal given
                given += len(data)
                found: bytes = self._inner.decompress(data, size)
                return found

        return Counting

    for module, name in ((streams, "_Inflate"), (bz2, "BZ2Decompressor"), (lzma, "LZMADecompressor")):
        monkeypatch.setattr(module, name, count(getattr(module, name)))
    pack, data = _COMPRESSIONS[compression], make.pcap(frames * 20)
    padding = b"" if compression == "zstd" else bytes(2)
    by_byte = (padding + pack(b"")).join(pack(data[at : at + 1]) for at in range(len(data)))
    packed = pack(b"") * 20_000 + by_byte + pack(b"") * 20_000
    assert read(packed) == read(data)
    assert given < 100 * len(packed)  # twice: to tell what it is, and to read it


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


@pytest.mark.parametrize("garbage", [b"\0", b"\xff", b"garbage "])
def test_broken_stretch__is_skipped_to_the_next_provable_record(
    garbage: bytes, read: Read, agrees: Agrees, make: SimpleNamespace, frames: list[bytes]
) -> None:
    stretch = garbage * (5000 // len(garbage) // 4 * 4)
    for data, cut in ((make.pcap(frames), 24 + 3 * 70 + 3), (make.pcapng(frames), 48 + 3 * 88)):
        cut = data.index(frames[3]) + len(frames[3]) + (-len(frames[3]) % 4 + 4 if data[:1] == b"\n" else 0)  # noqa: PLW2901
        broken = data[:cut] + stretch + data[cut:]
        for chunk_bytes in (4096, 1 << 20):
            agrees(broken, chunk_bytes=chunk_bytes, max_packet_bytes=2048)
        rows, counted = read(broken)
        assert len(rows) == 12
        assert counted["skipped_bytes"] == (0, len(stretch))


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
def test_broken_stretch__ends_where_three_records_follow_one_another_whose_fields_are_plausible(
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
        # the least of each kind, and a word less
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
def test_broken_stretch__ends_where_three_blocks_follow_one_another_whose_kind_and_length_are_plausible(
    kind: int, body: bytes, proves: bool, read: Read, agrees: Agrees, make: SimpleNamespace, frames: list[bytes]
) -> None:
    first = make.block(kind, body)
    rest = b"".join(make.enhanced(frame) for frame in frames[:4])
    data = make.section() + make.interface() + b"\xff" * 100 + first + rest
    agrees(data, max_packet_bytes=4096)
    skipped = 100 + len(first) * (not proves)
    assert read(data, max_packet_bytes=4096)[1]["skipped_bytes"] == (0, skipped)


def test_broken_stretch__with_strict_names_file_offset_and_reason(
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


@pytest.mark.captures
@pytest.mark.parametrize("order", ["le", "be"])
def test_conformance__pcapng_suite_has_the_printed_number_of_packet_blocks(
    order: str, captures: Path, agrees: Agrees
) -> None:
    files = sorted((captures / "conformance" / "pcapng" / f"output_{order}").glob("*/*.pcapng"))
    assert files
    for path in files:
        told = path.with_suffix(".txt").read_text().split("Block counts:")[1]
        expected = sum(
            int(told.split(f"\t{kind}: ")[1].split()[0]) for kind in ("EPB", "SPB", "PB") if f"\t{kind}: " in told
        )
        table = read_packets(str(path))
        assert sum(pa.compute.sum(column).as_py() or 0 for column in [_packets(table)]) == expected, path.name
        agrees(path.read_bytes())


def _packets(table: pa.Table) -> Any:
    return counters(table)["packets"]


def _paths(location: str) -> list[str]:
    return [capture.path for capture in find_captures([location]).captures]


def test_find_captures__tells_by_content_sorts_and_ignores_the_rest(
    tmp_path: Path, make: SimpleNamespace, frames: list[bytes]
) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "name.txt").write_bytes(gzip.compress(make.pcapng(frames)))
    (tmp_path / "a.capture").write_bytes(make.pcap(frames))
    (tmp_path / "no.pcap").write_bytes(b"not a capture at all, whatever its name says")
    (tmp_path / "empty.pcap").write_bytes(b"")
    assert _paths(str(tmp_path)) == [f"{tmp_path}/a.capture", f"{tmp_path}/b/name.txt"]
    assert _paths(tmp_path.as_uri()) == _paths(str(tmp_path))


def test_find_captures__takes_numbers_in_names_by_value_as_rotation_writes_them(
    tmp_path: Path, make: SimpleNamespace, frames: list[bytes]
) -> None:
    rotated = ["night.pcap", *(f"night.pcap{i}" for i in range(1, 12)), "night2.pcap", "night10.pcap", "night010.pcap"]
    for name in rotated:
        (tmp_path / name).write_bytes(make.pcap(frames[:1]))
    ordered = [Path(path).name for path in _paths(str(tmp_path))]
    assert ordered == ["night2.pcap", "night010.pcap", "night10.pcap", *rotated[:12]]
    read = read_packets([f"{tmp_path}/night10.pcap", f"{tmp_path}/night2.pcap", f"{tmp_path}/night10.pcap"])
    assert [Path(path).name for path in read["capture_file"].to_pylist()] == ["night2.pcap", "night10.pcap"]


def test_find_captures__says_what_is_wrong_with_a_location(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file or folder"):
        _paths(str(tmp_path / "absent"))
    with pytest.raises(InputError, match="holds no capture"):
        _paths(str(tmp_path))
    with pytest.raises(InputError, match="is not a path or URI"):
        _paths("nonsense://host/path")


@pytest.mark.parametrize(
    ("location", "inner", "uri"),
    [
        ("s3://bucket/night", "bucket/night/a b.pcap", "s3://bucket/night/a%20b.pcap"),
        ("s3://bucket/night?region=eu", "bucket/night/a.pcap", "s3://bucket/night/a.pcap?region=eu"),
        ("hdfs://host:8020/night", "/night/a.pcap", "hdfs://host:8020/night/a.pcap"),
        ("file:///night", "/night/a.pcap", "/night/a.pcap"),
        ("/night", "/night/a.pcap", "/night/a.pcap"),
    ],
)
def test_uri_of__names_a_file_found_below_a_location(location: str, inner: str, uri: str) -> None:
    assert uri_of(location, inner) == uri


def test_fetched_files__read_as_mapped_ones(
    tmp_path: Path,
    make: SimpleNamespace,
    frames: list[bytes],
    capture_settings: config.Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from pyarrow import fs

    from iotid.capture.containers import streams

    (tmp_path / "a.pcap").write_bytes(make.pcap(frames * 100))
    mapped = read_packets(str(tmp_path / "a.pcap"), settings=capture_settings.model_copy(update={"chunk_bytes": 4096}))
    elsewhere = fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem())
    monkeypatch.setattr(streams, "filesystem_of", lambda path: (elsewhere, Path(path).name))
    fetched = read_packets(str(tmp_path / "a.pcap"), settings=capture_settings.model_copy(update={"chunk_bytes": 4096}))
    assert fetched.equals(mapped)
