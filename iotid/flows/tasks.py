"""What workers of the Spark job run: splits into partial flows, partial flows into files of flows.

Partial flows go in parcels (`iotid.spark.shuffle`), and what concerns the whole night (counters, stretches to be read again,
sums) beside them. The packets of stretches that are read again go row by row, sorted by Spark: there may be more of one
key than a worker can hold.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from iotid import config, schemas
from iotid.capture.counters import Counters
from iotid.capture.file_split import FileSplit
from iotid.capture.splits.byte_ranges import lookback_records
from iotid.capture.splits.overlaps import FirstPackets
from iotid.capture.splits.plan import last_splits, splits_before
from iotid.flows.kernels import BEFORE_ALL, HEAD_WIDTH
from iotid.flows.merge import Merger, merge, rows_alone
from iotid.flows.open_flows import CARRIED, OpenFlows, carries, is_carried, take_up
from iotid.flows.partial import NO_PARTIALS, Partials, head_width
from iotid.flows.read import TaskSplits, read_partials, read_stretches
from iotid.flows.table import Piece, table_in_time_order
from iotid.spark.shuffle import (
    NO_BUCKET,
    Buckets,
    from_stream,
    read_blocks,
    read_tables,
    read_task_ids,
    shuffle_blocks,
    side_output,
    with_bucket,
)
from iotid.storage import OutputFile, open_filesystem

if TYPE_CHECKING:
    from pyspark import Broadcast

OPEN_FOLDER = "_open"  # the underscore hides it from readers of the flows

_COUNTERS, _QUARANTINE, _STRETCHES, _SUMS = "counters", "quarantine", "stretches", "sums"
# of one packet each, and the partition of its key
PACKETS_ALONE = pa.schema([pa.field("partition", pa.int32()), *schemas.PARTIAL_FLOWS.arrow_schema()])
OPEN_TOTALS = pa.schema([pa.field(name, pa.int64()) for name in ("file", "open_flows", "open_packets")])
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
    """What travelled aside: of the whole night."""

    counters: Counters = field(default_factory=Counters)
    stretches: Partials = field(default_factory=lambda: Partials.concat([]))
    sums: Sums = field(default_factory=Sums)

    @staticmethod
    def of(side_outputs: pa.Table) -> Told:
        told, stretches = Told(), []
        for kind, table in read_tables(side_outputs):
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
    tasks: Iterable[pa.RecordBatch],
    splits: Broadcast[bytes],
    capture: config.Capture,
    flow: config.Flow,
    buckets: Buckets,
) -> Iterator[pa.RecordBatch]:
    """BLOCKS of the partial flows of numbered tasks, and their counters."""
    for task in read_task_ids(tasks):
        counters = Counters()
        for partials in read_partials(_splits_of(splits, task, capture, flow), task, capture, flow, counters):
            yield _blocks(partials, buckets)
        yield with_bucket(side_output(_COUNTERS, counters.table()))
        if counters.unreadable:
            yield with_bucket(side_output(_QUARANTINE, quarantine_table(counters.unreadable)))


def take_up_open(
    batches: Iterable[pa.RecordBatch], paths: list[str], flow: config.Flow, buckets: Buckets
) -> Iterator[pa.RecordBatch]:
    """BLOCKS of what the night before left open."""
    for batch in batches:
        yield _blocks(take_up(batch, paths, flow), buckets)


def read_again(
    tasks: Iterable[pa.RecordBatch],
    splits: Broadcast[bytes],
    stretches: Broadcast[bytes],
    capture: config.Capture,
    flow: config.Flow,
    buckets: Buckets,
) -> Iterator[pa.RecordBatch]:
    """PACKETS_ALONE of unresolved stretches."""
    told = from_stream(stretches.value)
    for task in read_task_ids(tasks):
        own = _partials_of(told.filter(pc.equal(told["task"], task)))
        for packets in read_stretches(_splits_of(splits, task, capture, flow), own, capture, flow, Counters()):
            yield from _rows(packets, buckets)


def take_up_again(
    batches: Iterable[pa.RecordBatch],
    paths: list[str],
    flow: config.Flow,
    stretches: Broadcast[bytes],
    buckets: Buckets,
) -> Iterator[pa.RecordBatch]:
    """What the night before left open of unresolved stretches, as one row each."""
    told = from_stream(stretches.value)
    # a key has one open flow at most, and a stretch names this task only if that flow is in it
    wanted = told.filter(pc.equal(told["task"], CARRIED))["key"]
    for batch in batches:
        yield from _rows(take_up(batch.filter(pc.is_in(batch["key"], value_set=wanted)), paths, flow), buckets)


@dataclass(frozen=True)
class Target:
    """Where the flows of a night go, and what their files tell."""

    splits: Broadcast[bytes]
    flow: config.Flow
    open_paths: list[str]
    folder: str


def merge_buckets(batches: Iterable[pa.RecordBatch], target: Target) -> Iterator[pa.RecordBatch]:
    """BLOCKS of a partition into a file of flows and one of those that may be open; SIDE_OUTPUTS.

    Rows go from here to their file, and not through the JVM. Their order is that of buckets, and of time in each.
    """
    stretches: list[Partials] = []
    width = head_width(target.flow)
    with _Flows(target, "") as flows:
        for bucket, pieces in read_blocks(batches):
            if bucket == NO_BUCKET:
                yield from pieces
                continue
            partials = Partials.concat([_partials_of(table, width) for _, table in read_tables(pieces)])
            [alone], others = rows_alone([partials])
            merged = merge(others, target.flow)
            flows.write([Piece(partials, alone), Piece(merged.flows, np.arange(len(merged.flows)))])
            stretches.append(merged.unresolved)
    yield from _told(flows.sums, Partials.concat(stretches))


def merge_again(batches: Iterable[pa.RecordBatch], target: Target) -> Iterator[pa.RecordBatch]:
    """PACKETS_ALONE, in merge order, as ``merge_buckets`` does it, but never more than a batch at once."""
    merger = Merger(target.flow)
    with _Flows(target, "-again") as flows:
        for batch in batches:
            merged = merger.add(Partials.from_arrow(batch, head_width(target.flow)))
            flows.write([Piece(merged.flows, np.arange(len(merged.flows)))])
        merged = merger.finish()
        flows.write([Piece(merged.flows, np.arange(len(merged.flows)))])
    yield from _told(flows.sums, NO_PARTIALS)


def trim_open(
    tasks: Iterable[pa.RecordBatch], folder: str, files: Sequence[str], since_us: int
) -> Iterator[pa.RecordBatch]:
    """Leave in files of schemas.OPEN_FLOWS the flows with a packet at ``since_us`` or later; OPEN_TOTALS of each.

    A file of which nothing is left stays as it is.
    """
    from pyspark import TaskContext

    context = TaskContext.get()
    assert context is not None
    filesystem, path = open_filesystem(folder)
    schema = schemas.OPEN_FLOWS.arrow_schema()
    for number in read_task_ids(tasks):
        name, rows, packets = files[number], 0, 0
        trimmed = OutputFile(folder, name, context.taskAttemptId(), schema, _GROUP_ROWS)
        with filesystem.open_input_file(f"{path}/{name}") as source:
            for batch in pq.ParquetFile(source).iter_batches(_BATCH_ROWS, use_threads=False):
                kept = pa.Table.from_batches([batch.filter(pc.greater_equal(batch["last_us"], since_us))])
                rows, packets = rows + len(kept), packets + (pc.sum(kept["packets_seen"]).as_py() or 0)
                trimmed.write(kept.cast(schema))
        trimmed.close(whole=True)
        yield pa.RecordBatch.from_arrays([pa.array([each]) for each in (number, rows, packets)], schema=OPEN_TOTALS)


def _told(sums: Sums, stretches: Partials) -> Iterator[pa.RecordBatch]:
    if len(stretches):
        yield side_output(_STRETCHES, pa.Table.from_batches([stretches.to_arrow()]))
    yield side_output(_SUMS, pa.table({f.name: [getattr(sums, f.name)] for f in fields(Sums)}))


class _Flows:
    """The files of the flows of one Spark task, and what is told of them."""

    def __init__(self, target: Target, suffix: str) -> None:
        from pyspark import TaskContext

        context = TaskContext.get()
        assert context is not None
        name, attempt = f"part-{context.partitionId():05}{suffix}.parquet", context.taskAttemptId()
        open_paths = pa.array(target.open_paths, pa.string())
        self.sums = Sums()
        self._flow = target.flow
        self._carried = len(open_paths)
        self._paths = pa.concat_arrays([open_paths, _paths(from_stream(target.splits.value))])
        self._file = OutputFile(target.folder, name, attempt, schemas.FLOWS.arrow_schema(stored=True), _GROUP_ROWS)
        self._open: OpenFlows | None = None
        if carries(target.flow):
            self._open = OpenFlows(target.flow)
            folder = f"{target.folder}/{OPEN_FOLDER}"
            self._open_file = OutputFile(folder, name, attempt, schemas.OPEN_FLOWS.arrow_schema(), _GROUP_ROWS)

    def write(self, pieces: list[Piece]) -> None:
        """Write flows in the order of time."""
        if self._open is not None:
            pieces = [self._noted(self._open, flows.take(rows)) for flows, rows in pieces]
        for flows, rows in pieces:
            self.sums.rows += len(rows)
            self.sums.packets += int(flows.packets[rows].sum())
        self._file.write(table_in_time_order(pieces, self._paths, self._flow, self._carried))

    def _noted(self, still_open: OpenFlows, flows: Partials) -> Piece:
        """Those flows of which this night has seen packets; all are noted as what may be open."""
        still_open.add(flows)
        waits = is_carried(flows)  # the night before has them as they are
        self.sums.idle_packets += int(flows.packets[waits].sum())
        return Piece(flows, np.flatnonzero(~waits))

    def __enter__(self) -> _Flows:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._file.close(whole=kind is None)
        if self._open is not None and kind is None:
            for table in self._open.tables(self._paths, self._carried, _BATCH_ROWS):
                self._open_file.write(table)
            self._open_file.close(whole=True)
            self.sums.last_us = self._open.last_us


def quarantine_table(unreadable: Mapping[str, str]) -> pa.Table:
    """schemas.QUARANTINE of captures and why they cannot be read."""
    rows = sorted(unreadable.items())
    columns = [[path for path, _ in rows], [why for _, why in rows]]
    return pa.table(columns, schema=schemas.QUARANTINE.arrow_schema())


def _splits_of(splits: Broadcast[bytes], task: int, capture: config.Capture, flow: config.Flow) -> TaskSplits:
    table = from_stream(splits.value)
    stored = [name for name in FileSplit.__dataclass_fields__ if name in schemas.SPLITS.names]

    def rows(chosen: pa.ChunkedArray) -> list[FileSplit]:
        return [FileSplit(**row) for row in table.filter(chosen).select(stored).to_pylist()]

    own = rows(pc.equal(table["task"], task))
    firsts = FirstPackets(zip(table["file_index"].to_pylist(), table["first_packet"].to_pylist(), strict=True))
    if not flow.join_files:
        return TaskSplits(own, None, firsts)
    first = own[0].file_index
    near = pc.greater_equal(table["file_index"], first - lookback_records(capture))
    before = last_splits(rows(pc.and_(near, pc.less(table["file_index"], first))))
    return TaskSplits(own, splits_before(before, own[0], capture), firsts)


def _paths(splits: pa.Table) -> pa.Array:
    """Paths by file index."""
    index = splits["file_index"].to_numpy()
    row_of = np.zeros(int(index.max()) + 1, np.int64)
    row_of[index] = np.arange(len(index))
    return splits["path"].combine_chunks().take(pa.array(row_of))


def _partials_of(table: pa.Table, width: int = HEAD_WIDTH) -> Partials:
    return Partials.concat([Partials.from_arrow(batch, width) for batch in table.to_batches()])


def _blocks(partials: Partials, buckets: Buckets) -> pa.RecordBatch:
    return shuffle_blocks(partials.to_arrow(), buckets.hashed(partials.keys.T), buckets)


def _rows(partials: Partials, buckets: Buckets) -> Iterator[pa.RecordBatch]:
    """PACKETS_ALONE of the partial flows in pieces of a size that suits the JVM."""
    partition = buckets.of_hash(buckets.hashed(partials.keys.T)) // np.int32(buckets.each)
    columns = [pa.array(partition, pa.int32()), *partials.to_arrow().columns]
    batch = pa.RecordBatch.from_arrays(columns, schema=PACKETS_ALONE)
    for start in range(0, batch.num_rows, _BATCH_ROWS):
        yield batch.slice(start, _BATCH_ROWS)
