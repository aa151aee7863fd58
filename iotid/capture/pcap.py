"""The walk over a classic pcap's records, and the search for the next provable one behind a broken record.

Format: draft-ietf-opsawg-pcap. A record is 16 bytes of header (24 in Kuznetzov's modified pcap) and the captured bytes.
"""

from __future__ import annotations

from iotid.capture.fields import Bytes, Longs, u32
from iotid.capture.jit import kernel
from iotid.capture.records import (
    CHAIN,
    CUT,
    FAR_END,
    MAX_WIRE_BYTES,
    POSITION,
    RECORDS,
    SKIP_FROM,
    Records,
    add_fault,
    emit,
)

# indices into `layout`, int64 each
BIG_ENDIAN, HEADER_BYTES, TICKS_PER_US, LINK_TYPE, MAX_PACKET_BYTES = range(5)
LAYOUT_SIZE = 5

_DAY_S = 86_400  # neighbours in a chain that proves a record are at most this far apart


@kernel
def walk_pcap(
    buffer: Bytes,
    base: int,
    final: bool,
    limit: int,
    layout: Longs,
    state: Longs,
    records: Records,
    faults: Longs,
) -> tuple[int, int, int]:
    """Step from ``state[POSITION]`` until ``limit``, the buffer's end, or full tables.

    ``buffer`` starts at byte ``base`` of the stream and, where ``final``, ends with it. Returns the number of records
    and of faults written, and how many bytes from the new position on are needed to go on (0: the reason is another).
    """
    size = len(buffer)
    big = layout[BIG_ENDIAN] != 0
    header = layout[HEADER_BYTES]
    reach = CHAIN * (header + layout[MAX_PACKET_BYTES])
    i = state[POSITION] - base
    n = f = need = 0
    while i + base < limit and n < len(records.offset) and f < len(faults):
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
        hole = captured == 0 and wire == 0 and seconds == 0 and ticks == 0  # zeros that a crash left behind
        if captured <= layout[MAX_PACKET_BYTES] and wire <= MAX_WIRE_BYTES and not hole:
            if i + header + captured <= size:
                time = seconds * 1_000_000 + ticks // layout[TICKS_PER_US]
                emit(records, n, base + i, i + header, captured, wire, time, layout[LINK_TYPE])
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
def _is_chain(buffer: Bytes, at: int, final: bool, layout: Longs) -> bool:
    """Whether CHAIN plausible records follow one another from ``at``, or two that end exactly with the stream.

    One alone proves nothing: in the data of a record that the stream's end cuts off, one is found too easily.
    """
    big = layout[BIG_ENDIAN] != 0
    header = layout[HEADER_BYTES]
    size = len(buffer)
    before = -1
    i = at
    for length in range(CHAIN):
        if i == size and length >= 2:
            return final
        if size - i < header:
            return False
        captured = u32(buffer, i + 8, big)
        wire = u32(buffer, i + 12, big)
        if captured == 0 or captured > layout[MAX_PACKET_BYTES] or wire < captured or wire > FAR_END:
            return False
        if u32(buffer, i + 4, big) >= 1_000_000 * layout[TICKS_PER_US]:
            return False
        seconds = u32(buffer, i, big)
        if before >= 0 and abs(seconds - before) > _DAY_S:
            return False
        before = seconds
        i += header + captured
    return i <= size
