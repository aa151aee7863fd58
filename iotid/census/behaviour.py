"""Counts what devices do in their flows, as values that `iotid.census.groups` compares: PAYLOADS_AND_PORTS.

Pure functions on flows in Arrow; `iotid.census.tally` runs them on Spark's workers. Of each device and type of value
the MAX_VALUES commonest are kept, so that no sender determines how much is stored.

Lengths are those of payloads, which are independent of headers and of the IP version; positive if the device sends the
packet, negative if it receives it; in pairs and sequences at most 2,047 bytes, so that a value fits into an integer.
Server ports from 32,768 on are usually negotiated and count as one.

Shape suffixes: N flows, P packets with payload, E values of flows, D devices.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from iotid.arrow import one_chunk

PAYLOAD = "payload"  # length of a payload that the device sends
PAIR = "pair"  # lengths of two consecutive payloads of a flow
SEQUENCE = "sequence"  # hash of the server port and the lengths of all payloads of a flow
ROLE = "role"  # server port, and whether the device is the client
PORT = "port"  # server port as it is, for readers
HOUR = "hour"  # hours since 1970 (UTC) of the flow's first packet
PAYLOADS_AND_PORTS = pa.schema(
    [
        ("device_id", pa.string()),
        ("what", pa.string()),  # the type of value, as above
        ("protocol", pa.int32()),  # of the transport; 0 for an hour
        ("value", pa.int64()),
        ("flows", pa.int64()),  # flows of the device with this value
    ]
)
MAX_VALUES = 64  # values of each type counted for each device
VALUE_BITS = 51
READ = ("device_id", "address", "client_ip", "protocol", "server_port", "first_seen", "direction", "payload_length")
"""Columns of flows with their devices that `count_values` reads."""

_LENGTH_BITS = 12
_MAX_LENGTH = (1 << (_LENGTH_BITS - 1)) - 1
_FIRST_DYNAMIC_PORT = 32_768  # most systems choose ports from here on (IANA: from 49,152 on, RFC 6335)
_MULTIPLIER = 0x9E3779B97F4A7C15  # odd, 2**64 divided by the golden ratio (Fibonacci hashing, Knuth 1973)
_HOUR_US = 3_600_000_000
_WHATS = (PAYLOAD, PAIR, SEQUENCE, ROLE, PORT, HOUR)


def payloads_and_ports_of(flows: pa.Table) -> pa.Table:
    """The rows of PAYLOADS_AND_PORTS of these flows, which have the columns READ; sorted."""
    order = [("device_id", "ascending"), ("what", "ascending"), ("flows", "descending")]
    counted = count_values(flows).sort_by([*order, ("protocol", "ascending"), ("value", "ascending")])
    what = pc.index_in(counted["what"], value_set=pa.array(_WHATS)).to_numpy().astype(np.int64)
    device = one_chunk(counted["device_id"]).dictionary_encode().indices.to_numpy().astype(np.int64)
    key_E = device * len(_WHATS) + what
    first_E = np.flatnonzero(np.diff(key_E, prepend=-1))
    rank_E = np.arange(len(key_E)) - np.repeat(first_E, np.diff(first_E, append=len(key_E)))
    return counted.filter(pa.array(rank_E < MAX_VALUES))


def count_values(flows: pa.Table) -> pa.Table:
    """PAYLOADS_AND_PORTS of all values of these flows; a value that occurs several times in a flow counts once.

    ``flows``: with the columns READ; ``device_id`` is the device that the flow belongs to, ``address`` its address in
    the flow.
    """
    device = one_chunk(flows["device_id"]).dictionary_encode()
    protocol_N = flows["protocol"].to_numpy().astype(np.int64)
    parts = []
    for what, (row_E, value_E) in _values(flows).items():
        protocol_E = np.zeros(len(row_E), np.int64) if what == HOUR else protocol_N[row_E]
        in_flow = np.unique(np.stack([row_E, protocol_E, value_E]), axis=1)
        device_E = device.indices.to_numpy().astype(np.int64)[in_flow[0]]
        counted, flows_E = np.unique(np.stack([device_E, *in_flow[1:]]), axis=1, return_counts=True)
        ids = device.dictionary.take(pa.array(counted[0]))
        columns = [ids, pa.repeat(what, len(ids)), counted[1].astype(np.int32), counted[2], flows_E]
        arrays = [pa.array(column, field.type) for column, field in zip(columns, PAYLOADS_AND_PORTS, strict=True)]
        parts.append(pa.table(arrays, schema=PAYLOADS_AND_PORTS))
    return pa.concat_tables(parts)


def _values(flows: pa.Table) -> dict[str, tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """(E,) flow and value of each type; the same pair may occur several times."""
    is_client_N = pc.equal(flows["client_ip"], flows["address"]).to_numpy().astype(np.int64)
    port_N, all_N = flows["server_port"].to_numpy().astype(np.int64), np.arange(len(flows))
    known_port_N = np.where(port_N < _FIRST_DYNAMIC_PORT, port_N, 0)
    hour_N = one_chunk(flows["first_seen"]).cast(pa.timestamp("us", "UTC")).cast(pa.int64()).to_numpy() // _HOUR_US
    row_P, length_P = _payloads(flows, is_client_N)
    clipped_P = np.clip(length_P, -_MAX_LENGTH, _MAX_LENGTH) + _MAX_LENGTH + 1
    follows_P = np.flatnonzero(row_P[1:] == row_P[:-1]) + 1
    return {
        PAYLOAD: (row_P[length_P > 0], length_P[length_P > 0]),
        PAIR: (row_P[follows_P], clipped_P[follows_P - 1] << _LENGTH_BITS | clipped_P[follows_P]),
        SEQUENCE: (all_N, _hashes(known_port_N, row_P, clipped_P)),
        ROLE: (all_N, known_port_N << 1 | is_client_N),
        PORT: (all_N, port_N),
        HOUR: (all_N, hour_N),
    }


def _payloads(flows: pa.Table, is_client_N: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(P,) flow and length of each packet with payload, in order; negative if the device receives it."""
    lengths = one_chunk(flows["payload_length"])
    row_P = pc.list_parent_indices(lengths).to_numpy().astype(np.int64)
    length_P = lengths.flatten().to_numpy().astype(np.int64)
    by_client_P = one_chunk(flows["direction"]).flatten().to_numpy() > 0
    is_sent_P, shown_P = by_client_P == (is_client_N[row_P] > 0), length_P > 0
    return row_P[shown_P], np.where(is_sent_P, length_P, -length_P)[shown_P]


def _hashes(port_N: NDArray[np.int64], row_P: NDArray[np.int64], length_P: NDArray[np.int64]) -> NDArray[np.int64]:
    """(N,) VALUE_BITS of a hash of each flow's port and lengths in order.

    A sender can make two sequences with one hash, but gains nothing: it can as well send equal sequences.
    """
    first_P = np.flatnonzero(np.diff(row_P, prepend=-1))
    position_P = np.arange(len(row_P)) - np.repeat(first_P, np.diff(first_P, append=len(row_P)))
    hash_N = (port_N + 1).astype(np.uint64)
    for position in range(int(position_P.max(initial=-1)) + 1):
        at = position_P == position
        rows = row_P[at]
        mixed = (hash_N[rows] ^ length_P[at].astype(np.uint64)) * np.uint64(_MULTIPLIER)
        hash_N[rows] = mixed ^ (mixed >> np.uint64(29))
    return (hash_N * np.uint64(_MULTIPLIER) >> np.uint64(64 - VALUE_BITS)).astype(np.int64)
