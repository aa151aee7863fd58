"""Decodes a window's frames in one pass: each becomes a packet or is counted under a reason."""

from __future__ import annotations

from collections import namedtuple
from dataclasses import fields
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from iotid import config
from iotid.capture.containers.records import BROKEN, NO_INTERFACE, Records
from iotid.capture.counters import (
    DUPLICATE,
    FLOW,
    LATER_FRAGMENT,
    MALFORMED,
    NOT_IP,
    REASONS,
    TRUNCATED,
    UNKNOWN_ETHER_TYPE,
    UNKNOWN_INTERFACE,
    UNKNOWN_LINK_TYPE,
)
from iotid.capture.decode.duplicates import Ring, digest_of, find, insert, mixed, new_ring
from iotid.capture.decode.fragments import FirstFragments, apply_first, new_fragments, store_first
from iotid.capture.decode.frames import frames_of
from iotid.capture.decode.header_words import HEADER_WORDS, write_header_words
from iotid.capture.decode.headers import (
    CUT_OFF,
    DESTINATION_MAC,
    DESTINATION_PORT,
    FLAGS,
    FOUND,
    FRAGMENT,
    HEADERS_SIZE,
    IDENTIFICATION,
    IP_OFFSET,
    LENGTH,
    PAYLOAD,
    PROTOCOL,
    SEQUENCE,
    SOURCE_MAC,
    SOURCE_PORT,
    TRANSPORT_OFFSET,
    UNKNOWN_LINK,
    UNKNOWN_TYPE,
    UNREAD,
    VERSION,
    VLAN,
    WINDOW,
)
from iotid.capture.decode.internet import read_packet
from iotid.capture.decode.network import network_layer
from iotid.capture.decode.tunnels import NO_TUNNEL, tunnel, tunnel_set
from iotid.capture.decode.wireless import LINK_TYPE_BITS
from iotid.capture.fields import Bytes, Longs, be32, be64, byte
from iotid.capture.jit import kernel
from iotid.capture.packets import Packets, words_of

_ZERO = np.uint64(0)

_NAMES = [field.name for field in fields(Packets)]
Columns: Any = namedtuple("Columns", _NAMES)  # type: ignore[misc] # Packets for Numba


class Rules(NamedTuple):
    """The settings of decoding."""

    duplicate_window_us: int  # 0: keep duplicates
    fragment_window_us: int  # 0: do not match later fragments with their first one
    tunnels: int  # bit set, see tunnels.tunnel_set
    max_tunnels: int
    keep_bytes: int  # of each packet, from its IP header on
    header_words: int  # HEADER_WORDS, or 0 if header fields are not read


class Decoded(NamedTuple):
    """The result of decoding a window. The next window overwrites the arrays."""

    frames: Records
    num_warm_up: int  # leading frames that only update the decoder's state: neither written nor counted
    packets: Packets
    reasons: NDArray[np.uint8]  # of each frame, a code of REASONS
    unread: NDArray[np.int32]  # of each frame, its link type or EtherType if that is not supported
    totals: Longs  # (R, 3) by reason: frames, their bytes on the wire, offset of the first (-1: none)


class Decoder:
    """Decodes a sequence of windows and keeps the state of earlier frames (duplicates, fragments).

    ``file_index``: of the current capture, written with each packet. ``keep_bytes``: bytes of each packet that go into
    its ``first_words``, behind the words of its header fields if ``header_fields``.
    """

    def __init__(self, settings: config.Capture, keep_bytes: int = 0, *, header_fields: bool = False) -> None:
        joins_fragments = settings.fragment_records > 0
        self._rules = Rules(
            settings.duplicate_window_us,
            settings.fragment_window_us if joins_fragments else 0,
            tunnel_set(settings.tunnels),
            settings.max_tunnels,
            keep_bytes,
            HEADER_WORDS if header_fields else 0,
        )
        self._ring = new_ring(settings.duplicate_records if settings.duplicate_window_us > 0 else 1)
        self._fragments = new_fragments(settings.fragment_records if joins_fragments else 1)
        self.file_index = 0
        self._num_frames = 0  # so far
        self._packets = Packets.empty()  # reused: new memory for each window would cost as much as the decoding
        self._columns: Any = Columns(*(getattr(self._packets, name) for name in _NAMES))
        self._reasons = np.empty(0, np.uint8)
        self._unread = np.empty(0, np.int32)
        self._headers = np.empty(HEADERS_SIZE, np.int64), np.empty(HEADERS_SIZE, np.int64)

    def decode(self, buffer: Bytes, records: Records, begin: int) -> Decoded:
        """Decode the records of the next window. Those before byte ``begin`` only warm up."""
        frames = frames_of(buffer, records)
        count = len(frames.offset)
        num_warm_up = int(np.searchsorted(frames.offset, begin))
        if count > len(self._packets):
            self._packets = Packets.empty(count, self._rules.header_words + words_of(self._rules.keep_bytes))
            self._columns = Columns(*(getattr(self._packets, name) for name in _NAMES))
            self._reasons = np.empty(count, np.uint8)
            self._unread = np.empty(count, np.int32)
        self._packets.file_index[:count] = self.file_index
        totals_R3 = np.zeros((len(REASONS), 3), np.int64)
        totals_R3[:, 2] = -1
        packets = decode(
            buffer,
            frames,
            num_warm_up,
            self._num_frames,
            self._rules,
            self._ring,
            self._fragments,
            self._columns,
            self._packets.first_words.view(np.uint8),
            self._reasons,
            self._unread,
            totals_R3,
            *self._headers,
        )
        self._num_frames += count
        decoded = Packets(*(column[:packets] for column in self._columns))
        return Decoded(frames, num_warm_up, decoded, self._reasons[:count], self._unread[:count], totals_R3)


