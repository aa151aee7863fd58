"""Kernels that assemble packets into partial flows; see ``layout`` for the rows."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from iotid.capture.jit import kernel
from iotid.flows.key_table import find_slot
from iotid.flows.layout import (
    ADDRESS_HIGH,
    ADDRESS_LOW,
    BEFORE_ALL,
    BYTES,
    END_REASON,
    FILE_SHIFT,
    FIN,
    FIRST,
    FIRST_SIDE,
    FLAGS_SHIFT,
    HOLDER,
    KEY_COLUMNS,
    KEY_WORDS,
    LAST,
    LAST_SYN,
    NEVER,
    NO_HOLDER,
    OPENED,
    PACKET_LENGTHS,
    PACKET_MARKS,
    PACKET_ORDER,
    PACKET_WIDTH,
    PACKETS,
    PAYLOAD_SHIFT,
    PORT_SHIFT,
    PORTS,
    POSITION,
    POSITION_SHIFT,
    PROTOCOL_SHIFT,
    RST,
    SENDERS,
    SIDE_SHIFT,
    SOURCE_MAC,
    STATE_WIDTH,
    SYN,
    SYN_ACK,
    SYN_ACK_SIDE,
    SYN_SIDE,
    SYN_SIDES,
    TARGET_MAC,
    UNSPECIFIED,
    VALUE,
    VALUE_COLUMNS,
    VERSION_SHIFT,
    VLAN,
    Array,
    before,
    closed,
    count_sender,
    has_moved,
    opened_otherwise,
    record_holder,
    same,
    starts_with_syn,
)

_MAX_MOVES = 16  # per packet, on average: beyond this a full sort is faster

_FIN_FLAG, _SYN_FLAG, RST_FLAG, _ACK_FLAG = 1, 2, 4, 16  # RFC 9293, section 3.1


class Columns(NamedTuple):
    """The columns of ``capture.packets.Packets`` that flow assembly reads, one entry per packet."""

    file_index: Array
    offset: Array
    timestamp_us: Array
    frame_length: Array
    packet_length: Array
    payload_length: Array
    ip_version: Array
    protocol: Array
    vlan: Array
    src_mac: Array
    dst_mac: Array
    src_ip_hi: Array
    src_ip_lo: Array
    dst_ip_hi: Array
    dst_ip_lo: Array
    src_port: Array
    dst_port: Array
    tcp_flags: Array
    tcp_window: Array
    tcp_sequence: Array
    first_words: Array  # (n, W)


class Rule(NamedTuple):
    """``config.Flow`` as kernels take it: time-outs in µs, -1 for none."""

    max_packets: int
    keep_packets: int
    header_words: int
    idle_us: int
    active_us: int
    tcp_close: bool
    join_files: bool


class Table(NamedTuple):
    """Partial flows that still grow. ``keys`` to ``first_packets`` have spare rows; ``counts`` are those in use."""

    slots: Array  # int64 (2 ** k,): row of each key's youngest partial flow, the only one that packets join; -1: free
    secret: Array  # uint64 (SECRET_WORDS,)
    keys: Array
    state: Array
    packet_owners: Array  # int32: row of the partial flow that each row of first_packets belongs to
    first_packets: Array
    counts: Array  # int64 (3,): rows of keys and state, distinct keys, rows of first_packets
    key: Array  # uint64 (KEY_WORDS,): buffer for a packet's key


PARTIALS, KEYS, FIRST_PACKETS = 0, 1, 2


@kernel
def _pack_key(p: int, packets: Columns, join_files: bool, key: Array) -> int:
    """Write packet ``p``'s key into ``key`` and return the side that sent it."""
    source_hi, source_lo, source_port = packets.src_ip_hi[p], packets.src_ip_lo[p], packets.src_port[p]
    target_hi, target_lo, target_port = packets.dst_ip_hi[p], packets.dst_ip_lo[p], packets.dst_port[p]
    # hosts without an address send from the unspecified address: their MACs distinguish them
    source_is_unspecified, target_is_unspecified = source_hi | source_lo == 0, target_hi | target_lo == 0
    if source_is_unspecified:
        source_hi = np.uint64(packets.src_mac[p] + 1)
    if target_is_unspecified:
        target_hi = np.uint64(packets.dst_mac[p] + 1)
    if source_hi != target_hi:
        swap = source_hi > target_hi
    elif source_lo != target_lo:
        swap = source_lo > target_lo
    else:
        swap = source_port > target_port
    if swap:
        source_hi, source_lo, source_port, target_hi, target_lo, target_port = (
            target_hi, target_lo, target_port, source_hi, source_lo, source_port,
        )  # fmt: skip
        source_is_unspecified, target_is_unspecified = target_is_unspecified, source_is_unspecified
    file = np.int64(0) if join_files else np.int64(packets.file_index[p]) + 1
    kind = np.int64(packets.protocol[p]) << PROTOCOL_SHIFT | np.int64(packets.ip_version[p]) << VERSION_SHIFT
    kind |= np.int64(source_is_unspecified) << UNSPECIFIED | np.int64(target_is_unspecified) << UNSPECIFIED + 1
    key[PORTS] = np.uint64(np.int64(source_port) | np.int64(target_port) << PORT_SHIFT | kind)
    key[ADDRESS_LOW], key[ADDRESS_LOW + 1] = source_lo, target_lo
    key[ADDRESS_HIGH], key[ADDRESS_HIGH + 1] = source_hi, target_hi
    key[VLAN] = np.uint64((np.int64(packets.vlan[p]) + 1) | file << FILE_SHIFT)
    return 1 if swap else 0


