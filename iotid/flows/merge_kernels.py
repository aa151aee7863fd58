"""Kernels that merge partial flows, sorted by key and first packet, into flows; see ``kernels`` for the rows."""

from __future__ import annotations

import numpy as np

from iotid.capture.jit import kernel
from iotid.flows.kernels import (
    ACTIVE,
    CLOSED,
    END_REASON,
    FIN,
    FIRST,
    FIRST_SIDE,
    HEAD_ORDER,
    HEAD_WIDTH,
    HOLDER,
    IDLE,
    LAST,
    LAST_SYN,
    MOVE_US,
    MOVED,
    NEVER,
    NO_HOLDER,
    OPENED,
    PACKETS,
    RST,
    SENDER_SHIFT,
    SENDER_SLOTS,
    SENDERS,
    SEVERAL,
    SOURCE_MAC,
    SYN,
    SYN_ACK,
    SYN_ACK_SIDE,
    SYN_SIDE,
    SYN_SIDES,
    TARGET_MAC,
    UNRESOLVED,
    Array,
    Rule,
    before,
    closed,
    copy_row,
    count_sender,
    has_moved,
    is_local,
    opened_otherwise,
    same,
    starts_with_syn,
)

# order keys of which merging takes the lower one, and the column that belongs to each
_FIRSTS = np.array([
    (FIRST, FIRST_SIDE), (SYN, SYN_SIDE), (SYN_ACK, SYN_ACK_SIDE), (RST, RST), (FIN, FIN), (FIN + 2, FIN + 2),
    (SOURCE_MAC, SOURCE_MAC + 2), (SOURCE_MAC + 3, SOURCE_MAC + 5),
    (TARGET_MAC, TARGET_MAC + 2), (TARGET_MAC + 3, TARGET_MAC + 5), (OPENED, OPENED + 2), (OPENED + 3, OPENED + 5),
])  # fmt: skip


@kernel
def _first_shown(state: Array, i: int, side: int) -> tuple[int, int, int]:
    """Order key of row ``i``'s first packet that shows the MAC at the side's address, NEVER of none; and that MAC."""
    source, target = SOURCE_MAC + 3 * side, TARGET_MAC + 3 * side
    column = (
        target if before(state[i, target], state[i, target + 1], state[i, source], state[i, source + 1]) else source
    )
    return state[i, column], state[i, column + 1], state[i, column + 2]


@kernel
def _cut_reason(keys: Array, flows: Array, f: int, state: Array, i: int, rule: Rule) -> int:
    """Why partial flow ``i`` starts a new flow after flow ``f`` of its key; 0: it does not."""
    if 0 <= rule.idle_us < state[i, FIRST] - flows[f, LAST]:
        return IDLE
    if flows[f, UNRESOLVED]:
        return 0
    if 0 <= rule.active_us < state[i, FIRST] - flows[f, FIRST]:
        return ACTIVE
    overlap = not before(flows[f, LAST], flows[f, LAST + 1], state[i, FIRST], state[i, FIRST + 1])
    unresolved = False
    if rule.tcp_close and starts_with_syn(state, i):
        closed_us, closed_position = closed(flows, f)
        is_closed = before(closed_us, closed_position, state[i, FIRST], state[i, FIRST + 1])
        side = state[i, FIRST_SIDE]
        if is_closed or opened_otherwise(flows, f, side, state[i, OPENED + 3 * side + 2]):
            if not overlap:
                return CLOSED
            unresolved = is_closed
    for side in range(2):
        us, position, mac = _first_shown(state, i, side)
        if not overlap and us != NEVER and has_moved(keys, i, flows, f, side, mac, us):
            if us == state[i, FIRST] and position == state[i, FIRST + 1]:
                return MOVED
            unresolved = True
        unresolved |= rule.tcp_close and _syns_differ(flows, f, state, i, side)
        unresolved |= overlap and is_local(keys, i, side) and _may_move(flows, f, state, i, side)
    flows[f, UNRESOLVED] |= unresolved
    return 0


@kernel
def _syns_differ(flows: Array, f: int, state: Array, i: int, side: int) -> bool:
    """Whether a SYN of the side may open another connection inside flow ``f`` or partial flow ``i``.

    All SYNs of a side in one row have the number that OPENED tells.
    """
    opened = OPENED + 3 * side
    if flows[f, opened] == NEVER or state[i, opened] == NEVER or flows[f, opened + 2] == state[i, opened + 2]:
        return False
    is_later = before(flows[f, opened], flows[f, opened + 1], state[i, opened], state[i, opened + 1])
    later: int = state[i, SYN_SIDES] if is_later else flows[f, SYN_SIDES]
    return later >> side & 1 == 1


@kernel
def _may_move(flows: Array, f: int, state: Array, i: int, side: int) -> bool:
    """Whether the side's address may move inside flow ``f`` or partial flow ``i``, which overlap in time."""
    known, other = flows[f, HOLDER + 2 * side], state[i, HOLDER + 2 * side]
    if NO_HOLDER in (known, other) or (known == other and known != SEVERAL):
        return False
    begin_us, other_us = _first_shown(flows, f, side)[0], _first_shown(state, i, side)[0]
    if known == SEVERAL and flows[f, HOLDER + 2 * side + 1] < other_us:
        return False
    return max(flows[f, LAST], state[i, LAST]) - min(begin_us, other_us) > MOVE_US


