"""Flows as the table that others read: who was client, text addresses, sequences of the first M packets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa

from iotid import schemas
from iotid.capture.packets import column_of, ip_text, mac_text, strings_of
from iotid.flows.columns import FlowColumns, SequenceColumns, empty_columns, lay_out
from iotid.flows.kernels import END_REASONS, FIRST, Rows
from iotid.flows.threads import in_threads

if TYPE_CHECKING:
    from iotid.flows.partial import Partials


class Piece(NamedTuple):
    """Those ``rows`` of ``flows`` that are whole flows of a table."""

    flows: Partials
    rows: Rows  # int64 (n,)


def flow_table(flows: Partials, paths: pa.Array, carried: int = 0) -> pa.Table:
    """schemas.FLOWS as stored (site and date stand in the folder names), one row a flow, in the order given.

    ``paths``: captures by file index, of which the lowest is -``carried``: those of flows that the night before left
    open.
    """
    rows = np.arange(len(flows))
    return _table([Piece(flows, rows)], [rows], paths, carried)


def table_in_time_order(pieces: list[Piece], paths: pa.Array, carried: int = 0) -> pa.Table:
    """As ``flow_table``, of all pieces together, ordered by first packet: time, then file, then offset.

    Takes the pieces off the list, so that their memory is free again while the table grows.
    """
    us, position = (
        np.concatenate([piece.flows.state[piece.rows, FIRST + part] for piece in pieces] or [np.empty(0, np.int64)])
        for part in range(2)
    )
    order = np.argsort(position, kind="stable")  # two sorts of runs that are nearly in order: faster than lexsort
    order = order[np.argsort(us[order], kind="stable")]
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    borders = np.cumsum([len(piece.rows) for piece in pieces])[:-1]
    return _table(pieces, np.split(place, borders) if pieces else [], paths, carried)


def _table(pieces: list[Piece], places: list[Rows], paths: pa.Array, carried: int = 0) -> pa.Table:
    """The table whose row ``places[p][j]`` is row ``rows[j]`` of piece p."""
    starts = np.zeros(sum(map(len, places)) + 1, np.int64)
    for (flows, rows), own in zip(pieces, places, strict=True):
        starts[own + 1] = flows.starts[rows + 1] - flows.starts[rows]
    np.cumsum(starts, out=starts)
    columns, sequences = empty_columns(len(starts) - 1, int(starts[-1]))

    def lay_out_piece(piece_and_place: tuple[Piece, Rows]) -> None:
        (flows, rows), own = piece_and_place
        lay_out(flows.keys, flows.state, flows.starts, flows.heads, rows, own, starts, columns, sequences)

    in_threads(lay_out_piece, ((pieces.pop(), own) for own in reversed(places)), len(places))
    columns.file_index[:] += carried
    return _to_arrow(columns, sequences, starts, paths)


def _to_arrow(flows: FlowColumns, sequences: SequenceColumns, starts: Rows, paths: pa.Array) -> pa.Table:
    schema = schemas.FLOWS.arrow_schema(stored=True)
    columns: dict[str, Any] = {
        "capture_file": paths.take(column_of(flows.file_index, pa.int32())),
        "protocol": flows.protocol,
        "vlan": flows.vlan,
        "first_seen": flows.first_seen,
        "last_seen": flows.last_seen,
        "end_reason": strings_of(END_REASONS).take(column_of(flows.end_reason, pa.int32())),
    }
    for end, name in enumerate(("client", "server")):
        columns[f"{name}_ip"] = ip_text(flows.ip_hi[end], flows.ip_lo[end], flows.ip_version)
        columns[f"{name}_port"] = flows.port[end]
        columns[f"{name}_mac"] = mac_text(flows.mac[end])
        columns[f"{name}_packets"] = flows.packets[end]
        columns[f"{name}_bytes"] = flows.num_bytes[end]
    offsets = column_of(starts.astype(np.int32), pa.int32())
    for name, values in sequences._asdict().items():
        kind = schema.field(name).type
        columns[name] = pa.ListArray.from_arrays(offsets, column_of(values, kind.value_type), type=kind)
    return pa.Table.from_arrays([_array(columns[field.name], field) for field in schema], schema=schema)


def _array(values: pa.Array | Rows, field: pa.Field) -> pa.Array:
    if isinstance(values, pa.Array):
        return values
    return column_of(values, field.type, values >= 0 if field.nullable else None)
