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
    IDLE,
    LAST,
    LAST_SYN,
    PACKETS,
    RST,
    SOURCE_MAC,
    SYN,
    SYN_ACK,
    SYN_ACK_SIDE,
    SYN_SIDE,
    TARGET_MAC,
    UNRESOLVED,
    Rows,
    Rule,
    before,
    closed,
    copy_row,
    same,
)

# order keys of which merging takes the lower one, and the column that belongs to each
_FIRSTS = np.array([
    (FIRST, FIRST_SIDE), (SYN, SYN_SIDE), (SYN_ACK, SYN_ACK_SIDE), (RST, RST), (FIN, FIN), (FIN + 2, FIN + 2),
    (SOURCE_MAC, SOURCE_MAC + 2), (SOURCE_MAC + 3, SOURCE_MAC + 5),
    (TARGET_MAC, TARGET_MAC + 2), (TARGET_MAC + 3, TARGET_MAC + 5),
])  # fmt: skip


@kernel
def _cut_reason(flows: Rows, f: int, state: Rows, i: int, rule: Rule) -> int:
    """Why partial flow ``i`` starts a new flow after flow ``f`` of its key; 0: it does not."""
    if 0 <= rule.idle_us < state[i, FIRST] - flows[f, LAST]:
        return IDLE
    if flows[f, UNRESOLVED]:
        return 0
    if 0 <= rule.active_us < state[i, FIRST] - flows[f, FIRST]:
        return ACTIVE
    starts_with_syn = state[i, SYN] == state[i, FIRST] and state[i, SYN + 1] == state[i, FIRST + 1]
    if rule.tcp_close and starts_with_syn:
        closed_us, closed_position = closed(flows, f)
        if before(closed_us, closed_position, state[i, FIRST], state[i, FIRST + 1]):
            if before(flows[f, LAST], flows[f, LAST + 1], state[i, FIRST], state[i, FIRST + 1]):
                return CLOSED
            flows[f, UNRESOLVED] = 1
    return 0


@kernel
def _merge(flows: Rows, f: int, state: Rows, i: int) -> None:
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


@kernel
def _check(flows: Rows, f: int, rule: Rule) -> None:
    """Mark a flow that would have to be cut inside one of its partial flows."""
    if 0 <= rule.active_us < flows[f, LAST] - flows[f, FIRST]:
        flows[f, UNRESOLVED] = 1
    if rule.tcp_close:
        closed_us, closed_position = closed(flows, f)
        if before(closed_us, closed_position, flows[f, LAST_SYN], flows[f, LAST_SYN + 1]):
            flows[f, UNRESOLVED] = 1


@kernel
def sweep(keys: Rows, state: Rows, rule: Rule, flows: Rows, ranges: Rows) -> int:
    """Merge partial flows, sorted by key and first packet, into ``flows``; return how many there are.

    Flow ``f`` is made of the rows from ``ranges[f, 0]`` to before ``ranges[f, 1]``. It is exact when it is given: it
    ends before the next one starts, and all that starts before its end has been seen. Where a cut may fall inside
    partial flows, everything up to the next idle gap becomes one row marked UNRESOLVED.
    """
    f = -1
    for i in range(len(keys)):
        if f >= 0 and same(keys, i, keys[i - 1]):
            reason = _cut_reason(flows, f, state, i, rule)
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
def merge_heads(ranges: Rows, starts: Rows, heads: Rows, new_starts: Rows, keep_packets: int, merged: Rows) -> None:
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
