"""From a captured frame to its IP header: link layers, VLAN tags, MPLS labels and PPPoE sessions. No tunnel is
taken off.

Link types are those of https://www.tcpdump.org/linktypes.html, EtherTypes those of IANA. Each reader checks that the
bytes that it wants were captured; every turn of the loop over what lies between link and IP ends or moves on.
"""

from __future__ import annotations

from iotid.capture.fields import Bytes, be16, be32, be48, byte, u32
from iotid.capture.jit import kernel

# what became of a frame below IP
FOUND, NOT_IP, CUT_OFF, UNKNOWN_LINK = range(4)

_NULL, _ETHERNET, _PPP, _RAW_BSD, _RAW_OPENBSD, _PPP_HDLC, _PPPOE_LINK = 0, 1, 9, 12, 14, 50, 51
_RAW, _C_HDLC, _LOOP, _COOKED, _IPV4_LINK, _IPV6_LINK, _COOKED_2 = 101, 104, 108, 113, 228, 229, 276

_IPV4, _IPV6 = 0x0800, 0x86DD
_VLAN, _QINQ, _QINQ_OLD = 0x8100, 0x88A8, 0x9100
_MPLS, _MPLS_MULTICAST, _PPPOE = 0x8847, 0x8848, 0x8864
_LLC = 1500  # up to here the field is a length, and 802.2 follows

# what stands for an EtherType inside this module only
_NONE = -1
_BY_VERSION = -2  # the IP header's first four bits tell


@kernel
def network_layer(buffer: Bytes, start: int, end: int, link: int) -> tuple[int, int, int, int, int, int]:
    """Find the IP header of the frame in ``buffer[start:end]``.

    Returns one of FOUND … UNKNOWN_LINK, where the header starts, its version, the innermost VLAN or -1, and the
    sender's and receiver's MAC or -1.
    """
    vlan = source = destination = -1
    known, kind, at = _link_layer(buffer, start, end, link)
    if known != FOUND:
        return known, at, 0, vlan, source, destination
    if link == _ETHERNET:
        destination = be48(buffer, start)
        source = be48(buffer, start + 6)
    elif link == _COOKED and be16(buffer, start + 4) == 6:
        source = be48(buffer, start + 6)
    elif link == _COOKED_2 and buffer[start + 11] == 6:
        source = be48(buffer, start + 12)

    while True:
        if kind == _IPV4:
            return FOUND, at, 4, vlan, source, destination
        if kind == _IPV6:
            return FOUND, at, 6, vlan, source, destination
        if kind in (_VLAN, _QINQ, _QINQ_OLD):
            if end - at < 4:
                return CUT_OFF, at, 0, vlan, source, destination
            identifier = be16(buffer, at) & 0x0FFF
            if identifier > 0:  # 0 is a priority tag and names no VLAN (IEEE 802.1Q, 9.6)
                vlan = identifier
            kind = be16(buffer, at + 2)
            at += 4
        elif kind in (_MPLS, _MPLS_MULTICAST):
            if end - at < 4:
                return CUT_OFF, at, 0, vlan, source, destination
            if be32(buffer, at) & 0x100:  # bottom of the stack
                kind = _BY_VERSION
            at += 4
        elif kind == _PPPOE:
            if end - at < 6:
                return CUT_OFF, at, 0, vlan, source, destination
            kind, at = _ppp(buffer, at + 6, end)
        elif kind == _BY_VERSION:
            if end - at < 1:
                return CUT_OFF, at, 0, vlan, source, destination
            version = byte(buffer, at) >> 4
            kind = _IPV4 if version == 4 else _IPV6 if version == 6 else _NONE
        elif 0 <= kind <= _LLC and end - at >= 8 and be48(buffer, at) == 0xAAAA03000000:  # SNAP, Ethernet's own types
            kind = be16(buffer, at + 6)
            at += 8
        else:
            return NOT_IP, at, 0, vlan, source, destination


@kernel
def _link_layer(buffer: Bytes, start: int, end: int, link: int) -> tuple[int, int, int]:
    """What follows the link header, as an EtherType, and where; CUT_OFF where the header is not whole."""
    size = end - start
    if link in (_RAW, _RAW_BSD, _RAW_OPENBSD):
        return FOUND, _BY_VERSION, start
    if link == _IPV4_LINK:
        return FOUND, _IPV4, start
    if link == _IPV6_LINK:
        return FOUND, _IPV6, start
    if link == _PPPOE_LINK:
        return FOUND, _PPPOE, start
    needed = _header_bytes(link)
    if needed == 0:
        return UNKNOWN_LINK, _NONE, start
    if size < needed:
        return CUT_OFF, _NONE, start
    if link == _ETHERNET:
        return FOUND, be16(buffer, start + 12), start + 14
    if link == _COOKED:
        return FOUND, be16(buffer, start + 14), start + 16
    if link == _COOKED_2:
        return FOUND, be16(buffer, start), start + 20
    if link == _C_HDLC or (link == _PPP_HDLC and buffer[start] in (0x0F, 0x8F)):
        return FOUND, be16(buffer, start + 2), start + 4
    if link in (_PPP, _PPP_HDLC):
        kind, at = _ppp(buffer, start, end)
        return FOUND, kind, at
    family = u32(buffer, start, False)  # in the byte order of whoever captured: the smaller reading is the right one
    return FOUND, _by_family(min(family, be32(buffer, start))), start + 4


@kernel
def _header_bytes(link: int) -> int:
    """Bytes of the link header that must be there; 0 for a link type that is not read."""
    if link == _ETHERNET:
        return 14
    if link == _COOKED:
        return 16
    if link == _COOKED_2:
        return 20
    return 4 if link in (_NULL, _LOOP, _PPP, _PPP_HDLC, _C_HDLC) else 0


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
