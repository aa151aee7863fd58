"""Scans the blocks of a pcapng: sections, interfaces and packets; other blocks are skipped by their length.

Format: draft-ietf-opsawg-pcapng. A block is its type, its length, a body and its length again, which must agree.
"""

from __future__ import annotations

import numpy as np

from iotid.capture.containers.records import (
    BROKEN,
    CHAIN,
    CUT,
    INTERFACES,
    LAST_CONTEXT_CHANGE,
    LONG_CHAIN,
    MAX_WIRE_BYTES,
    NO_INTERFACE,
    POSITION,
    RECORDS,
    SECTION_BIG_ENDIAN,
    SECTIONS,
    SKIP_FROM,
    Records,
    add_fault,
    emit,
)
from iotid.capture.fields import Bytes, Longs, byte, u16, u32
from iotid.capture.jit import kernel

# columns of the table of interfaces, int64 each
LINK_TYPE, SNAP_LENGTH, BINARY, EXPONENT, OFFSET_S = range(5)
INTERFACE_SIZE = 5
MAX_INTERFACES = 1 << 16  # of one section: bounds the context of a split
TABLE_FULL = -1  # returned as `need`: the table of interfaces is too small
ANY_ORDER = -1  # any byte order: the block starts a section, which states its own

MAX_OPTION_BYTES = 1 << 16  # of a packet block beside its packet
_MAX_BLOCK_BYTES = 1 << 24  # the limit of libpcap and Wireshark

_SECTION, _INTERFACE, _PACKET, _SIMPLE, _ENHANCED = 0x0A0D0D0A, 1, 2, 3, 6
_BYTE_ORDER_MAGIC = 0x1A2B3C4D
_OPTION_END, _OPTION_RESOLUTION, _OPTION_OFFSET = 0, 9, 14

