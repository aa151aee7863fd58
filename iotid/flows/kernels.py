"""Kernels that make partial flows of packets, and the rows of integers that all kernels of flows work on.

A partial flow is one row of ``keys`` (uint64, KEY_WORDS), one row of ``state`` (int64, STATE_WIDTH) and its first
packets, rows of ``heads`` (int64, HEAD_WIDTH, and behind them W words of the packet's first bytes, where bytes are
kept). The layout stands here, in the module of its kernels, because Numba's cache looks at the file of a kernel only. A
whole flow, and the open end of an unfinished merge, have the same layout.

An order key is two columns: time in µs, and position (file_index << POSITION_SHIFT | offset). All that is "first" is
first by this key, so that merging is a minimum and no order of arrival matters. Side 0 is the lower endpoint of the
key, by address and then port; side 1 the other; a flow whose endpoints are equal has side 0 only.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from iotid.capture.jit import kernel

Array = npt.NDArray[Any]

# keys: ports, protocol, IP version and UNSPECIFIED | addresses of sides 0 and 1, low halves | their high halves |
# VLAN and file
KEY_WORDS = 6

# state; "+ 2 * side" and the like mark columns that each side has
FIRST = 0  # order key of the first packet
LAST = 2  # order key of the last packet
PACKETS = 4  # + side: packets sent by the side
BYTES = 6  # + side: bytes of their frames on the wire
FIN = 8  # + 2 * side: order key of the side's first FIN
RST = 12  # order key of the first RST
SYN = 14  # order key of the first SYN without ACK
LAST_SYN = 16  # order key of the last SYN without ACK; BEFORE_ALL where there is none
SYN_ACK = 18  # order key of the first SYN with ACK
SOURCE_MAC = 20  # + 3 * side: order key of the side's first packet that shows its sender's MAC, and that MAC
TARGET_MAC = 26  # + 3 * side: the same of the packets sent to the side, and their receiver's MAC
FIRST_SIDE = 32  # side that sent the first packet
SYN_SIDE = 33  # side that sent the first SYN without ACK
SYN_ACK_SIDE = 34  # side that sent the first SYN with ACK
UNRESOLVED = 35  # 1: partial flows overlap so that only the packets themselves tell the cuts
END_REASON = 36  # what is known to have ended it: index into END_REASONS
SYN_SIDES = 37  # bit 1 << side: the side has sent a SYN without ACK
OPENED = 38  # + 3 * side: order key of the side's first packet with a TCP number, and the number of the SYN before it
HOLDER = (
    44  # + 2 * side: MAC at the side's address, NO_HOLDER or SEVERAL; and when it was last shown, or became SEVERAL
)
SENDERS = 48  # + SENDER_SLOTS * side: the lowest MACs from which the side sent, in order, with their packets; or NEVER
SENDER_SLOTS = 4
STATE_WIDTH = SENDERS + 2 * SENDER_SLOTS

END_REASONS = ("end", "idle", "active", "closed", "moved")
IDLE, ACTIVE, CLOSED, MOVED = 1, 2, 3, 4

NO_HOLDER, SEVERAL = -1, -2
MOVE_US = 60_000_000  # an address whose MACs change faster is not handed on: what is seen is a router's or a mirror's

# a sender: MAC << SENDER_SHIFT | packets, which stop at SENDER_PACKETS; sums that stop do not depend on their order
SENDER_SHIFT = 15
SENDER_PACKETS = (1 << SENDER_SHIFT) - 2

# in a key's first word, << side: the side's address is unspecified, and the upper half of it is a MAC + 1
UNSPECIFIED = 48

# heads: one row a packet
HEAD_ORDER = 0  # order key
HEAD_LENGTHS = 2  # length | payload length << 32
HEAD_MARKS = 3  # window | TCP flags << 16 | side << 24
HEAD_WIDTH = 4  # and W; only the first Rule.keep_packets rows of a flow hold bytes there, the others zeros

POSITION_SHIFT = 42  # captures up to 4 TiB, 2 million of them a night
NEVER = np.iinfo(np.int64).max
BEFORE_ALL = np.iinfo(np.int64).min

SECRET_WORDS = (
    2 * KEY_WORDS + 1
)  # of a table's secret, uint64: one number for each half of a key's words, and one alone

_MAX_MOVES = 16  # a packet, on average: beyond them a sort from scratch is faster

_HALF, _LOW = np.uint64(32), np.uint64(0xFFFFFFFF)
_FIN_FLAG, _SYN_FLAG, RST_FLAG, _ACK_FLAG = 1, 2, 4, 16  # RFC 9293, section 3.1


class Columns(NamedTuple):
    """The columns of ``capture.packets.Packets`` that flows are made of, one entry a packet."""

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
    idle_us: int
    active_us: int
    tcp_close: bool
    join_files: bool


class Table(NamedTuple):
    """Partial flows that still grow; ``keys`` to ``heads`` have room beyond what ``counts`` says is in use."""

    slots: Array  # int64 (2 ** k,): row of each key's youngest partial flow, the only one that packets join; -1: free
    secret: Array  # uint64 (SECRET_WORDS,)
    keys: Array
    state: Array
    head_owners: Array  # int64: row of the partial flow that each row of heads belongs to
    heads: Array
    counts: Array  # int64 (3,): rows of keys and state, distinct keys, rows of heads
    key: Array  # uint64 (KEY_WORDS,): room for a packet's key


PARTIALS, KEYS, HEADS = 0, 1, 2


@kernel
def before(a_us: int, a_position: int, b_us: int, b_position: int) -> bool:
    return a_us < b_us or (a_us == b_us and a_position < b_position)


@kernel
def _pack_key(p: int, packets: Columns, join_files: bool, key: Array) -> int:
    """Write packet ``p``'s key into ``key`` and return the side that sent it."""
    source_hi, source_lo, source_port = packets.src_ip_hi[p], packets.src_ip_lo[p], packets.src_port[p]
    target_hi, target_lo, target_port = packets.dst_ip_hi[p], packets.dst_ip_lo[p], packets.dst_port[p]
    # every host has the unspecified address before it has one of its own: its MAC keeps it apart from the others
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
    kind = np.int64(packets.protocol[p]) << 32 | np.int64(packets.ip_version[p]) << 40
    kind |= np.int64(source_is_unspecified) << UNSPECIFIED | np.int64(target_is_unspecified) << UNSPECIFIED + 1
    key[0] = np.uint64(np.int64(source_port) | np.int64(target_port) << 16 | kind)
    key[1], key[2] = source_lo, target_lo
    key[3], key[4] = source_hi, target_hi
    key[5] = np.uint64((np.int64(packets.vlan[p]) + 1) | file << 32)
    return 1 if swap else 0


