"""Converts complete flows to table FLOWS: client and server, addresses as text, sequences of M packets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa

from iotid import config, schemas
from iotid.capture.packets import booleans_of, column_of, ip_text, mac_text, strings_of
from iotid.capture.threads import in_threads
from iotid.flows.columns import FlowColumns, SequenceColumns, empty_columns, write_first_bytes, write_flow_columns
from iotid.flows.header_columns import HeaderColumns, empty_header_columns, write_header_columns
from iotid.flows.layout import END_REASONS, FIRST, KEY_COLUMNS, PACKET_WIDTH, Array
from iotid.flows.partial import header_words

if TYPE_CHECKING:
    from iotid.flows.partial import Partials

_BINARY_BYTES = (1 << 31) - 1  # of one array


class FlowSelection(NamedTuple):
    """The ``rows`` of ``flows`` that are complete flows."""

    flows: Partials
    rows: Array  # int64 (n,)


def table_in_time_order(
    selections: list[FlowSelection], paths: pa.Array, settings: config.Flow, carried: int = 0
) -> pa.Table:
    """schemas.FLOWS as stored (site and date are in the folder names), by first packet: time, then file, then offset.

    ``paths``: captures by file index, which starts at -``carried``: the first ``carried`` are of flows continued from
    the previous date. Empties ``selections``, so that memory is freed while the table grows.
    """
    us, position = (
        np.concatenate(
            [selection.flows.state[selection.rows, FIRST + column] for selection in selections]
            or [np.empty(0, np.int64)]
        )
        for column in range(KEY_COLUMNS)
    )
    order = np.argsort(position, kind="stable")  # two sorts of runs that are nearly in order: faster than lexsort
    order = order[np.argsort(us[order], kind="stable")]
    row_index = np.empty(len(order), np.int64)
    row_index[order] = np.arange(len(order))
    borders = np.cumsum([len(selection.rows) for selection in selections])[:-1]
    return _table(selections, np.split(row_index, borders) if selections else [], paths, settings, carried)


def _table(
    selections: list[FlowSelection], indices: list[Array], paths: pa.Array, settings: config.Flow, carried: int
) -> pa.Table:
    """The table whose row ``indices[p][j]`` is row ``rows[j]`` of selection p."""
    starts = np.zeros(sum(map(len, indices)) + 1, np.int64)
    for (flows, rows), index in zip(selections, indices, strict=True):
        starts[index + 1] = flows.starts[rows + 1] - flows.starts[rows]
    np.cumsum(starts, out=starts)
    columns, sequences = empty_columns(len(starts) - 1, int(starts[-1]))
    headers = empty_header_columns(int(starts[-1]) if settings.header_fields else 0)
    first_bytes = np.zeros((len(starts) - 1, settings.keep_packets, settings.keep_bytes), np.uint8)

    def lay_out_selection(selection_and_index: tuple[FlowSelection, Array]) -> None:
        (flows, rows), index = selection_and_index
        order, first_packets = flows.rows_of_packets, flows.first_packets
        write_flow_columns(
            flows.keys, flows.state, flows.starts, order, first_packets, rows, index, starts, columns, sequences
        )
        if settings.header_fields:
            write_header_columns(flows.starts, order, first_packets, rows, index, starts, headers)
        if settings.keep_bytes > 0:
            packet_bytes = first_packets[:, PACKET_WIDTH + header_words(settings) :].view(np.uint8)
            write_first_bytes(flows.starts, order, packet_bytes, rows, index, first_bytes)

    in_threads(lay_out_selection, ((selections.pop(), index) for index in reversed(indices)), len(indices))
    columns.file_index[:] += carried
    return _to_arrow(columns, sequences, headers, starts, first_bytes, paths)


def _to_arrow(
    flows: FlowColumns,
    sequences: SequenceColumns,
    headers: HeaderColumns,
    starts: Array,
    first_bytes: Array,
    paths: pa.Array,
) -> pa.Table:
    schema = schemas.FLOWS.arrow_schema(stored=True)
    columns: dict[str, Any] = {
        "capture_file": paths.take(column_of(flows.file_index, pa.int32())),
        "protocol": flows.protocol,
        "vlan": flows.vlan,
        "first_seen": flows.first_seen,
        "last_seen": flows.last_seen,
        "address_conflict": booleans_of(flows.address_conflict),
        "answered": booleans_of(flows.answered),
        "end_reason": strings_of(END_REASONS).take(column_of(flows.end_reason, pa.int32())),
    }
    for end, name in enumerate(("client", "server")):
        columns[f"{name}_ip"] = ip_text(flows.ip_hi[end], flows.ip_lo[end], flows.ip_version)
        columns[f"{name}_port"] = flows.port[end]
        columns[f"{name}_mac"] = mac_text(flows.mac[end])
        columns[f"{name}_packets"] = flows.packets[end]
        columns[f"{name}_bytes"] = flows.num_bytes[end]
    offsets = column_of(starts.astype(np.int32), pa.int32())
    no_lists = column_of(np.zeros(len(starts), np.int32), pa.int32())
    for name, values in (sequences._asdict() | headers._asdict()).items():
        kind = schema.field(name).type
        of_flow = offsets if len(values) else no_lists
        columns[name] = pa.ListArray.from_arrays(of_flow, column_of(values, kind.value_type), type=kind)
    columns["first_bytes"] = _binary(first_bytes)
    return pa.Table.from_arrays([_array(columns[field.name], field) for field in schema], schema=schema)


def _array(values: pa.Array | pa.ChunkedArray | Array, field: pa.Field) -> pa.Array | pa.ChunkedArray:
    if isinstance(values, (pa.Array, pa.ChunkedArray)):
        return values
    return column_of(values, field.type, values >= 0 if field.nullable else None)


def _binary(values_NKB: Array) -> pa.Array | pa.ChunkedArray:
    """K * B bytes per flow, in chunks, as an Arrow binary array is limited to 2 GiB; null if B is 0."""
    count, packets, num_bytes = values_NKB.shape
    if num_bytes == 0:
        return pa.nulls(count, pa.binary())
    width = packets * num_bytes
    chunks = []
    for start in range(0, max(count, 1), _BINARY_BYTES // width):
        values = values_NKB[start : start + _BINARY_BYTES // width]
        offsets = np.arange(len(values) + 1, dtype=np.int32) * np.int32(width)
        chunks.append(pa.Array.from_buffers(pa.binary(), len(values), [None, *map(pa.py_buffer, (offsets, values))]))
    return pa.chunked_array(chunks)
