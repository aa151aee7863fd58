"""From a captured frame to its IP header: link layers, VLAN tags, MPLS labels and PPPoE sessions.

Link types are those of https://www.tcpdump.org/linktypes.html, EtherTypes those of IANA. Each reader checks that the
bytes that it wants were captured; every turn of the loop over what lies between link and IP ends or moves on.
"""

from __future__ import annotations

from iotid.capture.fields import Bytes, Longs, be16, be32, be48, byte, u16, u32
from iotid.capture.headers import AT, DESTINATION_MAC, SOURCE_MAC, VERSION, VLAN
from iotid.capture.jit import kernel
from iotid.capture.wireless import (
    IEEE_802_11,
    IEEE_802_11_PADDED,
    IEEE_802_11_SWAPPED,
    NO_HEADER,
    PPI,
    PRISM,
    PRISM_AVS,
    RADIOTAP,
    data_of_frame,
    radio_header,
)

# what became of a frame below IP
FOUND, NOT_IP, CUT_OFF, UNKNOWN_LINK = range(4)

_NULL, ETHERNET, PPP, _RAW_BSD, _RAW_OPENBSD, _PPP_HDLC, _PPPOE_LINK = 0, 1, 9, 12, 14, 50, 51
RAW, _C_HDLC, _LOOP, _COOKED = 101, 104, 108, 113
MPLS_LINK, IPV4_LINK, IPV6_LINK, _NFLOG, _COOKED_2 = 219, 228, 229, 239, 276

_IPV4, _IPV6 = 0x0800, 0x86DD
_VLAN, _QINQ, _QINQ_OLD = 0x8100, 0x88A8, 0x9100
_MPLS, _MPLS_MULTICAST, _PPPOE = 0x8847, 0x8848, 0x8864
_LLC = 1500  # up to here the field is a length, and 802.2 follows
_SNAP, _SNAP_BRIDGED = 0xAAAA03000000, 0xAAAA030000F8  # both are followed by one of Ethernet's own types

# what stands for an EtherType inside this module only
_NONE = -1
_BY_VERSION = -2  # the IP header's first four bits tell

_NFLOG_HARDWARE_ADDRESS, _NFLOG_PAYLOAD = 8, 9


@kernel
def network_layer(buffer: Bytes, start: int, end: int, link: int, headers: Longs) -> int:
    """Find the IP header of the frame in ``buffer[start:end]``: return one of FOUND … UNKNOWN_LINK.

    Sets AT and, where FOUND, VERSION; SOURCE_MAC, DESTINATION_MAC and VLAN as far as they were seen, else to -1.
    """
    headers[VLAN] = -1
    headers[SOURCE_MAC] = -1
    headers[DESTINATION_MAC] = -1
    headers[AT] = start
    if link in (RADIOTAP, PPI, PRISM, PRISM_AVS):
        link, start = radio_header(buffer, start, end, link)
        if link == NO_HEADER:
            return CUT_OFF
    known, kind, at = _link_layer(buffer, start, end, link, headers)
    while known == FOUND:
        if kind in (_IPV4, _IPV6):
            headers[AT] = at
            headers[VERSION] = 4 if kind == _IPV4 else 6
            return FOUND
        if kind in (_VLAN, _QINQ, _QINQ_OLD):
            if end - at < 4:
                return CUT_OFF
            identifier = be16(buffer, at) & 0x0FFF
            if identifier > 0:  # 0 is a priority tag and names no VLAN (IEEE 802.1Q, 9.6)
                headers[VLAN] = identifier
            kind = be16(buffer, at + 2)
            at += 4
        elif kind in (_MPLS, _MPLS_MULTICAST):
            if end - at < 4:
                return CUT_OFF
            if be32(buffer, at) & 0x100:  # bottom of the stack
                kind = _BY_VERSION
            at += 4
        elif kind == _PPPOE:
            if end - at < 6:
                return CUT_OFF
            kind, at = _ppp(buffer, at + 6, end)
        elif kind == _BY_VERSION:
            if end - at < 1:
                return CUT_OFF
            version = byte(buffer, at) >> 4
            kind = _IPV4 if version == 4 else _IPV6 if version == 6 else _NONE
        elif 0 <= kind <= _LLC and end - at >= 8 and be48(buffer, at) in (_SNAP, _SNAP_BRIDGED):
            kind = be16(buffer, at + 6)
            at += 8
        else:
            return NOT_IP
    return known


