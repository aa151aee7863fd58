"""Captures with random faults: nothing crashes, every record is accounted for, kernels and reference agree.

`tests/fuzz/invariants.py` says what must hold of any file; `make fuzz` searches further with the same.
"""

from __future__ import annotations

import bz2
import gzip
import importlib.util
import lzma
import os
import random
import struct
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from iotid.capture import read_packets
from iotid.capture.decode.tunnels import TUNNEL_NAMES

_TESTS = Path(__file__).parents[1]
_EXAMPLES = int(os.environ.get("IOTID_FUZZ_EXAMPLES", "150"))
_LINKS = (
    0, 1, 8, 9, 12, 50, 51, 100, 101, 104, 105, 107, 108, 109, 113, 117, 119, 127, 149, 163, 166, 192, 204, 205, 206,
    228, 229, 239, 240, 242, 258, 274, 276, 281, 282, 284, 285, 65000,
)  # fmt: skip

Agrees = Callable[..., dict[str, tuple[int, int]]]


def _packet(dice: random.Random, make: SimpleNamespace) -> bytes:
    payload = dice.randbytes(dice.randrange(30))
    transport = dice.choice([make.tcp(payload, words=dice.randrange(4, 9)), make.udp(payload), payload])
    protocol = dice.choice([6, 6, 17, 17, 1, 132, 136, 33, 50])
    if dice.random() < 0.5:
        network, kind = make.ipv4(transport, protocol, fragment=dice.choice([0, 0, 0x2000, 0x2003])), 0x0800
    else:
        extension = bytes([protocol, dice.choice([0, 0, 1, 3])]) + bytes(6)
        network, kind = make.ipv6(transport, extensions=extension, first=dice.choice([0, 43, 44, 51, 60])), 0x86DD
    tags = [(dice.choice([0x8100, 0x88A8, 0x9100]), dice.randrange(4096)) for _ in range(dice.randrange(3))]
    return make.ethernet(network, kind, tags)


def _mutated(data: bytes, dice: random.Random) -> bytes:
    out = bytearray(data)
    for _ in range(dice.randrange(8)):
        at = dice.randrange(len(out))
        match dice.randrange(4):
            case 0:
                out[at] = dice.choice([0, 1, 0x7F, 0x80, 0xFF, dice.randrange(256)])
            case 1:
                out[at : at + 4] = struct.pack("<I", dice.choice([0, 1, 60, 2**20, 2**31, 2**32 - 1]))
            case 2:
                del out[at : at + dice.randrange(40)]
            case 3:
                out[at:at] = dice.randbytes(dice.randrange(40))
    if out and dice.random() < 0.3:
        del out[dice.randrange(len(out)) :]
    return bytes(out)


