"""From records to packets: one pass over a window's records, each written as a packet or counted under a reason."""

from __future__ import annotations

from collections import namedtuple
from dataclasses import fields
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from iotid import config
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
from iotid.capture.fields import Bytes, Longs, be32, be64
from iotid.capture.fragments import FirstFragments, new_fragments, recall, remember
from iotid.capture.headers import (
    ABOVE,
    AT,
    DESTINATION_MAC,
    DESTINATION_PORT,
    FLAGS,
    FRAGMENT,
    HEADERS_SIZE,
    IDENTIFICATION,
    LENGTH,
    PAYLOAD,
    PROTOCOL,
    SEQUENCE,
    SOURCE_MAC,
    SOURCE_PORT,
    VERSION,
    VLAN,
    WINDOW,
)
from iotid.capture.internet import read_packet
from iotid.capture.jit import kernel
from iotid.capture.link import CUT_OFF, FOUND, UNKNOWN_LINK, network_layer
from iotid.capture.packets import Packets, words_of
from iotid.capture.records import BROKEN, NO_INTERFACE, Records
from iotid.capture.repeats import Ring, digest_of, mixed, new_ring, put, seek
from iotid.capture.tunnels import NO_TUNNEL, tunnel, tunnel_set

_ZERO = np.uint64(0)

Columns = namedtuple("Columns", [field.name for field in fields(Packets)])  # type: ignore[misc] # Packets for Numba


class Rules(NamedTuple):
    """The settings that decoding follows."""

    duplicate_window_us: int  # 0: repeats are packets like others
    fragment_window_us: int  # 0: later fragments are counted, never packets
    tunnels: int  # a set of tunnels.TUNNELS
    max_tunnels: int
    keep_bytes: int  # of each packet, from its IP header on


class Decoder:
    """Decodes one reading of splits, window by window: what it remembers of earlier records is for that reading.

    ``file_index``: the capture that is being read, written with each packet. ``keep_bytes``: how many bytes of each
    packet become its ``first_words``.
    """

    def __init__(self, settings: config.Capture, keep_bytes: int = 0) -> None:
        seeks_fragments = settings.fragment_records > 0
        self._rules = Rules(
            settings.duplicate_window_us,
            settings.fragment_window_us if seeks_fragments else 0,
            tunnel_set(settings.tunnels),
            settings.max_tunnels,
            keep_bytes,
        )
        self._ring = new_ring(settings.duplicate_records if settings.duplicate_window_us > 0 else 1)
        self._fragments = new_fragments(settings.fragment_records if seeks_fragments else 1)
        self.file_index = 0
        self._before = 0  # records of splits that were read before this one
        self._room = Packets.empty()  # made once: fresh memory for each window would cost as much as the decoding
        self._reasons = np.empty(0, np.uint8)
        self._headers = np.empty(HEADERS_SIZE, np.int64), np.empty(HEADERS_SIZE, np.int64)

    def skip(self, records: int) -> None:
        """Number the records to come after so many of another split."""
        self._before += records

    def decode(
        self, buffer: Bytes, records: Records, quiet: int, first_record: int
    ) -> tuple[Packets, NDArray[np.uint8], Longs]:
        """The packets of a window's records; each record's reason, a code of REASONS; and for each reason (R, 3) its
        packets, their bytes on the wire, and the first one's offset (-1: there is none).

        The first ``quiet`` records only warm up what is remembered: they are neither written nor counted.
        ``first_record`` is the first record's number in this reading of the capture. The next call writes over the
        packets and reasons of this one.
        """
        if len(records.offset) > len(self._room):
            self._room = Packets.empty(len(records.offset), words_of(self._rules.keep_bytes))
            self._reasons = np.empty(len(records.offset), np.uint8)
        self._room.file_index[: len(records.offset)] = self.file_index
        totals_R3 = np.zeros((len(REASONS), 3), np.int64)
        totals_R3[:, 2] = -1
        columns = Columns(*(getattr(self._room, field.name) for field in fields(Packets)))
        count = decode(
            buffer,
            records,
            quiet,
            self._before + first_record,
            self._rules,
            self._ring,
            self._fragments,
            columns,
            self._room.first_words.view(np.uint8),
            self._reasons,
            totals_R3,
            *self._headers,
        )
        return self._room.take(slice(count)), self._reasons[: len(records.offset)], totals_R3


