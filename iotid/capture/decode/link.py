"""From a captured frame to its IP header: link layers, and the tags and headers that stand between them and IP.

Link types are those of https://www.tcpdump.org/linktypes.html, EtherTypes those of IANA and IEEE; README lists what is
read. Each reader checks that the bytes that it wants were captured; every turn of a loop ends or moves on.
"""

from __future__ import annotations

from iotid.capture.decode.headers import AT, DESTINATION_MAC, SOURCE_MAC, UNREAD, VERSION, VLAN
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
from iotid.capture.fields import Bytes, Longs, be16, be32, be48, byte, u16, u32
from iotid.capture.jit import kernel

# what became of a frame below IP; the last two: a number that is not read, in UNREAD
FOUND, NOT_IP, CUT_OFF, UNKNOWN_LINK, UNKNOWN_TYPE = range(5)

_NULL, ETHERNET, PPP, _RAW_BSD, _RAW_OPENBSD, _PPP_HDLC, _PPPOE_LINK = 0, 1, 9, 12, 14, 50, 51
_LLC_LINK, RAW, _C_HDLC, _FRAME_RELAY, _LOOP, _ENC, _COOKED, _PFLOG = 100, 101, 104, 107, 108, 109, 113, 117
MPLS_LINK, IPV4_LINK, IPV6_LINK, _NFLOG, _IPOIB, _COOKED_2 = 219, 228, 229, 239, 242, 276
_DSA_BROADCOM, _DSA_MARVELL, _DSA_ETHER_TYPE = 281, 284, 285

# a header of its own in front of a frame of another link type
PKTAP, PKTAP_DARWIN = 258, 149
_SLIP, _PPP_PPPD, _PPP_DIRECTION, _C_HDLC_DIRECTION, _FRAME_RELAY_DIRECTION = 8, 166, 204, 205, 206
_NETANALYZER, _MPACKET, _DSA_BROADCOM_FIRST = 240, 274, 282
_PKTAP_BYTES, _PKTAP_MOST_BYTES = 108, 1024

_IPV4, _IPV6 = 0x0800, 0x86DD
_VLAN, _QINQ, _QINQ_OLD, _QINQ_OLD_2, _QINQ_OLD_3 = 0x8100, 0x88A8, 0x9100, 0x9200, 0x9300
_VN_TAG, _E_TAG, _CISCO_METADATA, _T_TAG = 0x8926, 0x893F, 0x8909, 0x8988  # Cisco, IEEE 802.1BR, Cisco, Cisco
_HSR, _R_TAG = 0x892F, 0xF1C1  # IEC 62439-3, IEEE 802.1CB
_EDSA = 0xDADA  # Marvell's switch tag, as Linux shows it
_I_TAG, _BRIDGING, _FABRIC_PATH = 0x88E7, 0x6558, 0x8903  # IEEE 802.1ah, RFC 1701, Cisco: an Ethernet header follows
_MACSEC = 0x88E5  # IEEE 802.1AE
_MPLS, _MPLS_MULTICAST, _PPPOE, _PPP_TYPE = 0x8847, 0x8848, 0x8864, 0x880B
_LLC = 1500  # up to here the field is a length, and 802.2 follows
_LLC_JUMBO = 0x8870  # the same, of frames too long for a length
_SNAP, _SNAP_BRIDGED = 0xAAAA03000000, 0xAAAA030000F8  # both are followed by one of Ethernet's own types

# what stands for an EtherType inside this module only
_NONE = -1
_BY_VERSION = -2  # the IP header's first four bits tell

_DSA_HAS_VLAN = 0x20  # bit of the first byte of Marvell's tag: it stands for a VLAN tag
_ENCRYPTED, _CHANGED, _HAS_CHANNEL = 0x08, 0x04, 0x20  # bits of MACsec's first byte

_NFLOG_HARDWARE_ADDRESS, _NFLOG_PAYLOAD = 8, 9
_NFLOG_TYPE = 0x3FFF  # bits of an attribute's type


