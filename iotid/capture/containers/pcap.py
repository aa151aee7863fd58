"""Scans the records of a classic pcap, and searches the next valid record after a broken one.

Format: draft-ietf-opsawg-pcap. A record is 16 bytes of header (24 in Kuznetzov's modified pcap) and the captured bytes.
"""

from __future__ import annotations

from iotid.capture.containers.records import (
    BROKEN,
    CHAIN,
    CUT,
    FAR_END,
    LONG_CHAIN,
    MAX_WIRE_BYTES,
    POSITION,
    RECORDS,
    SKIP_FROM,
    Records,
    add_fault,
    emit,
)
from iotid.capture.fields import Bytes, Longs, u32
from iotid.capture.jit import kernel

# indices into `layout`, int64 each
BIG_ENDIAN, HEADER_BYTES, TICKS_PER_US, LINK_TYPE, MAX_PACKET_BYTES = range(5)
LAYOUT_SIZE = 5

_DAY_S = 86_400  # maximum gap between consecutive records of a chain


@kernel
def scan_pcap(
    buffer: Bytes,
    base: int,
    final: bool,
    limit: int,
    layout: Longs,
    state: Longs,
    records: Records,
    faults: Longs,
) -> tuple[int, int, int]:
    """Scan from ``state[POSITION]`` to ``limit``, the buffer's end, or full tables.

    A broken byte range that begins before ``limit`` is followed to its end, so that the end of a scan depends only on
    its start and ``limit``. ``buffer`` starts at byte ``base`` of the stream and, if ``final``, ends with it. Returns
    the numbers of records and of faults written, and the bytes needed from the new position on to continue (0 if the
    scan stopped for another reason).
    """
    size = len(buffer)
    big = layout[BIG_ENDIAN] != 0
    header = layout[HEADER_BYTES]
    reach = CHAIN * (header + layout[MAX_PACKET_BYTES])
    i = state[POSITION] - base
    n = f = need = 0
    while (i + base < limit or state[SKIP_FROM] >= 0) and n < len(records.offset) and f < len(faults):
        if state[SKIP_FROM] >= 0:
            while i < size and (final or i + reach <= size) and not _is_chain(buffer, i, final, layout):
                i += 1
            if i < size and not final and i + reach > size:
                need = 2 * reach
                break
            f = add_fault(faults, f, state, base + i, final and i >= size)
            continue
        if size - i < header:
            if not final:
                need = header
            elif i < size:
                state[SKIP_FROM] = base + i
                i = size
                f = add_fault(faults, f, state, base + i, False)
            break
        captured = u32(buffer, i + 8, big)
        wire = u32(buffer, i + 12, big)
        seconds = u32(buffer, i, big)
        ticks = u32(buffer, i + 4, big)
        hole = captured == 0 and wire == 0 and seconds == 0 and ticks == 0  # zeros left by a crash
        if captured <= layout[MAX_PACKET_BYTES] and wire <= MAX_WIRE_BYTES and not hole:
            if i + header + captured <= size:
                time = seconds * 1_000_000
                link = layout[LINK_TYPE]
                if ticks < 1_000_000 * layout[TICKS_PER_US]:
                    time += ticks // layout[TICKS_PER_US]
                else:  # an invalid fraction of a second
                    link = BROKEN
                emit(records, n, base + i, i + header, captured, wire, time, link)
                n += 1
                i += header + captured
                continue
            if not final:
                need = header + captured
                break
            state[CUT] = 1
        state[SKIP_FROM] = base + i
        i += 1
    state[POSITION] = base + i
    state[RECORDS] += n
    return n, f, need


@kernel
def find_pcap_record(buffer: Bytes, stop: int, final: bool, layout: Longs) -> int:
    """Where in ``buffer[:stop]`` the longest chain of plausible records starts, or the first of LONG_CHAIN; else -1.

    The buffer is large enough for CHAIN records from every offset before ``stop``, unless the stream ends.
    """
    size = len(buffer)
    best = -1
    longest = 0
    for at in range(stop):
        length, end = _chain(buffer, at, layout, LONG_CHAIN)
        whole = length >= CHAIN or (length == 2 and end == size and final)
        if whole and length > longest:
            best = at
            longest = length
            if length == LONG_CHAIN or size - end < layout[HEADER_BYTES]:
                break
    return best


@kernel
def _is_chain(buffer: Bytes, at: int, final: bool, layout: Longs) -> bool:
    """Whether CHAIN plausible records follow each other from ``at``, or two that end exactly with the stream.

    One is not enough: the data of a record that is cut off at the stream's end too often contains one.
    """
    length, end = _chain(buffer, at, layout, CHAIN)
    if length == CHAIN:
        return end <= len(buffer)
    return final and length == 2 and end == len(buffer)


@kernel
def _chain(buffer: Bytes, at: int, layout: Longs, most: int) -> tuple[int, int]:
    """(number of plausible records, up to ``most``, that follow each other from ``at``; where the last one ends)."""
    big = layout[BIG_ENDIAN] != 0
    header = layout[HEADER_BYTES]
    size = len(buffer)
    before = -1
    i = at
    length = 0
    while length < most and size - i >= header:
        captured = u32(buffer, i + 8, big)
        wire = u32(buffer, i + 12, big)
        if captured == 0 or captured > layout[MAX_PACKET_BYTES] or wire < captured or wire > FAR_END:
            break
        if u32(buffer, i + 4, big) >= 1_000_000 * layout[TICKS_PER_US]:
            break
        seconds = u32(buffer, i, big)
        if before >= 0 and abs(seconds - before) > _DAY_S:
            break
        before = seconds
        i += header + captured
        length += 1
    return length, i
