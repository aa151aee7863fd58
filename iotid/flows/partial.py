"""Partial flows: what a worker assembles from its packets, and what is shuffled.

A partial flow has a fixed size, however many packets it has: counters, the state that merging needs, and the values of
the first M packets. Any division of the packets into partial flows merges into the same flows, so a table may be
flushed whenever it is large.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from iotid import config, schemas
from iotid.capture.decode.header_words import HEADER_WORDS
from iotid.capture.packets import words_of
from iotid.errors import DataError
from iotid.flows import kernels
from iotid.flows.kernels import Columns, Rule, Table
from iotid.flows.key_table import SECRET_WORDS, number_keys, refill_slots
from iotid.flows.layout import (
    END_REASON,
    FIRST,
    KEY_WORDS,
    PACKET_WIDTH,
    PACKETS,
    POSITION,
    POSITION_SHIFT,
    STATE_WIDTH,
    Array,
)

if TYPE_CHECKING:
    import pyarrow as pa

    from iotid.capture.packets import Packets

_US = 1_000_000
_SECRET = np.frombuffer(secrets.token_bytes(8 * SECRET_WORDS), np.uint64).copy()  # of this process's tables
# of a table at first: memory that is not yet written to costs nothing, growing costs a copy
_LEAST_ROWS, _MOST_ROWS = 1 << 12, 1 << 20
_BYTES_PER_ROW = 512  # of captures of IoT devices: one flow in 700 to 1,500 bytes


@dataclass(frozen=True)
class Partials:
    """n partial flows with h first packets between them; see ``layout`` for the rows.

    ``first_packets[starts[i]:starts[i + 1]]`` are those of row i; or, if there is an ``order``, the rows
    ``order[starts[i]:starts[i + 1]]`` of ``first_packets``. Rows that are taken have no order.
    """

    task: Array  # int32 (n,): worker task that read it
    keys: Array  # uint64 (n, KEY_WORDS)
    state: Array  # int64 (n, STATE_WIDTH)
    starts: Array  # int64 (n + 1,)
    first_packets: Array  # int64 (h, packet_width)
    order: Array | None = None  # int32 (h,)

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def rows_of_packets(self) -> Array:
        """int32 (h,): ``order``, or the numbers of all rows; int64 if these are 2^31 or more."""
        if self.order is not None:
            return self.order
        count = len(self.first_packets)
        return np.arange(count, dtype=np.int32 if count < 1 << 31 else np.int64)

    @property
    def packets(self) -> Array:
        """int64 (n,): packets in each row."""
        return self.state[:, PACKETS] + self.state[:, PACKETS + 1]

    def in_merge_order(self) -> Partials:
        """The rows grouped by key, and sorted by first packet within a key."""
        first_row = first_rows(self.keys)
        return self.take(np.lexsort((self.state[:, FIRST + POSITION], self.state[:, FIRST], first_row)))

    def take(self, rows: Array) -> Partials:
        counts = (self.starts[1:] - self.starts[:-1])[rows]
        starts = starts_of(counts)
        picked = np.arange(starts[-1]) + np.repeat(self.starts[:-1][rows] - starts[:-1], counts)
        picked = picked if self.order is None else self.order[picked]
        # np.take copies whole rows of a matrix, unlike indexing
        keys, state = np.take(self.keys, rows, axis=0), np.take(self.state, rows, axis=0)
        return Partials(self.task[rows], keys, state, starts, np.take(self.first_packets, picked, axis=0))

    def first(self, count: int) -> Partials:
        """The first rows, not copied."""
        assert self.order is None
        first_packets = self.first_packets[: self.starts[count]]
        return Partials(
            self.task[:count], self.keys[:count], self.state[:count], self.starts[: count + 1], first_packets
        )

    @staticmethod
    def concat(parts: Sequence[Partials]) -> Partials:
        parts = [part for part in parts if len(part)]
        if len(parts) <= 1:
            return parts[0] if parts else NO_PARTIALS
        assert all(part.order is None for part in parts)
        counts = [part.starts[1:] - part.starts[:-1] for part in parts]
        return Partials(
            np.concatenate([part.task for part in parts]),
            np.concatenate([part.keys for part in parts]),
            np.concatenate([part.state for part in parts]),
            starts_of(np.concatenate(counts)),
            np.concatenate([part.first_packets for part in parts]),
        )

    def to_arrow(self) -> pa.RecordBatch:
        """The rows as schemas.PARTIAL_FLOWS; large arrays are not copied."""
        import pyarrow as pa

        assert self.order is None
        return pa.RecordBatch.from_arrays(
            [
                pa.array(self.task),
                _binary(self.keys),
                pa.array(np.ascontiguousarray(self.state[:, FIRST])),
                pa.array(np.ascontiguousarray(self.state[:, FIRST + POSITION])),
                _binary(self.state),
                _binary(self.first_packets, self.starts),
            ],
            schema=schemas.PARTIAL_FLOWS.arrow_schema(),
        )

    @staticmethod
    def from_arrow(batch: pa.RecordBatch, width: int = PACKET_WIDTH) -> Partials:
        """The inverse of ``to_arrow``; ``width``: `packet_width` of the settings that the rows were made with."""
        first_packets, starts = _rows_of(batch["packets"], np.int64, width)
        partials = Partials(
            batch["task"].to_numpy(),
            _rows_of(batch["key"], np.uint64, KEY_WORDS)[0],
            _rows_of(batch["state"], np.int64, STATE_WIDTH)[0],
            starts,
            first_packets,
        )
        assert (np.diff(starts) <= partials.packets).all(), "first packets of another width"
        return partials


NO_PARTIALS = Partials(
    np.empty(0, np.int32),
    np.empty((0, KEY_WORDS), np.uint64),
    np.empty((0, STATE_WIDTH), np.int64),
    np.zeros(1, np.int64),
    np.empty((0, PACKET_WIDTH), np.int64),
)


class FlowTable:
    """The partial flows of one task while its packets are read.

    Add packets chunk by chunk, in any order; time order gives the fewest rows. ``capture_bytes``: an estimate of how
    many will be read, for the table's first size.
    """

    def __init__(self, settings: config.Flow, task: int = 0, capture_bytes: int = 0) -> None:
        self._settings = settings
        self._rule = rule_of(settings)
        self._task = task
        rows = min(max(capture_bytes // _BYTES_PER_ROW, _LEAST_ROWS), _MOST_ROWS)
        self._table = _new_table(1 << (rows - 1).bit_length(), packet_width(settings))

    @property
    def nbytes(self) -> int:
        """Bytes in use."""
        partials, _, first_packets = self._table.counts
        of_first_packets = first_packets * (8 * self._table.first_packets.shape[1] + 4)
        return int(partials * 8 * (KEY_WORDS + STATE_WIDTH) + of_first_packets + self._table.slots.nbytes)

    def add(self, packets: Packets) -> None:
        """Add a chunk of packets."""
        columns = columns_of(packets)
        lengths = columns.packet_length if self._settings.length == "ip" else columns.frame_length
        order = _time_order(columns)
        done = kernels.add_packets(0, columns, order, lengths, self._rule, self._table)
        while done < len(order):
            self._table = _grown(self._table)
            done = kernels.add_packets(done, columns, order, lengths, self._rule, self._table)

    def flush(self, *, in_order: bool = True) -> Partials:
        """Return all rows and empty the table.

        ``in_order``: whether first packets are copied in the order of the rows, so that there is no ``order``.
        """
        table = self._table
        partials, _, num_first_packets = table.counts
        owners = table.packet_owners[:num_first_packets]
        starts = starts_of(np.bincount(owners, minlength=partials))
        order = np.empty(num_first_packets, np.int32)
        kernels.order_first_packets(owners, starts.copy(), order)
        first_packets = table.first_packets[:num_first_packets]
        task = np.full(partials, self._task, np.int32)
        flushed = Partials(
            task,
            table.keys[:partials],
            table.state[:partials],
            starts,
            np.take(first_packets, order, axis=0) if in_order else first_packets,
            None if in_order else order,
        )
        handed_out = ("keys", "state") if in_order else ("keys", "state", "first_packets")
        self._table = table._replace(**{name: np.empty_like(getattr(table, name)) for name in handed_out})
        table.slots[:] = -1
        table.counts[:] = 0
        return flushed


def single_packets(packets: Packets, settings: config.Flow) -> Partials:
    """Every packet as a partial flow of its own; merging these leaves nothing unresolved."""
    columns = columns_of(packets)
    count = len(columns.offset)
    keys = np.empty((count, KEY_WORDS), np.uint64)
    state = np.empty((count, STATE_WIDTH), np.int64)
    first_packets = np.empty((count, packet_width(settings)), np.int64)
    lengths = columns.packet_length if settings.length == "ip" else columns.frame_length
    kernels.write_single_packets(columns, lengths, settings.join_files, keys, state, first_packets)
    return Partials(np.zeros(count, np.int32), keys, state, np.arange(count + 1), first_packets)


def packets_of_intervals(packets: Packets, intervals: Partials, settings: config.Flow) -> Partials:
    """The packets in an unresolved interval of their key, each as a partial flow of its own.

    ``intervals``: rows of ``Merged.unresolved``. An interval's last packet gets the interval's end reason.
    """
    intervals = intervals.in_merge_order()
    slots = np.full(_power_of_two(2 * len(intervals)), -1, np.int64)
    number_keys(intervals.keys, slots, _SECRET, np.empty(len(intervals), np.int64))
    columns = columns_of(packets)
    end_reasons = np.full(len(columns.offset), -1, np.int8)
    key = np.empty(KEY_WORDS, np.uint64)
    kernels.mark_packets_within(
        columns, settings.join_files, slots, _SECRET, intervals.keys, intervals.state, end_reasons, key
    )
    chosen = np.flatnonzero(end_reasons >= 0)
    found = single_packets(packets.take(chosen), settings)
    found.state[:, END_REASON] = end_reasons[chosen]
    return found


def columns_of(packets: Packets) -> Columns:
    """The packets' columns as kernels take them.

    Raises:
        DataError: a file index or offset is beyond what an order key can hold.
    """
    columns = Columns(*(getattr(packets, name) for name in Columns._fields))
    if len(columns.offset) and (
        int(columns.offset.max()) >> POSITION_SHIFT or int(columns.file_index.max()) >> (63 - POSITION_SHIFT)
    ):
        raise DataError(
            f"flows: a capture may hold {1 << POSITION_SHIFT} bytes and a date {1 << (63 - POSITION_SHIFT)} captures, "
            f"got offset {columns.offset.max()} in file {columns.file_index.max()}; split the capture, "
            "or the captures of the date over several sites"
        )
    return columns


def _time_order(columns: Columns) -> Array:
    """int64 (n,): indices that sort the packets by time, file and offset."""
    order = np.empty(len(columns.offset), np.int64)
    if kernels.sort_by_time(columns, order):
        return order
    return np.lexsort((columns.offset, columns.file_index, columns.timestamp_us))


def rule_of(settings: config.Flow) -> Rule:
    idle_us, active_us = (
        -1 if timeout is None else round(timeout * _US)
        for timeout in (settings.idle_timeout_s, settings.active_timeout_s)
    )
    return Rule(
        settings.max_packets,
        settings.keep_packets,
        header_words(settings),
        idle_us,
        active_us,
        settings.tcp_close,
        settings.join_files,
    )


def packet_width(settings: config.Flow) -> int:
    """Columns of ``first_packets``."""
    return PACKET_WIDTH + header_words(settings) + words_of(settings.keep_bytes)


def header_words(settings: config.Flow) -> int:
    """Words of header fields before those of first bytes."""
    return HEADER_WORDS if settings.header_fields else 0


def first_rows(keys: Array) -> Array:
    """int64 (n,): for every row of ``keys`` the first row that equals it."""
    first_row = np.empty(len(keys), np.int64)
    number_keys(keys, np.full(_power_of_two(2 * len(keys)), -1, np.int64), _SECRET, first_row)
    return first_row


def starts_of(counts: Array) -> Array:
    """int64 (n + 1,): where each of n runs of rows starts, and where the last ends."""
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def _new_table(rows: int, width: int) -> Table:
    return Table(
        np.full(2 * rows, -1, np.int64),
        _SECRET,
        np.empty((rows, KEY_WORDS), np.uint64),
        np.empty((rows, STATE_WIDTH), np.int64),
        np.empty(16 * rows, np.int32),
        np.empty((16 * rows, width), np.int64),
        np.zeros(3, np.int64),
        np.empty(KEY_WORDS, np.uint64),
    )


def _grown(table: Table) -> Table:
    """A table of twice the size with the same content."""
    new = _new_table(2 * len(table.keys), table.first_packets.shape[1])
    for old_rows, new_rows in zip(table[2:], new[2:], strict=True):
        new_rows[: len(old_rows)] = old_rows
    refill_slots(new.slots, new.secret, new.keys, table.slots)
    return new


def _power_of_two(least: int) -> int:
    return 1 << max(least, 1).bit_length()


def _binary(rows: Array, starts: Array | None = None) -> pa.Array:
    """Rows of integers as a binary column: one value for each row, or for each range of rows by ``starts``.

    Raises:
        DataError: the rows take 2 GiB or more, the limit of an Arrow binary array.
    """
    import pyarrow as pa

    if starts is None:
        starts = np.arange(len(rows) + 1)
    if rows.nbytes >= 1 << 31:
        raise DataError(f"flows: a batch of partial flows takes {rows.nbytes} bytes; lower capture.chunk_bytes")
    offsets = (starts * rows.itemsize * rows.shape[1]).astype(np.int32)
    data = pa.py_buffer(np.ascontiguousarray(rows))
    return pa.Array.from_buffers(pa.binary(), len(offsets) - 1, [None, pa.py_buffer(offsets), data])


def _rows_of(column: pa.Array, dtype: Any, width: int) -> tuple[Array, Array]:
    """The rows behind a binary column and where each value's rows start; the inverse of ``_binary``.

    Copied, because Arrow's memory is read-only and kernels would be compiled again for read-only arrays.
    """
    _, offset_buffer, data = column.buffers()
    offsets = np.frombuffer(offset_buffer, np.int32, len(column) + 1, 4 * column.offset).astype(np.int64)
    itemsize = np.dtype(dtype).itemsize * width
    count = int(offsets[-1] - offsets[0]) // itemsize
    rows = np.frombuffer(data, dtype, count * width, int(offsets[0])) if count else np.empty(0, dtype)
    return rows.reshape(count, width).copy(), (offsets - offsets[0]) // itemsize