@kernel
def sort_by_time(packets: Columns, order: Array) -> bool:
    """Write the packets' indices, sorted by order key, into ``order``; False if they are too far out of order.

    Captures are nearly in order: insertion sort takes one comparison per packet, and some moves for each late one.
    """
    moves = 0
    for p in range(len(order)):
        us = packets.timestamp_us[p]
        index = p
        while index > 0 and us <= packets.timestamp_us[order[index - 1]]:
            earlier = order[index - 1]
            if us == packets.timestamp_us[earlier] and _position(packets, earlier) <= _position(packets, p):
                break
            order[index] = earlier
            index -= 1
        order[index] = p
        moves += p - index
        if moves > _MAX_MOVES * len(order):
            return False
    return True


@kernel
def _position(packets: Columns, p: int) -> int:
    """The second column of packet ``p``'s order key."""
    position: int = np.int64(packets.file_index[p]) << POSITION_SHIFT | packets.offset[p]
    return position


@kernel
def _continues(
    keys: Array,
    state: Array,
    i: int,
    us: int,
    position: int,
    side: int,
    is_syn: bool,
    sequence: int,
    source: int,
    target: int,
    rule: Rule,
) -> bool:
    """Whether the packet may join the partial flow of row ``i``.

    All SYNs of a partial flow are from one side with one number, it starts with one of them, and none follows a close;
    MACs of a local address change within MOVE_US. So earlier packets, unknown here, can cut it only at its start,
    unless partial flows overlap in time or a MAC first appears late.
    """
    if before(us, position, state[i, LAST], state[i, LAST + POSITION]):
        return False
    if 0 <= rule.idle_us < us - state[i, LAST] or 0 <= rule.active_us < us - state[i, FIRST]:
        return False
    if rule.tcp_close and is_syn:
        closed_us, closed_position = closed(state, i)
        if before(closed_us, closed_position, us, position) or not starts_with_syn(state, i):
            return False
        if state[i, FIRST_SIDE] != side or opened_otherwise(state, i, side, sequence):
            return False
    moved = has_moved(keys, i, state, i, side, source, us) or has_moved(keys, i, state, i, 1 - side, target, us)
    return not moved


@kernel
def _open(state: Array, i: int, us: int, position: int, side: int) -> None:
    for column in range(FIN, FIRST_SIDE):
        state[i, column] = NEVER
    state[i, FIRST], state[i, FIRST + POSITION] = us, position
    state[i, LAST_SYN], state[i, LAST_SYN + POSITION] = BEFORE_ALL, BEFORE_ALL
    for column in range(PACKETS, FIN):
        state[i, column] = 0
    for column in range(FIRST_SIDE, OPENED):
        state[i, column] = 0
    for column in range(OPENED, HOLDER):
        state[i, column] = NEVER
    for column in range(HOLDER, SENDERS):
        state[i, column] = NO_HOLDER
    for column in range(SENDERS, STATE_WIDTH):
        state[i, column] = NEVER
    state[i, FIRST_SIDE] = side


