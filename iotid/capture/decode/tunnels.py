"""Tunnels: where the frame that a packet carries starts, and as what link type it is read.

A packet is taken for a tunnel's by its protocol or port and by a header that is sound; a caller takes the tunnel off
only where a packet of IP is found inside. Fragments are left as they are: their tunnel's rest is in other records.
"""

from __future__ import annotations

from typing import Final

from iotid.capture.decode.headers import ABOVE, DESTINATION_PORT, FRAGMENT, PROTOCOL, SOURCE_PORT
from iotid.capture.decode.link import ETHERNET, IPV4_LINK, IPV6_LINK, MPLS_LINK, PPP, RAW
from iotid.capture.decode.wireless import IEEE_802_11, IEEE_802_11_SWAPPED
from iotid.capture.fields import Bytes, Longs, be16, byte
from iotid.capture.jit import kernel

# names of the setting capture.tunnels; a tunnel is one bit of a set, by its place here
TUNNELS = ("gre", "ip_in_ip", "6in4", "vxlan", "geneve", "gtp_u", "capwap", "tzsp")
_GRE, _IP_IN_IP, _6IN4, _VXLAN, _GENEVE, _GTP_U, _CAPWAP, _TZSP = (1 << place for place in range(len(TUNNELS)))

NO_TUNNEL: Final = -1  # instead of a link type

_ETHERNET_BRIDGING, _ERSPAN_2, _ERSPAN_3, _PPP_TYPE, _MPLS_TYPE = 0x6558, 0x88BE, 0x22EB, 0x880B, 0x8847
_NEXT_ETHERNET = 3
_TZSP_END = 1  # this tag and padding, 0, have no length
_GTP_HEADERS = 64  # extension headers of one GTP packet, at most


def tunnel_set(names: tuple[str, ...]) -> int:
    """The names of the setting as the set that `tunnel` takes."""
    return sum(1 << TUNNELS.index(name) for name in names)


@kernel
def tunnel(buffer: Bytes, end: int, headers: Longs, wanted: int) -> tuple[int, int]:
    """The link type and start of the frame inside the packet that ``headers`` describes; NO_TUNNEL: none is wanted.

    ``end``: where what was captured of the packet ends.
    """
    protocol = headers[PROTOCOL]
    at = headers[ABOVE]
    if headers[FRAGMENT] != 0:
        return NO_TUNNEL, at
    if protocol == 4:
        return IPV4_LINK if wanted & _IP_IN_IP else NO_TUNNEL, at
    if protocol == 41:
        return IPV6_LINK if wanted & _6IN4 else NO_TUNNEL, at
    if protocol == 47:
        return _gre(buffer, at, end) if wanted & _GRE else (NO_TUNNEL, at)
    if protocol != 17 or end - at < 16:
        return NO_TUNNEL, at
    port = headers[DESTINATION_PORT]
    other = headers[SOURCE_PORT]
    at += 8
    if port in (4789, 8472) and wanted & _VXLAN:  # IANA's, and Linux's before there was one (RFC 7348)
        return ETHERNET if byte(buffer, at) & 0x08 else NO_TUNNEL, at + 8
    if port == 4790 and wanted & _VXLAN:  # the Generic Protocol Extension (draft-ietf-nvo3-vxlan-gpe)
        return _by_next_protocol(byte(buffer, at + 3) if byte(buffer, at) & 0x04 else _NEXT_ETHERNET), at + 8
    if port == 6081 and wanted & _GENEVE:  # RFC 8926, whose version is 0
        link = _by_type(be16(buffer, at + 2)) if byte(buffer, at) >> 6 == 0 else NO_TUNNEL
        return link, at + 8 + (byte(buffer, at) & 0x3F) * 4
    if 2152 in (port, other) and wanted & _GTP_U:
        return _gtp(buffer, at, end)
    if 5247 in (port, other) and wanted & _CAPWAP:
        return _capwap(buffer, at, end)
    if port == 37008 and wanted & _TZSP:
        return _tzsp(buffer, at, end)
    return NO_TUNNEL, at


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
    """RFC 2784 and 2890; version 1 is PPTP's (RFC 2637); ERSPAN carries mirrored Ethernet frames."""
    if end - at < 4:
        return NO_TUNNEL, at
    flags = be16(buffer, at)
    kind = be16(buffer, at + 2)
    size = 4 + 4 * ((flags >> 15 & 1) + (flags >> 13 & 1) + (flags >> 12 & 1))  # checksum, key, sequence number
    if flags & 0x4007 > 1:  # source routing, or a version that nobody knows
        return NO_TUNNEL, at
    if flags & 0x0007 == 1:
        size += 4 if flags & 0x0080 else 0
    inner = _by_type(kind)
    if kind == _ERSPAN_2:
        size += 8 if flags & 0x1000 else 0  # version 1 has neither a sequence number nor a header
        inner = ETHERNET
    elif kind == _ERSPAN_3:
        if end - at < size + 12:
            return NO_TUNNEL, at
        size += 20 if byte(buffer, at + size + 11) & 1 else 12
        inner = ETHERNET
    return inner, at + size


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
    """CAPWAP's data channel in the clear (RFC 5415, 4.3)."""
    size = (byte(buffer, at + 1) >> 3) * 4
    is_802_11 = byte(buffer, at + 2) & 0x3F == 0x03  # binding 1, in its own format
    no_frame = byte(buffer, at + 3) & 0x88  # a fragment, or a message that keeps the channel alive
    if byte(buffer, at) != 0 or size < 8 or no_frame:
        return NO_TUNNEL, at
    at += size
    if not is_802_11:
        return ETHERNET, at
    # Cisco's access points swap the bytes of 802.11's fields: seen by a protocol version that is not 0
    is_swapped = end - at >= 2 and byte(buffer, at) & 3 != 0 and byte(buffer, at + 1) & 3 == 0
    return IEEE_802_11_SWAPPED if is_swapped else IEEE_802_11, at


@kernel
def _tzsp(buffer: Bytes, at: int, end: int) -> tuple[int, int]:
    """TaZmen Sniffer Protocol: a received packet and its tags, each of one byte or with its length."""
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
