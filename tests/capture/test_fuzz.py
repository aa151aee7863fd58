"""Captures with random faults: nothing crashes, every record is accounted for, kernels and twin agree."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

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


@pytest.mark.parametrize("seed", range(12))
def test_fuzz__mutated_captures_agree_with_the_twin(seed: int, agrees: Agrees, make: SimpleNamespace) -> None:
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
def test_fuzz__headers_mutated_byte_by_byte_agree_with_the_twin(
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


@pytest.mark.captures
def test_real_captures__agree_with_the_twin(captures: Path, agrees: Agrees) -> None:
    aalto = sorted((captures / "aalto").glob("*/*.pcap"))[::60]
    lsif = sorted((captures / "lsif").glob("*/*.pcap"), key=lambda path: path.stat().st_size)[:2]
    assert len(aalto) > 5
    for path in [*aalto, *lsif]:
        data = path.read_bytes()[:300_000]
        counted = agrees(data, duplicate_window_us=10_000, duplicate_records=64, chunk_bytes=1 << 16)
        assert counted["flow"][0] > 0, path


@pytest.mark.captures
def test_odd_captures__agree_with_the_twin(captures: Path, agrees: Agrees) -> None:
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
