"""EtherTypes (IANA's and IEEE's registries), the Ethernet header (IEEE 802.3), and tags between it and IP.

The readers of all link types return the next protocol as an EtherType.
"""

from __future__ import annotations

from typing import Final

from iotid.capture.decode.headers import DESTINATION_MAC, SOURCE_MAC, VLAN
from iotid.capture.fields import Bytes, Longs, be16, be48
from iotid.capture.jit import kernel

IPV4, IPV6 = 0x0800, 0x86DD
_VLAN, _QINQ, _QINQ_OLD, _QINQ_OLD_2, _QINQ_OLD_3 = 0x8100, 0x88A8, 0x9100, 0x9200, 0x9300
_VN_TAG, _E_TAG, _CISCO_METADATA, _T_TAG = 0x8926, 0x893F, 0x8909, 0x8988  # Cisco, IEEE 802.1BR, Cisco, Cisco
_HSR, _R_TAG = 0x892F, 0xF1C1  # IEC 62439-3, IEEE 802.1CB
EDSA = 0xDADA  # Marvell's switch tag, as Linux shows it
I_TAG, BRIDGING, FABRIC_PATH = 0x88E7, 0x6558, 0x8903  # IEEE 802.1ah, RFC 1701, Cisco: an Ethernet header follows
MACSEC = 0x88E5  # IEEE 802.1AE
MPLS, MPLS_MULTICAST, PPPOE, PPP_TYPE = 0x8847, 0x8848, 0x8864, 0x880B  # RFC 5332 (the first two), RFC 2516
LLC: Final = 0  # instead of an EtherType: 802.2 follows
MAX_LENGTH = 1500  # up to this value the field is a length, and 802.2 follows
LLC_JUMBO = 0x8870  # 802.2 follows in frames too long for a length field

# internal values instead of an EtherType
NO_ETHER_TYPE: Final = -1
BY_VERSION: Final = -2  # IPv4 or IPv6, by the header's version field

DSA_HAS_VLAN = 0x20  # bit of the first byte of Marvell's tag: it replaces a VLAN tag


@kernel
def ethernet(buffer: Bytes, at: int, headers: Longs) -> int:
    """The EtherType of the Ethernet header at ``at``, all 14 bytes of which are captured. Sets the MACs."""
    headers[DESTINATION_MAC] = be48(buffer, at)
    headers[SOURCE_MAC] = be48(buffer, at + 6)
    return be16(buffer, at + 12)


@kernel
def set_vlan(buffer: Bytes, at: int, headers: Longs) -> None:
    identifier = be16(buffer, at) & 0x0FFF
    if identifier > 0:  # 0 is a priority tag without a VLAN (IEEE 802.1Q, 9.6)
        headers[VLAN] = identifier


@kernel
def tag_bytes(ether_type: int) -> int:
    """Bytes between a tag's EtherType and the next EtherType; 0 if it is no tag."""
    if ether_type in (_VLAN, _QINQ, _QINQ_OLD, _QINQ_OLD_2, _QINQ_OLD_3):
        return 2
    if ether_type in (_VN_TAG, _HSR, _R_TAG):
        return 4
    return 6 if ether_type in (_E_TAG, _CISCO_METADATA, _T_TAG, EDSA) else 0


@kernel
def carries_no_ip(ether_type: int) -> bool:
    """Whether frames of an EtherType above 1500 are known not to carry IP."""
    return ether_type in (
        0x0806, 0x8035, 0x88CC, 0x888E, 0x88C7, 0x8863, 0x0842, 0x9000,  # (R)ARP, LLDP, EAPOL, PPPoE's discovery, tests
        0x2000, 0x2003, 0x8808, 0x8809, 0x8902, 0x88E3, 0x88F5, 0x88F6, 0x8940, 0x88FB,  # CDP, IEEE's and PRP's control
        0x22EA, 0x22F0, 0x22F4, 0x88F7, 0x890D, 0x893A, 0x887B, 0x88E1, 0x8912,  # AVB, PTP, TDLS, 1905.1, power lines
        0x6000, 0x6001, 0x6002, 0x6003, 0x6004, 0x6005, 0x6006, 0x6007,  # DEC
        0x809B, 0x80F3, 0x8137, 0x8138, 0x8204, 0x8102, 0x8899, 0x886F, 0x88D9,  # AppleTalk, IPX, QNX, loops, LLTD
        0x8819, 0x8892, 0x88A4, 0x88AB, 0x88B8, 0x88B9, 0x88BA, 0x88CD,  # CobraNet, fieldbuses, substations
        0x88A2, 0x889A, 0x8906, 0x8914, 0x8915, 0x88F8, 0x88CA, 0x88D8, 0x88DC,  # storage, NC-SI, TIPC, circuits, WSMP
    )  # fmt: skip


@kernel
def of_address_family(family: int) -> int:
    """EtherType of an address family; IPv6 has another number on NetBSD, FreeBSD, macOS and Linux."""
    if family == 2:
        return IPV4
    return IPV6 if family in (24, 28, 30, 10) else NO_ETHER_TYPE
