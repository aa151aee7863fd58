"""Tunnels: every one with every optional field, in comparison with the reference implementation."""

from __future__ import annotations

import struct
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from iotid.capture.decode.tunnels import TUNNEL_NAMES

Agrees = Callable[..., dict[str, tuple[int, int]]]


def _on_ethernet(packet: bytes, make: SimpleNamespace) -> bytes:
    framed: bytes = make.ethernet(packet, 0x0800 if packet[0] >> 4 == 4 else 0x86DD)
    return framed


@pytest.mark.parametrize("tunnel", TUNNEL_NAMES)
def test_tunnels__each_is_decapsulated_with_any_fields_and_only_if_wanted(
    tunnel: str, read: Callable[..., Any], agrees: Agrees, frames: ModuleType, make: SimpleNamespace
) -> None:
    cases = [(name, packet) for name, its, packet in frames.by_tunnel(make) if its == tunnel]
    assert cases
    data = make.pcap([_on_ethernet(packet, make) for _, packet in cases])
    others = tuple(name for name in TUNNEL_NAMES if name != tunnel)
    agrees(data, tunnels=(tunnel,))
    rows, _ = read(data, tunnels=(tunnel,))
    for row, (name, _) in zip(rows, cases, strict=True):
        assert (row["source_port"], row["destination_port"], row["payload_length"]) == (*frames.PORTS, 9), name
    agrees(data, tunnels=others)
    assert all(row["destination_port"] != frames.PORTS[1] for row in read(data, tunnels=others)[0])


def test_tunnels__packets_cut_anywhere_agree_with_the_reference(
    agrees: Agrees, frames: ModuleType, make: SimpleNamespace
) -> None:
    frames_of_all = [_on_ethernet(packet, make) for _, _, packet in frames.by_tunnel(make)]
    cuts = [(1_000_000, frame[:i], len(frame)) for frame in frames_of_all for i in range(34, len(frame))]
    agrees(make.pcap(cuts), tunnels=TUNNEL_NAMES)


def test_tunnels__headers_with_any_bit_turned_over_agree_with_the_reference(
    agrees: Agrees, frames: ModuleType, make: SimpleNamespace
) -> None:
    cases = [packet for name, _, packet in frames.by_tunnel(make) if not name.startswith("GRE") and packet[0] >> 4 == 4]
    cases += [packet for name, _, packet in frames.by_tunnel(make) if name in ("GRE b000 0800", "GRE b081 880b")]
    agrees(make.pcap(make.flipped([_on_ethernet(packet, make) for packet in cases], 34, 60)), tunnels=TUNNEL_NAMES)


@pytest.mark.parametrize("flags", [0x4000, 0x0002, 0x0003, 0x0004, 0x0007, 0x4001])
def test_tunnels__gre_of_an_unknown_version_or_with_source_routing_is_left_on(
    flags: int, one: Callable[..., Any], make: SimpleNamespace
) -> None:
    gre = struct.pack(">HH", flags, 0x0800) + make.ipv4(make.tcp())
    assert one(make.ethernet(make.ipv4(gre, 47)), tunnels=("gre",))["protocol"] == 47


def test_tunnels__erspan_3_has_a_sub_header_where_its_last_bit_says_so(
    one: Callable[..., Any], make: SimpleNamespace
) -> None:
    inside = make.ethernet(make.ipv4(make.tcp()))
    for last, sub_header in ((0, b""), (1, bytes(8)), (0xFE, b""), (0xFF, bytes(8))):
        erspan = b"\x10\0\x22\xeb\0\0\0\1\x20" + bytes(10) + bytes([last]) + sub_header
        assert one(make.ethernet(make.ipv4(erspan + inside, 47)), tunnels=("gre",))["protocol"] == 6


@pytest.mark.parametrize("extra", [b"", b"\0" * 11])
def test_tunnels__an_erspan_3_header_that_is_cut_is_left_on(
    extra: bytes, one: Callable[..., Any], make: SimpleNamespace
) -> None:
    packet = make.ipv4(b"\0\0\x22\xeb" + extra, 47)
    assert one(make.ethernet(packet), tunnels=("gre",))["protocol"] == 47


def test_tunnels__tags_inside_erspan_are_stepped_over(
    one: Callable[..., Any], frames: ModuleType, make: SimpleNamespace
) -> None:
    for name, tag in frames.TAGS.items():
        inside = make.mac_b + make.mac_a + tag + b"\x08\0" + make.ipv4(make.tcp())
        erspan = b"\x10\0\x88\xbe\0\0\0\1" + b"\x10\0\0\1\0\0\0\0" + inside
        row = one(make.ethernet(make.ipv4(erspan, 47)), tunnels=("gre",))
        assert (row["destination_port"], row["source_mac"]) == (443, "02:00:00:00:00:01"), name


def test_tunnels__an_aggregate_of_two_packets_leaves_the_tunnel_on(
    one: Callable[..., Any], frames: ModuleType, make: SimpleNamespace
) -> None:
    body = b"\xaa\xaa\3\0\0\0\x08\0" + make.ipv4(make.tcp())
    for count, port in ((1, 443), (2, 5247)):
        aggregate = frames.data(frames.subframe(body) * (count - 1) + frames.subframe(body, last=True), qos=0x80)
        packet = make.ipv4(make.udp(b"\0\x10\3\0\0\0\0\0" + aggregate, (40000, 5247)), 17)
        assert one(make.ethernet(packet), tunnels=("capwap",))["destination_port"] == port
