"""What workers of the Spark job run: splits into partial flows, partial flows into files of flows.

Tables that concern the whole night (counters, stretches to be read again, sums) ride along as Arrow streams in rows of
their own, told by `kind`; a driver that collects those rows has all that it must know, and no flow.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from iotid import config, schemas
from iotid.capture.counters import Counters
from iotid.capture.pieces import reach_of
from iotid.capture.splits import Split, last_splits, splits_before
from iotid.flows.kernels import BEFORE_ALL
from iotid.flows.merge import Merged, Merger
from iotid.flows.open import CARRIED, OpenFlows, carries, is_carried, take_up
from iotid.flows.partial import Partials
from iotid.flows.read import TaskSplits, read_partials, read_stretches
from iotid.flows.table import flow_table
from iotid.storage import open_filesystem

if TYPE_CHECKING:
    from pyspark import Broadcast

OPEN_FOLDER = "_open"  # the underscore hides it from readers of the flows
ATTEMPT = "_attempt-"  # how files begin that are still being written, or that a worker died over

_ASIDE, _KIND = "aside", "kind"
_COUNTERS, _QUARANTINE, _STRETCHES, _SUMS = "counters", "quarantine", "stretches", "sums"
RIDERS = pa.schema([pa.field(_ASIDE, pa.binary()), pa.field(_KIND, pa.string())])
PARTIAL_FLOWS = pa.schema([*schemas.PARTIAL_FLOWS.arrow_schema(), *RIDERS])
_BATCH_ROWS = 8192
_GROUP_ROWS = 1 << 16  # of a file's row groups: what a reader holds at once


@dataclass
class Sums:
    """Over all tasks that merge."""

    rows: int = 0  # flows written
    packets: int = 0  # in them
    idle_packets: int = 0  # of carried flows of which this night has seen none
    last_us: int = BEFORE_ALL  # time of the last packet

    def add(self, other: Sums) -> None:
        self.rows += other.rows
        self.packets += other.packets
        self.idle_packets += other.idle_packets
        self.last_us = max(self.last_us, other.last_us)


@dataclass
class Told:
    """What rode along: of the whole night."""

    counters: Counters = field(default_factory=Counters)
    stretches: Partials = field(default_factory=lambda: Partials.concat([]))
    sums: Sums = field(default_factory=Sums)

    @staticmethod
    def of(riders: pa.Table) -> Told:
        told, stretches = Told(), []
        for kind, stream in zip(riders[_KIND].to_pylist(), riders[_ASIDE], strict=True):
            table = from_stream(stream.as_buffer())
            if kind == _COUNTERS:
                for counted in table.to_pylist():
                    told.counters.add(*counted.values())
            elif kind == _QUARANTINE:
                told.counters.unreadable |= dict(zip(*table.to_pydict().values(), strict=True))
            elif kind == _STRETCHES:
                stretches.append(_partials_of(table))
            else:
                told.sums.add(Sums(**table.to_pylist()[0]))
        told.stretches = Partials.concat(stretches)
        return told


def read_tasks(
    tasks: Iterable[pa.RecordBatch], splits: Broadcast[bytes], capture: config.Capture, flow: config.Flow
) -> Iterator[pa.RecordBatch]:
    """PARTIAL_FLOWS of the splits of numbered tasks, and their counters."""
    for task in _ids(tasks):
        counters = Counters()
        for partials in read_partials(_splits_of(splits, task, capture, flow), task, capture, flow, counters):
            yield from _rows(partials.to_arrow())
        yield _aside(_COUNTERS, counters.table(), PARTIAL_FLOWS)
        if counters.unreadable:
            yield _aside(_QUARANTINE, quarantine_table(counters.unreadable), PARTIAL_FLOWS)


def read_again(
    tasks: Iterable[pa.RecordBatch],
    splits: Broadcast[bytes],
    stretches: Broadcast[bytes],
    capture: config.Capture,
    flow: config.Flow,
) -> Iterator[pa.RecordBatch]:
    """PARTIAL_FLOWS of the packets of unresolved stretches."""
    told = from_stream(stretches.value)
    for task in _ids(tasks):
        own = _partials_of(told.filter(pc.equal(told["task"], task)))
        for packets in read_stretches(_splits_of(splits, task, capture, flow), own, capture, flow, Counters()):
            yield from _rows(packets.to_arrow())


def take_up_open(
    batches: Iterable[pa.RecordBatch], paths: list[str], stretches: Broadcast[bytes] | None
) -> Iterator[pa.RecordBatch]:
    """PARTIAL_FLOWS of what the night before left open: all of it, or that which is in unresolved stretches."""
    wanted = None
    if stretches is not None:
        told = from_stream(stretches.value)
        wanted = told.filter(pc.equal(told["task"], CARRIED))["key"]
    for batch in batches:
        # a key has one open flow at most, and a stretch names this task only if that flow is in it
        some = batch if wanted is None else batch.filter(pc.is_in(batch["key"], value_set=wanted))
        if some.num_rows:
            yield from _rows(take_up(some, paths).to_arrow())


def numbered(tasks: list[int], batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for number in _ids(batches):
        yield pa.RecordBatch.from_pydict({"id": pa.array([tasks[number]], pa.int64())})


def merge_partition(
    batches: Iterable[pa.RecordBatch],
    splits: Broadcast[bytes],
    flow: config.Flow,
    open_paths: list[str],
    folder: str,
    suffix: str,
) -> Iterator[pa.RecordBatch]:
    """Merge PARTIAL_FLOWS, sorted, into a file of flows in ``folder`` and one of those that may be open; RIDERS.

    Rows go from here to their file, and not through the JVM: handing them over would take longer than making them.
    """
    from pyspark import TaskContext

    context = TaskContext.get()
    assert context is not None
    name = f"part-{context.partitionId():05}{suffix}.parquet"
    carried = len(open_paths)
    paths = pa.concat_arrays([pa.array(open_paths, pa.string()), _paths(from_stream(splits.value))])
    merger, still_open, sums = Merger(flow), OpenFlows(flow), Sums()

    def flows_of(merged: Merged) -> Iterator[pa.RecordBatch]:
        flows = merged.flows
        if carries(flow):
            still_open.add(flows)
            waits = is_carried(flows)  # the night before has them as they are
            sums.idle_packets += int(flows.packets[waits].sum())
            flows = flows.take(np.flatnonzero(~waits))
        sums.rows += len(flows)
        sums.packets += int(flows.packets.sum())
        file.write(flow_table(flows, paths, carried))
        if len(merged.unresolved):
            yield _aside(_STRETCHES, pa.Table.from_batches([merged.unresolved.to_arrow()]), RIDERS)

    with _File(folder, name, context.taskAttemptId(), schemas.FLOWS.arrow_schema(stored=True)) as file:
        for batch in batches:
            is_aside = pc.is_valid(batch[_ASIDE])
            asides = batch.filter(is_aside)
            if asides.num_rows:
                yield pa.RecordBatch.from_arrays([asides[field.name] for field in RIDERS], schema=RIDERS)
            yield from flows_of(merger.add(Partials.from_arrow(batch.filter(pc.invert(is_aside)))))
        yield from flows_of(merger.finish())
    if carries(flow):
        schema = schemas.OPEN_FLOWS.arrow_schema()
        with _File(f"{folder}/{OPEN_FOLDER}", name, context.taskAttemptId(), schema) as file:
            for table in still_open.tables(paths, carried, _BATCH_ROWS):
                file.write(table)
        sums.last_us = still_open.last_us
    yield _aside(_SUMS, pa.table({f.name: [getattr(sums, f.name)] for f in fields(Sums)}), RIDERS)


class _File:
    """A Parquet file that gets its name when it is whole; there is none where no row is written.

    Each attempt at a task writes a file of its own, all with the same content, so whichever is named last is right.
    """

    def __init__(self, folder: str, name: str, attempt: int, schema: pa.Schema) -> None:
        self._filesystem, base = open_filesystem(folder)
        self._path, self._attempt = f"{base}/{name}", f"{base}/{ATTEMPT}{attempt}-{name}"
        self._schema = schema
        self._writer: pq.ParquetWriter | None = None
        self._waiting: list[pa.Table] = []

    def write(self, table: pa.Table) -> None:
        self._waiting.append(table)
        if sum(map(len, self._waiting)) >= _GROUP_ROWS:
            self._flush()

    def _flush(self) -> None:
        group = pa.concat_tables(self._waiting)
        self._waiting = []
        if self._writer is None and len(group):
            self._writer = pq.ParquetWriter(self._attempt, self._schema, filesystem=self._filesystem)
        if self._writer is not None and len(group):
            self._writer.write_table(group, row_group_size=len(group))

    def __enter__(self) -> _File:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None and self._waiting:
            self._flush()
        if self._writer is not None:
            self._writer.close()
            if kind is None:
                self._filesystem.move(self._attempt, self._path)


def quarantine_table(unreadable: Mapping[str, str]) -> pa.Table:
    """schemas.QUARANTINE of captures and why they cannot be read."""
    rows = sorted(unreadable.items())
    columns = [[path for path, _ in rows], [why for _, why in rows]]
    return pa.table(columns, schema=schemas.QUARANTINE.arrow_schema())


def to_stream(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def from_stream(stream: Any) -> pa.Table:
    return pa.ipc.open_stream(stream).read_all()


def _ids(batches: Iterable[pa.RecordBatch]) -> Iterator[int]:
    return (task for batch in batches for task in batch["id"].to_pylist())


def _splits_of(splits: Broadcast[bytes], task: int, capture: config.Capture, flow: config.Flow) -> TaskSplits:
    table = from_stream(splits.value)
    stored = [name for name in Split.__dataclass_fields__ if name in schemas.SPLITS.names]

    def rows(chosen: pa.ChunkedArray) -> list[Split]:
        return [Split(**row) for row in table.filter(chosen).select(stored).to_pylist()]

    own = rows(pc.equal(table["task"], task))
    if not flow.join_files:
        return TaskSplits(own, None)
    first = own[0].file_index
    near = pc.greater_equal(table["file_index"], first - reach_of(capture))
    before = last_splits(rows(pc.and_(near, pc.less(table["file_index"], first))))
    return TaskSplits(own, splits_before(before, own[0], capture))


def _paths(splits: pa.Table) -> pa.Array:
    """Paths by file index."""
    index = splits["file_index"].to_numpy()
    row_of = np.zeros(int(index.max()) + 1, np.int64)
    row_of[index] = np.arange(len(index))
    return splits["path"].combine_chunks().take(pa.array(row_of))


def _partials_of(table: pa.Table) -> Partials:
    return Partials.concat([Partials.from_arrow(batch) for batch in table.to_batches()])


def _rows(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """The batch as PARTIAL_FLOWS with nothing aside, in pieces of a size that suits the JVM."""
    riders = [pa.nulls(batch.num_rows, field.type) for field in RIDERS]
    whole = pa.RecordBatch.from_arrays([*batch.columns, *riders], schema=PARTIAL_FLOWS)
    for start in range(0, batch.num_rows, _BATCH_ROWS):
        yield whole.slice(start, _BATCH_ROWS)


def _aside(kind: str, content: pa.Table, schema: pa.Schema) -> pa.RecordBatch:
    """One row that holds nothing but a table."""
    nothing = [pa.nulls(1, field.type) for field in schema][: -len(RIDERS)]
    row = [*nothing, pa.array([to_stream(content)], pa.binary()), pa.array([kind])]
    return pa.RecordBatch.from_arrays(row, schema=schema)