@pytest.fixture(scope="session")
def invariants() -> ModuleType:
    spec = importlib.util.spec_from_file_location("invariants", _TESTS / "fuzz" / "invariants.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # a dataclass finds its own module there
    spec.loader.exec_module(module)
    return module


@st.composite
def _frames(draw: st.DrawFn, make: SimpleNamespace) -> bytes:
    """One frame: layers put around a payload from the inside out, then a start that any link type may read."""
    ports = draw(st.sampled_from([(50000, 443), (5353, 53), (2152, 2152), (4789, 4789), (1, 6081), (5246, 5247)]))
    inner = draw(st.binary(max_size=24))
    network = b""
    for _ in range(draw(st.integers(1, 3))):
        kind = draw(st.sampled_from(["udp", "tcp", "gre", "bare"]))
        if kind == "udp":
            inner = make.udp(draw(st.sampled_from([b"", bytes(8), b"\x30\xff\0\0\0\0\0\0"])) + inner, ports=ports)
        elif kind == "tcp":
            inner = make.tcp(inner, words=draw(st.integers(4, 8)), flags=draw(st.integers(0, 255)))
        elif kind == "gre":
            inner = struct.pack(">HH", draw(st.sampled_from([0, 0x2000, 0xB000])), 0x0800) + inner
        protocol = {"udp": 17, "tcp": 6, "gre": 47}.get(kind, draw(st.sampled_from([1, 4, 41, 50, 132])))
        if draw(st.booleans()):
            fragment = draw(st.sampled_from([0, 0, 0x2000, 0x2001, 3]))
            length = draw(st.sampled_from([None, None, None, 0, 19, 65535]))
            network = make.ipv4(inner, protocol, fragment=fragment, length=length)
        else:
            extension = bytes([protocol, draw(st.sampled_from([0, 1, 255]))]) + draw(st.binary(min_size=6, max_size=6))
            network = make.ipv6(inner, extensions=extension, first=draw(st.sampled_from([0, 43, 44, 51, 60])))
        inner = network
    tags = draw(st.lists(st.tuples(st.sampled_from([0x8100, 0x88A8, 0x9100]), st.integers(0, 4095)), max_size=2))
    framed = make.ethernet(network, draw(st.sampled_from([0x0800, 0x86DD, 0x8847, 0x8864, 0x0806])), tags)
    return draw(st.sampled_from([framed, bytes(2) + framed, network, b"\2\0\0\0" + network, b"\x0f\0\x08\0" + network]))


@st.composite
def _captures(draw: st.DrawFn, make: SimpleNamespace) -> bytes:
    """A valid capture in which some bytes and lengths are then changed, moved or cut off."""
    frames = draw(st.lists(_frames(make), min_size=1, max_size=6))
    timed = [(1_600_000_000_000_000 + draw(st.integers(-2000, 2000)), frame) for frame in frames]
    order, link = draw(st.sampled_from("<>")), draw(st.sampled_from(_LINKS))
    data = bytearray(draw(st.sampled_from([make.pcap, make.pcapng]))(timed, order=order, link=link))
    for _ in range(draw(st.integers(0, 5))):
        at = draw(st.integers(0, len(data) - 1))
        match draw(st.integers(0, 3)):
            case 0:
                data[at] = draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]))
            case 1:
                number = draw(st.sampled_from([0, 1, 12, 60, 2**20, 2**31 - 1, 2**31, 2**32 - 1]))
                data[at : at + 4] = struct.pack(order + "I", number)
            case 2:
                del data[at : at + draw(st.integers(1, 40))]
                data = data or bytearray(1)
            case 3:
                data[at:at] = draw(st.binary(min_size=1, max_size=40))
    if draw(st.integers(0, 3)) == 0:
        del data[draw(st.integers(1, len(data))) :]
    pack = draw(st.sampled_from([bytes, bytes, bytes, gzip.compress, bz2.compress, lzma.compress]))
    packed = bytearray(pack(bytes(data)))
    if pack is not bytes and draw(st.booleans()):
        packed[draw(st.integers(0, len(packed) - 1))] ^= 1 << draw(st.integers(0, 7))
    return bytes(packed)


