"""From records to packets: one pass over a window's records, each either written as a packet or counted under a reason.

Lengths come from the wire, never from what was captured; the rules for lengths that lie all stand in `ip_bytes`.
A header that does not fit into what was captured is `truncated` if the capture cut the frame, else `malformed`: then
the frame itself is too short. Nothing behind the first fault of a frame is trusted.
"""

from __future__ import annotations

from collections import namedtuple
from dataclasses import fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iotid.capture.counters import (
    DUPLICATE,
    FLOW,
    LATER_FRAGMENT,
    MALFORMED,
    NOT_IP,
    REASONS,
    TRUNCATED,
    UNKNOWN_INTERFACE,
    UNKNOWN_LINK_TYPE,
)
from iotid.capture.fields import Bytes, Longs, be16, be32, be64, byte
from iotid.capture.jit import kernel
from iotid.capture.link import CUT_OFF, FOUND, UNKNOWN_LINK, network_layer
from iotid.capture.packets import Packets
from iotid.capture.records import BROKEN, NO_INTERFACE, Records
from iotid.capture.repeats import Ring, digest_of, mixed, repeats

_TCP, _UDP, _DCCP, _SCTP, _UDP_LITE = 6, 17, 33, 132, 136
_HOP_BY_HOP, _ROUTING, _FRAGMENT, _AUTHENTICATION, _NO_NEXT_HEADER, _DESTINATION = 0, 43, 44, 51, 59, 60
_MORE_FRAGMENTS = 1 << 16  # beside IPv4's 16 bits of identification
_ZERO = np.uint64(0)

Columns = namedtuple("Columns", [field.name for field in fields(Packets)])  # type: ignore[misc] # Packets for Numba


@kernel
def decode(
    buffer: Bytes,
    records: Records,
    quiet: int,
    first_record: int,
    window_us: int,
    ring: Ring,
    out: Any,
    reasons: NDArray[np.uint8],
    totals_R2: Longs,
) -> int:
    """Decode the window's records into ``out`` (columns of Packets without file_index); return the number of packets.

    The first ``quiet`` records only warm up the search for repeats: they are neither written nor counted.
    ``first_record`` is the first record's number in this reading of the file. ``window_us`` 0 turns that search off.
    ``reasons`` gets a code of REASONS for each record, ``totals_R2`` the sums of packets and wire bytes for each code.
    """
    size = len(buffer)
    n = 0
    for r in range(0 if window_us > 0 else quiet, len(records.offset)):
        start = records.data[r]
        end = min(start + records.captured[r], size)
        wire: int = np.int64(records.wire[r])  # type: ignore[assignment]
        reason, at, above, length, version, protocol, word, vlan, source, destination = _internet(
            buffer, start, end, wire, records.link[r]
        )
        above_end = min(end, at + length)
        fragment = word & _MORE_FRAGMENTS != 0
        if reason == FLOW:
            reason, src_port, dst_port, payload, flags, window = _transport(
                buffer, above, above_end, at + length, protocol, fragment
            )
        if reason == FLOW:
            out.offset[n] = records.offset[r]
            out.timestamp_us[n] = records.time[r]
            out.link_type[n] = records.link[r]
            out.frame_length[n] = wire
            out.captured_length[n] = end - start
            out.packet_length[n] = length
            out.payload_length[n] = payload
            out.ip_version[n] = version
            out.protocol[n] = protocol
            out.vlan[n] = vlan
            out.src_mac[n] = source
            out.dst_mac[n] = destination
            out.src_ip_hi[n] = be64(buffer, at + 8) if version == 6 else _ZERO
            out.src_ip_lo[n] = be64(buffer, at + 16) if version == 6 else np.uint64(be32(buffer, at + 12))
            out.dst_ip_hi[n] = be64(buffer, at + 24) if version == 6 else _ZERO
            out.dst_ip_lo[n] = be64(buffer, at + 32) if version == 6 else np.uint64(be32(buffer, at + 16))
            out.src_port[n] = src_port
            out.dst_port[n] = dst_port
            out.tcp_flags[n] = flags
            out.tcp_window[n] = window
            if window_us > 0:
                digest = digest_of(buffer, above, above_end)
                digest = mixed(digest, np.uint64(word << 32 | (vlan + 1) << 8 | protocol))
                digest = mixed(digest, np.uint64(length))
                digest = mixed(mixed(digest, out.src_ip_hi[n]), out.src_ip_lo[n])
                digest = mixed(mixed(digest, out.dst_ip_hi[n]), out.dst_ip_lo[n])
                if repeats(ring, first_record + r, records.time[r], digest, window_us):
                    reason = DUPLICATE
        if r >= quiet:
            reasons[r] = reason
            totals_R2[reason, 0] += 1
            totals_R2[reason, 1] += wire
            n += reason == FLOW
    return n