@kernel
def _append(
    state: Array,
    i: int,
    us: int,
    position: int,
    side: int,
    length: int,
    flags: int,
    sequence: int,
    source: int,
    target: int,
) -> None:
    """Add a packet that comes after all those of row ``i``: bytes of its frame, TCP flags and number, both MACs.

    Separate parameters, because passing a tuple of 20 arrays to a function that is not inlined costs 100 ns per packet.
    """
    state[i, LAST], state[i, LAST + POSITION] = us, position
    state[i, PACKETS + side] += 1
    state[i, BYTES + side] += length
    if flags & _SYN_FLAG:
        if flags & _ACK_FLAG:
            if state[i, SYN_ACK] == NEVER:
                state[i, SYN_ACK], state[i, SYN_ACK + POSITION], state[i, SYN_ACK_SIDE] = us, position, side
        else:
            if state[i, SYN] == NEVER:
                state[i, SYN], state[i, SYN + POSITION], state[i, SYN_SIDE] = us, position, side
            state[i, LAST_SYN], state[i, LAST_SYN + POSITION] = us, position
            state[i, SYN_SIDES] |= 1 << side
    opened = OPENED + VALUE_COLUMNS * side
    if sequence >= 0 and state[i, opened] == NEVER:  # a SYN takes a number of its own: RFC 9293, section 3.4
        state[i, opened], state[i, opened + POSITION] = us, position
        state[i, opened + VALUE] = sequence if flags & _SYN_FLAG else (sequence - 1) & 0xFFFFFFFF
    if flags & _FIN_FLAG and state[i, FIN + KEY_COLUMNS * side] == NEVER:
        state[i, FIN + KEY_COLUMNS * side], state[i, FIN + KEY_COLUMNS * side + POSITION] = us, position
    if flags & RST_FLAG and state[i, RST] == NEVER:
        state[i, RST], state[i, RST + POSITION] = us, position
    if source >= 0:
        count_sender(state, i, side, source, 1)
    mac = SOURCE_MAC + VALUE_COLUMNS * side
    if source >= 0 and state[i, mac] == NEVER:
        state[i, mac], state[i, mac + POSITION], state[i, mac + VALUE] = us, position, source
    mac = TARGET_MAC + VALUE_COLUMNS * (1 - side)
    if target >= 0 and state[i, mac] == NEVER:
        state[i, mac], state[i, mac + POSITION], state[i, mac + VALUE] = us, position, target
    record_holder(state, i, side, source, us)
    record_holder(state, i, 1 - side, target, us)


@kernel
def _write_first_packet(
    first_packets: Array,
    h: int,
    p: int,
    packets: Columns,
    lengths: Array,
    us: int,
    position: int,
    side: int,
    words: int,
) -> None:
    """Write packet ``p`` as row ``h``; ``words``: of its header fields and first bytes, the others are zero."""
    first_packets[h, PACKET_ORDER], first_packets[h, PACKET_ORDER + POSITION] = us, position
    first_packets[h, PACKET_LENGTHS] = np.int64(lengths[p]) | np.int64(packets.payload_length[p]) << PAYLOAD_SHIFT
    flags = np.int64(packets.tcp_flags[p]) << FLAGS_SHIFT
    first_packets[h, PACKET_MARKS] = np.int64(packets.tcp_window[p]) | flags | np.int64(side) << SIDE_SHIFT
    for word in range(PACKET_WIDTH, first_packets.shape[1]):
        first_packets[h, word] = packets.first_words[p, word - PACKET_WIDTH] if word - PACKET_WIDTH < words else 0


