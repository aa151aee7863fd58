"""Linux's netfilter log (https://www.tcpdump.org/linktypes/LINKTYPE_NFLOG.html): attributes, one of them the packet."""

from __future__ import annotations

from iotid.capture.decode.ether_types import NO_ETHER_TYPE, of_address_family
from iotid.capture.decode.headers import CUT_OFF, FOUND, SOURCE_MAC
from iotid.capture.fields import Bytes, Longs, be16, be48, byte, u16
from iotid.capture.jit import kernel

_HARDWARE_ADDRESS, _PAYLOAD = 8, 9
_TYPE_BITS = 0x3FFF  # of an attribute's type


@kernel
def netfilter_log(buffer: Bytes, start: int, end: int, headers: Longs) -> tuple[int, int, int]:
    """As `link_layer`. An attribute has a length and a type, both in the byte order of the capturing system."""
    ether_type = of_address_family(byte(buffer, start))
    at = start + 4
    while end - at >= 4:
        # types are below 256, but for two flags on top, so the smaller value is the right one
        big = u16(buffer, at + 2, False) & _TYPE_BITS > be16(buffer, at + 2) & _TYPE_BITS
        size = u16(buffer, at, big)
        attribute = u16(buffer, at + 2, big) & _TYPE_BITS
        if size < 4:
            return FOUND, NO_ETHER_TYPE, start
        if attribute == _PAYLOAD:
            return FOUND, ether_type, at + 4
        if attribute == _HARDWARE_ADDRESS and size >= 16 and end - at >= 16 and be16(buffer, at + 4) == 6:
            headers[SOURCE_MAC] = be48(buffer, at + 8)
        at += (size + 3) // 4 * 4
    return CUT_OFF, NO_ETHER_TYPE, start
