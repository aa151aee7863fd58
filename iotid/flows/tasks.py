"""Functions that workers of the Spark job run: splits to partial flows, partial flows to files of flows.

Partial flows are sent in shuffle blocks (`iotid.spark.shuffle`); counters, unresolved intervals and totals are side
outputs. The packets of unresolved intervals are sent as rows, sorted by Spark: one key may have more than fit into a
worker's memory.
"""

from __future__ import annotations

from collections import Counter
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
from iotid.flows.dates import count_days
from iotid.flows.layout import BEFORE_ALL, FIRST, PACKET_WIDTH
from iotid.flows.merge import Merger, merge, separate_unique_keys
from iotid.flows.open_flows import CARRIED, OpenFlows, carries_open_flows, is_carried, load_open_flows
from iotid.flows.partial import NO_PARTIALS, Partials, packet_width
from iotid.flows.read import TaskSplits, read_intervals, read_partials
from iotid.flows.table import FlowSelection, table_in_time_order
from iotid.spark.shuffle import (
    NO_BUCKET,
    Buckets,
    from_stream,
    read_blocks,
    read_tables,
    read_task_ids,
    running_task,
    shuffle_blocks,
    side_output,
    with_bucket,
)
from iotid.storage import SIDE_SUFFIX, OutputFile, open_filesystem

if TYPE_CHECKING:
    from iotid.spark.in_process import Broadcast

OPEN_FOLDER = "_open"  # the underscore hides it from readers of the flows

_COUNTERS, _QUARANTINE, _UNRESOLVED, _TOTALS = "counters", "quarantine", "unresolved", "totals"
# partial flows of one packet each, and the shuffle partition of their key
SINGLE_PACKETS = pa.schema([pa.field("partition", pa.int32()), *schemas.PARTIAL_FLOWS.arrow_schema()])
OPEN_TOTALS = pa.schema([pa.field(name, pa.int64()) for name in ("file", "open_flows", "open_packets")])
_BATCH_ROWS = 8192
_GROUP_ROWS = 1 << 16  # per row group, which a reader holds in memory


@dataclass
class Totals:
    """Totals of the tasks that merge."""

    rows: int = 0  # flows written
    packets: int = 0  # in those flows
    idle_packets: int = 0  # of carried flows without a packet in this partition
    last_us: int = BEFORE_ALL  # time of the last packet
    by_day: Counter[int] = field(default_factory=Counter)  # flows by day of their first packet (`flows.dates`)

    @staticmethod
    def of(table: pa.Table) -> Totals:
        """The totals of which this is the `table`."""
        [row] = table.to_pylist()
        return Totals(**row | {"by_day": Counter(dict(row["by_day"]))})

    def table(self) -> pa.Table:
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return pa.table({name: [value] for name, value in (values | {"by_day": list(self.by_day.items())}).items()})

    def add(self, other: Totals) -> None:
        self.rows += other.rows
        self.packets += other.packets
        self.idle_packets += other.idle_packets
        self.last_us = max(self.last_us, other.last_us)
        self.by_day.update(other.by_day)


@dataclass
class SideOutputs:
    """The combined side outputs of a stage."""

    counters: Counters = field(default_factory=Counters)
    unresolved: Partials = field(default_factory=lambda: Partials.concat([]))
    totals: Totals = field(default_factory=Totals)

    @staticmethod
    def of(side_outputs: pa.Table) -> SideOutputs:
        outputs, unresolved = SideOutputs(), []
        for kind, table in read_tables(side_outputs):
            if kind == _COUNTERS:
                for counted in table.to_pylist():
                    outputs.counters.add(*counted.values())
            elif kind == _QUARANTINE:
                outputs.counters.unreadable |= dict(zip(*table.to_pydict().values(), strict=True))
            elif kind == _UNRESOLVED:
                unresolved.append(_partials_of(table))
            else:
                outputs.totals.add(Totals.of(table))
        outputs.unresolved = Partials.concat(unresolved)
        return outputs


def read_tasks(
    tasks: Iterable[pa.RecordBatch],
    splits: Broadcast[bytes],
    capture: config.Capture,
    flow: config.Flow,
    buckets: Buckets,
) -> Iterator[pa.RecordBatch]:
    """SHUFFLE_BLOCKS of the tasks' partial flows, and their counters."""
    for task in read_task_ids(tasks):
        counters = Counters()
        for partials in read_partials(_splits_of(splits, task, capture, flow), task, capture, flow, counters):
            yield _blocks(partials, buckets)
        yield with_bucket(side_output(_COUNTERS, counters.table()))
        if counters.unreadable:
            yield with_bucket(side_output(_QUARANTINE, quarantine_table(counters.unreadable)))


