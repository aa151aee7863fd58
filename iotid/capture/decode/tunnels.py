"""Tunnels: the start and link type of the frame inside a packet.

GRE (RFC 2784, 2890, 2637) with NVGRE (RFC 7637) and ERSPAN, IP in IP (RFC 2003), 6in4 (RFC 4213), VXLAN (RFC 7348) and
its Generic Protocol Extension, Geneve (RFC 8926), GTP-U (3GPP TS 29.281), CAPWAP (RFC 5415), TZSP. A tunnel is
recognised by its protocol or port and a valid header; the caller decapsulates only if there is an IP packet inside.
Fragments are not decapsulated: the rest of their payload is in other records.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from iotid.capture.decode.headers import DESTINATION_PORT, FRAGMENT, PROTOCOL, SOURCE_PORT, TRANSPORT_OFFSET
from iotid.capture.decode.link import ETHERNET, IPV4_LINK, IPV6_LINK, MPLS_LINK, PPP, RAW
from iotid.capture.decode.wireless import IEEE_802_11, IEEE_802_11_SWAPPED
from iotid.capture.fields import Bytes, Longs, be16, byte
from iotid.capture.jit import kernel

NO_TUNNEL: Final = -1  # instead of a link type

_UDP = 17
_UDP_BYTES, _LEAST_BYTES = 8, 16  # of UDP's header, and of it with the shortest header of a tunnel


class Tunnel(NamedTuple):
    """How a tunnel is recognised."""

    name: str  # in the setting capture.tunnels; several rows may have one name
    protocol: int  # of IP
    port: int = 0  # UDP: destination
    either_port: bool = False  # source port, too


# All supported tunnels. To add one:
# 1. A row, its name in the type of config.Capture.tunnels, and its bit below.
# 2. A branch in `tunnel`, with a reader that returns the link type and start of the frame inside, or NO_TUNNEL.
# 3. Frames in tests/capture/frames.py, a reader in tests/capture/reference/tunnels.py, a row in docs/captures.md.
TUNNELS = (
    Tunnel("gre", 47),
    Tunnel("ip_in_ip", 4),
    Tunnel("6in4", 41),
    Tunnel("vxlan", _UDP, 4789),  # IANA's
    Tunnel("vxlan", _UDP, 8472),  # Linux's, from before IANA's
    Tunnel("vxlan", _UDP, 4790),  # the Generic Protocol Extension
    Tunnel("geneve", _UDP, 6081),
    Tunnel("gtp_u", _UDP, 2152, either_port=True),
    Tunnel("capwap", _UDP, 5247, either_port=True),
    Tunnel("tzsp", _UDP, 37008),
)
TUNNEL_NAMES = tuple(dict.fromkeys(row.name for row in TUNNELS))

# for the kernels: each name is one bit of a set
_BIT = {name: 1 << number for number, name in enumerate(TUNNEL_NAMES)}
_GRE, _IP_IN_IP, _6IN4, _VXLAN = _BIT["gre"], _BIT["ip_in_ip"], _BIT["6in4"], _BIT["vxlan"]
_GENEVE, _GTP_U, _CAPWAP, _TZSP = _BIT["geneve"], _BIT["gtp_u"], _BIT["capwap"], _BIT["tzsp"]
_ROWS = np.array([(_BIT[row.name], *row[1:]) for row in TUNNELS], np.int64)  # (T, 4): bit and the other fields

_ETHERNET_BRIDGING, _ERSPAN_2, _ERSPAN_3, _PPP_TYPE, _MPLS_TYPE = 0x6558, 0x88BE, 0x22EB, 0x880B, 0x8847
_NEXT_ETHERNET = 3
_VXLAN_GPE_PORT = 4790
_TZSP_END = 1  # this tag and padding (0) have no length
_GTP_HEADERS = 64  # maximum of extension headers in a GTP packet


def tunnel_set(names: tuple[str, ...]) -> int:
    """The names of the setting as a bit set for `tunnel`."""
    return sum(_BIT[name] for name in names)


@kernel
def tunnel(buffer: Bytes, end: int, headers: Longs, wanted: int) -> tuple[int, int]:
    """(link type, start) of the frame inside the packet of ``headers``; NO_TUNNEL if it is none of ``wanted``.

    ``end``: end of the packet's captured bytes.
    """
    at = headers[TRANSPORT_OFFSET]
    is_udp = headers[PROTOCOL] == _UDP
    if headers[FRAGMENT] != 0 or (is_udp and end - at < _LEAST_BYTES):
        return NO_TUNNEL, at
    found = _recognised(headers, wanted)
    if is_udp:
        at += _UDP_BYTES
    if found == _GRE:
        return _gre(buffer, at, end)
    if found == _IP_IN_IP:
        return IPV4_LINK, at
    if found == _6IN4:
        return IPV6_LINK, at
    if found == _VXLAN:
        return _vxlan(buffer, at, headers[DESTINATION_PORT])
    if found == _GENEVE:
        return _geneve(buffer, at)
    if found == _GTP_U:
        return _gtp(buffer, at, end)
    if found == _CAPWAP:
        return _capwap(buffer, at, end)
    if found == _TZSP:
        return _tzsp(buffer, at, end)
    return NO_TUNNEL, at


@kernel
def _recognised(headers: Longs, wanted: int) -> int:
    """The bit of the first wanted tunnel with the packet's protocol and ports; 0 if there is none."""
    for row in range(len(_ROWS)):
        if _ROWS[row, 1] == headers[PROTOCOL] and wanted & _ROWS[row, 0]:
            port = _ROWS[row, 2]
            by_source = _ROWS[row, 3] and port == headers[SOURCE_PORT]
            if port == 0 or port == headers[DESTINATION_PORT] or by_source:
                bit: int = _ROWS[row, 0]
                return bit
    return 0