@kernel
def network_layer(buffer: Bytes, start: int, end: int, link: int, headers: Longs) -> int:
    """Find the IP header of the frame in ``buffer[start:end]``: return one of FOUND … UNKNOWN_TYPE.

    Sets AT and, where FOUND, VERSION; SOURCE_MAC, DESTINATION_MAC and VLAN as far as they were seen, else to -1.
    """
    headers[VLAN] = -1
    headers[SOURCE_MAC] = -1
    headers[DESTINATION_MAC] = -1
    headers[AT] = start
    if link != ETHERNET:  # most frames are
        link, start = unwrapped(buffer, start, end, link)
        if link == NO_HEADER:
            return CUT_OFF
    known, kind, at = _link_layer(buffer, start, end, link, headers)
    if known == UNKNOWN_LINK:
        headers[UNREAD] = link
    while known == FOUND:
        if kind in (_IPV4, _IPV6):
            headers[AT] = at
            headers[VERSION] = 4 if kind == _IPV4 else 6
            return FOUND
        tag = _tag_bytes(kind)
        if tag > 0:
            if end - at < tag + 2:
                return CUT_OFF
            if tag == 2 or (kind == _EDSA and byte(buffer, at + 2) & _DSA_HAS_VLAN):
                _see_vlan(buffer, at + tag - 2, headers)
            kind = be16(buffer, at + tag)
            at += tag + 2
        elif kind in (_I_TAG, _BRIDGING, _FABRIC_PATH):
            at += 4 if kind == _I_TAG else 2 if kind == _FABRIC_PATH else 0
            if end - at < 14:
                return CUT_OFF
            kind = _ethernet(buffer, at, headers)
            at += 14
        elif kind == _MACSEC:
            if end - at < 6:
                return CUT_OFF
            control = byte(buffer, at)
            if control & (_ENCRYPTED | _CHANGED):
                headers[UNREAD] = kind
                return UNKNOWN_TYPE
            at += 14 if control & _HAS_CHANNEL else 6
            if end - at < 2:
                return CUT_OFF
            kind = be16(buffer, at)
            at += 2
        elif kind in (_MPLS, _MPLS_MULTICAST):
            if end - at < 4:
                return CUT_OFF
            if be32(buffer, at) & 0x100:  # bottom of the stack
                kind = _BY_VERSION
            at += 4
        elif kind in (_PPPOE, _PPP_TYPE):
            if kind == _PPPOE:
                if end - at < 6:
                    return CUT_OFF
                at += 6
            kind, at = _ppp(buffer, at, end)
        elif kind == _BY_VERSION:
            if end - at < 1:
                return CUT_OFF
            version = byte(buffer, at) >> 4
            kind = _IPV4 if version == 4 else _IPV6 if version == 6 else _NONE
        elif (0 <= kind <= _LLC or kind == _LLC_JUMBO) and end - at >= 8 and be48(buffer, at) in (_SNAP, _SNAP_BRIDGED):
            kind = be16(buffer, at + 6)
            at += 8
        elif kind <= _LLC or _carries_no_ip(kind):
            return NOT_IP
        else:
            headers[UNREAD] = kind
            return UNKNOWN_TYPE
    return known


@kernel
def unwrapped(buffer: Bytes, start: int, end: int, link: int) -> tuple[int, int]:
    """The link type and start of the frame behind what a capturing system puts in front; NO_HEADER: that is not whole.

    Each turn of the loop goes on by a byte at least.
    """
    while link != NO_HEADER:
        if link in (RADIOTAP, PPI, PRISM, PRISM_AVS):
            link, start = radio_header(buffer, start, end, link)
        elif link in (PKTAP, PKTAP_DARWIN):
            if end - start < 12:
                return NO_HEADER, start
            size = u32(buffer, start, False)
            if not _PKTAP_BYTES <= size <= _PKTAP_MOST_BYTES:  # what is no such header keeps its link type
                return link, start
            if size > end - start:
                return NO_HEADER, start
            link = min(u32(buffer, start + 8, False), LINK_TYPE_BITS)
            start += size
        else:
            inner, size = _behind_fixed(link)
            if size == 0:
                return link, start
            if size > end - start:
                return NO_HEADER, start
            link = inner
            start += size
    return link, start