def load_open_partials(
    batches: Iterable[pa.RecordBatch], paths: list[str], flow: config.Flow, buckets: Buckets
) -> Iterator[pa.RecordBatch]:
    """SHUFFLE_BLOCKS of the open flows of the previous date."""
    for batch in batches:
        yield _blocks(load_open_flows(batch, paths, flow), buckets)


def read_unresolved(
    tasks: Iterable[pa.RecordBatch],
    splits: Broadcast[bytes],
    intervals: Broadcast[bytes],
    capture: config.Capture,
    flow: config.Flow,
    buckets: Buckets,
) -> Iterator[pa.RecordBatch]:
    """SINGLE_PACKETS of unresolved intervals."""
    unresolved = from_stream(intervals.value)
    for task in read_task_ids(tasks):
        own = _partials_of(unresolved.filter(pc.equal(unresolved["task"], task)))
        for packets in read_intervals(_splits_of(splits, task, capture, flow), own, capture, flow, Counters()):
            yield from _rows(packets, buckets)


def load_unresolved_partials(
    batches: Iterable[pa.RecordBatch],
    paths: list[str],
    flow: config.Flow,
    intervals: Broadcast[bytes],
    buckets: Buckets,
) -> Iterator[pa.RecordBatch]:
    """SINGLE_PACKETS rows of the previous date's open flows that are in unresolved intervals."""
    unresolved = from_stream(intervals.value)
    # a key has one open flow at most, and an interval is of task CARRIED only if that flow is in it
    wanted = unresolved.filter(pc.equal(unresolved["task"], CARRIED))["key"]
    for batch in batches:
        yield from _rows(load_open_flows(batch.filter(pc.is_in(batch["key"], value_set=wanted)), paths, flow), buckets)


@dataclass(frozen=True)
class OutputTarget:
    """The folder that the flows of a partition are written to, and the captures that they refer to."""

    splits: Broadcast[bytes]
    flow: config.Flow
    open_paths: list[str]
    folder: str


def merge_buckets(batches: Iterable[pa.RecordBatch], target: OutputTarget) -> Iterator[pa.RecordBatch]:
    """Merge the SHUFFLE_BLOCKS of a shuffle partition into a file of flows and one of open flows; SIDE_OUTPUTS.

    The worker writes the rows, bypassing the JVM: by bucket and, within each, by time.
    """
    unresolved: list[Partials] = []
    width = packet_width(target.flow)
    with _FlowFiles(target, "") as flows:
        for bucket, blocks in read_blocks(batches):
            if bucket == NO_BUCKET:
                yield from blocks
                continue
            # at once, as a block may be of few rows; to_batches gives one batch unless a column exceeds 2 GB
            tables = [table for _, table in read_tables(blocks)]
            partials = _partials_of(pa.concat_tables(tables).combine_chunks(), width)
            del tables, blocks
            [unique], others = separate_unique_keys([partials])
            merged = merge(others, target.flow)
            flows.write([FlowSelection(partials, unique), FlowSelection(merged.flows, np.arange(len(merged.flows)))])
            unresolved.append(merged.unresolved)
    yield from _side_outputs(flows.totals, Partials.concat(unresolved))


def merge_unresolved(batches: Iterable[pa.RecordBatch], target: OutputTarget) -> Iterator[pa.RecordBatch]:
    """Merge SINGLE_PACKETS, in merge order, batch by batch, into files as ``merge_buckets`` does; SIDE_OUTPUTS."""
    merger = Merger(target.flow)
    with _FlowFiles(target, "-again") as flows:
        for batch in batches:
            merged = merger.add(Partials.from_arrow(batch, packet_width(target.flow)))
            flows.write([FlowSelection(merged.flows, np.arange(len(merged.flows)))])
        merged = merger.finish()
        flows.write([FlowSelection(merged.flows, np.arange(len(merged.flows)))])
    yield from _side_outputs(flows.totals, NO_PARTIALS)


