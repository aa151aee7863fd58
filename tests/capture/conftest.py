"""Captures for tests, written with struct, and their comparison with the reference implementation."""

from __future__ import annotations

import importlib.util
import socket
import struct
import sys
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from iotid import config
from iotid.capture import counters, find_captures, read_packets, read_splits
from iotid.capture.counters import Counters

KEEP_BYTES = 61  # not whole words; beyond the addresses of IPv6

MAC_A, MAC_B = bytes.fromhex("020000000001"), bytes.fromhex("020000000002")


def pcap(
    frames: list[Any],
    *,
    order: str = "<",
    link: int = 1,
    magic: int = 0xA1B2C3D4,
    ticks: int = 1,
    wire: int | None = None,
) -> bytes:
    """A classic pcap; a frame is bytes, or (time in µs, bytes), or (time in µs, bytes, wire length)."""
    out = [struct.pack(order + "IHHIIII", magic, 2, 4, 0, 0, 262144, link)]
    for i, frame in enumerate(frames):
        time, data, length = _timed(frame, i)
        length = wire if wire is not None else length
        out.append(struct.pack(order + "IIII", time // 10**6, time % 10**6 * ticks, len(data), length))
        out.append(struct.pack(order + "IHBB", 0, 0, 0, 0) if magic == 0xA1B2CD34 else b"")
        out.append(data)
    return b"".join(out)


def _timed(frame: Any, i: int) -> tuple[int, bytes, int]:
    if isinstance(frame, bytes):
        frame = (1_500_000_000_000_000 + i * 1000, frame)
    return (*frame, len(frame[1])) if len(frame) == 2 else frame


def block(kind: int, body: bytes, order: str = "<") -> bytes:
    length = len(body) + 12
    return struct.pack(order + "II", kind, length) + body + struct.pack(order + "I", length)


def section(order: str = "<") -> bytes:
    return block(0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1), order)


def interface(
    link: int = 1, order: str = "<", snap: int = 0, resolution: int | None = None, offset: int | None = None
) -> bytes:
    options = b""
    if resolution is not None:
        options += struct.pack(order + "HHB3x", 9, 1, resolution)
    if offset is not None:
        options += struct.pack(order + "HHq", 14, 8, offset)
    return block(1, struct.pack(order + "HHI", link, 0, snap) + options + (b"\0\0\0\0" if options else b""), order)


def enhanced(data: bytes, ticks: int = 0, order: str = "<", number: int = 0, wire: int | None = None) -> bytes:
    head = struct.pack(order + "IIIII", number, ticks >> 32, ticks & 0xFFFFFFFF, len(data), wire or len(data))
    return block(6, head + data + bytes(-len(data) % 4), order)


def obsolete(data: bytes, ticks: int = 0, order: str = "<", number: int = 0) -> bytes:
    head = struct.pack(order + "HHIIII", number, 0, ticks >> 32, ticks & 0xFFFFFFFF, len(data), len(data))
    return block(2, head + data + bytes(-len(data) % 4), order)


def simple(data: bytes, order: str = "<", wire: int | None = None) -> bytes:
    return block(3, struct.pack(order + "I", wire or len(data)) + data + bytes(-len(data) % 4), order)


def pcapng(frames: list[Any], order: str = "<", link: int = 1) -> bytes:
    timed = [_timed(frame, i) for i, frame in enumerate(frames)]
    return section(order) + interface(link, order) + b"".join(enhanced(d, t, order, wire=w) for t, d, w in timed)


def ethernet(payload: bytes, kind: int = 0x0800, tags: list[tuple[int, int]] | None = None) -> bytes:
    head = MAC_B + MAC_A
    for tag_kind, vlan in tags or []:
        head += struct.pack(">HH", tag_kind, vlan)
    return head + struct.pack(">H", kind) + payload


def ipv4(
    payload: bytes, protocol: int = 6, *, source: str = "10.0.0.1", target: str = "192.168.1.2",
    identification: int = 7, fragment: int = 0, options: bytes = b"", length: int | None = None,
    version: int = 4, header: int | None = None
) -> bytes:  # fmt: skip
    words = 5 + len(options) // 4 if header is None else header
    total = 20 + len(options) + len(payload) if length is None else length
    fixed = struct.pack(">BBHHHBBH", version << 4 | words, 0, total, identification, fragment, 64, protocol, 0)
    return fixed + socket.inet_aton(source) + socket.inet_aton(target) + options + payload


def ipv6(
    payload: bytes, protocol: int = 6, *, length: int | None = None, extensions: bytes = b"", first: int | None = None
) -> bytes:
    size = len(extensions) + len(payload) if length is None else length
    head = struct.pack(">IHBB", 6 << 28, size, protocol if first is None else first, 64)
    ends = socket.inet_pton(socket.AF_INET6, "2001:db8::1") + socket.inet_pton(socket.AF_INET6, "fe80::2")
    return head + ends + extensions + payload


def tcp(
    payload: bytes = b"",
    *,
    flags: int = 0x18,
    window: int = 4321,
    words: int = 5,
    sequence: int = 1,
    ports: tuple[int, int] = (50000, 443),
) -> bytes:
    options = bytes(max(words - 5, 0) * 4)
    return struct.pack(">HHIIBBHHH", *ports, sequence, 2, words << 4, flags, window, 0, 0) + options + payload


def udp(payload: bytes = b"", ports: tuple[int, int] = (5353, 53)) -> bytes:
    return struct.pack(">HHHH", *ports, 8 + len(payload), 0) + payload


def flipped(frames: list[bytes], begin: int, end: int) -> list[bytes]:
    """Each frame with each bit of its bytes from ``begin`` to before ``end`` turned over, one at a time."""
    found = []
    for frame in frames:
        for bit in range(8 * begin, 8 * min(end, len(frame))):
            changed = bytearray(frame)
            changed[bit // 8] ^= 128 >> bit % 8
            found.append(bytes(changed))
    return found


@pytest.fixture(scope="session")
def make() -> SimpleNamespace:
    """Writers of captures and packets."""
    names = (pcap, pcapng, block, section, interface, enhanced, obsolete, simple, ethernet, ipv4, ipv6, tcp, udp,
             flipped)  # fmt: skip
    return SimpleNamespace(**{writer.__name__: writer for writer in names}, mac_a=MAC_A, mac_b=MAC_B)


@pytest.fixture(scope="session")
def capture_settings() -> config.Capture:
    return config.load_settings().capture


@pytest.fixture
def read_table(tmp_path: Path, capture_settings: config.Capture) -> Callable[..., pa.Table]:
    """Write bytes to a file and read it."""

    def run(data: bytes, **changes: Any) -> pa.Table:
        path = tmp_path / "capture.bin"
        path.write_bytes(data)
        return read_packets(str(path), settings=capture_settings.model_copy(update=changes))

    return run


@pytest.fixture
def read(
    read_table: Callable[..., pa.Table],
) -> Callable[..., tuple[list[dict[str, Any]], dict[str, tuple[int, int]]]]:
    """Write bytes to a file and read it: rows of PACKETS, and (packets, bytes) by reason."""

    def run(data: bytes, **changes: Any) -> tuple[list[dict[str, Any]], dict[str, tuple[int, int]]]:
        table = read_table(data, **changes)
        return table.to_pylist(), {reason: counted[:2] for reason, counted in reasons(table).items()}

    return run


@pytest.fixture
def first_bytes(tmp_path: Path, capture_settings: config.Capture) -> Callable[..., list[bytes]]:
    """Write bytes to a file and read it: the bytes that are kept of each packet, padding to words included."""

    def run(data: bytes, keep_bytes: int, **changes: Any) -> list[bytes]:
        path = tmp_path / "capture.bin"
        path.write_bytes(data)
        settings = capture_settings.model_copy(update=changes)
        packets = read_splits(find_captures([str(path)]).captures, settings, Counters(), [], keep_bytes)
        return [words.tobytes() for chunk in packets for words in chunk.first_words]

    return run


def reasons(table: pa.Table) -> dict[str, tuple[int, int, int]]:
    """Packets, bytes and first offset of a file by reason."""
    rows = counters(table).to_pylist()
    assert len({row["reason"] for row in rows}) == len(rows)
    return {row["reason"]: (row["packets"], row["bytes"], row["first_offset"]) for row in rows}


@pytest.fixture(scope="session")
def capture_reference() -> ModuleType:
    """The reference implementation of the capture engine, a package beside this file."""
    folder = Path(__file__).with_name("reference")
    spec = importlib.util.spec_from_file_location(
        "capture_reference", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None
    assert spec.loader is not None
    package = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = package
    spec.loader.exec_module(package)
    return package


@pytest.fixture
def agrees(
    read_table: Callable[..., pa.Table], first_bytes: Callable[..., list[bytes]], capture_reference: ModuleType
) -> Callable[..., dict[str, tuple[int, int]]]:
    """Assert that kernels and reference give the same for a capture, and return (packets, bytes) by reason.

    ``chunk_bytes`` only touches the kernels.
    """

    def check(data: bytes, *, chunk_bytes: int = 1 << 20, **changes: Any) -> dict[str, tuple[int, int]]:
        table = read_table(data, chunk_bytes=chunk_bytes, **changes)
        packets, counted = capture_reference.read_capture(data, keep_bytes=KEEP_BYTES, **changes)
        assert reasons(table) == counted
        expected = [packet.pop("first_bytes") + bytes(-KEEP_BYTES % 8) for packet in packets]
        assert first_bytes(data, KEEP_BYTES, chunk_bytes=chunk_bytes, **changes) == expected
        assert [_plain(row) for row in table.to_pylist()] == packets
        return {reason: counts[:2] for reason, counts in counted.items()}

    return check


@pytest.fixture
def one(
    read: Callable[..., Any], agrees: Callable[..., dict[str, tuple[int, int]]], make: SimpleNamespace
) -> Callable[..., Any]:
    """The packet of a capture with one frame, or the reason why there is none; checked against the reference."""

    def run(frame: bytes, link: int = 1, wire: int | None = None, **changes: Any) -> Any:
        data = make.pcap([frame], link=link, wire=wire)
        agrees(data, **changes)
        rows, counted = read(data, **changes)
        return rows[0] if rows else next(iter(counted))

    return run


@pytest.fixture(scope="session")
def frames(module_at: Callable[[Path], ModuleType]) -> ModuleType:
    """Frames of every link layer, tag, radio and tunnel."""
    return module_at(Path(__file__).with_name("frames.py"))


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    def mac(text: str | None) -> bytes | None:
        return bytes.fromhex(text.replace(":", "")) if text else None

    return {
        **{name: value for name, value in row.items() if name != "capture_file"},
        "timestamp": pa.scalar(row["timestamp"], pa.timestamp("us", "UTC")).value,
        "source_mac": mac(row["source_mac"]),
        "destination_mac": mac(row["destination_mac"]),
        "source_ip": ip_address(row["source_ip"]).packed,
        "destination_ip": ip_address(row["destination_ip"]).packed,
    }
