"""Frame relay (RFC 2427, addresses of Q.922), and Cisco's form, an EtherType behind the address."""

from __future__ import annotations

from iotid.capture.decode.ether_types import BRIDGING, IPV4, IPV6, NO_ETHER_TYPE
from iotid.capture.decode.headers import CUT_OFF, FOUND
from iotid.capture.fields import Bytes, be16, be32, byte
from iotid.capture.jit import kernel


@kernel
def frame_relay(buffer: Bytes, start: int, end: int) -> tuple[int, int, int]:
    """As `link_layer`. The last byte of an address is odd."""
    at = start + 1
    while at < start + 4 and at < end and byte(buffer, at - 1) & 1 == 0:
        at += 1
    if end - at < 2:
        return CUT_OFF, NO_ETHER_TYPE, at
    if byte(buffer, at) != 0x03:  # no control field
        return FOUND, be16(buffer, at), at + 2
    at += 1
    if byte(buffer, at) == 0:  # padding
        at += 1
    if end - at < 1:
        return CUT_OFF, NO_ETHER_TYPE, at
    protocol = byte(buffer, at)
    if protocol == 0x80:
        if end - at < 6:
            return CUT_OFF, NO_ETHER_TYPE, at
        organization = be32(buffer, at) & 0xFFFFFF
        ether_type = be16(buffer, at + 4)
        if organization == 0x0080C2 and ether_type in (1, 7):
            ether_type = BRIDGING
        elif organization != 0:
            ether_type = NO_ETHER_TYPE
        return FOUND, ether_type, at + 6
    return FOUND, IPV4 if protocol == 0xCC else IPV6 if protocol == 0x8E else NO_ETHER_TYPE, at + 1
