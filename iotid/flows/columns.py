"""Kernels that write whole flows as columns; see ``layout`` for the rows that they read."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from iotid.capture.jit import kernel
from iotid.flows.kernels import RST_FLAG
from iotid.flows.layout import (
    ADDRESS_HIGH,
    ADDRESS_LOW,
    BYTES,
    END_REASON,
    FIRST,
    FIRST_SIDE,
    FLAGS_SHIFT,
    LAST,
    NEVER,
    PACKET_LENGTHS,
    PACKET_MARKS,
    PACKET_ORDER,
    PACKETS,
    PAYLOAD_SHIFT,
    PORT_SHIFT,
    PORTS,
    POSITION,
    POSITION_SHIFT,
    PROTOCOL_SHIFT,
    SENDER_SHIFT,
    SENDER_SLOTS,
    SENDERS,
    SIDE_SHIFT,
    SOURCE_MAC,
    SYN,
    SYN_ACK,
    SYN_ACK_SIDE,
    SYN_SIDE,
    TARGET_MAC,
    UNSPECIFIED,
    VALUE,
    VALUE_COLUMNS,
    VERSION_SHIFT,
    VLAN,
    Array,
    is_local,
)

_PORT = np.uint64(0xFFFF)


class FlowColumns(NamedTuple):
    """Arrays of one entry per flow; (2, n): client, server."""

    file_index: Array  # int32 (n,): capture of the first packet
    protocol: Array  # int32 (n,)
    ip_version: Array  # uint8 (n,)
    vlan: Array  # int32 (n,): -1 for none
    first_seen: Array  # int64 (n,): µs
    last_seen: Array  # int64 (n,): µs
    end_reason: Array  # int32 (n,): index into END_REASONS
    address_conflict: Array  # bool (n,)
    answered: Array  # bool (n,)
    ip_hi: Array  # uint64 (2, n)
    ip_lo: Array  # uint64 (2, n)
    port: Array  # int32 (2, n)
    mac: Array  # int64 (2, n): -1 for unknown
    packets: Array  # int64 (2, n)
    num_bytes: Array  # int64 (2, n)


class SequenceColumns(NamedTuple):
    """Arrays of one entry per first packet, flow by flow."""

    packet_length: Array
    tcp_window: Array
    direction: Array  # 1: the client sent it; -1: the server
    inter_arrival_us: Array  # int64; 0 for a flow's first
    tcp_flags: Array
    payload_length: Array


def empty_columns(num_flows: int, num_packets: int) -> tuple[FlowColumns, SequenceColumns]:
    each: list[Any] = [np.int32, np.int32, np.uint8, np.int32, np.int64, np.int64, np.int32, np.bool_, np.bool_]
    both = [np.uint64, np.uint64, np.int32, np.int64, np.int64, np.int64]
    shaped = [np.empty(num_flows, kind) for kind in each] + [np.empty((2, num_flows), kind) for kind in both]
    long = [np.int32, np.int32, np.int32, np.int64, np.int32, np.int32]
    return FlowColumns(*shaped), SequenceColumns(*(np.empty(num_packets, kind) for kind in long))


@kernel
def _client_side(keys: Array, state: Array, i: int) -> int:
    """Sender of the first SYN, else receiver of the first SYN+ACK, else sender of the first packet."""
    ports = keys[i, PORTS]
    same_port = ports & _PORT == ports >> np.uint64(PORT_SHIFT) & _PORT
    if (
        same_port
        and keys[i, ADDRESS_LOW] == keys[i, ADDRESS_LOW + 1]
        and keys[i, ADDRESS_HIGH] == keys[i, ADDRESS_HIGH + 1]
    ):
        return 0
    if state[i, SYN] != NEVER:
        return state[i, SYN_SIDE]
    return 1 - state[i, SYN_ACK_SIDE] if state[i, SYN_ACK] != NEVER else state[i, FIRST_SIDE]


@kernel
def _mac(state: Array, i: int, side: int) -> int:
    """The MAC from which the side sent most packets (on a tie, the first); else the first destination MAC, else -1.

    So one packet with another MAC does not change the flow's. If there are more MACs than slots and the counts do not
    decide, it is the first MAC.
    """
    source, target = SOURCE_MAC + VALUE_COLUMNS * side, TARGET_MAC + VALUE_COLUMNS * side
    if state[i, source] == NEVER:
        return state[i, target + VALUE] if state[i, target] != NEVER else -1
    begin = SENDERS + SENDER_SLOTS * side
    first_mac: int = state[i, source + VALUE]
    best_mac, most, counted = first_mac, 0, 0
    for slot in range(begin, begin + SENDER_SLOTS):
        if state[i, slot] == NEVER:
            return best_mac
        mac, packets = state[i, slot] >> SENDER_SHIFT, state[i, slot] & (1 << SENDER_SHIFT) - 1
        counted += packets
        if packets > most or (packets == most and mac == first_mac):
            best_mac, most = mac, packets
    return best_mac if most >= state[i, PACKETS + side] - counted else first_mac


@kernel
def _has_conflict(keys: Array, state: Array, i: int) -> bool:
    """Whether a local side sent from several MACs."""
    second = SENDERS + 1
    zero = state[i, second] != NEVER and is_local(keys, i, 0)
    return zero or (state[i, second + SENDER_SLOTS] != NEVER and is_local(keys, i, 1))


@kernel
def write_flow_columns(
    keys: Array,
    state: Array,
    starts: Array,
    order: Array,
    first_packets: Array,
    rows: Array,
    numbers: Array,
    sequence_starts: Array,
    flows: FlowColumns,
    sequences: SequenceColumns,
) -> None:
    """Write ``rows`` as entries ``numbers`` of ``flows``; ``sequence_starts``: where each flow's sequences begin.

    ``order``: rows of ``first_packets``, flow by flow.
    """
    for r in range(len(rows)):
        i = rows[r]
        f = numbers[r]
        client = _client_side(keys, state, i)
        flows.file_index[f] = state[i, FIRST + POSITION] >> POSITION_SHIFT
        flows.protocol[f] = np.int64(keys[i, PORTS] >> np.uint64(PROTOCOL_SHIFT)) & 0xFF
        flows.ip_version[f] = np.int64(keys[i, PORTS] >> np.uint64(VERSION_SHIFT)) & 0xFF
        flows.vlan[f] = (np.int64(keys[i, VLAN]) & 0xFFFFFFFF) - 1
        flows.first_seen[f] = state[i, FIRST]
        flows.last_seen[f] = state[i, LAST]
        flows.end_reason[f] = state[i, END_REASON]
        flows.address_conflict[f] = _has_conflict(keys, state, i)
        for end in range(2):
            side = client if end == 0 else 1 - client
            flows.ip_lo[end, f] = keys[i, ADDRESS_LOW + side]
            is_unspecified = np.int64(keys[i, PORTS] >> np.uint64(UNSPECIFIED + side)) & 1
            flows.ip_hi[end, f] = np.uint64(0) if is_unspecified else keys[i, ADDRESS_HIGH + side]
            flows.port[end, f] = np.int64(keys[i, PORTS]) >> PORT_SHIFT * side & 0xFFFF
            flows.mac[end, f] = _mac(state, i, side)
            flows.packets[end, f] = state[i, PACKETS + side]
            flows.num_bytes[end, f] = state[i, BYTES + side]
        s = sequence_starts[f]
        refusals = 0
        earlier_us = state[i, FIRST]
        for nth in range(starts[i], starts[i + 1]):
            h = order[nth]
            marks, lengths = first_packets[h, PACKET_MARKS], first_packets[h, PACKET_LENGTHS]
            sequences.packet_length[s] = lengths & 0xFFFFFFFF
            sequences.payload_length[s] = lengths >> PAYLOAD_SHIFT
            sequences.tcp_window[s] = marks & 0xFFFF
            sequences.tcp_flags[s] = marks >> FLAGS_SHIFT & 0xFF
            is_client = marks >> SIDE_SHIFT == client
            sequences.direction[s] = 1 if is_client else -1
            refusals += not is_client and marks >> FLAGS_SHIFT & RST_FLAG != 0
            sequences.inter_arrival_us[s] = first_packets[h, PACKET_ORDER] - earlier_us
            earlier_us = first_packets[h, PACKET_ORDER]
            s += 1
        flows.answered[f] = state[i, PACKETS + 1 - client] > refusals


@kernel
def write_first_bytes(
    starts: Array, order: Array, packet_bytes: Array, rows: Array, numbers: Array, first_bytes: Array
) -> None:
    """Write the bytes of the ``rows``' first packets as those of flows ``numbers``, as many as fit.

    ``packet_bytes``: uint8 (h, at least B), one row per packet, in ``order``; ``first_bytes``: uint8 (flows, K, B),
    all zero.
    """
    for r in range(len(rows)):
        begin = starts[rows[r]]
        for k in range(min(starts[rows[r] + 1] - begin, first_bytes.shape[1])):
            for b in range(first_bytes.shape[2]):
                first_bytes[numbers[r], k, b] = packet_bytes[order[begin + k], b]