@kernel
def _merge_holder(flows: Array, f: int, state: Array, i: int, side: int) -> None:
    """Note in flow ``f`` what is at the side's address in both; to be called before ``f`` takes over ``i``'s MACs."""
    holder, since = HOLDER + 2 * side, HOLDER + 2 * side + 1
    known, other = flows[f, holder], state[i, holder]
    if other == NO_HOLDER:
        return
    if known == NO_HOLDER:
        flows[f, holder], flows[f, since] = other, state[i, since]
    elif known == other and known != SEVERAL:
        flows[f, since] = max(flows[f, since], state[i, since])
    else:
        us = NEVER
        if known == SEVERAL:
            us = min(us, flows[f, since])
        if other == SEVERAL:
            us = min(us, state[i, since])
        first_us, _, first_mac = _first_shown(flows, f, side)
        other_us, _, other_mac = _first_shown(state, i, side)
        if first_mac != other_mac:
            us = min(us, max(first_us, other_us))
        flows[f, holder], flows[f, since] = SEVERAL, us


@kernel
def _merge(flows: Array, f: int, state: Array, i: int) -> None:
    for side in range(2):
        _merge_holder(flows, f, state, i, side)
        for slot in range(SENDERS + SENDER_SLOTS * side, SENDERS + SENDER_SLOTS * (side + 1)):
            if state[i, slot] != NEVER:
                mac, packets = state[i, slot] >> SENDER_SHIFT, state[i, slot] & (1 << SENDER_SHIFT) - 1
                count_sender(flows, f, side, mac, packets)
    for column in range(PACKETS, FIN):
        flows[f, column] += state[i, column]
    for k in range(len(_FIRSTS)):
        key, told = _FIRSTS[k]
        if before(state[i, key], state[i, key + 1], flows[f, key], flows[f, key + 1]):
            flows[f, key], flows[f, key + 1], flows[f, told] = state[i, key], state[i, key + 1], state[i, told]
    if before(flows[f, LAST_SYN], flows[f, LAST_SYN + 1], state[i, LAST_SYN], state[i, LAST_SYN + 1]):
        flows[f, LAST_SYN], flows[f, LAST_SYN + 1] = state[i, LAST_SYN], state[i, LAST_SYN + 1]
    if before(flows[f, LAST], flows[f, LAST + 1], state[i, LAST], state[i, LAST + 1]):
        flows[f, LAST], flows[f, LAST + 1] = state[i, LAST], state[i, LAST + 1]
        flows[f, END_REASON] = state[i, END_REASON]
    flows[f, UNRESOLVED] |= state[i, UNRESOLVED]
    flows[f, SYN_SIDES] |= state[i, SYN_SIDES]


@kernel
def _check(flows: Array, f: int, rule: Rule) -> None:
    """Mark a flow that would have to be cut inside one of its partial flows."""
    if 0 <= rule.active_us < flows[f, LAST] - flows[f, FIRST]:
        flows[f, UNRESOLVED] = 1
    if rule.tcp_close:
        closed_us, closed_position = closed(flows, f)
        if before(closed_us, closed_position, flows[f, LAST_SYN], flows[f, LAST_SYN + 1]):
            flows[f, UNRESOLVED] = 1


@kernel
def sweep(keys: Array, state: Array, rule: Rule, flows: Array, ranges: Array) -> int:
    """Merge partial flows, sorted by key and first packet, into ``flows``; return how many there are.

    Flow ``f`` is made of the rows from ``ranges[f, 0]`` to before ``ranges[f, 1]``. It is exact when it is given: it
    ends before the next one starts, and all that starts before its end has been seen. Where a cut may fall inside
    partial flows, everything up to the next idle gap becomes one row marked UNRESOLVED.
    """
    f = -1
    for i in range(len(keys)):
        if f >= 0 and same(keys, i, keys[i - 1]):
            reason = _cut_reason(keys, flows, f, state, i, rule)
            if reason == 0:
                _merge(flows, f, state, i)
                _check(flows, f, rule)
                ranges[f, 1] = i + 1
                continue
            flows[f, END_REASON] = reason
        f += 1
        copy_row(state, i, flows, f)
        _check(flows, f, rule)
        ranges[f, 0], ranges[f, 1] = i, i + 1
    return f + 1


@kernel
def merge_heads(
    ranges: Array,
    starts: Array,
    heads: Array,
    new_starts: Array,
    keep_packets: int,
    merged: Array,
) -> None:
    """Fill ``merged`` with the first packets of each range of partial flows, in order.

    ``new_starts`` says how many each flow keeps, ``keep_packets`` of how many the bytes. Partial flows come by first
    packet, so insertion from the end is one step a packet unless they overlap.
    """
    for f in range(len(ranges)):
        begin, room = new_starts[f], new_starts[f + 1] - new_starts[f]
        filled = 0
        for h in range(starts[ranges[f, 0]], starts[ranges[f, 1]]):
            us, position = heads[h, HEAD_ORDER], heads[h, HEAD_ORDER + 1]
            place = begin + filled
            while place > begin and before(us, position, merged[place - 1, 0], merged[place - 1, 1]):
                place -= 1
            if place - begin == room:
                continue
            filled = min(filled + 1, room)
            for later in range(begin + filled - 1, place, -1):
                copy_row(merged, later - 1, merged, later)
            copy_row(heads, h, merged, place)
        for later in range(begin + keep_packets, begin + filled):
            for word in range(HEAD_WIDTH, merged.shape[1]):
                merged[later, word] = 0