@kernel
def _link_layer(buffer: Bytes, start: int, end: int, link: int, headers: Longs) -> tuple[int, int, int]:
    """What follows the link header, as an EtherType, and where; CUT_OFF where the header is not whole."""
    if link == ETHERNET and end - start >= 14:  # most frames are
        headers[DESTINATION_MAC] = be48(buffer, start)
        headers[SOURCE_MAC] = be48(buffer, start + 6)
        return FOUND, be16(buffer, start + 12), start + 14
    if link in (RAW, _RAW_BSD, _RAW_OPENBSD):
        return FOUND, _BY_VERSION, start
    if link == IPV4_LINK:
        return FOUND, _IPV4, start
    if link == IPV6_LINK:
        return FOUND, _IPV6, start
    if link == _PPPOE_LINK:
        return FOUND, _PPPOE, start
    if link == MPLS_LINK:
        return FOUND, _MPLS, start
    needed = _header_bytes(link)
    if needed == 0:
        return UNKNOWN_LINK, _NONE, start
    if end - start < needed:
        return CUT_OFF, _NONE, start
    if link == _COOKED:
        if be16(buffer, start + 4) == 6:
            headers[SOURCE_MAC] = be48(buffer, start + 6)
        return FOUND, be16(buffer, start + 14), start + 16
    if link == _COOKED_2:
        if byte(buffer, start + 11) == 6:
            headers[SOURCE_MAC] = be48(buffer, start + 12)
        return FOUND, be16(buffer, start), start + 20
    if link in (IEEE_802_11, IEEE_802_11_PADDED, IEEE_802_11_SWAPPED):
        at = data_of_frame(buffer, start, end, link, headers)
        return CUT_OFF if at == 0 else FOUND, 0 if at > 0 else _NONE, at
    if link == _NFLOG:
        return _nflog(buffer, start, end, headers)
    if link == _C_HDLC or (link in (PPP, _PPP_HDLC) and byte(buffer, start) in (0x0F, 0x8F)):
        return FOUND, be16(buffer, start + 2), start + 4
    if link in (PPP, _PPP_HDLC):
        kind, at = _ppp(buffer, start, end)
        return FOUND, kind, at
    family = u32(buffer, start, False)  # in the byte order of whoever captured: the smaller reading is the right one
    return FOUND, _by_family(min(family, be32(buffer, start))), start + 4


@kernel
def _nflog(buffer: Bytes, start: int, end: int, headers: Longs) -> tuple[int, int, int]:
    """Linux's netfilter log: attributes of a length and a type, both in the byte order of whoever captured."""
    kind = _by_family(byte(buffer, start))
    at = start + 4
    while end - at >= 4:
        big = u16(buffer, at, False) > be16(buffer, at)  # lengths are small: the smaller reading is the right one
        size = u16(buffer, at, big)
        attribute = u16(buffer, at + 2, big) & 0x7FFF
        if size < 4:
            return FOUND, _NONE, start
        if attribute == _NFLOG_PAYLOAD:
            return FOUND, kind, at + 4
        if attribute == _NFLOG_HARDWARE_ADDRESS and size >= 16 and end - at >= 16 and be16(buffer, at + 4) == 6:
            headers[SOURCE_MAC] = be48(buffer, at + 8)
        at += (size + 3) // 4 * 4
    return CUT_OFF, _NONE, start


@kernel
def _header_bytes(link: int) -> int:
    """Bytes of the link header that must be there; 0 for a link type that is not read."""
    if link == ETHERNET:
        return 14
    if link == _COOKED:
        return 16
    if link == _COOKED_2:
        return 20
    if link in (IEEE_802_11, IEEE_802_11_PADDED, IEEE_802_11_SWAPPED):
        return 2
    return 4 if link in (_NULL, _LOOP, PPP, _PPP_HDLC, _C_HDLC, _NFLOG) else 0


@kernel
def _by_family(family: int) -> int:
    """EtherType of an address family; IPv6 has another number on NetBSD, FreeBSD, macOS and Linux."""
    if family == 2:
        return _IPV4
    return _IPV6 if family in (24, 28, 30, 10) else _NONE


@kernel
def _ppp(buffer: Bytes, at: int, end: int) -> tuple[int, int]:
    """EtherType of what a PPP frame carries (RFC 1661), and where it starts."""
    if end - at >= 2 and be16(buffer, at) == 0xFF03:  # address and control, as in HDLC (RFC 1662)
        at += 2
    if end - at < 2:
        return _NONE, at
    if buffer[at] & 1:  # compressed to one byte
        protocol = byte(buffer, at)
        at += 1
    else:
        protocol = be16(buffer, at)
        at += 2
    if protocol == 0x0021:
        return _IPV4, at
    if protocol == 0x0057:
        return _IPV6, at
    if protocol in (0x0281, 0x0283):
        return _MPLS, at
    return _NONE, at