@kernel
def decode(
    buffer: Bytes,
    records: Records,
    quiet: int,
    first_record: int,
    rules: Rules,
    ring: Ring,
    fragments: FirstFragments,
    out: Any,
    first_bytes: Any,
    reasons: NDArray[np.uint8],
    totals_R3: Longs,
    headers: Longs,
    inner: Longs,
) -> int:
    """What `Decoder.decode` says; ``out``: columns of Packets; ``first_bytes``: its ``first_words``, byte by byte;
    ``headers``, ``inner``: room for a packet's headers.

    Returns the number of packets.
    """
    size = len(buffer)
    remembers = rules.duplicate_window_us > 0 or rules.fragment_window_us > 0
    n = 0
    for r in range(0 if remembers else quiet, len(records.offset)):
        start = records.data[r]
        end = min(start + records.captured[r], size)
        wire: int = np.int64(records.wire[r])  # type: ignore[assignment]
        link: int = np.int64(records.link[r])  # type: ignore[assignment]
        reason = _packet_of(buffer, start, end, wire, link, headers)
        if rules.tunnels != 0 and reason == FLOW:
            reason = _innermost(buffer, end, rules, headers, inner)
        if rules.fragment_window_us > 0 and (reason == LATER_FRAGMENT or (reason == FLOW and headers[FRAGMENT] != 0)):
            digest = _ends_of(buffer, headers, headers[PROTOCOL] if headers[VERSION] == 4 else 0)
            if reason == FLOW:
                remember(fragments, first_record + r, records.time[r], digest, headers)
            elif recall(fragments, first_record + r, records.time[r], digest, rules.fragment_window_us, headers):
                reason = FLOW
        if reason == FLOW:
            if rules.duplicate_window_us > 0:
                digest = _ends_of(buffer, headers, headers[FRAGMENT] << 8 | headers[PROTOCOL])
                above = headers[ABOVE]
                digest = mixed(digest, np.uint64(headers[LENGTH]))
                digest = mixed(digest, digest_of(buffer, above, min(end, headers[AT] + headers[LENGTH])))
                if seek(ring, first_record + r, records.time[r], digest, rules.duplicate_window_us) >= 0:
                    reason = DUPLICATE
                put(ring, first_record + r, records.time[r], digest)
            out.offset[n] = records.offset[r]
            out.timestamp_us[n] = records.time[r]
            out.link_type[n] = records.link[r]
            out.frame_length[n] = wire
            out.captured_length[n] = end - start
            _write(buffer, headers, out, n)
            if rules.keep_bytes > 0:
                _keep(buffer, end, headers, rules.keep_bytes, first_bytes, n)
        if r >= quiet:
            reasons[r] = reason
            if totals_R3[reason, 0] == 0:
                totals_R3[reason, 2] = records.offset[r]
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
        return read_packet(buffer, end, wire - (headers[AT] - start), headers)
    if known == CUT_OFF:
        return TRUNCATED if end - start < wire else MALFORMED
    return UNKNOWN_LINK_TYPE if known == UNKNOWN_LINK else NOT_IP


@kernel
def _innermost(buffer: Bytes, end: int, rules: Rules, headers: Longs, inner: Longs) -> int:
    """Take the wanted tunnels off the packet in ``headers``, the outermost first; return the packet's reason.

    A tunnel in which no packet is found is a packet like any other. Addresses of the link layer are those inside the
    tunnel: the ones outside belong to whoever built it. So is the VLAN, if there is one inside.
    """
    reason = FLOW
    for _ in range(rules.max_tunnels):
        wire_end = headers[AT] + headers[LENGTH]
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
def _ends_of(buffer: Bytes, headers: Longs, word: int) -> np.uint64:
    """A digest of the packet's addresses, VLAN, identification and ``word``."""
    at = headers[AT]
    digest = mixed(np.uint64(headers[IDENTIFICATION] << 32 | word), np.uint64(headers[VLAN] + 1))
    first = at + 8 if headers[VERSION] == 6 else at + 12
    size = 32 if headers[VERSION] == 6 else 8
    for i in range(first, first + size, 8):
        digest = mixed(digest, be64(buffer, i))
    return digest


@kernel
def _write(buffer: Bytes, headers: Longs, out: Any, n: int) -> None:
    """Write ``headers`` as packet ``n``."""
    at = headers[AT]
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
def _keep(buffer: Bytes, end: int, headers: Longs, keep_bytes: int, first_bytes: Any, n: int) -> None:
    """Write the first bytes of packet ``n``, captured up to ``end``, zeros for its addresses and for what is not there.

    They end with the packet, not with the frame, which may be padded.
    """
    at = headers[AT]
    count = min(keep_bytes, headers[LENGTH], end - at)
    for i in range(count):
        first_bytes[n, i] = buffer[at + i]
    for i in range(count, first_bytes.shape[1]):
        first_bytes[n, i] = 0
    addresses = 8 if headers[VERSION] == 6 else 12
    for i in range(addresses, min(40 if headers[VERSION] == 6 else 20, count)):
        first_bytes[n, i] = 0