@kernel
def ip_bytes(claimed: int, header: int, on_wire: int) -> int:
    """Bytes of a packet from its IP header on: what the header claims, unless the wire knows better; 0: malformed.

    * 0: segmentation was left to the network card (or an IPv6 jumbogram): what the frame holds.
    * More than the frame holds: what the frame holds.
    * Less than the header itself: malformed. So is a frame too short for the header.
    Bytes behind the claimed length are Ethernet's padding and belong to no packet.
    """
    length = on_wire if claimed == 0 else min(claimed, on_wire)
    return length if length >= header else 0


@kernel
def _internet(
    buffer: Bytes, start: int, end: int, wire: int, link: int
) -> tuple[int, int, int, int, int, int, int, int, int, int]:
    """Decode a frame up to its IP header.

    Returns the reason (FLOW: so far, so good), where the IP header and what is above it start, packet length, version,
    protocol, the header's word of identification, VLAN, and the sender's and receiver's MAC.
    """
    version = vlan = source = destination = -1
    reason = above = length = protocol = word = 0
    at = start
    if link == NO_INTERFACE:
        reason = UNKNOWN_INTERFACE
    elif link == BROKEN:
        reason = MALFORMED
    else:
        short = TRUNCATED if end - start < wire else MALFORMED
        known, at, version, vlan, source, destination = network_layer(buffer, start, end, link)
        if known == FOUND:
            on_wire = wire - (at - start)
            if version == 4:
                reason, above, length, protocol, word = _ipv4(buffer, at, end, on_wire, short)
            else:
                reason, above, length, protocol, word = _ipv6(buffer, at, end, on_wire, short)
        elif known == CUT_OFF:
            reason = short
        else:
            reason = UNKNOWN_LINK_TYPE if known == UNKNOWN_LINK else NOT_IP
    return reason, at, above, length, version, protocol, word, vlan, source, destination


@kernel
def _ipv4(buffer: Bytes, at: int, end: int, on_wire: int, short: int) -> tuple[int, int, int, int, int]:
    """Reason, where the next header starts, packet length, protocol, identification with _MORE_FRAGMENTS (RFC 791)."""
    if end - at < 20:
        wrong = end > at and byte(buffer, at) >> 4 != 4
        return MALFORMED if wrong else short, at, 0, 0, 0
    header = (byte(buffer, at) & 0x0F) * 4
    length = ip_bytes(be16(buffer, at + 2), header, on_wire)
    if byte(buffer, at) >> 4 != 4 or header < 20 or length == 0:
        return MALFORMED, at, 0, 0, 0
    fragment = be16(buffer, at + 6)
    if fragment & 0x1FFF:
        return LATER_FRAGMENT, at, 0, 0, 0
    if end - at < header:
        return short, at, 0, 0, 0
    word = be16(buffer, at + 4) | (_MORE_FRAGMENTS if fragment & 0x2000 else 0)
    return FLOW, at + header, length, byte(buffer, at + 9), word