@kernel
def _behind_fixed(link: int) -> tuple[int, int]:
    """The link type behind a header of fixed size, and that size; 0: the link type has no such header."""
    if link == _SLIP:
        return RAW, 16
    if link == _PPP_PPPD:
        return PPP, 2
    if link == _PPP_DIRECTION:
        return PPP, 1
    if link == _C_HDLC_DIRECTION:
        return _C_HDLC, 1
    if link == _FRAME_RELAY_DIRECTION:
        return _FRAME_RELAY, 1
    if link in (_NETANALYZER, _DSA_BROADCOM_FIRST):
        return ETHERNET, 4
    return ETHERNET, 8 if link == _MPACKET else 0


@kernel
def _tag_bytes(kind: int) -> int:
    """Bytes of a tag between its own EtherType and the next one; 0: it is no tag."""
    if kind in (_VLAN, _QINQ, _QINQ_OLD, _QINQ_OLD_2, _QINQ_OLD_3):
        return 2
    if kind in (_VN_TAG, _HSR, _R_TAG):
        return 4
    return 6 if kind in (_E_TAG, _CISCO_METADATA, _T_TAG, _EDSA) else 0


@kernel
def _carries_no_ip(kind: int) -> bool:
    """Whether frames of an EtherType above 1500 are known to carry something else than packets of IP."""
    return kind in (
        0x0806, 0x8035, 0x88CC, 0x888E, 0x88C7, 0x8863, 0x0842, 0x9000,  # (R)ARP, LLDP, EAPOL, PPPoE's discovery, tests
        0x2000, 0x2003, 0x8808, 0x8809, 0x8902, 0x88E3, 0x88F5, 0x88F6, 0x8940, 0x88FB,  # CDP, IEEE's and PRP's control
        0x22EA, 0x22F0, 0x22F4, 0x88F7, 0x890D, 0x893A, 0x887B, 0x88E1, 0x8912,  # AVB, PTP, TDLS, 1905.1, power lines
        0x6000, 0x6001, 0x6002, 0x6003, 0x6004, 0x6005, 0x6006, 0x6007,  # DEC
        0x809B, 0x80F3, 0x8137, 0x8138, 0x8204, 0x8102, 0x8899, 0x886F, 0x88D9,  # AppleTalk, IPX, QNX, loops, LLTD
        0x8819, 0x8892, 0x88A4, 0x88AB, 0x88B8, 0x88B9, 0x88BA, 0x88CD,  # CobraNet, fieldbuses, substations
        0x88A2, 0x889A, 0x8906, 0x8914, 0x8915, 0x88F8, 0x88CA, 0x88D8, 0x88DC,  # storage, NC-SI, TIPC, circuits, WSMP
    )  # fmt: skip


@kernel
def _see_vlan(buffer: Bytes, at: int, headers: Longs) -> None:
    identifier = be16(buffer, at) & 0x0FFF
    if identifier > 0:  # 0 is a priority tag and names no VLAN (IEEE 802.1Q, 9.6)
        headers[VLAN] = identifier


@kernel
def _ethernet(buffer: Bytes, at: int, headers: Longs) -> int:
    """The EtherType of the Ethernet header at ``at``, of which all 14 bytes are there."""
    headers[DESTINATION_MAC] = be48(buffer, at)
    headers[SOURCE_MAC] = be48(buffer, at + 6)
    return be16(buffer, at + 12)


