"""Kernels that merge partial flows, sorted by key and first packet, into flows; see ``layout`` for the rows."""

from __future__ import annotations

import numpy as np

from iotid.capture.jit import kernel
from iotid.flows.kernels import Rule
from iotid.flows.layout import (
    ACTIVE,
    CLOSED,
    END_REASON,
    FIN,
    FIRST,
    FIRST_SIDE,
    HOLDER,
    HOLDER_COLUMNS,
    IDLE,
    KEY_COLUMNS,
    LAST,
    LAST_SYN,
    MOVE_US,
    MOVED,
    NEVER,
    NO_HOLDER,
    OPENED,
    PACKET_ORDER,
    PACKET_WIDTH,
    PACKETS,
    POSITION,
    RST,
    SENDER_SHIFT,
    SENDER_SLOTS,
    SENDERS,
    SEVERAL,
    SINCE,
    SOURCE_MAC,
    SYN,
    SYN_ACK,
    SYN_ACK_SIDE,
    SYN_SIDE,
    SYN_SIDES,
    TARGET_MAC,
    UNRESOLVED,
    VALUE,
    VALUE_COLUMNS,
    Array,
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
    (FIRST, FIRST_SIDE), (SYN, SYN_SIDE), (SYN_ACK, SYN_ACK_SIDE), (RST, RST),
    *[(FIN + KEY_COLUMNS * side,) * 2 for side in range(2)],
    *[
        (column + VALUE_COLUMNS * side, column + VALUE_COLUMNS * side + VALUE)
        for column in (SOURCE_MAC, TARGET_MAC, OPENED) for side in range(2)
    ],
])  # fmt: skip


@kernel
def _first_shown(state: Array, i: int, side: int) -> tuple[int, int, int]:
    """Order key of row ``i``'s first packet with a MAC at the side's address (NEVER if none), and that MAC."""
    source, target = SOURCE_MAC + VALUE_COLUMNS * side, TARGET_MAC + VALUE_COLUMNS * side
    column = (
        target
        if before(state[i, target], state[i, target + POSITION], state[i, source], state[i, source + POSITION])
        else source
    )
    return state[i, column], state[i, column + POSITION], state[i, column + VALUE]


@kernel
def _cut_reason(keys: Array, flows: Array, f: int, state: Array, i: int, rule: Rule) -> int:
    """Reason why partial flow ``i`` starts a new flow after flow ``f`` of its key; 0 if it does not."""
    if 0 <= rule.idle_us < state[i, FIRST] - flows[f, LAST]:
        return IDLE
    if flows[f, UNRESOLVED]:
        return 0
    if 0 <= rule.active_us < state[i, FIRST] - flows[f, FIRST]:
        return ACTIVE
    overlap = not before(flows[f, LAST], flows[f, LAST + POSITION], state[i, FIRST], state[i, FIRST + POSITION])
    unresolved = False
    if rule.tcp_close and starts_with_syn(state, i):
        closed_us, closed_position = closed(flows, f)
        is_closed = before(closed_us, closed_position, state[i, FIRST], state[i, FIRST + POSITION])
        side = state[i, FIRST_SIDE]
        if is_closed or opened_otherwise(flows, f, side, state[i, OPENED + VALUE_COLUMNS * side + VALUE]):
            if not overlap:
                return CLOSED
            unresolved = is_closed
    for side in range(2):
        us, position, mac = _first_shown(state, i, side)
        if not overlap and us != NEVER and has_moved(keys, i, flows, f, side, mac, us):
            if us == state[i, FIRST] and position == state[i, FIRST + POSITION]:
                return MOVED
            unresolved = True
        unresolved |= rule.tcp_close and _syns_differ(flows, f, state, i, side)
        unresolved |= overlap and is_local(keys, i, side) and _may_move(flows, f, state, i, side)
    flows[f, UNRESOLVED] |= unresolved
    return 0


@kernel
def _syns_differ(flows: Array, f: int, state: Array, i: int, side: int) -> bool:
    """Whether a SYN of the side may open another connection inside flow ``f`` or partial flow ``i``.

    All SYNs of a side in one row have the number in OPENED.
    """
    opened = OPENED + VALUE_COLUMNS * side
    if flows[f, opened] == NEVER or state[i, opened] == NEVER or flows[f, opened + VALUE] == state[i, opened + VALUE]:
        return False
    is_later = before(flows[f, opened], flows[f, opened + POSITION], state[i, opened], state[i, opened + POSITION])
    later: int = state[i, SYN_SIDES] if is_later else flows[f, SYN_SIDES]
    return later >> side & 1 == 1


