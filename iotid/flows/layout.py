"""The layout of partial flows, rows of integers that all kernels of flows share, and kernels on single rows.

A partial flow is one row of ``keys`` (uint64, KEY_WORDS), one row of ``state`` (int64, STATE_WIDTH) and its first
packets, rows of ``first_packets`` (int64, PACKET_WIDTH, and W words of the packet's header fields and first bytes if
these are kept). Complete flows, and the last flow of an unfinished merge, have the same layout. Numba compiles module
constants in.

An order key is two columns: time in µs, and position (file_index << POSITION_SHIFT | offset). "First" always means by
this key, so that merging takes a minimum and the order of arrival does not matter. Side 0 is the lower endpoint of the
key, by address and then port; side 1 the other; a flow whose endpoints are equal has side 0 only.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from iotid.capture.jit import kernel

Array = npt.NDArray[Any]

# keys
PORTS = 0  # port of side 0 | of side 1 << PORT_SHIFT | protocol, IP version and UNSPECIFIED at their shifts
ADDRESS_LOW = 1  # + side: lower half of the side's address
ADDRESS_HIGH = 3  # + side: upper half
VLAN = 5  # VLAN + 1 | file + 1 << FILE_SHIFT, or 0 where captures are one stream
KEY_WORDS = 6
PORT_SHIFT = 16
PROTOCOL_SHIFT = 32
VERSION_SHIFT = 40
UNSPECIFIED = 48  # + side: shift of the bit "the side's address is unspecified, its upper half is a MAC + 1"
FILE_SHIFT = 32

# within state: offsets from an order key to its second column and to the value stored with it
POSITION = 1
VALUE = 2
KEY_COLUMNS = 2  # of an order key; between sides of FIN
VALUE_COLUMNS = 3  # of an order key and its value; between sides of SOURCE_MAC, TARGET_MAC and OPENED
HOLDER_COLUMNS = 2  # between sides of HOLDER
SINCE = 1  # within HOLDER: offset of the time

# state; "+ side" and "of each side" mark columns that each side has
FIRST = 0  # order key of the first packet
LAST = 2  # order key of the last packet
PACKETS = 4  # + side: packets sent by the side
BYTES = 6  # + side: bytes of their frames on the wire
FIN = 8  # of each side: order key of the side's first FIN
RST = 12  # order key of the first RST
SYN = 14  # order key of the first SYN without ACK
LAST_SYN = 16  # order key of the last SYN without ACK; BEFORE_ALL where there is none
SYN_ACK = 18  # order key of the first SYN with ACK
SOURCE_MAC = 20  # of each side: order key of the side's first packet that shows its sender's MAC, and that MAC
TARGET_MAC = 26  # of each side: the same of the packets sent to the side, and their receiver's MAC
FIRST_SIDE = 32  # side that sent the first packet
SYN_SIDE = 33  # side that sent the first SYN without ACK
SYN_ACK_SIDE = 34  # side that sent the first SYN with ACK
UNRESOLVED = 35  # 1: an interval whose cuts can only be found from its packets
END_REASON = 36  # index into END_REASONS; 0 as long as nothing ended it
SYN_SIDES = 37  # bit 1 << side: the side has sent a SYN without ACK
OPENED = 38  # of each side: order key of its first packet with a TCP number, and the number of the SYN before it
HOLDER = 44  # of each side: MAC at its address, NO_HOLDER or SEVERAL; and when last shown, or since when SEVERAL
SENDERS = 48  # + SENDER_SLOTS * side: the lowest MACs from which the side sent, in order, with their packets; or NEVER
SENDER_SLOTS = 4
STATE_WIDTH = SENDERS + 2 * SENDER_SLOTS

END_REASONS = ("end", "idle", "active", "closed", "moved")
IDLE, ACTIVE, CLOSED, MOVED = 1, 2, 3, 4

NO_HOLDER, SEVERAL = -1, -2
MOVE_US = 60_000_000  # MACs that change faster are those of a router or a mirror port: the address has not moved

# a sender: MAC << SENDER_SHIFT | packets, saturating at SENDER_PACKETS; saturating sums do not depend on their order
SENDER_SHIFT = 15
SENDER_PACKETS = (1 << SENDER_SHIFT) - 2

# first_packets: one row per packet
PACKET_ORDER = 0  # order key
PACKET_LENGTHS = 2  # length | payload length << PAYLOAD_SHIFT
PACKET_MARKS = 3  # window | TCP flags << FLAGS_SHIFT | side << SIDE_SHIFT
# columns before the W words: header fields, and first bytes, which are zero after a flow's first Rule.keep_packets rows
PACKET_WIDTH = 4
PAYLOAD_SHIFT = 32
FLAGS_SHIFT = 16
SIDE_SHIFT = 24

POSITION_SHIFT = 42  # captures up to 4 TiB, 2 million of them a partition
NEVER = np.iinfo(np.int64).max
BEFORE_ALL = np.iinfo(np.int64).min


@kernel
def before(a_us: int, a_position: int, b_us: int, b_position: int) -> bool:
    return a_us < b_us or (a_us == b_us and a_position < b_position)


@kernel
def same(keys: Array, row: int, key: Array) -> bool:
    for word in range(KEY_WORDS):  # noqa: SIM110 - a generator would be compiled to slower code
        if keys[row, word] != key[word]:
            return False
    return True


@kernel
def copy_row(source: Array, i: int, target: Array, j: int) -> None:
    """Copy row ``i`` of ``source`` to row ``j`` of ``target``; Numba's slice assignment would allocate memory."""
    for column in range(source.shape[1]):
        target[j, column] = source[i, column]