@kernel
def _link_layer(buffer: Bytes, start: int, end: int, link: int, headers: Longs) -> tuple[int, int, int]:
    """What follows the link header, as an EtherType, and where; CUT_OFF where the header is not whole."""
    if link == ETHERNET and end - start >= 14:
        return FOUND, _ethernet(buffer, start, headers), start + 14
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
    if link == _LLC_LINK:
        return FOUND, 0, start
    if link >= SUBFRAME:
        at = data_of_subframe(buffer, start, end, link >= MESH_SUBFRAME, headers)
        return CUT_OFF if at == 0 else FOUND, 0, at
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
    if link in (_DSA_BROADCOM, _DSA_MARVELL, _DSA_ETHER_TYPE):
        _ethernet(buffer, start, headers)
        at = start + needed
        if link != _DSA_BROADCOM and byte(buffer, at - 6) & _DSA_HAS_VLAN:
            _see_vlan(buffer, at - 4, headers)
        return FOUND, be16(buffer, at - 2), at
    if link == _IPOIB:
        return FOUND, be16(buffer, start + 40), start + 44
    if link == _PFLOG:
        at = start + (byte(buffer, start) + 3) // 4 * 4
        return FOUND if start + 4 <= at <= end else CUT_OFF, _by_family(byte(buffer, start + 1)), at
    if link == _FRAME_RELAY:
        return _frame_relay(buffer, start, end)
    if link == _C_HDLC or (link in (PPP, _PPP_HDLC) and byte(buffer, start) in (0x0F, 0x8F)):
        return FOUND, be16(buffer, start + 2), start + 4
    if link in (PPP, _PPP_HDLC):
        kind, at = _ppp(buffer, start, end)
        return FOUND, kind, at
    family = u32(
        buffer, start, False
    )  # in the byte order of the capturing system: the smaller reading is the right one
    return FOUND, _by_family(min(family, be32(buffer, start))), start + needed


@kernel
def _frame_relay(buffer: Bytes, start: int, end: int) -> tuple[int, int, int]:
    """RFC 2427, and Cisco's form, an EtherType behind the address. The last byte of an address (Q.922) is odd."""
    at = start + 1
    while at < start + 4 and at < end and byte(buffer, at - 1) & 1 == 0:
        at += 1
    if end - at < 2:
        return CUT_OFF, _NONE, at
    if byte(buffer, at) != 0x03:  # no control field
        return FOUND, be16(buffer, at), at + 2
    at += 1
    if byte(buffer, at) == 0:  # padding
        at += 1
    if end - at < 1:
        return CUT_OFF, _NONE, at
    protocol = byte(buffer, at)
    if protocol == 0x80:
        if end - at < 6:
            return CUT_OFF, _NONE, at
        organization = be32(buffer, at) & 0xFFFFFF
        kind = be16(buffer, at + 4)
        if organization == 0x0080C2 and kind in (1, 7):
            kind = _BRIDGING
        elif organization != 0:
            kind = _NONE
        return FOUND, kind, at + 6
    return FOUND, _IPV4 if protocol == 0xCC else _IPV6 if protocol == 0x8E else _NONE, at + 1


@kernel
def _nflog(buffer: Bytes, start: int, end: int, headers: Longs) -> tuple[int, int, int]:
    """Linux's netfilter log: attributes of a length and a type, both in the byte order of the capturing system."""
    kind = _by_family(byte(buffer, start))
    at = start + 4
    while end - at >= 4:
        # types are below 256, but for two flags on top, so the smaller reading is the right one
        big = u16(buffer, at + 2, False) & _NFLOG_TYPE > be16(buffer, at + 2) & _NFLOG_TYPE
        size = u16(buffer, at, big)
        attribute = u16(buffer, at + 2, big) & _NFLOG_TYPE
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
    if link in (_DSA_BROADCOM, _DSA_MARVELL):
        return 18
    if link == _DSA_ETHER_TYPE:
        return 22
    if link == _IPOIB:
        return 44
    if link == _ENC:
        return 12
    return 4 if link in (_NULL, _LOOP, PPP, _PPP_HDLC, _C_HDLC, _NFLOG, _PFLOG, _FRAME_RELAY) else 0


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
