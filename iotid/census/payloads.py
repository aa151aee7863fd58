"""Counts the payloads that devices send and the ports that they use, in tables of flows; without Spark.

The same counts as of `tally.payloads_and_ports`, which counts them on Spark.

Shape suffixes: N flows of devices, P packets of all flows, C distinct values of one device.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from iotid.arrow import one_chunk
from iotid.census.groups import MAX_VALUES, PAYLOAD, PAYLOADS_AND_PORTS, PORT

READ = ("protocol", "client_ip", "server_port", "direction", "payload_length")
"""Columns of FLOWS that `count_payloads_and_ports` reads."""


def count_payloads_and_ports(flows: pa.Table, device: pa.Array, address: pa.Array) -> pa.Table:
    """PAYLOADS_AND_PORTS: the commonest payloads that each device sends, and the commonest ports that it uses.

    ``device``, ``address``: id and address of each flow's device; null: the flow has none.
    """
    is_of_device = pc.is_valid(device)
    flows = flows.select(READ).filter(is_of_device)
    encoded = device.filter(is_of_device).dictionary_encode()
    device_N = encoded.indices.to_numpy().astype(np.int64)
    protocol_N = flows["protocol"].to_numpy().astype(np.int64)
    by_client_N = _are_equal(flows["client_ip"], address.filter(is_of_device))
    flow_U, length_U = _distinct_sent(flows, by_client_N)
    counted = {
        PAYLOAD: (device_N[flow_U], protocol_N[flow_U], length_U),
        PORT: (device_N, protocol_N, flows["server_port"].to_numpy().astype(np.int64)),
    }
    tables = [_commonest(what, encoded.dictionary, *values) for what, values in counted.items()]
    return pa.concat_tables(tables)


def _are_equal(ip: pa.ChunkedArray, address: pa.Array) -> NDArray[np.bool_]:
    equal = pc.fill_null(pc.equal(one_chunk(ip).cast(pa.string()), address.cast(pa.string())), False)
    is_equal_N: NDArray[np.bool_] = equal.to_numpy(zero_copy_only=False)
    return is_equal_N


def _distinct_sent(flows: pa.Table, by_client_N: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(flow, length) of each payload that a flow's device sends; once for each flow, however many packets have it."""
    lists = {name: one_chunk(flows[name]) for name in ("direction", "payload_length")}
    flow_P = pc.list_parent_indices(lists["direction"]).to_numpy().astype(np.int64)
    direction_P, length_P = (each.flatten().to_numpy().astype(np.int64) for each in lists.values())
    is_sent_P = (direction_P == np.where(by_client_N, 1, -1)[flow_P]) & (length_P > 0)
    pair_U = np.unique(flow_P[is_sent_P] << 32 | length_P[is_sent_P])
    return pair_U >> 32, pair_U & 0xFFFFFFFF


def _commonest(
    what: str, devices: pa.Array, device: NDArray[np.int64], protocol: NDArray[np.int64], value: NDArray[np.int64]
) -> pa.Table:
    """The MAX_VALUES values of each device with most flows, the smaller of equally common ones first."""
    code_C, flows_C = np.unique(device << 40 | protocol << 32 | value, return_counts=True)  # a protocol has 8 bits
    device_C = code_C >> 40
    order = np.lexsort((code_C, -flows_C, device_C))
    starts = np.flatnonzero(np.diff(device_C[order], prepend=-1))
    rank = np.arange(len(order)) - np.repeat(starts, np.diff(starts, append=len(order)))
    kept = order[rank < MAX_VALUES]
    columns = [
        devices.take(pa.array(device_C[kept])),
        pa.repeat(what, len(kept)),
        pa.array((code_C[kept] >> 32 & 0xFF).astype(np.int32)),
        pa.array((code_C[kept] & 0xFFFFFFFF).astype(np.int32)),
        pa.array(flows_C[kept]),
    ]
    return pa.table(columns, schema=PAYLOADS_AND_PORTS)
