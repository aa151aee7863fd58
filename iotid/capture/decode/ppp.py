"""PPP (RFC 1661), also in HDLC framing (RFC 1662)."""

from __future__ import annotations

from iotid.capture.decode.ether_types import IPV4, IPV6, MPLS, NO_ETHER_TYPE
from iotid.capture.fields import Bytes, be16, byte
from iotid.capture.jit import kernel


@kernel
def ppp(buffer: Bytes, at: int, end: int) -> tuple[int, int]:
    """(EtherType of the payload of the PPP frame at ``at``, where the payload starts)."""
    if end - at >= 2 and be16(buffer, at) == 0xFF03:  # address and control, as in HDLC
        at += 2
    if end - at < 2:
        return NO_ETHER_TYPE, at
    if buffer[at] & 1:  # compressed to one byte
        protocol = byte(buffer, at)
        at += 1
    else:
        protocol = be16(buffer, at)
        at += 2
    if protocol == 0x0021:
        return IPV4, at
    if protocol == 0x0057:
        return IPV6, at
    if protocol in (0x0281, 0x0283):
        return MPLS, at
    return NO_ETHER_TYPE, at