@kernel
def same(keys: Array, row: int, key: Array) -> bool:
    for word in range(KEY_WORDS):  # noqa: SIM110 - a generator would be compiled to slower code
        if keys[row, word] != key[word]:
            return False
    return True


@kernel
def copy_row(source: Array, i: int, target: Array, j: int) -> None:
    """Write row ``i`` of ``source`` as row ``j`` of ``target``. (Numba's own way takes memory for each.)"""
    for column in range(source.shape[1]):
        target[j, column] = source[i, column]


@kernel
def time_order(packets: Columns, order: Array) -> bool:
    """Number the packets by order key into ``order``; False, and nothing of use, where they lie too far from it.

    Captures are nearly in order: an insertion sort is a comparison a packet, and some moves for each that came late.
    """
    moves = 0
    for p in range(len(order)):
        us = packets.timestamp_us[p]
        place = p
        while place > 0 and us <= packets.timestamp_us[order[place - 1]]:
            earlier = order[place - 1]
            if us == packets.timestamp_us[earlier] and _position(packets, earlier) <= _position(packets, p):
                break
            order[place] = earlier
            place -= 1
        order[place] = p
        moves += p - place
        if moves > _MAX_MOVES * len(order):
            return False
    return True


@kernel
def _position(packets: Columns, p: int) -> int:
    """The second column of packet ``p``'s order key."""
    position: int = np.int64(packets.file_index[p]) << POSITION_SHIFT | packets.offset[p]
    return position


