"""Flows that continue after midnight: a partition stores its open flows, and that of the next date continues them.

A flow is open if no later packet of its key ended it and its last packet is at most the idle time-out before the
partition's last one. It is carried: stored as a partial flow and merged on the next date. Without an idle time-out no
flow would ever end, so none is carried. Positions of carried rows refer to files of another partition: they become
negative, in the same order, so that they sort before the partition's own packets of the same microsecond.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from iotid import config, schemas
from iotid.flows.layout import (
    BEFORE_ALL,
    END_REASON,
    FIN,
    FIRST,
    KEY_COLUMNS,
    LAST,
    LAST_SYN,
    NEVER,
    OPENED,
    PACKET_ORDER,
    POSITION,
    POSITION_SHIFT,
    RST,
    SOURCE_MAC,
    SYN,
    SYN_ACK,
    TARGET_MAC,
    VALUE_COLUMNS,
    Array,
)
from iotid.flows.partial import Partials, packet_width, rule_of

CARRIED = -1  # task of carried rows: flows continued from the previous date, which no task of this partition read

_POSITIONS = [
    key + POSITION
    for key in (
        FIRST, LAST, FIN, FIN + KEY_COLUMNS, RST, SYN, LAST_SYN,
        SYN_ACK, SOURCE_MAC, SOURCE_MAC + VALUE_COLUMNS, TARGET_MAC, TARGET_MAC + VALUE_COLUMNS,
        OPENED, OPENED + VALUE_COLUMNS,
    )
]  # fmt: skip
_TRIM_EVERY = 1 << 13  # added rows after which flows that have ended are dropped


def carries_open_flows(flow: config.Flow) -> bool:
    """Whether partitions assembled with these settings carry open flows."""
    return flow.idle_timeout_s is not None and flow.join_files


def is_carried(flows: Partials) -> Array:
    """bool (n,): flows without a packet in this partition."""
    return flows.state[:, LAST + POSITION] < 0


def load_open_flows(rows: pa.Table | pa.RecordBatch, paths: list[str], flow: config.Flow) -> Partials:
    """Convert rows of schemas.OPEN_FLOWS, of the same settings, into partial flows of the next date.

    ``paths``: the distinct captures of all open flows; capture i gets file index i - len(paths).
    """
    partials = Partials.from_arrow(_as_partials(rows), packet_width(flow))
    state, first_packets = partials.state, partials.first_packets
    slot = pc.index_in(rows["capture_file"], value_set=pa.array(paths, pa.string())).to_numpy(zero_copy_only=False)
    file = (slot.astype(np.int64) - len(paths)) << POSITION_SHIFT
    positions = state[:, _POSITIONS]
    is_set = (positions != NEVER) & (positions != BEFORE_ALL)
    # only the order of positions matters, so ranks replace them
    _, ranks = np.unique(
        np.concatenate([positions[is_set], first_packets[:, PACKET_ORDER + POSITION]]), return_inverse=True
    )
    row_of_position = np.nonzero(is_set)[0]
    row_of_packet = np.repeat(np.arange(len(partials)), np.diff(partials.starts))
    positions[is_set] = file[row_of_position] | ranks[: len(row_of_position)]
    first_packets[:, PACKET_ORDER + POSITION] = file[row_of_packet] | ranks[len(row_of_position) :]
    state[:, _POSITIONS] = positions
    return Partials(np.full(len(partials), CARRIED, np.int32), partials.keys, state, partials.starts, first_packets)


class OpenFlows:
    """Collects flows that may still be open at the end of the partition."""

    def __init__(self, flow: config.Flow) -> None:
        self._idle_us = rule_of(flow).idle_us
        self._rows: list[Partials] = []
        self._added = 0
        self.last_us = BEFORE_ALL  # time of the last packet of all

    def add(self, flows: Partials) -> None:
        if not len(flows):
            return
        self.last_us = max(self.last_us, int(flows.state[:, LAST].max()))
        self._rows.append(self._open(flows))
        self._added += len(self._rows[-1])
        if self._added > max(_TRIM_EVERY, len(self._rows[0])):
            self._rows, self._added = [self._open(Partials.concat(self._rows))], 0

    def tables(self, paths: pa.Array, carried: int, rows: int) -> Iterator[pa.Table]:
        """schemas.OPEN_FLOWS sorted by first packet, up to ``rows`` per table.

        ``paths`` and ``carried`` as `table_in_time_order` takes them.
        """
        left = self._open(Partials.concat(self._rows))
        left = left.take(np.lexsort((left.state[:, FIRST + POSITION], left.state[:, FIRST])))
        for start in range(0, len(left), rows):
            some = left.take(np.arange(start, min(start + rows, len(left))))
            batch = some.to_arrow()
            columns_of = {name: batch[name] for name in batch.schema.names}
            file_index = (some.state[:, FIRST + POSITION] >> POSITION_SHIFT) + carried
            columns_of["capture_file"] = paths.take(pa.array(file_index))
            columns_of["packets_seen"] = pa.array(some.packets)
            columns_of["last_us"] = pa.array(np.ascontiguousarray(some.state[:, LAST]))
            schema = schemas.OPEN_FLOWS.arrow_schema()
            yield pa.table([columns_of[name] for name in schema.names], schema=schema)

    def _open(self, flows: Partials) -> Partials:
        is_open = (flows.state[:, END_REASON] == 0) & (flows.state[:, LAST] >= self.last_us - self._idle_us)
        return flows.take(np.flatnonzero(is_open))


def _as_partials(rows: pa.Table | pa.RecordBatch) -> pa.RecordBatch:
    """The columns of schemas.PARTIAL_FLOWS."""
    schema = schemas.PARTIAL_FLOWS.arrow_schema()
    task = pa.array(np.full(rows.num_rows, CARRIED, np.int32))
    columns = [task if name == "task" else rows[name] for name in schema.names]
    whole = [column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column for column in columns]
    return pa.RecordBatch.from_arrays(whole, schema=schema)
