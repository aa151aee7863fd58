"""Finds the IP header of a frame, behind the tags and headers between link layer and IP.

EtherTypes: `iotid.capture.decode.ether_types`. MPLS: RFC 3032. MACsec: IEEE 802.1AE. PPPoE: RFC 2516. LLC and SNAP:
IEEE 802.2, RFC 1042, IEEE 802.1H. Each branch checks that the bytes it needs were captured; every iteration of the loop
returns or advances.
"""

from __future__ import annotations

from iotid.capture.decode.ether_types import (
    BRIDGING,
    BY_VERSION,
    DSA_HAS_VLAN,
    EDSA,
    FABRIC_PATH,
    I_TAG,
    IPV4,
    IPV6,
    LLC_JUMBO,
    MACSEC,
    MAX_LENGTH,
    MPLS,
    MPLS_MULTICAST,
    NO_ETHER_TYPE,
    PPP_TYPE,
    PPPOE,
    carries_no_ip,
    ethernet,
    set_vlan,
    tag_bytes,
)  # fmt: skip
from iotid.capture.decode.headers import (
    CUT_OFF,
    DESTINATION_MAC,
    FOUND,
    IP_OFFSET,
    NOT_IP,
    SOURCE_MAC,
    UNKNOWN_LINK,
    UNKNOWN_TYPE,
    UNREAD,
    VERSION,
    VLAN,
)  # fmt: skip
from iotid.capture.decode.link import ETHERNET, link_layer, unwrapped
from iotid.capture.decode.ppp import ppp
from iotid.capture.decode.wireless import NO_HEADER
from iotid.capture.fields import Bytes, Longs, be16, be32, be48, byte
from iotid.capture.jit import kernel

_SNAP, _SNAP_BRIDGED = 0xAAAA03000000, 0xAAAA030000F8  # both are followed by one of Ethernet's own types
_ENCRYPTED, _CHANGED, _HAS_CHANNEL = 0x08, 0x04, 0x20  # bits of MACsec's first byte


@kernel
def network_layer(buffer: Bytes, start: int, end: int, link: int, headers: Longs) -> int:
    """Find the IP header of the frame in ``buffer[start:end]``: return one of FOUND … UNKNOWN_TYPE.

    Sets IP_OFFSET and, if FOUND, VERSION; SOURCE_MAC, DESTINATION_MAC and VLAN, -1 if the frame does not show them.
    """
    headers[VLAN] = -1
    headers[SOURCE_MAC] = -1
    headers[DESTINATION_MAC] = -1
    headers[IP_OFFSET] = start
    if link != ETHERNET:  # most frames are
        link, start = unwrapped(buffer, start, end, link)
        if link == NO_HEADER:
            return CUT_OFF
    known, ether_type, at = link_layer(buffer, start, end, link, headers)
    if known == UNKNOWN_LINK:
        headers[UNREAD] = link
    while known == FOUND:
        if ether_type in (IPV4, IPV6):
            headers[IP_OFFSET] = at
            headers[VERSION] = 4 if ether_type == IPV4 else 6
            return FOUND
        tag = tag_bytes(ether_type)
        if tag > 0:
            if end - at < tag + 2:
                return CUT_OFF
            if tag == 2 or (ether_type == EDSA and byte(buffer, at + 2) & DSA_HAS_VLAN):
                set_vlan(buffer, at + tag - 2, headers)
            ether_type = be16(buffer, at + tag)
            at += tag + 2
        elif ether_type in (I_TAG, BRIDGING, FABRIC_PATH):
            at += 4 if ether_type == I_TAG else 2 if ether_type == FABRIC_PATH else 0
            if end - at < 14:
                return CUT_OFF
            ether_type = ethernet(buffer, at, headers)
            at += 14
        elif ether_type == MACSEC:
            if end - at < 6:
                return CUT_OFF
            control = byte(buffer, at)
            if control & (_ENCRYPTED | _CHANGED):
                headers[UNREAD] = ether_type
                return UNKNOWN_TYPE
            at += 14 if control & _HAS_CHANNEL else 6
            if end - at < 2:
                return CUT_OFF
            ether_type = be16(buffer, at)
            at += 2
        elif ether_type in (MPLS, MPLS_MULTICAST):
            if end - at < 4:
                return CUT_OFF
            if be32(buffer, at) & 0x100:  # bottom of the stack
                ether_type = BY_VERSION
            at += 4
        elif ether_type in (PPPOE, PPP_TYPE):
            if ether_type == PPPOE:
                if end - at < 6:
                    return CUT_OFF
                at += 6
            ether_type, at = ppp(buffer, at, end)
        elif ether_type == BY_VERSION:
            if end - at < 1:
                return CUT_OFF
            version = byte(buffer, at) >> 4
            ether_type = IPV4 if version == 4 else IPV6 if version == 6 else NO_ETHER_TYPE
        elif (
            (0 <= ether_type <= MAX_LENGTH or ether_type == LLC_JUMBO)
            and end - at >= 8
            and be48(buffer, at) in (_SNAP, _SNAP_BRIDGED)
        ):
            ether_type = be16(buffer, at + 6)
            at += 8
        elif ether_type <= MAX_LENGTH or carries_no_ip(ether_type):
            return NOT_IP
        else:
            headers[UNREAD] = ether_type
            return UNKNOWN_TYPE
    return known


@kernel
def _is_llc(ether_type: int) -> bool:
    return 0 <= ether_type <= MAX_LENGTH or ether_type == LLC_JUMBO