@kernel
def _find(slots: Array, secret: Array, keys: Array, key: Array) -> Any:
    """The slot that holds a row of ``keys`` equal to ``key``, or the free slot where it belongs.

    Whoever sends packets chooses the keys, so two of them must not meet by choice. The hash is Multilinear (Lemire,
    Kaser 2014, after Carter, Wegman 1979): each half of a word times a secret number of its own. Without the secret,
    the upper 32 bits of any two keys are independent and uniform, however the keys were chosen. The finalizer of
    MurmurHash3, a bijection of these bits, breaks up the arithmetic progressions that it makes of consecutive keys,
    and that linear probing suffers from (Thorup, Zhang 2012).
    """
    mixed = secret[KEY_WORDS * 2]
    for word in range(KEY_WORDS):
        mixed += (key[word] & _LOW) * secret[2 * word] + (key[word] >> _HALF) * secret[2 * word + 1]
    mixed >>= _HALF
    mixed = (mixed ^ mixed >> np.uint64(16)) * np.uint64(0x85EBCA6B) & _LOW
    mixed = (mixed ^ mixed >> np.uint64(13)) * np.uint64(0xC2B2AE35) & _LOW
    mixed ^= mixed >> np.uint64(16)
    mask = len(slots) - 1
    slot: Any = np.int64(mixed & np.uint64(mask))
    while slots[slot] >= 0:
        if same(keys, slots[slot], key):
            break
        slot = (slot + 1) & mask
    return slot


@kernel
def number_keys(keys: Array, slots: Array, secret: Array, first_row: Array) -> None:
    """Write for every row the first row with the same key, int64 (n,). ``slots``: a power of two above n, all -1."""
    for i in range(len(keys)):
        slot = _find(slots, secret, keys, keys[i])
        if slots[slot] < 0:
            slots[slot] = i
        first_row[i] = slots[slot]


@kernel
def closed(state: Array, i: int) -> tuple[int, int]:
    """Order key from which row ``i`` is closed: its first RST, or the later of both sides' first FINs."""
    us, position = state[i, FIN], state[i, FIN + 1]
    if before(us, position, state[i, FIN + 2], state[i, FIN + 3]):
        us, position = state[i, FIN + 2], state[i, FIN + 3]
    if before(state[i, RST], state[i, RST + 1], us, position):
        us, position = state[i, RST], state[i, RST + 1]
    return us, position


@kernel
def starts_with_syn(state: Array, i: int) -> bool:
    """Whether row ``i``'s first packet is a SYN without ACK."""
    return state[i, SYN] == state[i, FIRST] and state[i, SYN + 1] == state[i, FIRST + 1]


@kernel
def opened_otherwise(state: Array, i: int, side: int, sequence: int) -> bool:
    """Whether a SYN with that number, sent by ``side`` after all of row ``i``, opens another connection."""
    return state[i, OPENED + 3 * side] != NEVER and state[i, OPENED + 3 * side + 2] != sequence


@kernel
def is_local(keys: Array, k: int, side: int) -> bool:
    """Whether the side's address is one of a site's own: private (RFC 1918, RFC 4193) or link-local (RFC 3927, 4291).

    Others are reached through routers, and their MACs are the routers', which may take turns.
    """
    low, high = keys[k, 1 + side], keys[k, 3 + side]
    if np.int64(keys[k, 0] >> np.uint64(40)) & 0xFF == 4:
        first, second = np.int64(low >> np.uint64(24)), np.int64(low >> np.uint64(16)) & 0xFF
        is_private = first == 10 or (first == 172 and second >> 4 == 1) or (first == 192 and second == 168)
        return is_private or (first == 169 and second == 254)
    return high >> np.uint64(57) == np.uint64(0x7E) or high >> np.uint64(54) == np.uint64(0x3FA)


@kernel
def has_moved(keys: Array, k: int, state: Array, i: int, side: int, mac: int, us: int) -> bool:
    """Whether ``mac`` (-1: not shown), shown of the side at ``us`` after all of row ``i``, is another device's.

    ``k``: row of its key.
    """
    known, shown_us = state[i, HOLDER + 2 * side], state[i, HOLDER + 2 * side + 1]
    return known >= 0 and mac >= 0 and mac != known and us - shown_us > MOVE_US and is_local(keys, k, side)


