"""One table of rules for both families: what holds of IPv4 holds of IPv6."""

from __future__ import annotations

import struct
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

Agrees = Callable[..., dict[str, tuple[int, int]]]

_ROUTING, _AH, _DESTINATION, _MOBILITY, _HIP, _SHIM6 = 43, 51, 60, 135, 139, 140
_CHAINS = [
    (), (_AH,), (_ROUTING,), (_DESTINATION,), (_MOBILITY,), (_HIP,), (_SHIM6,), (_AH, _AH),
    (_DESTINATION, _AH, _DESTINATION),
]  # fmt: skip
_TRANSPORTS = ["tcp", "udp", "sctp", "esp", "icmp"]
_COLUMNS = ("protocol", "source_port", "destination_port", "payload_length", "tcp_flags", "tcp_window")


def _packet(
    family: int, chain: tuple[int, ...], transport: str, make: SimpleNamespace, fragment: int = 0, above: int = 0
) -> bytes:
    """A packet of either family; ``fragment``: offset and flag as in IPv4; ``above``: first byte of what is sent."""
    protocol, rest = {
        "tcp": (6, make.tcp(b"abc")),
        "udp": (17, make.udp(b"abcdef")),
        "sctp": (132, struct.pack(">HH", 7, 8) + bytes(12)),
        "esp": (50, bytes(16)),
        "icmp": (1, b"\x08\0" + bytes(10)),
    }[transport]
    for kind in reversed(chain):
        size = 24 if kind == _AH else 16
        units = size // 4 - 2 if kind == _AH else size // 8 - 1
        rest = bytes([protocol, units]).ljust(size, b"\0") + rest
        protocol = kind
    rest = rest[above:]
    if family == 4:
        packet: bytes = make.ipv4(rest, protocol, fragment=fragment)
        return packet
    if fragment:
        word = (fragment & 0x1FFF) << 3 | bool(fragment & 0x2000)
        return bytes(make.ipv6(rest, first=44, extensions=struct.pack(">BBHI", protocol, 0, word, 7)))
    return bytes(make.ipv6(rest, first=protocol))


def _framed(packet: bytes, make: SimpleNamespace) -> bytes:
    framed: bytes = make.ethernet(packet, 0x0800 if packet[0] >> 4 == 4 else 0x86DD)
    return framed


@pytest.mark.parametrize("transport", _TRANSPORTS)
@pytest.mark.parametrize("chain", _CHAINS, ids=lambda chain: "-".join(map(str, chain)) or "none")
def test_internet__extension_headers_lead_to_the_same_columns_in_both_families(
    chain: tuple[int, ...], transport: str, one: Callable[..., Any], make: SimpleNamespace
) -> None:
    four, six = (one(_framed(_packet(family, chain, transport, make), make)) for family in (4, 6))
    assert [four[name] for name in _COLUMNS] == [six[name] for name in _COLUMNS]
    assert four["packet_length"] + 20 == six["packet_length"]
    if transport in ("tcp", "udp"):
        assert four["payload_length"] == {"tcp": 3, "udp": 6}[transport]
        assert four["destination_port"] == {"tcp": 443, "udp": 53}[transport]


@pytest.mark.parametrize("chain", _CHAINS, ids=lambda chain: "-".join(map(str, chain)) or "none")
def test_internet__packets_cut_anywhere_have_the_same_reason_in_both_families(
    chain: tuple[int, ...], agrees: Agrees, make: SimpleNamespace
) -> None:
    headers = {4: 34, 6: 54}
    whole = {family: _framed(_packet(family, chain, "tcp", make), make) for family in headers}
    for above in range(len(whole[4]) - headers[4]):
        cuts = {family: frame[: headers[family] + above] for family, frame in whole.items()}
        by_capture, by_sender = (
            [
                {reason: packets for reason, (packets, _) in agrees(make.pcap([cut], wire=wire)).items()}
                for family, cut in cuts.items()
                for wire in [len(whole[family]) if captured else None]
            ]
            for captured in (True, False)
        )
        assert by_capture[0] == by_capture[1], above
        assert by_sender[0] == by_sender[1], above


@pytest.mark.parametrize("family", [4, 6])
def test_internet__headers_with_any_bit_turned_over_agree_with_the_reference(
    family: int, agrees: Agrees, make: SimpleNamespace
) -> None:
    packets = [_packet(family, (), transport, make) for transport in _TRANSPORTS]
    packets += [_packet(family, chain, "tcp", make) for chain in _CHAINS]
    packets += [_packet(family, (), "tcp", make, fragment=fragment) for fragment in (0x2000, 0x2003, 0x0003)]
    frames = [_framed(packet, make) + bytes(4) for packet in packets]  # a frame may be longer than its packet
    agrees(make.pcap(make.flipped(frames, 14, 14 + 20 + 28 if family == 4 else 14 + 40 + 28)))


@pytest.mark.parametrize("units", [0, 1, 2, 5, 255])
def test_internet__a_wrong_authentication_header_has_one_reason_in_both_families(
    units: int, one: Callable[..., Any], make: SimpleNamespace
) -> None:
    found = []
    for family in (4, 6):
        packet = bytearray(_packet(family, (_AH,), "tcp", make))
        packet[21 if family == 4 else 41] = units
        row = one(_framed(bytes(packet), make))
        found.append(row if isinstance(row, str) else [row[name] for name in _COLUMNS])
    assert found[0] == found[1]


@pytest.mark.parametrize("chain", _CHAINS, ids=lambda chain: "-".join(map(str, chain)) or "none")
def test_internet__a_later_fragment_has_the_ports_of_its_first_in_both_families(
    chain: tuple[int, ...], read: Callable[..., Any], agrees: Agrees, make: SimpleNamespace
) -> None:
    for family in (4, 6):
        first = _packet(family, chain, "tcp", make, fragment=0x2000)
        later = _packet(family, chain, "tcp", make, fragment=5, above=8)
        data = make.pcap([_framed(packet, make) for packet in (first, later)])
        agrees(data)
        rows, counted = read(data)
        assert counted.keys() == {"flow"}
        assert [(row["protocol"], row["destination_port"]) for row in rows] == [(6, 443)] * 2


def test_internet__a_tunnel_behind_an_authentication_header_is_decapsulated(
    one: Callable[..., Any], make: SimpleNamespace
) -> None:
    inside = make.ipv4(make.tcp(), source="1.2.3.4")
    header = b"\x04\4" + bytes(22)
    for packet in (make.ipv4(header + inside, 51), make.ipv6(inside, first=51, extensions=header)):
        assert one(_framed(packet, make), tunnels=("ip_in_ip",))["source_ip"] == "1.2.3.4"


@pytest.mark.parametrize(("kind", "header"), [(0, b"\x06\0" + bytes(6)), (44, b"\x06\0\0\1" + bytes(4))])
def test_internet__options_and_fragments_of_ipv4_stand_in_its_own_header(
    kind: int, header: bytes, one: Callable[..., Any], make: SimpleNamespace
) -> None:
    assert one(make.ethernet(make.ipv4(header + make.tcp(), kind)))["protocol"] == kind
    assert one(make.ethernet(make.ipv6(make.tcp(), first=kind, extensions=header), 0x86DD))["protocol"] == 6
