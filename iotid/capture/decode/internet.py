"""IP (RFC 791, 8200) and transport: lengths, fragments, extension headers, ports, TCP's flags, window and sequence.

Lengths are those on the wire, never the captured ones; `ip_bytes` has all rules for wrong lengths. A header that was
not captured whole is `truncated` if the capture shortened the frame, else `malformed`. Nothing after the first fault
of a frame is used.
"""

from __future__ import annotations

from iotid.capture.counters import FLOW, LATER_FRAGMENT, MALFORMED, TRUNCATED
from iotid.capture.decode.headers import (
    DESTINATION_PORT,
    FLAGS,
    FRAGMENT,
    IDENTIFICATION,
    IP_OFFSET,
    LENGTH,
    MORE_FRAGMENTS,
    PAYLOAD,
    PROTOCOL,
    SEQUENCE,
    SOURCE_PORT,
    TRANSPORT_OFFSET,
    VERSION,
    WINDOW,
)
from iotid.capture.fields import Bytes, Longs, be16, be32, byte
from iotid.capture.jit import kernel

_TCP, _UDP, _DCCP, _SCTP, _UDP_LITE = 6, 17, 33, 132, 136
_HOP_BY_HOP, _ROUTING, _FRAGMENT, _AUTHENTICATION, _NO_NEXT_HEADER, _DESTINATION = 0, 43, 44, 51, 59, 60
_MOBILITY, _HIP, _SHIM6 = 135, 139, 140


@kernel
def ip_bytes(claimed: int, header: int, on_wire: int) -> int:
    """Bytes of a packet from its IP header on, by the length in the header (``claimed``); 0: malformed.

    * 0 (segmentation offload, or an IPv6 jumbogram): the rest of the frame.
    * More than the rest of the frame: the rest of the frame.
    * Less than the header itself, or a frame too short for the header: malformed.
    Bytes after the claimed length are Ethernet's padding and belong to no packet.
    """
    length = on_wire if claimed == 0 else min(claimed, on_wire)
    return length if length >= header else 0


@kernel
def read_packet(buffer: Bytes, end: int, on_wire: int, headers: Longs) -> int:
    """Read the packet whose IP header is at ``headers[IP_OFFSET]`` of a frame that ends at ``end``; return the reason.

    ``on_wire``: bytes of the frame from there on. FLOW: all fields are set. LATER_FRAGMENT: all but the ports, which
    only the packet's first fragment has.
    """
    short = TRUNCATED if end - headers[IP_OFFSET] < on_wire else MALFORMED
    if headers[VERSION] == 4:
        reason = _ipv4(buffer, end, on_wire, short, headers)
    else:
        reason = _ipv6(buffer, end, on_wire, short, headers)
    headers[SOURCE_PORT] = 0
    headers[DESTINATION_PORT] = 0
    headers[FLAGS] = 0
    headers[WINDOW] = 0
    headers[SEQUENCE] = -1
    headers[PAYLOAD] = headers[IP_OFFSET] + headers[LENGTH] - headers[TRANSPORT_OFFSET]
    if reason == FLOW:
        return _transport(buffer, min(end, headers[IP_OFFSET] + headers[LENGTH]), headers)
    return reason


@kernel
def _ipv4(buffer: Bytes, end: int, on_wire: int, short: int, headers: Longs) -> int:
    """RFC 791."""
    at = headers[IP_OFFSET]
    if end - at < 20:
        wrong = end > at and byte(buffer, at) >> 4 != 4
        return MALFORMED if wrong else short
    header = (byte(buffer, at) & 0x0F) * 4
    length = ip_bytes(be16(buffer, at + 2), header, on_wire)
    if byte(buffer, at) >> 4 != 4 or header < 20 or length == 0:
        return MALFORMED
    fragment = be16(buffer, at + 6) & 0x3FFF
    headers[TRANSPORT_OFFSET] = at + header
    headers[LENGTH] = length
    headers[PROTOCOL] = byte(buffer, at + 9)
    headers[IDENTIFICATION] = be16(buffer, at + 4)
    headers[FRAGMENT] = fragment
    if fragment & (MORE_FRAGMENTS - 1):
        return LATER_FRAGMENT
    return _extensions(buffer, end, short, headers)


