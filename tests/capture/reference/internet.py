"""Reference for decode.internet: IP and what is directly above it."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

from .wire import RejectError, be


@dataclass
class Packet:
    """A packet of IP; ``columns`` are those of schemas.PACKETS that its frame gives."""

    columns: dict[str, Any]
    version: int
    identification: int
    fragment: tuple[int, bool]  # offset in units of 8 bytes, and whether more are to come
    above: bytes  # what was captured above IP
    wire_above: int  # bytes of it on the wire
    nameless: bytes  # what was captured from the IP header on, with zeros for the addresses

    @property
    def carried(self) -> int:
        """The protocol that IPv4's header names, before any extension header."""
        return self.nameless[9]

    def is_fragment(self) -> bool:
        return self.fragment != (0, False)

    def is_later(self) -> bool:
        return self.fragment[0] > 0

    def datagram(self) -> Any:
        """What fragments of one datagram share: RFC 791, 3.2, and RFC 8200, 4.5; a VLAN is a network of its own."""
        protocol = self.carried if self.version == 4 else None
        ends = self.columns["source_ip"], self.columns["destination_ip"]
        return self.version, *ends, protocol, self.identification, self.columns["vlan"]

    def content(self) -> Any:
        """What makes two packets equal."""
        return self.datagram(), self.columns["protocol"], self.fragment, self.columns["packet_length"], self.above


def read_ip(data: bytes, on_wire: int, version: int) -> Packet:
    """The packet from its IP header on. ``data`` is what was captured of it and what follows it."""
    if data and data[0] >> 4 != version:
        raise RejectError("malformed")
    be(data, 0, 20 if version == 4 else 40)
    read = _ipv4 if version == 4 else _ipv6
    length, header, protocol, identification, fragment = read(data, on_wire)
    above, wire_above = data[header:length], length - header
    ends = (data[12:16], data[16:20]) if version == 4 else (data[8:24], data[24:40])
    columns = {
        "source_ip": ends[0],
        "destination_ip": ends[1],
        "protocol": protocol,
        "packet_length": length,
        **_transport(above, wire_above, None if fragment[0] else protocol, fragment[1]),
    }
    data = data[:length]
    nameless = data[:12] + bytes(8) + data[20:] if version == 4 else data[:8] + bytes(32) + data[40:]
    return Packet(columns, version, identification, fragment, above, wire_above, nameless)


_Network = tuple[int, int, int, int, tuple[int, bool]]  # length, header's length, protocol, identification, fragment


def _ipv4(data: bytes, on_wire: int) -> _Network:
    header, claimed = data[0] % 16 * 4, be(data, 2, 2)
    length = on_wire if claimed == 0 else min(claimed, on_wire)
    if header < 20 or length < header:
        raise RejectError("malformed")
    fragment = be(data, 6, 2) & 0x1FFF, bool(data[6] & 0x20)
    own = length, header, data[9], be(data, 4, 2), fragment
    return own if fragment[0] else _behind_extensions(data, own, 4)


def _ipv6(data: bytes, on_wire: int) -> _Network:
    protocol, payload = data[6], be(data, 4, 2)
    length = on_wire if payload == 0 and protocol != 59 else min(payload + 40, on_wire)
    if length < 40:
        raise RejectError("malformed")
    return _behind_extensions(data, (length, 40, protocol, 0, (0, False)), 6)


def _behind_extensions(data: bytes, network: _Network, version: int) -> _Network:
    """Extension headers stepped over (RFC 8200, 4302); for hop-by-hop options and fragments IPv4 has its own header."""
    length, header, protocol, identification, fragment = network
    whole = len(data) >= length
    data = data[:length]
    stepped_over = (43, 51, 60, 135, 139, 140) + ((0, 44) if version == 6 else ())
    try:
        while protocol in stepped_over and not fragment[0]:
            be(data, header, 8)
            units = data[header + 1]
            if protocol == 44:
                identification = be(data, header + 4, 4)
                fragment = be(data, header + 2, 2) >> 3, bool(data[header + 3] & 1)
            size = {44: 8, 51: (units + 2) * 4}.get(protocol, (units + 1) * 8)
            protocol, header = data[header], header + size
        if header > length:
            raise RejectError("malformed")
        be(data, 0, header)
    except RejectError as reject:
        raise RejectError("malformed" if str(reject) == "short" and whole else str(reject)) from None
    return length, header, protocol, identification, fragment


def _transport(above: bytes, on_wire: int, protocol: int | None, more_fragments: bool) -> dict[str, int]:
    found = dict.fromkeys(("source_port", "destination_port", "tcp_flags", "tcp_window"), 0) | {
        "payload_length": on_wire
    }
    least = {6: 20, 17: 8, 33: 4, 132: 4, 136: 4}.get(protocol or 0)
    if least is None:
        return found
    if on_wire < (4 if more_fragments else least):
        raise RejectError("malformed")
    if len(above) < 4:
        raise RejectError("truncated")
    found["source_port"], found["destination_port"] = struct.unpack_from(">HH", above)
    if protocol == 6:
        if len(above) > 12:
            least = (above[12] >> 4) * 4
            if least < 20:
                least = on_wire
        found["tcp_flags"] = above[13] if len(above) > 13 else 0
        found["tcp_window"] = be(above, 14, 2) if len(above) > 15 else 0
    if protocol in (6, 17):
        found["payload_length"] = max(on_wire - least, 0)
    return found