@kernel
def closed(state: Array, i: int) -> tuple[int, int]:
    """Order key from which row ``i`` is closed: its first RST, or the later of both sides' first FINs."""
    us, position = state[i, FIN], state[i, FIN + POSITION]
    if before(us, position, state[i, FIN + KEY_COLUMNS], state[i, FIN + KEY_COLUMNS + POSITION]):
        us, position = state[i, FIN + KEY_COLUMNS], state[i, FIN + KEY_COLUMNS + POSITION]
    if before(state[i, RST], state[i, RST + POSITION], us, position):
        us, position = state[i, RST], state[i, RST + POSITION]
    return us, position


@kernel
def starts_with_syn(state: Array, i: int) -> bool:
    """Whether row ``i``'s first packet is a SYN without ACK."""
    return state[i, SYN] == state[i, FIRST] and state[i, SYN + POSITION] == state[i, FIRST + POSITION]


@kernel
def opened_otherwise(state: Array, i: int, side: int, sequence: int) -> bool:
    """Whether a SYN with that number, sent by ``side`` after all of row ``i``, opens another connection."""
    opened = OPENED + VALUE_COLUMNS * side
    return state[i, opened] != NEVER and state[i, opened + VALUE] != sequence


@kernel
def is_local(keys: Array, k: int, side: int) -> bool:
    """Whether the side's address is local: private (RFC 1918, RFC 4193) or link-local (RFC 3927, 4291).

    Other addresses are behind routers and appear with the routers' MACs, which may alternate.
    """
    low, high = keys[k, ADDRESS_LOW + side], keys[k, ADDRESS_HIGH + side]
    if np.int64(keys[k, PORTS] >> np.uint64(VERSION_SHIFT)) & 0xFF == 4:
        first, second = np.int64(low >> np.uint64(24)), np.int64(low >> np.uint64(16)) & 0xFF
        ensure_private = first == 10 or (first == 172 and second >> 4 == 1) or (first == 192 and second == 168)
        return ensure_private or (first == 169 and second == 254)
    return high >> np.uint64(57) == np.uint64(0x7E) or high >> np.uint64(54) == np.uint64(0x3FA)


@kernel
def has_moved(keys: Array, k: int, state: Array, i: int, side: int, mac: int, us: int) -> bool:
    """Whether ``mac`` (-1: none), seen at the side's address at ``us`` after all of row ``i``, is another device's.

    ``k``: row of its key.
    """
    holder = HOLDER + HOLDER_COLUMNS * side
    known, shown_us = state[i, holder], state[i, holder + SINCE]
    return known >= 0 and mac >= 0 and mac != known and us - shown_us > MOVE_US and is_local(keys, k, side)


@kernel
def record_holder(state: Array, i: int, side: int, mac: int, us: int) -> None:
    """Record that ``mac`` (-1: none) is at the side's address at ``us``, later than all that is recorded."""
    holder = HOLDER + HOLDER_COLUMNS * side
    known = state[i, holder]
    if mac >= 0 and known != SEVERAL:
        state[i, holder] = mac if known in (NO_HOLDER, mac) else SEVERAL
        state[i, holder + SINCE] = us


@kernel
def count_sender(state: Array, i: int, side: int, mac: int, packets: int) -> None:
    """Count packets that the side sent from ``mac``.

    The SENDER_SLOTS lowest MACs of a flow are also among the lowest of each of its partial flows, so their counts are
    exact, however the flow was divided.
    """
    begin = SENDERS + SENDER_SLOTS * side
    end = begin + SENDER_SLOTS
    slot = begin
    while slot < end and state[i, slot] != NEVER and state[i, slot] >> SENDER_SHIFT < mac:
        slot += 1
    if slot == end:
        return
    if state[i, slot] != NEVER and state[i, slot] >> SENDER_SHIFT == mac:
        packets = min(packets + (state[i, slot] & (1 << SENDER_SHIFT) - 1), SENDER_PACKETS)
    else:
        for later in range(end - 1, slot, -1):
            state[i, later] = state[i, later - 1]
    state[i, slot] = mac << SENDER_SHIFT | packets
