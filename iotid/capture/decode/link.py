"""Reads the link layer of a frame: the link types of https://www.tcpdump.org/linktypes.html.

Each reader checks that the bytes it needs were captured.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from iotid.capture.decode.ether_types import (
    BY_VERSION,
    DSA_HAS_VLAN,
    IPV4,
    IPV6,
    LLC,
    MPLS,
    NO_ETHER_TYPE,
    PPPOE,
    ethernet,
    of_address_family,
    set_vlan,
)
from iotid.capture.decode.frame_relay import frame_relay
from iotid.capture.decode.headers import CUT_OFF, FOUND, SOURCE_MAC, UNKNOWN_LINK
from iotid.capture.decode.netfilter import netfilter_log
from iotid.capture.decode.ppp import ppp
from iotid.capture.decode.wireless import (
    IEEE_802_11,
    IEEE_802_11_PADDED,
    IEEE_802_11_SWAPPED,
    LINK_TYPE_BITS,
    MESH_SUBFRAME,
    NO_HEADER,
    PPI,
    PRISM,
    PRISM_AVS,
    RADIOTAP,
    SUBFRAME,
    data_of_frame,
    data_of_subframe,
    radio_header,
)
from iotid.capture.fields import Bytes, Longs, be16, be32, be48, byte, u32
from iotid.capture.jit import kernel

# link types that the code refers to
_NULL, ETHERNET, PPP, _PPP_HDLC, RAW, _C_HDLC, _FRAME_RELAY, _LOOP = 0, 1, 9, 50, 101, 104, 107, 108
_ENC, _COOKED, _PFLOG, MPLS_LINK, IPV4_LINK, IPV6_LINK, _NETFILTER, _IPOIB = 109, 113, 117, 219, 228, 229, 239, 242
PKTAP, PKTAP_DARWIN, _COOKED_2, _DSA_BROADCOM, _DSA_MARVELL, _DSA_ETHER_TYPE = 258, 149, 276, 281, 284, 285

_READ: Final = -3  # instead of an EtherType: `link_layer` reads it from the header
_NO_LINK: Final = -1  # instead of a link type: no other link layer follows
_IN_HEADER: Final = -2  # instead of a link type: `unwrapped` reads it from the header


class LinkType(NamedTuple):
    """A link type: its header and what follows it."""

    number: int
    header_bytes: int  # minimum
    ether_type: int = _READ
    inner: int = _NO_LINK  # link type of the frame that follows, if the capturing system added the header


# All supported link types. To add one:
# 1. A row: number, bytes of its header, and the EtherType or link type that follows, if that is fixed.
# 2. If it is not: a branch in `link_layer` (which also sets the MACs), or in `unwrapped` for a link type.
# 3. Frames in tests/capture/frames.py, a reader in tests/capture/reference/link.py, a row in docs/captures.md.
LINK_TYPES = (
    LinkType(_NULL, 4),
    LinkType(ETHERNET, 14),
    LinkType(8, 16, inner=RAW),  # SLIP
    LinkType(PPP, 4),
    LinkType(12, 0, BY_VERSION),  # raw IP
    LinkType(14, 0, BY_VERSION),  # raw IP on OpenBSD
    LinkType(_PPP_HDLC, 4),
    LinkType(51, 0, PPPOE),
    LinkType(100, 0, LLC),
    LinkType(RAW, 0, BY_VERSION),
    LinkType(_C_HDLC, 4),
    LinkType(IEEE_802_11, 2),
    LinkType(_FRAME_RELAY, 4),
    LinkType(_LOOP, 4),
    LinkType(_ENC, 12),
    LinkType(_COOKED, 16),
    LinkType(_PFLOG, 4),
    LinkType(PRISM, 8, inner=_IN_HEADER),
    LinkType(RADIOTAP, 8, inner=_IN_HEADER),
    LinkType(PKTAP_DARWIN, 12, inner=_IN_HEADER),
    LinkType(PRISM_AVS, 8, inner=_IN_HEADER),
    LinkType(166, 2, inner=PPP),  # of pppd, direction instead of address
    LinkType(PPI, 8, inner=_IN_HEADER),
    LinkType(204, 1, inner=PPP),  # with direction
    LinkType(205, 1, inner=_C_HDLC),  # with direction
    LinkType(206, 1, inner=_FRAME_RELAY),  # with direction
    LinkType(MPLS_LINK, 0, MPLS),
    LinkType(IPV4_LINK, 0, IPV4),
    LinkType(IPV6_LINK, 0, IPV6),
    LinkType(_NETFILTER, 4),
    LinkType(240, 4, inner=ETHERNET),  # netANALYZER
    LinkType(_IPOIB, 44),
    LinkType(PKTAP, 12, inner=_IN_HEADER),
    LinkType(274, 8, inner=ETHERNET),  # mPacket
    LinkType(_COOKED_2, 20),
    LinkType(_DSA_BROADCOM, 18),
    LinkType(282, 4, inner=ETHERNET),  # Broadcom's switch tag in front
    LinkType(_DSA_MARVELL, 18),
    LinkType(_DSA_ETHER_TYPE, 22),
)

# the table by number, for the kernels; -1: not supported
_SIZE = 1 + max(row.number for row in LINK_TYPES)
_HEADER_BYTES, _ETHER_TYPE, _INNER = np.full(_SIZE, -1), np.full(_SIZE, _READ), np.full(_SIZE, _NO_LINK)
for _row in LINK_TYPES:
    _HEADER_BYTES[_row.number], _ETHER_TYPE[_row.number], _INNER[_row.number] = _row[1:]

_PKTAP_BYTES, _PKTAP_MOST_BYTES = 108, 1024


@kernel
def unwrapped(buffer: Bytes, start: int, end: int, link: int) -> tuple[int, int]:
    """Skip headers that capturing systems add: (link type, start of the frame); NO_HEADER if one is incomplete.

    Each iteration advances at least one byte.
    """
    while link != NO_HEADER:
        if link in (RADIOTAP, PPI, PRISM, PRISM_AVS):
            link, start = radio_header(buffer, start, end, link)
        elif link in (PKTAP, PKTAP_DARWIN):
            if end - start < 12:
                return NO_HEADER, start
            size = u32(buffer, start, False)
            if not _PKTAP_BYTES <= size <= _PKTAP_MOST_BYTES:  # not a PKTAP header
                return link, start
            if size > end - start:
                return NO_HEADER, start
            link = min(u32(buffer, start + 8, False), LINK_TYPE_BITS)
            start += size
        elif 0 <= link < _SIZE and _INNER[link] != _NO_LINK:
            if _HEADER_BYTES[link] > end - start:
                return NO_HEADER, start
            start += _HEADER_BYTES[link]
            link = _INNER[link]
        else:
            return link, start
    return link, start


@kernel
def link_layer(buffer: Bytes, start: int, end: int, link: int, headers: Longs) -> tuple[int, int, int]:
    """(FOUND, CUT_OFF or UNKNOWN_LINK; EtherType after the link header; where that starts). Sets the MACs."""
    if link == ETHERNET and end - start >= 14:
        return FOUND, ethernet(buffer, start, headers), start + 14
    if link >= SUBFRAME:
        at = data_of_subframe(buffer, start, end, link >= MESH_SUBFRAME, headers)
        return CUT_OFF if at == 0 else FOUND, LLC, at
    number = link & LINK_TYPE_BITS  # without the internal flags of 802.11
    if number >= _SIZE or _HEADER_BYTES[number] < 0 or _INNER[number] != _NO_LINK:
        return UNKNOWN_LINK, NO_ETHER_TYPE, start
    at = start + _HEADER_BYTES[number]
    if at > end:
        return CUT_OFF, NO_ETHER_TYPE, start
    if _ETHER_TYPE[number] != _READ:
        return FOUND, _ETHER_TYPE[number], at
    if link == _COOKED:
        if be16(buffer, start + 4) == 6:
            headers[SOURCE_MAC] = be48(buffer, start + 6)
        return FOUND, be16(buffer, start + 14), at
    if link == _COOKED_2:
        if byte(buffer, start + 11) == 6:
            headers[SOURCE_MAC] = be48(buffer, start + 12)
        return FOUND, be16(buffer, start), at
    if link in (IEEE_802_11, IEEE_802_11_PADDED, IEEE_802_11_SWAPPED):
        at = data_of_frame(buffer, start, end, link, headers)
        return CUT_OFF if at == 0 else FOUND, LLC if at > 0 else NO_ETHER_TYPE, at
    if link == _NETFILTER:
        return netfilter_log(buffer, start, end, headers)
    if link in (_DSA_BROADCOM, _DSA_MARVELL, _DSA_ETHER_TYPE):
        ethernet(buffer, start, headers)
        if link != _DSA_BROADCOM and byte(buffer, at - 6) & DSA_HAS_VLAN:
            set_vlan(buffer, at - 4, headers)
        return FOUND, be16(buffer, at - 2), at
    if link == _IPOIB:
        return FOUND, be16(buffer, start + 40), at
    if link == _PFLOG:
        at = start + (byte(buffer, start) + 3) // 4 * 4
        return FOUND if start + 4 <= at <= end else CUT_OFF, of_address_family(byte(buffer, start + 1)), at
    if link == _FRAME_RELAY:
        return frame_relay(buffer, start, end)
    if link == _C_HDLC or (link in (PPP, _PPP_HDLC) and byte(buffer, start) in (0x0F, 0x8F)):
        return FOUND, be16(buffer, start + 2), start + 4
    if link in (PPP, _PPP_HDLC):
        ether_type, at = ppp(buffer, start, end)
        return FOUND, ether_type, at
    # BSD's loopback and enc, in the byte order of the capturing system: the smaller value is the right one
    family = min(u32(buffer, start, False), be32(buffer, start))
    return FOUND, of_address_family(family), at