@kernel
def decode(
    buffer: Bytes,
    frames: Records,
    num_warm_up: int,
    first_frame: int,
    rules: Rules,
    ring: Ring,
    fragments: FirstFragments,
    out: Any,
    first_bytes: Any,
    reasons: NDArray[np.uint8],
    unread: NDArray[np.int32],
    totals_R3: Longs,
    headers: Longs,
    inner: Longs,
) -> int:
    """Fill the arrays of `Decoded`; return the number of packets.

    ``out``: columns of Packets; ``first_bytes``: a byte view of its ``first_words``; ``headers``, ``inner``: buffers
    for a packet's headers; ``first_frame``: number of frames that the decoder had before.
    """
    size = len(buffer)
    has_state = rules.duplicate_window_us > 0 or rules.fragment_window_us > 0
    n = 0
    for number in range(0 if has_state else num_warm_up, len(frames.offset)):
        f, row = np.uint64(number), np.uint64(n)  # unsigned: no code for indices from the end of each column
        start = frames.data[f]
        end = min(start + frames.captured[f], size)
        wire: int = np.int64(frames.wire[f])  # type: ignore[assignment]
        link: int = np.int64(frames.link[f])  # type: ignore[assignment]
        reason = _packet_of(buffer, start, end, wire, link, headers)
        if rules.tunnels != 0 and reason == FLOW:
            reason = _innermost(buffer, end, rules, headers, inner)
        if rules.fragment_window_us > 0 and (reason == LATER_FRAGMENT or (reason == FLOW and headers[FRAGMENT] != 0)):
            protocol = byte(buffer, headers[IP_OFFSET] + 9) if headers[VERSION] == 4 else 0
            digest = _endpoints_digest(buffer, headers, protocol)
            if reason == FLOW:
                store_first(fragments, first_frame + number, frames.time[f], digest, headers)
            elif apply_first(
                fragments, first_frame + number, frames.time[f], digest, rules.fragment_window_us, headers
            ):
                reason = FLOW
        if reason == FLOW:
            if rules.duplicate_window_us > 0:
                digest = _endpoints_digest(buffer, headers, headers[FRAGMENT] << 8 | headers[PROTOCOL])
                digest = mixed(digest, np.uint64(headers[LENGTH]))
                packet_end = min(end, headers[IP_OFFSET] + headers[LENGTH])
                digest = mixed(digest, digest_of(buffer, headers[TRANSPORT_OFFSET], packet_end))
                if find(ring, first_frame + number, frames.time[f], digest, rules.duplicate_window_us) >= 0:
                    reason = DUPLICATE
                insert(ring, first_frame + number, frames.time[f], digest)
            out.offset[row] = frames.offset[f]
            out.timestamp_us[row] = frames.time[f]
            out.link_type[row] = link & LINK_TYPE_BITS
            out.frame_length[row] = wire
            out.captured_length[row] = end - start
            _write(buffer, headers, out, row)
            if rules.header_words > 0:
                write_header_words(buffer, end, headers, out.first_words, row)
            if rules.keep_bytes > 0:
                _keep(buffer, end, headers, rules.keep_bytes, first_bytes, row, 8 * rules.header_words)
        if number >= num_warm_up:
            reasons[f] = reason
            if reason in (UNKNOWN_LINK_TYPE, UNKNOWN_ETHER_TYPE):
                unread[f] = headers[UNREAD]
            if totals_R3[reason, 0] == 0:
                totals_R3[reason, 2] = frames.offset[f]
            totals_R3[reason, 0] += 1
            totals_R3[reason, 1] += wire
            n += reason == FLOW
    return n


