"""Flows that go on over midnight: what a night leaves open, and how the next one takes it up.

A flow is open where no later packet of its key ended it and its last packet is at most the idle time-out before the
night's last one. Its row, as exact as the night knows it, is carried as a partial flow; without an idle time-out no
flow ever ends, and nothing is carried. Positions in it name files of another night: they become negative, in the same
order, so that what was carried is earlier than all that the night reads at the same microsecond.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from iotid import config, schemas
from iotid.flows import kernels
from iotid.flows.kernels import BEFORE_ALL, END_REASON, FIRST, LAST, NEVER, POSITION_SHIFT, Array
from iotid.flows.partial import Partials, head_width, rule_of

CARRIED = -1  # task of rows that no task of this night has read

_POSITIONS = [
    key + 1
    for key in (
        kernels.FIRST, kernels.LAST, kernels.FIN, kernels.FIN + 2, kernels.RST, kernels.SYN, kernels.LAST_SYN,
        kernels.SYN_ACK, kernels.SOURCE_MAC, kernels.SOURCE_MAC + 3, kernels.TARGET_MAC, kernels.TARGET_MAC + 3,
        kernels.OPENED, kernels.OPENED + 3,
    )
]  # fmt: skip
_FEW = 1 << 13  # rows that are looked through again only when as many have been added


def carries(flow: config.Flow) -> bool:
    """Whether nights assembled so hand open flows on."""
    return flow.idle_timeout_s is not None and flow.join_files


def is_carried(flows: Partials) -> Array:
    """bool (n,): flows of which this night has seen no packet."""
    return flows.state[:, LAST + 1] < 0


def take_up(rows: pa.Table | pa.RecordBatch, paths: list[str], flow: config.Flow) -> Partials:
    """Rows of schemas.OPEN_FLOWS, made with the same settings, as partial flows of the next night.

    ``paths``: the distinct captures of all the night's open flows; number i becomes file index i - len(paths).
    """
    partials = Partials.from_arrow(_as_partials(rows), head_width(flow))
    state, heads = partials.state, partials.heads
    slot = pc.index_in(rows["capture_file"], value_set=pa.array(paths, pa.string())).to_numpy(zero_copy_only=False)
    file = (slot.astype(np.int64) - len(paths)) << POSITION_SHIFT
    told = state[:, _POSITIONS]
    is_set = (told != NEVER) & (told != BEFORE_ALL)
    # order is all that counts of a position, so its rank serves as well
    _, ranks = np.unique(np.concatenate([told[is_set], heads[:, 1]]), return_inverse=True)
    row_of_told = np.nonzero(is_set)[0]
    row_of_head = np.repeat(np.arange(len(partials)), np.diff(partials.starts))
    told[is_set] = file[row_of_told] | ranks[: len(row_of_told)]
    heads[:, 1] = file[row_of_head] | ranks[len(row_of_told) :]
    state[:, _POSITIONS] = told
    return Partials(np.full(len(partials), CARRIED, np.int32), partials.keys, state, partials.starts, heads)


class OpenFlows:
    """Those of the flows that come by that may still be open when all have come by."""

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
        if self._added > max(_FEW, len(self._rows[0])):
            self._rows, self._added = [self._open(Partials.concat(self._rows))], 0

    def tables(self, paths: pa.Array, carried: int, rows: int) -> Iterator[pa.Table]:
        """schemas.OPEN_FLOWS by first packet, in whatever order flows came, up to ``rows`` at once.

        ``paths`` and ``carried`` as `flow_table` takes them.
        """
        left = self._open(Partials.concat(self._rows))
        left = left.take(np.lexsort((left.state[:, FIRST + 1], left.state[:, FIRST])))
        for start in range(0, len(left), rows):
            some = left.take(np.arange(start, min(start + rows, len(left))))
            batch = some.to_arrow()
            named = {name: batch[name] for name in batch.schema.names}
            file_index = (some.state[:, FIRST + 1] >> POSITION_SHIFT) + carried
            named["capture_file"] = paths.take(pa.array(file_index))
            named["packets_seen"] = pa.array(some.packets)
            named["last_us"] = pa.array(np.ascontiguousarray(some.state[:, LAST]))
            schema = schemas.OPEN_FLOWS.arrow_schema()
            yield pa.table([named[name] for name in schema.names], schema=schema)

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