@kernel
def hold(state: Array, i: int, side: int, mac: int, us: int) -> None:
    """Note that ``mac`` (-1: not shown) is at the side's address at ``us``, after all that is noted."""
    known = state[i, HOLDER + 2 * side]
    if mac >= 0 and known != SEVERAL:
        state[i, HOLDER + 2 * side] = mac if known in (NO_HOLDER, mac) else SEVERAL
        state[i, HOLDER + 2 * side + 1] = us


@kernel
def count_sender(state: Array, i: int, side: int, mac: int, packets: int) -> None:
    """Count packets that the side sent from ``mac``.

    The SENDER_SLOTS lowest MACs of a flow are among the lowest of each of its partial flows, so that their counts are
    exact, however the flow was cut.
    """
    begin = SENDERS + SENDER_SLOTS * side
    end = begin + SENDER_SLOTS
    place = begin
    while place < end and state[i, place] != NEVER and state[i, place] >> SENDER_SHIFT < mac:
        place += 1
    if place == end:
        return
    if state[i, place] != NEVER and state[i, place] >> SENDER_SHIFT == mac:
        packets = min(packets + (state[i, place] & (1 << SENDER_SHIFT) - 1), SENDER_PACKETS)
    else:
        for later in range(end - 1, place, -1):
            state[i, later] = state[i, later - 1]
    state[i, place] = mac << SENDER_SHIFT | packets


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

    A partial flow holds SYNs of one side and one number only, and only if it starts with one and is not closed before
    any; and of a local address MACs that change no later than MOVE_US. Then what came earlier, unknown here, can cut
    it at its start and nowhere else, unless partial flows overlap in time or a MAC is shown late.
    """
    if before(us, position, state[i, LAST], state[i, LAST + 1]):
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
    state[i, FIRST], state[i, FIRST + 1] = us, position
    state[i, LAST_SYN], state[i, LAST_SYN + 1] = BEFORE_ALL, BEFORE_ALL
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

    It takes them one by one: a tuple of 20 arrays, handed to a function that is not inlined, costs 100 ns a packet.
    """
    state[i, LAST], state[i, LAST + 1] = us, position
    state[i, PACKETS + side] += 1
    state[i, BYTES + side] += length
    if flags & _SYN_FLAG:
        if flags & _ACK_FLAG:
            if state[i, SYN_ACK] == NEVER:
                state[i, SYN_ACK], state[i, SYN_ACK + 1], state[i, SYN_ACK_SIDE] = us, position, side
        else:
            if state[i, SYN] == NEVER:
                state[i, SYN], state[i, SYN + 1], state[i, SYN_SIDE] = us, position, side
            state[i, LAST_SYN], state[i, LAST_SYN + 1] = us, position
            state[i, SYN_SIDES] |= 1 << side
    opened = OPENED + 3 * side
    if sequence >= 0 and state[i, opened] == NEVER:  # a SYN takes a number of its own: RFC 9293, section 3.4
        state[i, opened], state[i, opened + 1] = us, position
        state[i, opened + 2] = sequence if flags & _SYN_FLAG else (sequence - 1) & 0xFFFFFFFF
    if flags & _FIN_FLAG and state[i, FIN + 2 * side] == NEVER:
        state[i, FIN + 2 * side], state[i, FIN + 2 * side + 1] = us, position
    if flags & RST_FLAG and state[i, RST] == NEVER:
        state[i, RST], state[i, RST + 1] = us, position
    if source >= 0:
        count_sender(state, i, side, source, 1)
    mac = SOURCE_MAC + 3 * side
    if source >= 0 and state[i, mac] == NEVER:
        state[i, mac], state[i, mac + 1], state[i, mac + 2] = us, position, source
    mac = TARGET_MAC + 3 * (1 - side)
    if target >= 0 and state[i, mac] == NEVER:
        state[i, mac], state[i, mac + 1], state[i, mac + 2] = us, position, target
    hold(state, i, side, source, us)
    hold(state, i, 1 - side, target, us)