LAST_US = 253_402_300_799_999_999  # end of the year 9999, the last that dates can be written for
_MILLION = np.uint64(1_000_000)
_LAST_S = np.uint64(LAST_US // 1_000_000)
_WORD = np.uint64(32)
_LOWER = np.uint64(0xFFFFFFFF)
_POWERS_OF_TEN = np.array([10**power for power in range(20)], np.uint64)


@kernel
def scan_pcapng(
    buffer: Bytes,
    base: int,
    final: bool,
    limit: int,
    max_packet_bytes: int,
    state: Longs,
    interfaces_IF: Longs,
    records: Records,
    faults: Longs,
) -> tuple[int, int, int]:
    """Scan from ``state[POSITION]`` to ``limit``, the buffer's end, or full tables; as ``scan_pcap``.

    ``interfaces_IF``: the section's interfaces; for a scan that starts inside a section, those described before.
    """
    size = len(buffer)
    reach = CHAIN * (max_packet_bytes + MAX_OPTION_BYTES)
    i = state[POSITION] - base
    n = f = need = 0
    while (i + base < limit or state[SKIP_FROM] >= 0) and n < len(records.offset) and f < len(faults):
        if state[SKIP_FROM] >= 0:
            while (
                i < size and (final or i + reach <= size) and not _is_chain(buffer, i, final, state, max_packet_bytes)
            ):
                i += 1
            if i < size and not final and i + reach > size:
                need = 2 * reach
                break
            f = add_fault(faults, f, state, base + i, final and i >= size)
            continue
        if size - i < 12:
            if not final:
                need = 12
            elif i < size:
                state[SKIP_FROM] = base + i
                i = size
                f = add_fault(faults, f, state, base + i, False)
            break
        block_type, length, big = _block(buffer, i, state[SECTION_BIG_ENDIAN] != 0)
        if 0 < length <= max(_MAX_BLOCK_BYTES, max_packet_bytes + MAX_OPTION_BYTES):
            if i + length > size:
                if not final:
                    need = length
                    break
                state[CUT] = _is_packet(block_type)
            elif u32(buffer, i + length - 4, big) == length:
                if block_type == _SECTION:
                    state[SECTION_BIG_ENDIAN] = big
                    state[SECTIONS] += 1
                    state[INTERFACES] = 0
                    state[LAST_CONTEXT_CHANGE] = state[RECORDS] + n
                elif block_type == _INTERFACE and state[INTERFACES] < MAX_INTERFACES:
                    if state[INTERFACES] == len(interfaces_IF):
                        need = TABLE_FULL
                        break
                    _describe(buffer, i, length, big, interfaces_IF[state[INTERFACES]])
                    state[INTERFACES] += 1
                    state[LAST_CONTEXT_CHANGE] = state[RECORDS] + n
                elif _is_packet(block_type):
                    data, captured, wire, interface = _packet(buffer, i, block_type, length, big, max_packet_bytes)
                    time = 0
                    link = BROKEN
                    if data > 0 and interface < state[INTERFACES]:
                        link = interfaces_IF[interface, LINK_TYPE]
                        if block_type == _SIMPLE:  # has no time, and is truncated at its interface's snap length
                            if interfaces_IF[0, SNAP_LENGTH] > 0:
                                captured = min(captured, interfaces_IF[0, SNAP_LENGTH])
                        else:
                            time = _microseconds(
                                u32(buffer, i + 12, big),
                                u32(buffer, i + 16, big),
                                interfaces_IF[interface, BINARY],
                                interfaces_IF[interface, EXPONENT],
                                interfaces_IF[interface, OFFSET_S],
                            )
                            if time < 0:
                                link = BROKEN
                    elif data > 0:
                        link = NO_INTERFACE
                    emit(records, n, base + i, data, captured, wire, time, link)
                    n += 1
                i += length
                continue
        state[SKIP_FROM] = base + i
        i += 1
    state[POSITION] = base + i
    state[RECORDS] += n
    return n, f, need


@kernel
def _is_packet(block_type: int) -> bool:
    return block_type in (_ENHANCED, _SIMPLE, _PACKET)


@kernel
def _block(buffer: Bytes, at: int, section_big: bool) -> tuple[int, int, bool]:
    """Type, length and byte order of the block whose first 12 bytes are at ``at``; length 0 if it is invalid."""
    big = section_big
    block_type = u32(buffer, at, big)
    least = 12
    if block_type == _SECTION:
        least = 28
        big = u32(buffer, at + 8, True) == _BYTE_ORDER_MAGIC
        if not big and u32(buffer, at + 8, False) != _BYTE_ORDER_MAGIC:
            return block_type, 0, big
    elif block_type == _INTERFACE:
        least = 20
    elif block_type in (_ENHANCED, _PACKET):
        least = 32
    elif block_type == _SIMPLE:
        least = 16
    length = u32(buffer, at + 4, big)
    if length < least or length % 4 != 0:
        return block_type, 0, big
    return block_type, length, big


@kernel
def find_pcapng_block(buffer: Bytes, stop: int, final: bool, max_packet_bytes: int) -> tuple[int, int]:
    """(where in ``buffer[:stop]`` the longest chain of blocks starts, or the first of LONG_CHAIN, else -1; byte order).

    The byte order is 1 for big-endian blocks, else 0. The buffer is large enough for CHAIN blocks from every offset
    before ``stop``, unless the stream ends.
    """
    size = len(buffer)
    best = -1
    order = ANY_ORDER
    longest = 0
    for at in range(stop):
        for big in range(2):
            length, end = _chain(buffer, at, big != 0, max_packet_bytes, LONG_CHAIN)
            whole = length >= CHAIN or (length > 0 and end == size and final)
            if whole and length > longest:
                best = at
                longest = length
                order = ANY_ORDER if u32(buffer, at, False) == _SECTION else big
        if longest == LONG_CHAIN:
            break
    return best, order


@kernel
def _is_chain(buffer: Bytes, at: int, final: bool, state: Longs, max_packet_bytes: int) -> bool:
    """Whether CHAIN complete blocks follow each other from ``at``, or fewer that end exactly with the stream."""
    length, end = _chain(buffer, at, state[SECTION_BIG_ENDIAN] != 0, max_packet_bytes, CHAIN)
    return length == CHAIN or (final and length > 0 and end == len(buffer))


@kernel
def _chain(buffer: Bytes, at: int, big: bool, max_packet_bytes: int, most: int) -> tuple[int, int]:
    """(number of complete blocks, up to ``most``, that follow each other from ``at``; where the last one ends)."""
    size = len(buffer)
    i = at
    count = 0
    while count < most and size - i >= 12:
        block_type, length, big = _block(buffer, i, big)
        if length == 0 or length > max_packet_bytes + MAX_OPTION_BYTES or i + length > size:
            break
        named = 0 < block_type < 0x10000 or block_type in (_SECTION, 0x00000BAD, 0x40000BAD) or block_type >= 0x80000000
        if not named or u32(buffer, i + length - 4, big) != length:
            break
        i += length
        count += 1
    return count, i


@kernel
def _describe(buffer: Bytes, at: int, length: int, big: bool, interface_F: Longs) -> None:
    """Read an interface description block. Each iteration over its options advances at least 4 bytes."""
    interface_F[LINK_TYPE] = u16(buffer, at + 8, big)
    interface_F[SNAP_LENGTH] = u32(buffer, at + 12, big)
    interface_F[BINARY] = 0
    interface_F[EXPONENT] = 6
    interface_F[OFFSET_S] = 0
    i = at + 16
    end = at + length - 4
    while end - i >= 4:
        option = u16(buffer, i, big)
        size = u16(buffer, i + 2, big)
        i += 4
        if option == _OPTION_END or size > end - i:
            break
        if option == _OPTION_RESOLUTION and size == 1:
            interface_F[BINARY] = byte(buffer, i) >> 7
            interface_F[EXPONENT] = byte(buffer, i) & 0x7F
        elif option == _OPTION_OFFSET and size == 8:
            high = u32(buffer, i if big else i + 4, big)
            low = u32(buffer, i + 4 if big else i, big)
            interface_F[OFFSET_S] = (((high ^ 0x80000000) - 0x80000000) << 32) + low
        i += (size + 3) // 4 * 4


@kernel
def _packet(
    buffer: Bytes, at: int, block_type: int, length: int, big: bool, max_packet_bytes: int
) -> tuple[int, int, int, int]:
    """(start of a packet block's frame, 0 if its fields are inconsistent; captured bytes; wire bytes; interface)."""
    if block_type == _SIMPLE:
        wire = u32(buffer, at + 8, big)
        captured = min(wire, length - 16)
        data = at + 12
        interface = 0
    else:
        wire = u32(buffer, at + 24, big)
        captured = u32(buffer, at + 20, big)
        data = at + 28
        interface = u32(buffer, at + 8, big) if block_type == _ENHANCED else u16(buffer, at + 8, big)
    if captured > min(length - (data - at) - 4, max_packet_bytes) or wire > MAX_WIRE_BYTES:
        return 0, 0, 0, 0
    return data, captured, wire, interface


@kernel
def _microseconds(high: int, low: int, binary: int, exponent: int, offset_s: int) -> int:
    """µs since 1970 of a 64-bit count of ticks of 10**-exponent or 2**-exponent s; -1 if outside 1970 to 9999."""
    ticks = (np.uint64(high) << _WORD) | np.uint64(low)
    seconds = np.uint64(0)
    part = np.uint64(0)  # µs
    if binary == 0:
        if exponent < 6:
            factor = _POWERS_OF_TEN[6 - exponent]
            seconds = ticks // _POWERS_OF_TEN[exponent]
            part = ticks % _POWERS_OF_TEN[exponent] * factor
        elif exponent - 6 < len(_POWERS_OF_TEN):
            part = ticks // _POWERS_OF_TEN[exponent - 6]
    else:
        if exponent < 64:
            seconds = ticks >> np.uint64(exponent)
            ticks &= (np.uint64(1) << np.uint64(exponent)) - np.uint64(1)
        # ticks * 10**6 has up to 84 bits: computed in two halves, of which the lower only carries
        upper = (ticks >> _WORD) * _MILLION + (((ticks & _LOWER) * _MILLION) >> _WORD)
        if exponent < 32:
            part = (ticks * _MILLION) >> np.uint64(exponent)
        elif exponent < 96:
            part = upper >> np.uint64(exponent - 32)
    if seconds > _LAST_S or part > np.uint64(LAST_US) or abs(offset_s) > LAST_US // 1_000_000:
        return -1
    time: int = (np.int64(seconds) + offset_s) * 1_000_000 + np.int64(part)  # type: ignore[assignment]
    return time if 0 <= time <= LAST_US else -1