def delete_timed_out(
    tasks: Iterable[pa.RecordBatch], folder: str, files: Sequence[str], since_us: int
) -> Iterator[pa.RecordBatch]:
    """Delete flows without a packet since ``since_us`` from files of schemas.OPEN_FLOWS; OPEN_TOTALS of each file.

    A file in which no flow would remain is not changed.
    """
    filesystem, path = open_filesystem(folder)
    schema = schemas.OPEN_FLOWS.described(schemas.OPEN_FLOWS.arrow_schema())
    _, attempt = running_task()
    for number in read_task_ids(tasks):
        name, rows, packets = files[number], 0, 0
        trimmed = OutputFile(folder, name, attempt, schema, _GROUP_ROWS)
        with filesystem.open_input_file(f"{path}/{name}") as source:
            for batch in pq.ParquetFile(source).iter_batches(_BATCH_ROWS, use_threads=False):
                left = pa.Table.from_batches([batch.filter(pc.greater_equal(batch["last_us"], since_us))])
                rows, packets = rows + len(left), packets + (pc.sum(left["packets_seen"]).as_py() or 0)
                trimmed.write(left.cast(schema))
        trimmed.close(whole=True)
        yield pa.RecordBatch.from_arrays([pa.array([value]) for value in (number, rows, packets)], schema=OPEN_TOTALS)


def _side_outputs(totals: Totals, unresolved: Partials) -> Iterator[pa.RecordBatch]:
    if len(unresolved):
        yield side_output(_UNRESOLVED, pa.Table.from_batches([unresolved.to_arrow()]))
    yield side_output(_TOTALS, totals.table())


class _FlowFiles:
    """Writes the files of one Spark task: flows and open flows; and sums their totals."""

    def __init__(self, target: OutputTarget, suffix: str) -> None:
        partition, attempt = running_task()
        name = f"part-{partition:05}{suffix}.parquet"
        open_paths = pa.array(target.open_paths, pa.string())
        self.totals = Totals()
        self._flow = target.flow
        self._carried = len(open_paths)
        self._paths = pa.concat_arrays([open_paths, _paths(from_stream(target.splits.value))])
        stored = schemas.FLOWS.described(schemas.FLOWS.arrow_schema(stored=True))
        self._file = OutputFile(target.folder, name, attempt, stored, _GROUP_ROWS)
        self._open: OpenFlows | None = None
        if carries_open_flows(target.flow):
            self._open = OpenFlows(target.flow)
            folder = f"{target.folder}/{OPEN_FOLDER}"
            open_name = f"{name.removesuffix('.parquet')}{SIDE_SUFFIX}"
            stored = schemas.OPEN_FLOWS.described(schemas.OPEN_FLOWS.arrow_schema())
            self._open_file = OutputFile(folder, open_name, attempt, stored, _GROUP_ROWS)

    def write(self, selections: list[FlowSelection]) -> None:
        """Write flows, sorted by time."""
        if self._open is not None:
            selections = [self._add_open(self._open, flows.take(rows)) for flows, rows in selections]
        for flows, rows in selections:
            self.totals.rows += len(rows)
            self.totals.packets += int(flows.packets[rows].sum())
            self.totals.by_day.update(count_days(flows.state[rows, FIRST]))
        self._file.write(table_in_time_order(selections, self._paths, self._flow, self._carried))

    def _add_open(self, still_open: OpenFlows, flows: Partials) -> FlowSelection:
        """The flows with packets in this partition; adds all flows to ``still_open``."""
        still_open.add(flows)
        is_unseen = is_carried(flows)  # the previous partition already has these flows
        self.totals.idle_packets += int(flows.packets[is_unseen].sum())
        return FlowSelection(flows, np.flatnonzero(~is_unseen))

    def __enter__(self) -> _FlowFiles:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._file.close(whole=kind is None)
        if self._open is not None and kind is None:
            for table in self._open.tables(self._paths, self._carried, _BATCH_ROWS):
                self._open_file.write(table)
            self._open_file.close(whole=True)
            self.totals.last_us = self._open.last_us


def quarantine_table(unreadable: Mapping[str, str]) -> pa.Table:
    """schemas.QUARANTINE of ``unreadable``: capture -> reason."""
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


def _partials_of(table: pa.Table, width: int = PACKET_WIDTH) -> Partials:
    return Partials.concat([Partials.from_arrow(batch, width) for batch in table.to_batches()])


def _blocks(partials: Partials, buckets: Buckets) -> pa.RecordBatch:
    return shuffle_blocks(partials.to_arrow(), buckets.hashed(partials.keys.T), buckets)


def _rows(partials: Partials, buckets: Buckets) -> Iterator[pa.RecordBatch]:
    """SINGLE_PACKETS of the partial flows, in batches that are small enough for the JVM."""
    partition = buckets.of_hash(buckets.hashed(partials.keys.T)) // np.int32(buckets.each)
    columns = [pa.array(partition, pa.int32()), *partials.to_arrow().columns]
    batch = pa.RecordBatch.from_arrays(columns, schema=SINGLE_PACKETS)
    for start in range(0, batch.num_rows, _BATCH_ROWS):
        yield batch.slice(start, _BATCH_ROWS)