@kernel
def _ipv6(buffer: Bytes, at: int, end: int, on_wire: int, short: int) -> tuple[int, int, int, int, int]:
    """As `_ipv4`, extension headers (RFC 8200) stepped over: each is 8 bytes at least, so the loop ends."""
    if end - at < 40:
        wrong = end > at and byte(buffer, at) >> 4 != 6
        return MALFORMED if wrong else short, at, 0, 0, 0
    protocol = byte(buffer, at + 6)
    claimed = be16(buffer, at + 4)
    if claimed > 0 or protocol == _NO_NEXT_HEADER:
        claimed += 40
    length = ip_bytes(claimed, 40, on_wire)
    if byte(buffer, at) >> 4 != 6 or length == 0:
        return MALFORMED, at, 0, 0, 0
    if end >= at + length:  # the packet is here whole: what does not fit into it is no fault of the capture
        end = at + length
        short = MALFORMED
    above = at + 40
    word = 0
    while protocol in (_HOP_BY_HOP, _ROUTING, _FRAGMENT, _AUTHENTICATION, _DESTINATION):
        if end - above < 8:
            return short, at, 0, 0, 0
        header = (byte(buffer, above + 1) + 1) * 8
        if protocol == _FRAGMENT:
            fragment = be16(buffer, above + 2)
            if fragment >> 3:
                return LATER_FRAGMENT, at, 0, 0, 0
            word |= _MORE_FRAGMENTS if fragment & 1 else 0
            header = 8
        elif protocol == _AUTHENTICATION:
            header = (byte(buffer, above + 1) + 2) * 4
        protocol = byte(buffer, above)
        above += header
    if above > end:
        return MALFORMED if above > at + length else short, at, 0, 0, 0
    return FLOW, above, length, protocol, word


@kernel
def _transport(
    buffer: Bytes, at: int, end: int, wire_end: int, protocol: int, fragment: bool
) -> tuple[int, int, int, int, int, int]:
    """Reason, ports, payload length, TCP's flags and window. A first fragment may end inside its TCP or UDP header."""
    on_wire = wire_end - at
    if protocol not in (_TCP, _UDP, _DCCP, _SCTP, _UDP_LITE):
        return FLOW, 0, 0, on_wire, 0, 0
    header = 20 if protocol == _TCP else 8 if protocol == _UDP else 4  # bytes that the whole packet must have
    if on_wire < (4 if fragment else header):
        return MALFORMED, 0, 0, 0, 0, 0
    if end - at < 4:
        return TRUNCATED, 0, 0, 0, 0, 0
    flags = window = 0
    if protocol == _TCP:
        if end - at >= 13:
            header = (byte(buffer, at + 12) >> 4) * 4
            if header < 20 or (header > on_wire and not fragment):
                return MALFORMED, 0, 0, 0, 0, 0
        if end - at >= 14:
            flags = byte(buffer, at + 13)
        if end - at >= 16:
            window = be16(buffer, at + 14)
    payload = max(on_wire - header, 0) if protocol in (_TCP, _UDP) else on_wire
    return FLOW, be16(buffer, at), be16(buffer, at + 2), payload, flags, window


def decode_records(
    buffer: Bytes, records: Records, file_index: int, quiet: int, first_record: int, window_us: int, ring: Ring
) -> tuple[Packets, NDArray[np.uint8], Longs]:
    """The packets of a window's records, each record's reason, and the totals (reasons, 2) of packets and bytes."""
    out = Packets.empty(len(records.offset))
    out.file_index[:] = file_index
    reasons = np.empty(len(records.offset), np.uint8)
    totals_R2 = np.zeros((len(REASONS), 2), np.int64)
    columns = Columns(*(getattr(out, field.name) for field in fields(out)))
    count = decode(buffer, records, quiet, first_record, window_us, ring, columns, reasons, totals_R2)
    return out.take(slice(count)), reasons, totals_R2