@kernel
def _packet_of(buffer: Bytes, start: int, end: int, wire: int, link: int, headers: Longs) -> int:
    """Read a frame, ``wire`` bytes long and captured up to ``end``, into ``headers``; return the reason."""
    if link == NO_INTERFACE:
        return UNKNOWN_INTERFACE
    if link == BROKEN:
        return MALFORMED
    known = network_layer(buffer, start, end, link, headers)
    if known == FOUND:
        return read_packet(buffer, end, wire - (headers[IP_OFFSET] - start), headers)
    if known == CUT_OFF:
        return TRUNCATED if end - start < wire else MALFORMED
    if known == UNKNOWN_LINK:
        return UNKNOWN_LINK_TYPE
    return UNKNOWN_ETHER_TYPE if known == UNKNOWN_TYPE else NOT_IP


@kernel
def _innermost(buffer: Bytes, end: int, rules: Rules, headers: Longs, inner: Longs) -> int:
    """Decapsulate the packet in ``headers`` from the wanted tunnels, the outermost first; return its reason.

    A packet whose tunnel has no packet inside stays as it is. MACs are those inside the tunnel, as the outer ones
    belong to the tunnel's ends; so is the VLAN, if there is one inside.
    """
    reason = FLOW
    for _ in range(rules.max_tunnels):
        wire_end = headers[IP_OFFSET] + headers[LENGTH]
        link, start = tunnel(buffer, min(end, wire_end), headers, rules.tunnels)
        if link == NO_TUNNEL or start >= min(end, wire_end):
            break
        found = _packet_of(buffer, start, min(end, wire_end), wire_end - start, link, inner)
        if found not in (FLOW, LATER_FRAGMENT):
            break
        if inner[VLAN] < 0:
            inner[VLAN] = headers[VLAN]
        for field in range(HEADERS_SIZE):
            headers[field] = inner[field]
        reason = found
        if found == LATER_FRAGMENT:
            break
    return reason


@kernel
def _endpoints_digest(buffer: Bytes, headers: Longs, word: int) -> np.uint64:
    """A digest of the packet's addresses, VLAN, identification and ``word``."""
    at = headers[IP_OFFSET]
    digest = mixed(np.uint64(headers[IDENTIFICATION] << 32 | word), np.uint64(headers[VLAN] + 1))
    first = at + 8 if headers[VERSION] == 6 else at + 12
    size = 32 if headers[VERSION] == 6 else 8
    for i in range(first, first + size, 8):
        digest = mixed(digest, be64(buffer, i))
    return digest


@kernel
def _write(buffer: Bytes, headers: Longs, out: Any, n: np.uint64) -> None:
    """Write ``headers`` as packet ``n``."""
    at = headers[IP_OFFSET]
    version = headers[VERSION]
    out.packet_length[n] = headers[LENGTH]
    out.payload_length[n] = headers[PAYLOAD]
    out.ip_version[n] = version
    out.protocol[n] = headers[PROTOCOL]
    out.vlan[n] = headers[VLAN]
    out.src_mac[n] = headers[SOURCE_MAC]
    out.dst_mac[n] = headers[DESTINATION_MAC]
    if version == 6:
        out.src_ip_hi[n] = be64(buffer, at + 8)
        out.src_ip_lo[n] = be64(buffer, at + 16)
        out.dst_ip_hi[n] = be64(buffer, at + 24)
        out.dst_ip_lo[n] = be64(buffer, at + 32)
    else:
        out.src_ip_hi[n] = _ZERO
        out.src_ip_lo[n] = np.uint64(be32(buffer, at + 12))
        out.dst_ip_hi[n] = _ZERO
        out.dst_ip_lo[n] = np.uint64(be32(buffer, at + 16))
    out.src_port[n] = headers[SOURCE_PORT]
    out.dst_port[n] = headers[DESTINATION_PORT]
    out.tcp_flags[n] = headers[FLAGS]
    out.tcp_window[n] = headers[WINDOW]
    out.tcp_sequence[n] = headers[SEQUENCE]


@kernel
def _keep(
    buffer: Bytes, end: int, headers: Longs, keep_bytes: int, first_bytes: Any, n: np.uint64, column: int
) -> None:
    """Write the first bytes of packet ``n``, captured up to ``end``, from ``column`` on; its addresses and missing
    bytes are zero.

    Excludes the padding of the frame behind the packet.
    """
    at = headers[IP_OFFSET]
    count = min(keep_bytes, headers[LENGTH], end - at)
    for i in range(count):
        first_bytes[n, column + i] = buffer[at + i]
    for i in range(count, first_bytes.shape[1] - column):
        first_bytes[n, column + i] = 0
    addresses = 8 if headers[VERSION] == 6 else 12
    for i in range(addresses, min(40 if headers[VERSION] == 6 else 20, count)):
        first_bytes[n, column + i] = 0