@kernel
def _ipv6(buffer: Bytes, end: int, on_wire: int, short: int, headers: Longs) -> int:
    """RFC 8200."""
    at = headers[IP_OFFSET]
    if end - at < 40:
        wrong = end > at and byte(buffer, at) >> 4 != 6
        return MALFORMED if wrong else short
    protocol = byte(buffer, at + 6)
    claimed = be16(buffer, at + 4)
    if claimed > 0 or protocol == _NO_NEXT_HEADER:
        claimed += 40
    length = ip_bytes(claimed, 40, on_wire)
    if byte(buffer, at) >> 4 != 6 or length == 0:
        return MALFORMED
    headers[TRANSPORT_OFFSET] = at + 40
    headers[LENGTH] = length
    headers[PROTOCOL] = protocol
    headers[IDENTIFICATION] = 0
    headers[FRAGMENT] = 0
    return _extensions(buffer, end, short, headers)


@kernel
def _extensions(buffer: Bytes, end: int, short: int, headers: Longs) -> int:
    """Skip extension headers; return the reason. Each is at least 8 bytes, so the loop ends.

    Most of them may follow IPv4, too (RFC 4302), but not hop-by-hop options and fragment headers.
    """
    wire_end = headers[IP_OFFSET] + headers[LENGTH]
    if end >= wire_end:  # the packet was captured whole: a header beyond it is malformed, not truncated
        end = wire_end
        short = MALFORMED
    at = headers[TRANSPORT_OFFSET]
    protocol = headers[PROTOCOL]
    reason = FLOW
    while reason == FLOW and (
        protocol in (_ROUTING, _AUTHENTICATION, _DESTINATION, _MOBILITY, _HIP, _SHIM6)
        or (protocol in (_HOP_BY_HOP, _FRAGMENT) and headers[VERSION] == 6)
    ):
        if end - at < 8:
            return short
        header = (byte(buffer, at + 1) + 1) * 8
        if protocol == _FRAGMENT:
            word = be16(buffer, at + 2)
            headers[FRAGMENT] = word >> 3 | (MORE_FRAGMENTS if word & 1 else 0)
            headers[IDENTIFICATION] = be32(buffer, at + 4)
            header = 8
            if word >> 3:  # the rest of the headers is in the first fragment
                reason = LATER_FRAGMENT
        elif protocol == _AUTHENTICATION:
            header = (byte(buffer, at + 1) + 2) * 4
        protocol = byte(buffer, at)
        at += header
    headers[TRANSPORT_OFFSET] = at
    headers[PROTOCOL] = protocol
    if at > end:
        return MALFORMED if at > wire_end else short
    return reason


@kernel
def _transport(buffer: Bytes, end: int, headers: Longs) -> int:
    """Ports, payload length, TCP's flags, window and sequence. A first fragment may end inside the header."""
    protocol = headers[PROTOCOL]
    if protocol not in (_TCP, _UDP, _DCCP, _SCTP, _UDP_LITE):
        return FLOW
    at = headers[TRANSPORT_OFFSET]
    on_wire = headers[PAYLOAD]
    fragment = headers[FRAGMENT] != 0
    header = 20 if protocol == _TCP else 8 if protocol == _UDP else 4  # bytes that the whole packet must have
    if on_wire < (4 if fragment else header):
        return MALFORMED
    if end - at < 4:
        return TRUNCATED
    if protocol == _TCP:
        if end - at >= 8:
            headers[SEQUENCE] = be32(buffer, at + 4)
        if end - at >= 13:
            header = (byte(buffer, at + 12) >> 4) * 4
            if header < 20:  # an invalid length, so no byte counts as payload
                header = on_wire
        if end - at >= 14:
            headers[FLAGS] = byte(buffer, at + 13)
        if end - at >= 16:
            headers[WINDOW] = be16(buffer, at + 14)
    headers[SOURCE_PORT] = be16(buffer, at)
    headers[DESTINATION_PORT] = be16(buffer, at + 2)
    if protocol in (_TCP, _UDP):
        headers[PAYLOAD] = max(on_wire - header, 0)
    return FLOW