@kernel
def _by_type(ether_type: int) -> int:
    if ether_type == 0x0800:
        return IPV4_LINK
    if ether_type == 0x86DD:
        return IPV6_LINK
    if ether_type == _MPLS_TYPE:
        return MPLS_LINK
    if ether_type == _PPP_TYPE:
        return PPP
    return ETHERNET if ether_type == _ETHERNET_BRIDGING else NO_TUNNEL


@kernel
def _by_next_protocol(number: int) -> int:
    if number == 1:
        return IPV4_LINK
    if number == 2:
        return IPV6_LINK
    return ETHERNET if number == _NEXT_ETHERNET else NO_TUNNEL


@kernel
def _gre(buffer: Bytes, at: int, end: int) -> tuple[int, int]:
    """RFC 2784, 2890, 7637 (NVGRE); version 1 is PPTP (RFC 2637); ERSPAN carries mirrored Ethernet frames."""
    if end - at < 4:
        return NO_TUNNEL, at
    flags = be16(buffer, at)
    ether_type = be16(buffer, at + 2)
    size = 4 + 4 * ((flags >> 15 & 1) + (flags >> 13 & 1) + (flags >> 12 & 1))  # checksum, key, sequence number
    if flags & 0x4007 > 1:  # source routing, or an unknown version
        return NO_TUNNEL, at
    if flags & 0x0007 == 1:
        size += 4 if flags & 0x0080 else 0
    inner = _by_type(ether_type)
    if ether_type == _ERSPAN_2:
        size += 8 if flags & 0x1000 else 0  # version 1 has neither a sequence number nor a header
        inner = ETHERNET
    elif ether_type == _ERSPAN_3:
        if end - at < size + 12:
            return NO_TUNNEL, at
        size += 20 if byte(buffer, at + size + 11) & 1 else 12
        inner = ETHERNET
    return inner, at + size


@kernel
def _vxlan(buffer: Bytes, at: int, port: int) -> tuple[int, int]:
    """RFC 7348, and the Generic Protocol Extension (draft-ietf-nvo3-vxlan-gpe)."""
    flags = byte(buffer, at)
    if port == _VXLAN_GPE_PORT:
        return _by_next_protocol(byte(buffer, at + 3) if flags & 0x04 else _NEXT_ETHERNET), at + 8
    return ETHERNET if flags & 0x08 else NO_TUNNEL, at + 8


@kernel
def _geneve(buffer: Bytes, at: int) -> tuple[int, int]:
    """RFC 8926, version 0."""
    flags = byte(buffer, at)
    return _by_type(be16(buffer, at + 2)) if flags >> 6 == 0 else NO_TUNNEL, at + 8 + (flags & 0x3F) * 4


@kernel
def _gtp(buffer: Bytes, at: int, end: int) -> tuple[int, int]:
    """GTP-U version 1, a user's packet (3GPP TS 29.281, 5.1)."""
    flags = byte(buffer, at)
    if flags >> 4 != 3 or byte(buffer, at + 1) != 255:
        return NO_TUNNEL, at
    at += 8
    if flags & 0x07:
        following = byte(buffer, at + 3) if flags & 0x04 and end - at >= 4 else 0
        at += 4
        for _ in range(_GTP_HEADERS):
            if following == 0:
                break
            size = byte(buffer, at) * 4 if end - at >= 4 else 0
            if size == 0 or size > end - at:
                return NO_TUNNEL, at
            following = byte(buffer, at + size - 1)
            at += size
    return RAW, at


@kernel
def _capwap(buffer: Bytes, at: int, end: int) -> tuple[int, int]:
    """CAPWAP's data channel, unencrypted (RFC 5415, 4.3)."""
    size = (byte(buffer, at + 1) >> 3) * 4
    is_802_11 = byte(buffer, at + 2) & 0x3F == 0x03  # binding 1, in its own format
    no_frame = byte(buffer, at + 3) & 0x88  # a fragment, or a keep-alive message
    if byte(buffer, at) != 0 or size < 8 or no_frame:
        return NO_TUNNEL, at
    at += size
    if not is_802_11:
        return ETHERNET, at
    # Cisco's access points swap the bytes of 802.11's fields: then the protocol version is not 0
    is_swapped = end - at >= 2 and byte(buffer, at) & 3 != 0 and byte(buffer, at + 1) & 3 == 0
    return IEEE_802_11_SWAPPED if is_swapped else IEEE_802_11, at


@kernel
def _tzsp(buffer: Bytes, at: int, end: int) -> tuple[int, int]:
    """TaZmen Sniffer Protocol: a received packet with tags, each of one byte or with a length."""
    encapsulated = be16(buffer, at + 2)
    link = ETHERNET if encapsulated == 1 else IEEE_802_11 if encapsulated == 18 else NO_TUNNEL
    if byte(buffer, at) != 1 or byte(buffer, at + 1) != 0:
        return NO_TUNNEL, at
    at += 4
    while end - at >= 2:
        tag = byte(buffer, at)
        at += 1 if tag <= _TZSP_END else 2 + byte(buffer, at + 1)
        if tag == _TZSP_END:
            return link, at
    return NO_TUNNEL, at
