"""Flows as the table that others read: who was client, text addresses, sequences of the first M packets."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from iotid import schemas
from iotid.capture.packets import ip_text, mac_text
from iotid.flows.kernels import (
    BYTES,
    END_REASON,
    END_REASONS,
    FIRST,
    FIRST_SIDE,
    HEAD_LENGTHS,
    HEAD_MARKS,
    HEAD_ORDER,
    LAST,
    NEVER,
    PACKETS,
    POSITION_SHIFT,
    SOURCE_MAC,
    SYN,
    SYN_ACK,
    SYN_ACK_SIDE,
    SYN_SIDE,
    TARGET_MAC,
    Rows,
)

if TYPE_CHECKING:
    from iotid.flows.partial import Partials


def flow_table(flows: Partials, paths: pa.Array) -> pa.Table:
    """schemas.FLOWS as stored (site and date stand in the folder names), one row a flow, in the order given.

    ``paths``: the night's captures by file index.
    """
    state, keys = flows.state, flows.keys
    client = _client_side(flows)
    server = 1 - client
    each = np.arange(len(flows))
    version = (keys[:, 0] >> np.uint64(40)).astype(np.uint8)
    vlan = (keys[:, 5] & np.uint64(0xFFFFFFFF)).astype(np.int64) - 1
    columns = {
        "capture_file": paths.take(pa.array(state[:, FIRST + 1] >> POSITION_SHIFT)),
        "protocol": (keys[:, 0] >> np.uint64(32) & np.uint64(0xFF)).astype(np.int32),
        "vlan": pa.array(vlan.astype(np.int32), mask=vlan < 0),
        "first_seen": _timestamps(state[:, FIRST]),
        "last_seen": _timestamps(state[:, LAST]),
        "end_reason": pa.array(END_REASONS).take(pa.array(state[:, END_REASON])),
        **_sequences(flows, client),
    }
    for name, side in (("client", client), ("server", server)):
        columns[f"{name}_ip"] = ip_text(keys[each, 3 + side], keys[each, 1 + side], version)
        port = keys[:, 0] >> (16 * side).astype(np.uint64) & np.uint64(0xFFFF)
        columns[f"{name}_port"] = port.astype(np.int32)
        columns[f"{name}_mac"] = mac_text(_mac(state, side))
        columns[f"{name}_packets"] = state[each, PACKETS + side]
        columns[f"{name}_bytes"] = state[each, BYTES + side]
    schema = schemas.FLOWS.arrow_schema(stored=True)
    return pa.Table.from_arrays([_array(columns[field.name], field.type) for field in schema], schema=schema)


def _client_side(flows: Partials) -> Rows:
    """int64 (n,): sender of the first SYN, else receiver of the first SYN+ACK, else sender of the first packet."""
    state, keys = flows.state, flows.keys
    told = np.where(state[:, SYN_ACK] != NEVER, 1 - state[:, SYN_ACK_SIDE], state[:, FIRST_SIDE])
    told = np.where(state[:, SYN] != NEVER, state[:, SYN_SIDE], told)
    ports = keys[:, 0]
    same_port = (ports & np.uint64(0xFFFF)) == (ports >> np.uint64(16) & np.uint64(0xFFFF))
    one_endpoint = same_port & (keys[:, 1] == keys[:, 2]) & (keys[:, 3] == keys[:, 4])
    return np.where(one_endpoint, 0, told)


def _mac(state: Rows, side: Rows) -> Rows:
    """int64 (n,): source MAC of packets that the side sent, else destination MAC of packets sent to it, else -1."""
    each = np.arange(len(state))
    source, target = SOURCE_MAC + 3 * side, TARGET_MAC + 3 * side
    as_target = np.where(state[each, target] != NEVER, state[each, target + 2], -1)
    return np.where(state[each, source] != NEVER, state[each, source + 2], as_target)


def _sequences(flows: Partials, client: Rows) -> dict[str, pa.Array]:
    heads, starts = flows.heads, flows.starts
    marks, lengths = heads[:, HEAD_MARKS], heads[:, HEAD_LENGTHS]
    client_of_head = np.repeat(client, starts[1:] - starts[:-1])
    gaps = np.diff(heads[:, HEAD_ORDER], prepend=0)
    gaps[starts[:-1]] = 0
    values = {
        "packet_length": (lengths & 0xFFFFFFFF).astype(np.int32),
        "tcp_window": (marks & 0xFFFF).astype(np.int32),
        "direction": np.where(marks >> 24 == client_of_head, 1, -1).astype(np.int32),
        "inter_arrival_us": gaps,
        "tcp_flags": (marks >> 16 & 0xFF).astype(np.int32),
        "payload_length": (lengths >> 32).astype(np.int32),
    }
    offsets = pa.array(starts.astype(np.int32))
    return {name: pa.ListArray.from_arrays(offsets, pa.array(column)) for name, column in values.items()}


def _timestamps(us: Rows) -> pa.Array:
    return pa.array(us).cast(pa.timestamp("us", tz="UTC"))


def _array(column: pa.Array | Rows, kind: pa.DataType) -> pa.Array:
    return column if isinstance(column, pa.Array) else pa.array(column, kind)