@kernel
def _write_head(
    heads: Array,
    h: int,
    p: int,
    packets: Columns,
    lengths: Array,
    us: int,
    position: int,
    side: int,
    keeps: bool,
) -> None:
    """Write packet ``p`` as row ``h``; ``keeps``: it is among those whose bytes are kept."""
    heads[h, HEAD_ORDER], heads[h, HEAD_ORDER + 1] = us, position
    heads[h, HEAD_LENGTHS] = np.int64(lengths[p]) | np.int64(packets.payload_length[p]) << 32
    flags = np.int64(packets.tcp_flags[p]) << 16
    heads[h, HEAD_MARKS] = np.int64(packets.tcp_window[p]) | flags | np.int64(side) << 24
    for word in range(HEAD_WIDTH, heads.shape[1]):
        heads[h, word] = packets.first_words[p, word - HEAD_WIDTH] if keeps else 0


@kernel
def absorb(begin: int, packets: Columns, order: Array, lengths: Array, rule: Rule, table: Table) -> int:
    """Add packets in the order given, from place ``begin`` on; return the place of the first that found no room."""
    slots, secret, keys, state, head_owners, heads, counts, key = table
    slot = np.int64(-1)
    for place in range(begin, len(order)):
        if counts[PARTIALS] == len(state) or counts[HEADS] == len(heads) or 2 * counts[KEYS] >= len(slots):
            return place
        p = order[place]
        side = _pack_key(p, packets, rule.join_files, key)
        us = packets.timestamp_us[p]
        position = _position(packets, p)
        flags: int = np.int64(packets.tcp_flags[p])  # type: ignore[assignment]
        is_syn = flags & (_SYN_FLAG | _ACK_FLAG) == _SYN_FLAG
        if slot < 0 or not same(keys, slots[slot], key):  # packets of one flow often follow one another
            slot = _find(slots, secret, keys, key)
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
            head_owners[counts[HEADS]] = i
            keeps = nth <= rule.keep_packets
            _write_head(heads, counts[HEADS], p, packets, lengths, us, position, side, keeps)
            counts[HEADS] += 1
    return len(order)


@kernel
def refill_slots(slots: Array, secret: Array, keys: Array, old_slots: Array) -> None:
    """Move the rows of a full table of slots into a larger one."""
    for row in old_slots:
        if row >= 0:
            slots[_find(slots, secret, keys, keys[row])] = row


@kernel
def group_heads(head_owners: Array, heads: Array, filled: Array, grouped: Array) -> None:
    """Lay the packets of each partial flow side by side, in the order in which they were written.

    ``filled``: where each flow's packets start, and then where they end.
    """
    for h in range(len(head_owners)):
        owner = head_owners[h]
        copy_row(heads, h, grouped, filled[owner])
        filled[owner] += 1


@kernel
def one_each(
    packets: Columns,
    lengths: Array,
    join_files: bool,
    keys: Array,
    state: Array,
    heads: Array,
) -> None:
    """Make every packet a partial flow of its own."""
    for p in range(len(lengths)):
        side = _pack_key(p, packets, join_files, keys[p])
        us = packets.timestamp_us[p]
        position = _position(packets, p)
        _open(state, p, us, position, side)
        flags: int = np.int64(packets.tcp_flags[p])  # type: ignore[assignment]
        sequence, source, target = packets.tcp_sequence[p], packets.src_mac[p], packets.dst_mac[p]
        _append(state, p, us, position, side, packets.frame_length[p], flags, sequence, source, target)
        _write_head(heads, p, p, packets, lengths, us, position, side, True)


@kernel
def within(
    packets: Columns,
    join_files: bool,
    slots: Array,
    secret: Array,
    stretch_keys: Array,
    stretches: Array,
    end_reasons: Array,
    key: Array,
) -> None:
    """Mark the packets that lie in a stretch of their key with 0, a stretch's last packet with its end reason.

    Stretches are sorted by key; ``slots`` holds the first row of each key; ``key`` is room for a packet's.
    """
    for p in range(len(end_reasons)):
        _pack_key(p, packets, join_files, key)
        us = packets.timestamp_us[p]
        position = _position(packets, p)
        row = slots[_find(slots, secret, stretch_keys, key)]
        while 0 <= row < len(stretches) and same(stretch_keys, row, key):
            last_us, last_position = stretches[row, LAST], stretches[row, LAST + 1]
            too_early = before(us, position, stretches[row, FIRST], stretches[row, FIRST + 1])
            if not too_early and not before(last_us, last_position, us, position):
                at_end = us == last_us and position == last_position
                end_reasons[p] = stretches[row, END_REASON] if at_end else 0
            row += 1