@hypothesis_settings(max_examples=_EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_capture__is_read_to_its_end_the_same_in_chunks_and_splits(
    data: st.DataObject, tmp_path: Path, invariants: ModuleType, make: SimpleNamespace
) -> None:
    path = tmp_path / "capture"
    path.write_bytes(data.draw(_captures(make)))
    invariants.check(path, invariants.settings_with(**invariants.EVERYTHING))


@pytest.mark.parametrize("container", ["pcap", "pcapng"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_capture_cut_off_at_every_offset__is_read_up_to_there(
    container: str, order: str, tmp_path: Path, invariants: ModuleType, make: SimpleNamespace
) -> None:
    frames = [make.ethernet(make.ipv4(make.udp(b"abc"), 17)), make.ethernet(make.ipv6(make.tcp(), 6), 0x86DD)]
    data = getattr(make, container)(frames, order=order)
    settings = invariants.settings_with(**invariants.EVERYTHING)
    path = tmp_path / "capture"
    packets = []
    for size in range(len(data) + 1):
        path.write_bytes(data[:size])
        rows = invariants.check(path, settings)
        packets.append(sum(row["packets"] for row in rows or [] if row["reason"] == "flow"))
    assert packets == sorted(packets)
    assert packets[-1] == 2


@pytest.mark.parametrize("path", sorted((_TESTS / "golden" / "captures").glob("*.bin")), ids=lambda path: path.stem)
def test_golden_capture__holds_what_must_hold_of_any_file(path: Path, invariants: ModuleType) -> None:
    invariants.check(path, invariants.settings_with(**invariants.EVERYTHING))


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_compressed_zeros__take_memory_for_a_chunk_not_for_what_they_unpack_to(
    pack: Callable[[bytes], bytes], tmp_path: Path, invariants: ModuleType, make: SimpleNamespace
) -> None:
    path = tmp_path / "capture"
    path.write_bytes(pack(make.pcap([make.ethernet(make.ipv4(make.udp(), 17))]) + bytes(1 << 26)))
    settings = invariants.settings_with(chunk_bytes=1 << 20, max_expansion=10**6)
    read_packets(str(path), settings=settings)  # loads the kernels
    tracemalloc.start()
    try:
        assert len(read_packets(str(path), settings=settings)) == 1
        assert tracemalloc.get_traced_memory()[1] < 1 << 25
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("seed", range(12), ids=lambda seed: f"seed{seed}")
def test_fuzz__mutated_captures_agree_with_the_reference(seed: int, agrees: Agrees, make: SimpleNamespace) -> None:
    dice = random.Random(seed)
    for _ in range(12):
        link = dice.choice([1, 1, 1, 0, 9, 50, 51, 101, 104, 108, 113, 228, 229, 276])
        frames = [(1_600_000_000_000_000 + i, _packet(dice, make)) for i in range(dice.randrange(1, 12))]
        if link != 1:
            frames = [(time, dice.randbytes(2) + frame[dice.randrange(16) :]) for time, frame in frames]
        data = dice.choice([make.pcap, make.pcapng])(frames, order=dice.choice("<>"), link=link)
        head = 24 if data[:1] != b"\n" else 12
        data = data[:head] + _mutated(data[head:], dice)
        agrees(
            data,
            chunk_bytes=dice.choice([4096, 1 << 20]),
            max_packet_bytes=dice.choice([128, 4096]),
            duplicate_window_us=5,
        )


@pytest.mark.parametrize("link", [0, 1, 9, 50, 51, 101, 104, 113, 228, 229, 276])
def test_fuzz__headers_mutated_byte_by_byte_agree_with_the_reference(
    link: int, agrees: Agrees, make: SimpleNamespace
) -> None:
    dice = random.Random(link)
    starts = {0: b"\2\0\0\0", 9: b"\0\x21", 50: b"\x0f\0\x08\0", 51: b"\x11\0\0\1\0\0\0\x21", 104: b"\x0f\0\x08\0",
              113: bytes(5) + b"\6" + bytes(8) + b"\x08\0", 276: b"\x08\0" + bytes(18)}  # fmt: skip
    frames = []
    for _ in range(400):
        frame = bytearray(_packet(dice, make))
        if link != 1:
            frame = bytearray(starts.get(link, b"")) + frame[frame.index(b"\x45" if b"\x45" in frame else b"\x60") :]
        for _ in range(dice.randrange(4)):
            frame[dice.randrange(min(len(frame), 70))] = dice.choice([0, 0xFF, 0x45, 0x60, dice.randrange(256)])
        cut = dice.choice([len(frame), dice.randrange(len(frame))])
        frames.append((10**15, bytes(frame[:cut]), dice.choice([cut, len(frame), 1500])))
    counted = agrees(make.pcap(frames, link=link), duplicate_window_us=1, duplicate_records=50)
    assert sum(packets for packets, _ in counted.values()) == 400


@pytest.mark.parametrize("kind", ["by_link", "by_tag", "by_radio", "aggregates", "by_tunnel"])
def test_fuzz__every_header_mutated_byte_by_byte_agrees_with_the_reference(
    kind: str, agrees: Agrees, frames: ModuleType, make: SimpleNamespace
) -> None:
    dice = random.Random(kind)
    cases = getattr(frames, kind)(make)
    if kind == "by_tunnel":
        cases = [
            (name, 1, make.ethernet(packet, 0x0800 if packet[0] >> 4 == 4 else 0x86DD)) for name, _, packet in cases
        ]
    of_link: dict[int, list[Any]] = {}
    for _, link, whole in cases:
        for _ in range(6):
            frame = bytearray(whole)
            for _ in range(dice.randrange(4)):
                at = dice.randrange(len(frame))
                frame[at] = dice.choice([0, 1, 0xFF, frame[at] ^ 1 << dice.randrange(8), dice.randrange(256)])
            cut = dice.choice([len(frame), dice.randrange(len(frame))])
            of_link.setdefault(link, []).append((10**15, bytes(frame[:cut]), dice.choice([cut, len(frame), 1500])))
    for link, mutated in of_link.items():
        everything = {"duplicate_window_us": 1, "duplicate_records": 50, "tunnels": TUNNEL_NAMES}
        counted = agrees(make.pcap(mutated, link=link), **everything)
        assert sum(packets for packets, _ in counted.values()) >= len(mutated)


@pytest.mark.parametrize("container", ["pcap", "pcapng"])
def test_aggregates__are_read_the_same_in_chunks_and_splits(
    container: str, tmp_path: Path, invariants: ModuleType, frames: ModuleType, make: SimpleNamespace
) -> None:
    path = tmp_path / "capture"
    aggregates = [frame for _, link, frame in frames.aggregates(make) if link == 127] * 40
    for snap in (None, 130, 90, 60):
        timed = [(10**15 + i, frame[:snap], len(frame)) for i, frame in enumerate(aggregates)]
        path.write_bytes(getattr(make, container)(timed, link=127))
        rows = invariants.check(path, invariants.settings_with(**invariants.EVERYTHING))
        assert snap or sum(row["packets"] for row in rows) == 2 * len(aggregates)
        assert sum(row["bytes"] for row in rows) == sum(map(len, aggregates))


@pytest.mark.parametrize("above", [0, 1, 400])
def test_impossible_fractions__are_read_the_same_in_chunks_and_splits(
    above: int, tmp_path: Path, invariants: ModuleType, make: SimpleNamespace
) -> None:
    path = tmp_path / "capture"
    frame = make.ethernet(make.ipv4(make.udp(), 17))
    times = [(10**15 + 2500 * i, frame) for i in range(400)]
    data = make.pcap(times[:above], ticks=1000) + make.pcap(times[above:])[24:]
    path.write_bytes(data)
    rows = invariants.check(path, invariants.settings_with(**invariants.EVERYTHING))
    assert {row["reason"] for row in rows} <= {"flow", "malformed"}


@pytest.mark.captures
def test_real_captures__agree_with_the_reference(captures: Path, agrees: Agrees) -> None:
    aalto = sorted((captures / "aalto").glob("*/*.pcap"))[::60]
    lsif = sorted((captures / "lsif").glob("*/*.pcap"), key=lambda path: path.stat().st_size)[:2]
    assert len(aalto) > 5
    for path in [*aalto, *lsif]:
        data = path.read_bytes()[:300_000]
        counted = agrees(data, duplicate_window_us=10_000, duplicate_records=64, chunk_bytes=1 << 16)
        assert counted["flow"][0] > 0, path


@pytest.mark.captures
def test_odd_captures__agree_with_the_reference(captures: Path, agrees: Agrees) -> None:
    found = [
        *(captures / "conformance" / "tcpdump").glob("*.pcap*"),
        *(captures / "conformance" / "ndpi").glob("*.pcap*"),
    ]
    small = sorted(path for path in found if path.suffix != ".out" and 24 < path.stat().st_size < 20_000)
    assert len(small) > 200
    refused: list[Any] = []
    for path in small:
        try:
            agrees(path.read_bytes(), max_packet_bytes=1 << 18)
        except ValueError:
            refused.append(path.name)  # not a pcap: another program's format
    assert len(refused) < 5, refused