@kernel
def _may_move(flows: Array, f: int, state: Array, i: int, side: int) -> bool:
    """Whether the side's address may move inside flow ``f`` or partial flow ``i``, which overlap in time."""
    known, other = flows[f, HOLDER + HOLDER_COLUMNS * side], state[i, HOLDER + HOLDER_COLUMNS * side]
    if NO_HOLDER in (known, other) or (known == other and known != SEVERAL):
        return False
    begin_us, other_us = _first_shown(flows, f, side)[0], _first_shown(state, i, side)[0]
    if known == SEVERAL and flows[f, HOLDER + HOLDER_COLUMNS * side + SINCE] < other_us:
        return False
    return max(flows[f, LAST], state[i, LAST]) - min(begin_us, other_us) > MOVE_US


@kernel
def _merge_holder(flows: Array, f: int, state: Array, i: int, side: int) -> None:
    """Merge the HOLDER of the side; call it before ``i``'s MACs are merged into ``f``."""
    holder, since = HOLDER + HOLDER_COLUMNS * side, HOLDER + HOLDER_COLUMNS * side + SINCE
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
        key, value = _FIRSTS[k]
        if before(state[i, key], state[i, key + POSITION], flows[f, key], flows[f, key + POSITION]):
            flows[f, key], flows[f, key + POSITION], flows[f, value] = (
                state[i, key],
                state[i, key + POSITION],
                state[i, value],
            )
    if before(flows[f, LAST_SYN], flows[f, LAST_SYN + POSITION], state[i, LAST_SYN], state[i, LAST_SYN + POSITION]):
        flows[f, LAST_SYN], flows[f, LAST_SYN + POSITION] = state[i, LAST_SYN], state[i, LAST_SYN + POSITION]
    if before(flows[f, LAST], flows[f, LAST + POSITION], state[i, LAST], state[i, LAST + POSITION]):
        flows[f, LAST], flows[f, LAST + POSITION] = state[i, LAST], state[i, LAST + POSITION]
        flows[f, END_REASON] = state[i, END_REASON]
    flows[f, UNRESOLVED] |= state[i, UNRESOLVED]
    flows[f, SYN_SIDES] |= state[i, SYN_SIDES]


@kernel
def _check_cuts(flows: Array, f: int, rule: Rule) -> None:
    """Mark a flow as unresolved if a cut may be inside one of its partial flows."""
    if 0 <= rule.active_us < flows[f, LAST] - flows[f, FIRST]:
        flows[f, UNRESOLVED] = 1
    if rule.tcp_close:
        closed_us, closed_position = closed(flows, f)
        if before(closed_us, closed_position, flows[f, LAST_SYN], flows[f, LAST_SYN + POSITION]):
            flows[f, UNRESOLVED] = 1


@kernel
def merge_sorted(keys: Array, state: Array, rule: Rule, flows: Array, ranges: Array) -> int:
    """Merge partial flows, sorted by key and first packet, into ``flows``; return how many there are.

    Flow ``f`` is merged from the rows ``ranges[f, 0]:ranges[f, 1]``. It ends before the next one starts, and all that
    starts before its end is merged into it. If a cut may be inside partial flows, everything up to the next idle gap
    becomes one row marked UNRESOLVED.
    """
    f = -1
    for i in range(len(keys)):
        if f >= 0 and same(keys, i, keys[i - 1]):
            reason = _cut_reason(keys, flows, f, state, i, rule)
            if reason == 0:
                _merge(flows, f, state, i)
                _check_cuts(flows, f, rule)
                ranges[f, 1] = i + 1
                continue
            flows[f, END_REASON] = reason
        f += 1
        copy_row(state, i, flows, f)
        _check_cuts(flows, f, rule)
        ranges[f, 0], ranges[f, 1] = i, i + 1
    return f + 1


@kernel
def merge_first_packets(
    ranges: Array,
    starts: Array,
    first_packets: Array,
    new_starts: Array,
    rule: Rule,
    merged: Array,
) -> None:
    """Fill ``merged`` with the first packets of each range of partial flows, in order.

    ``new_starts`` gives the number of packets of each flow; the first `keep_packets` keep their bytes. Partial flows
    are sorted by first packet, so insertion from the end takes one step per packet unless they overlap.
    """
    for f in range(len(ranges)):
        begin, capacity = new_starts[f], new_starts[f + 1] - new_starts[f]
        filled = 0
        for h in range(starts[ranges[f, 0]], starts[ranges[f, 1]]):
            us, position = first_packets[h, PACKET_ORDER], first_packets[h, PACKET_ORDER + POSITION]
            index = begin + filled
            while index > begin and before(
                us, position, merged[index - 1, PACKET_ORDER], merged[index - 1, PACKET_ORDER + POSITION]
            ):
                index -= 1
            if index - begin == capacity:
                continue
            filled = min(filled + 1, capacity)
            for later in range(begin + filled - 1, index, -1):
                copy_row(merged, later - 1, merged, later)
            copy_row(first_packets, h, merged, index)
        for later in range(begin + rule.keep_packets, begin + filled):
            for word in range(PACKET_WIDTH + rule.header_words, merged.shape[1]):
                merged[later, word] = 0
