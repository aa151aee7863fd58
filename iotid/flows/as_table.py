"""Flows that a Python caller passes: converted to columns of FLOWS, and refused where no flow can look like that."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from iotid.arrow import one_chunk
from iotid.errors import InputError, SchemaError, short_repr, shorten
from iotid.schemas import FLOWS, HEADER_COLUMNS

LENGTH_KEY = b"iotid.flow.length"  # metadata of a table that `from_captures` made

PER_PACKET = {  # columns with a value for each of the first packets: the lowest and the highest
    # a record that claims more is broken (capture.max_packet_bytes); 64 KiB is no limit, as captures on a host hold
    # segments that its network card divides later
    "packet_length": (1, 1 << 20),
    "payload_length": (0, 1 << 20),
    "tcp_window": (0, 65_535),
    "tcp_flags": (0, 255),
    "direction": (-1, 1),
    "inter_arrival_us": (0, 1 << 62),
    "ttl": (0, 255),
    "dscp": (0, 63),
    "dont_fragment": (0, 1),
    "ip_id_step": (0, 6),
    "tcp_options": (0, (1 << 31) - 1),
    "tcp_mss": (0, 65_535),
    "tcp_window_scale": (0, 256),
    "timestamp_rate": (0, 6),
}
PER_FLOW = {"protocol": (0, 255), "client_port": (0, 65_535), "server_port": (0, 65_535)} | {
    f"{end}_{what}": (0, 1 << 62) for end in ("client", "server") for what in ("packets", "bytes")
}
_PACKETS = ("client_packets", "server_packets")
_SLICE = 1_000_000  # flows checked in one step: their lists fit into one array, which has at most 2^31 values
_ACCEPTED = "a pyarrow.Table or RecordBatch, a pandas.DataFrame, or a list of dicts"
_REMEDY = "pass flows of iotid.flows.from_captures, or as schemas.FLOWS describes them"
_HEADER_REMEDY = "assemble the flows with header_fields=True (flow.header_fields)"


def flows_of(given: object, needed: Collection[str], max_packets: int = 0, optional: Collection[str] = ()) -> pa.Table:
    """The columns ``needed`` of FLOWS, and those ``optional`` ones that there are, row i for row i of ``given``.

    ``given``: a table or record batch, anything with Arrow's stream interface, a data frame, a list of one dict for
    each flow, or a dict of columns. ``max_packets``: packets of a flow that the caller reads.

    Raises:
        InputError: it is none of these.
        SchemaError: a column is missing, of another type or null, or a row cannot be a flow: no packets, a value out of
            its range, sequences of several lengths, or fewer packets kept than are read.
    """
    columns = _columns(given)
    lacking = [name for name in needed if name not in columns]
    if lacking:
        fields = f"; {_HEADER_REMEDY}" if set(lacking) & set(HEADER_COLUMNS) else ""
        raise SchemaError(f"flows: lack {', '.join(lacking)}; {_remedy(columns)}{fields}")
    counts = _PACKETS if set(_PACKETS) <= set(columns) else ()
    kept = dict.fromkeys([*needed, *(name for name in optional if name in columns)])
    table = pa.table({name: _column(columns, name) for name in dict.fromkeys([*kept, *counts])})
    for at in range(0, len(table), _SLICE):
        _check(table.slice(at, _SLICE), at, max_packets)
    return table.select(list(kept))


def check_length(given: object, length: str) -> None:
    """Raise a SchemaError if `from_captures` made the table with another ``flow.length`` than ``length``, which a table
    of other origin does not say."""
    metadata = getattr(getattr(given, "schema", None), "metadata", None)
    found = metadata.get(LENGTH_KEY, b"").decode() if isinstance(metadata, dict) else ""
    if found and found != length:
        raise SchemaError(
            f"flows: packet_length counts from the {found} header on, and the model reads those from {length} on; "
            f"assemble the flows with length={length!r}"
        )


def _check(flows: pa.Table, first_row: int, max_packets: int) -> None:
    """Raise a SchemaError that names the first row that cannot be a flow; ``first_row``: number of the first one."""

    def fault(row: int, text: str) -> SchemaError:
        return SchemaError(f"flows: row {first_row + row}: {text}")

    for name in (name for name in flows.column_names if name in PER_FLOW):
        values, (low, high) = one_chunk(flows[name]), PER_FLOW[name]
        if (row := _first(pc.or_(pc.less(values, low), pc.greater(values, high)))) >= 0:
            raise fault(row, f"{name} must be {low} to {high:,}, got {values[row]}; {_REMEDY}")
    kept: dict[str, NDArray[np.int64]] = {}
    for name in (name for name in flows.column_names if name in PER_PACKET):
        lists, (low, high) = one_chunk(flows[name]), PER_PACKET[name]
        kept[name] = pc.list_value_length(lists).to_numpy()
        if (row := _first(kept[name] == 0)) >= 0:
            remedy = "leave the flow out"
            if name in HEADER_COLUMNS:
                remedy = _HEADER_REMEDY
            raise fault(row, f"{name} has no packets; {remedy}")
        values = lists.flatten()
        is_wrong = pc.or_(
            pc.or_(pc.less(values, low), pc.greater(values, high)), pc.equal(values, 0 if low < 0 else -1)
        )
        if (at := _first(pc.fill_null(is_wrong, True))) >= 0:
            allowed = f"{low} or {high}" if low < 0 else f"{low:,} to {high:,}"
            row = lists.value_parent_indices()[at].as_py()
            raise fault(row, f"{name} must be {allowed}, got {values[at].as_py()}; {_REMEDY}")
        first = next(iter(kept))
        if (row := _first(kept[name] != kept[first])) >= 0:
            packets = f"{first} has {kept[first][row]} packets and {name} {kept[name][row]}"
            raise fault(row, f"{packets}; pass as many of each")
    if kept and set(_PACKETS) <= set(flows.column_names):
        packets_N, kept_N = pc.add(*(flows[name] for name in _PACKETS)).to_numpy(), next(iter(kept.values()))
        if (row := _first(kept_N < np.minimum(packets_N, max_packets))) >= 0:
            raise fault(
                row,
                f"keeps {kept_N[row]} of its {packets_N[row]} packets, and the model reads {max_packets}; assemble the "
                f"flows with max_packets={max_packets}",
            )


def _first(wrong: pa.Array | NDArray[np.bool_]) -> int:
    """Index of the first that is true; -1: none is."""
    return int(pc.index(pa.array(wrong) if isinstance(wrong, np.ndarray) else wrong, True).as_py())


def _columns(given: object) -> Mapping[str, Any]:
    """Name -> values, in any form that pyarrow converts."""
    if isinstance(given, pa.Table | pa.RecordBatch):
        return dict(zip(given.schema.names, given.columns, strict=True))
    if hasattr(given, "iloc") and hasattr(given, "columns"):  # pandas, which need not be imported for this
        return {name: given[name] for name in given.columns}  # type: ignore[index]
    if isinstance(given, Mapping):
        return given
    if isinstance(given, list | tuple) and all(isinstance(row, Mapping) for row in given):
        return {name: [row.get(name) for row in given] for name in {name for row in given for name in row}}
    if hasattr(given, "__arrow_c_stream__") and not hasattr(given, "toArrow"):
        return _columns(pa.table(given))
    remedy = "pass flows of iotid.flows.from_captures"
    if isinstance(given, str | os.PathLike):
        remedy = f"pass iotid.flows.from_captures({short_repr(str(given))})"
    elif hasattr(given, "toArrow"):
        remedy = "pass its toArrow()"
    raise InputError(f"flows: must be {_ACCEPTED}, got {type(given).__name__}; {remedy}")


def _column(columns: Mapping[str, Any], name: str) -> pa.Array | pa.ChunkedArray:
    """One column in its type of FLOWS, without nulls where FLOWS has none."""
    field, kind = FLOWS.arrow_schema().field(name), next(each.type for each in FLOWS.columns if each.name == name)
    values, got = columns[name], ""
    try:
        if not isinstance(values, pa.Array | pa.ChunkedArray):
            values = pa.array(values, from_pandas=True)  # with a type, 60.5 would become 60
        got = str(values.type).replace("item: ", "")
        column = values if values.type == field.type else values.cast(field.type)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as fault:
        why = shorten(str(fault), 200) if not got or got.startswith("list") else got
        raise SchemaError(f"flows: {name} must be {kind}, got {why}; {_remedy(columns)}") from None
    if not field.nullable and column.null_count:
        row = pc.index(column.is_null(), True).as_py()
        raise SchemaError(f"flows: row {row}: {name} must not be null; leave the flow out, or fill it")
    return column


def _remedy(columns: Mapping[str, Any]) -> str:
    is_packets = "timestamp" in columns and "frame_length" in columns
    return "these are packets: pass flows of iotid.flows.from_captures" if is_packets else _REMEDY
