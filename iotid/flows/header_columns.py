"""Header fields of a flow's first packets: the columns of FLOWS in schemas.HEADER_COLUMNS.

Identifications and timestamps are compared with those of the sender's earlier packets; only open flows keep them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from iotid.capture.decode.header_words import (
    DONT_FRAGMENT,
    DSCP,
    HAS_TIMESTAMP,
    IDENTIFICATION,
    MSS,
    ORDER_BITS,
    ORDER_MASK,
    WINDOW_SCALE,
)
from iotid.capture.jit import kernel
from iotid.flows.layout import PACKET_MARKS, PACKET_ORDER, PACKET_WIDTH, SIDE_SHIFT, Array

# ip_id_step
_NO_IDENTIFICATION, _FIRST, _SAME, _NEXT, _FEW, _MANY, _OTHER_STEP = range(7)
_FEW_BELOW, _MOST = 10, 1000  # as Nmap divides counters: Lyon 2009, "Nmap Network Scanning", section 8.3

# timestamp_rate: Linux's usual clocks, with limits at the geometric mean of each pair (RFC 7323, 5.4: 1 Hz to 1 kHz)
_NO_TIMESTAMP, _TOO_EARLY, _SLOWER, _HZ_100, _HZ_250, _HZ_1000, _FASTER = range(7)
_FROM_US = 100_000  # 10 ticks of 100 Hz, so that neither one tick nor the usual jitter moves a rate to another class
_BACKWARDS = 1 << 31  # a difference of this or more, modulo 2^32, is negative


class HeaderColumns(NamedTuple):
    """Arrays int32 of one entry per first packet, flow by flow."""

    ttl: Array
    dscp: Array
    dont_fragment: Array
    ip_id_step: Array
    tcp_options: Array
    tcp_mss: Array
    tcp_window_scale: Array
    timestamp_rate: Array


def empty_header_columns(num_packets: int) -> HeaderColumns:
    return HeaderColumns(*(np.empty(num_packets, np.int32) for _ in HeaderColumns._fields))


@kernel
def write_header_columns(
    starts: Array,
    order: Array,
    first_packets: Array,
    rows: Array,
    numbers: Array,
    sequence_starts: Array,
    columns: HeaderColumns,
) -> None:
    """Write the header fields of the ``rows``' first packets; the arguments are those of `write_flow_columns`."""
    for r in range(len(rows)):
        begin = starts[rows[r]]
        at = sequence_starts[numbers[r]] - begin
        for side in range(2):
            earlier, first_tick, first_us = -1, -1, 0
            for nth in range(begin, starts[rows[r] + 1]):
                h = order[nth]
                if first_packets[h, PACKET_MARKS] >> SIDE_SHIFT != side:
                    continue
                s = at + nth
                fixed, more = first_packets[h, PACKET_WIDTH], first_packets[h, PACKET_WIDTH + 1]
                columns.ttl[s] = fixed & 0xFF
                columns.dscp[s] = fixed >> DSCP & 0x3F
                columns.dont_fragment[s] = fixed >> DONT_FRAGMENT & 1
                columns.tcp_options[s] = more & ORDER_MASK
                columns.tcp_mss[s] = fixed >> MSS & 0xFFFF
                columns.tcp_window_scale[s] = fixed >> WINDOW_SCALE & 0x1FF
                identification = (fixed >> IDENTIFICATION & 0x1FFFF) - 1
                columns.ip_id_step[s] = _step(earlier, identification)
                earlier = identification
                columns.timestamp_rate[s] = _NO_TIMESTAMP
                if fixed >> HAS_TIMESTAMP & 1:
                    us = first_packets[h, PACKET_ORDER]
                    if first_tick < 0:
                        first_tick, first_us = more >> ORDER_BITS, us
                    columns.timestamp_rate[s] = _rate((more >> ORDER_BITS) - first_tick & 0xFFFFFFFF, us - first_us)


@kernel
def _step(earlier: int, identification: int) -> int:
    """The class of the step from the sender's ``earlier`` identification; -1: it has none."""
    if identification < 0:
        return _NO_IDENTIFICATION
    if earlier < 0:
        return _FIRST
    step = identification - earlier & 0xFFFF
    if step < _FEW_BELOW:
        return _SAME if step == 0 else _NEXT if step == 1 else _FEW
    return _MANY if step <= _MOST else _OTHER_STEP


@kernel
def _rate(ticks: int, us: int) -> int:
    """The class of a clock that went on by ``ticks`` in ``us``."""
    if us < _FROM_US:
        return _TOO_EARLY
    rate = ticks * 1_000_000 // us
    if rate < 50 or ticks >= _BACKWARDS:
        return _SLOWER
    if rate < 158:
        return _HZ_100
    if rate < 500:
        return _HZ_250
    return _HZ_1000 if rate < 2000 else _FASTER