@kernel
def add_packets(begin: int, packets: Columns, order: Array, lengths: Array, rule: Rule, table: Table) -> int:
    """Add packets in ``order``, from index ``begin`` on; return the index of the first that did not fit."""
    slots, secret, keys, state, packet_owners, first_packets, counts, key = table
    slot = np.int64(-1)
    for index in range(begin, len(order)):
        if (
            counts[PARTIALS] == len(state)
            or counts[FIRST_PACKETS] == len(first_packets)
            or 2 * counts[KEYS] >= len(slots)
        ):
            return index
        p: Any = np.uint64(order[index])  # unsigned: Numba then needs no code for indices from the end of each column
        side = _pack_key(p, packets, rule.join_files, key)
        us = packets.timestamp_us[p]
        position = _position(packets, p)
        flags: int = np.int64(packets.tcp_flags[p])  # type: ignore[assignment]
        is_syn = flags & (_SYN_FLAG | _ACK_FLAG) == _SYN_FLAG
        if slot < 0 or not same(keys, slots[slot], key):  # packets of one flow often follow one another
            slot = find_slot(slots, secret, keys, key)
        i = slots[slot]
        sequence, source, target = packets.tcp_sequence[p], packets.src_mac[p], packets.dst_mac[p]
        if i < 0 or not _continues(keys, state, i, us, position, side, is_syn, sequence, source, target, rule):
            counts[KEYS] += i < 0
            i = counts[PARTIALS]
            counts[PARTIALS] += 1
            slots[slot] = i
            for word in range(KEY_WORDS):
                keys[i, word] = key[word]
            _open(state, i, us, position, side)
        _append(state, i, us, position, side, packets.frame_length[p], flags, sequence, source, target)
        nth = state[i, PACKETS] + state[i, PACKETS + 1]
        if nth <= rule.max_packets:
            packet_owners[counts[FIRST_PACKETS]] = i
            words = first_packets.shape[1] if nth <= rule.keep_packets else rule.header_words
            _write_first_packet(first_packets, counts[FIRST_PACKETS], p, packets, lengths, us, position, side, words)
            counts[FIRST_PACKETS] += 1
    return len(order)


@kernel
def order_first_packets(packet_owners: Array, filled: Array, order: Array) -> None:
    """Write the packets' rows grouped by partial flow, in the order in which they were added.

    ``filled``: where each flow's packets start; afterwards, where they end.
    """
    for h in range(len(packet_owners)):
        owner = packet_owners[h]
        order[filled[owner]] = h
        filled[owner] += 1


@kernel
def write_single_packets(
    packets: Columns,
    lengths: Array,
    join_files: bool,
    keys: Array,
    state: Array,
    first_packets: Array,
) -> None:
    """Write every packet as a partial flow of its own."""
    for p in range(len(lengths)):
        side = _pack_key(p, packets, join_files, keys[p])
        us = packets.timestamp_us[p]
        position = _position(packets, p)
        _open(state, p, us, position, side)
        flags: int = np.int64(packets.tcp_flags[p])  # type: ignore[assignment]
        sequence, source, target = packets.tcp_sequence[p], packets.src_mac[p], packets.dst_mac[p]
        _append(state, p, us, position, side, packets.frame_length[p], flags, sequence, source, target)
        words = first_packets.shape[1]
        _write_first_packet(first_packets, p, p, packets, lengths, us, position, side, words)


@kernel
def mark_packets_within(
    packets: Columns,
    join_files: bool,
    slots: Array,
    secret: Array,
    interval_keys: Array,
    intervals: Array,
    end_reasons: Array,
    key: Array,
) -> None:
    """Set ``end_reasons`` of packets in an unresolved interval of their key to 0, of its last packet to its end reason.

    Intervals are sorted by key; ``slots``: the first row of each key; ``key``: buffer for a packet's key.
    """
    for p in range(len(end_reasons)):
        _pack_key(p, packets, join_files, key)
        us = packets.timestamp_us[p]
        position = _position(packets, p)
        row = slots[find_slot(slots, secret, interval_keys, key)]
        while 0 <= row < len(intervals) and same(interval_keys, row, key):
            last_us, last_position = intervals[row, LAST], intervals[row, LAST + POSITION]
            too_early = before(us, position, intervals[row, FIRST], intervals[row, FIRST + POSITION])
            if not too_early and not before(last_us, last_position, us, position):
                at_end = us == last_us and position == last_position
                end_reasons[p] = intervals[row, END_REASON] if at_end else 0
            row += 1
