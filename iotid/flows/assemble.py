"""The Spark shell of assembly: decode in the worker, group partial flows by key, merge.

One task reads its splits once and hands out partial flows and, beside them, its counters. Partial flows are all that
is shuffled, but for the packets of stretches that merging could not decide; those are read a second time, in the tasks
that hold them. Both passes run the same code as ``from_captures``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from functools import partial, reduce
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from iotid import config, schemas
from iotid.capture.counters import Counters
from iotid.capture.pieces import reach_of
from iotid.capture.splits import Split, last_splits, splits_before
from iotid.flows.local import check_accounting
from iotid.flows.merge import Merged, Merger
from iotid.flows.partial import Partials
from iotid.flows.read import TaskSplits, read_partials, read_stretches
from iotid.flows.table import flow_table

if TYPE_CHECKING:
    from pyspark import Broadcast
    from pyspark.sql import DataFrame, SparkSession
    from pyspark.sql.types import StructType

    from iotid.storage import Partition, Store

COUNTERS_FILE = "_counters.parquet"  # the underscore hides it from readers of the flows

_ASIDE = "aside"  # column of tables that ride along as an Arrow stream in a row of their own: counters, stretches
_PARTIAL_FLOWS = schemas.PARTIAL_FLOWS.arrow_schema().append(pa.field(_ASIDE, pa.binary()))
_FLOWS = schemas.FLOWS.arrow_schema(stored=True).append(pa.field(_ASIDE, pa.binary()))
_BATCH_ROWS = 8192


@dataclass(frozen=True)
class Assembled:
    """``flows``: schemas.FLOWS as stored, held by Spark until ``release``. ``counters``: schemas.COUNTERS."""

    flows: DataFrame
    counters: pa.Table
    held: DataFrame

    def release(self) -> None:
        self.held.unpersist()


def assemble_flows(
    spark: SparkSession,
    splits: DataFrame | pa.Table,
    capture: config.Capture,
    flow: config.Flow,
    site: str,
    capture_date: str,
) -> Assembled:
    """The flows of one night's splits (schemas.SPLITS, with or without site and date), each task's splits in one task.

    The same rows come in the same order for the same number of shuffle partitions.
    """
    table = splits if isinstance(splits, pa.Table) else splits.toArrow()
    night = _Night(spark, table.sort_by([("file_index", "ascending"), ("split", "ascending")]), capture, flow)
    merged = night.merge(night.first_pass()).persist()
    counters, stretches = _asides(merged)
    flows = _without_asides(merged)
    if len(stretches):
        flows = flows.unionByName(_without_asides(night.merge(night.second_pass(stretches))))
    return Assembled(flows, _of_night(counters.table(), schemas.COUNTERS, site, capture_date), merged)


class _Night:
    """What both passes over one night's splits share."""

    def __init__(self, spark: SparkSession, splits: pa.Table, capture: config.Capture, flow: config.Flow) -> None:
        self._spark = spark
        self._capture = capture
        self._flow = flow
        self._tasks = pc.unique(splits["task"]).to_pylist()
        self._splits = spark.sparkContext.broadcast(_to_stream(splits))

    def first_pass(self) -> DataFrame:
        read = partial(_read_partials, splits=self._splits, capture=self._capture, flow=self._flow)
        return self._on_tasks(self._tasks).mapInArrow(read, _nullable(_PARTIAL_FLOWS))

    def second_pass(self, stretches: Partials) -> DataFrame:
        told = self._spark.sparkContext.broadcast(_to_stream(pa.Table.from_batches([stretches.to_arrow()])))
        read = partial(_read_stretches, splits=self._splits, stretches=told, capture=self._capture, flow=self._flow)
        return self._on_tasks(np.unique(stretches.task).tolist()).mapInArrow(read, _nullable(_PARTIAL_FLOWS))

    def merge(self, partials: DataFrame) -> DataFrame:
        parts = int(self._spark.conf.get("spark.sql.shuffle.partitions") or 1)
        order = ["key", "first_us", "first_position"]
        merge = partial(_merge_partition, splits=self._splits, flow=self._flow)
        by_key = partials.repartition(parts, "key").sortWithinPartitions(*order)
        return by_key.mapInArrow(merge, _nullable(_FLOWS))

    def _on_tasks(self, tasks: Sequence[int]) -> DataFrame:
        """One row and one Spark task for each task number."""
        numbers = self._spark.range(0, len(tasks), 1, len(tasks))
        return numbers if tasks == list(range(len(tasks))) else numbers.mapInArrow(partial(_numbered, tasks), "id long")


def write_flows(
    spark: SparkSession, store: Store, site: str, capture_date: str, capture: config.Capture, flow: config.Flow
) -> Partition:
    """Assemble the splits of a night and write the partition of table `flows`, its counters inside it.

    Raises:
        PartitionError: the night's splits are absent.
        AccountingError: not every packet that was decoded is in a flow.
    """
    keys = {"site": site, "capture_date": capture_date}
    night = store.open("splits", keys)
    assembled = assemble_flows(spark, spark.read.parquet(night.uri), capture, flow, site, capture_date)
    packets = _packets_by_reason(assembled.counters)
    try:
        with store.write("flows", keys, schemas.FLOWS.version) as staged:
            assembled.flows.write.mode("append").parquet(staged.uri)
            rows, in_flows = _count(_read_stored(spark, staged.uri))
            check_accounting(in_flows, packets.get("flow", 0))
            stored = assembled.counters.drop(list(schemas.COUNTERS.partition_by))
            pq.write_table(stored, f"{staged.path}/{COUNTERS_FILE}", filesystem=staged.filesystem)
            staged.metadata |= {
                "rows": rows,
                "packets": packets,
                "settings": {"capture": capture.model_dump(mode="json"), "flow": flow.model_dump(mode="json")},
                "settings_hash": config.settings_hash(capture, flow),
                "inputs": {"splits": night.metadata},
            }
    finally:
        assembled.release()
    return store.open("flows", keys)


def read_flows(spark: SparkSession, partitions: Iterable[Partition]) -> DataFrame:
    """schemas.FLOWS of the partitions, site and date included."""
    from pyspark.sql import functions as F

    nights = [
        _read_stored(spark, partition.uri).select(
            F.lit(partition.keys["site"]).alias("site"),
            F.lit(date.fromisoformat(partition.keys["capture_date"])).alias("capture_date"),
            "*",
        )
        for partition in partitions
    ]
    return reduce(lambda left, right: left.unionAll(right), nights)


def read_counters(partition: Partition) -> pa.Table:
    """schemas.COUNTERS of a partition of table `flows`."""
    table = pq.read_table(f"{partition.uri}/{COUNTERS_FILE}", partitioning=None)
    return _of_night(table, schemas.COUNTERS, partition.keys["site"], partition.keys["capture_date"])


def _read_partials(
    tasks: Iterable[pa.RecordBatch], splits: Broadcast[bytes], capture: config.Capture, flow: config.Flow
) -> Iterator[pa.RecordBatch]:
    for task in _ids(tasks):
        counters = Counters()
        for partials in read_partials(_splits_of(splits, task, capture, flow), task, capture, flow, counters):
            yield from _rows(partials.to_arrow(), _PARTIAL_FLOWS)
        yield _aside(counters.table(), _PARTIAL_FLOWS)


def _read_stretches(
    tasks: Iterable[pa.RecordBatch],
    splits: Broadcast[bytes],
    stretches: Broadcast[bytes],
    capture: config.Capture,
    flow: config.Flow,
) -> Iterator[pa.RecordBatch]:
    told = _from_stream(stretches.value)
    for task in _ids(tasks):
        own = _partials_of(told.filter(pc.equal(told["task"], task)))
        for packets in read_stretches(_splits_of(splits, task, capture, flow), own, capture, flow, Counters()):
            yield from _rows(packets.to_arrow(), _PARTIAL_FLOWS)


def _merge_partition(
    batches: Iterable[pa.RecordBatch], splits: Broadcast[bytes], flow: config.Flow
) -> Iterator[pa.RecordBatch]:
    paths = _paths(_from_stream(splits.value))
    merger = Merger(flow)

    def flows_of(merged: Merged) -> Iterator[pa.RecordBatch]:
        for batch in flow_table(merged.flows, paths).to_batches():
            yield from _rows(batch, _FLOWS)
        if len(merged.unresolved):
            yield _aside(pa.Table.from_batches([merged.unresolved.to_arrow()]), _FLOWS)

    for batch in batches:
        is_aside = pc.is_valid(batch[_ASIDE])
        for stream in batch[_ASIDE].filter(is_aside):
            yield _aside(stream, _FLOWS)
        yield from flows_of(merger.add(Partials.from_arrow(batch.filter(pc.invert(is_aside)))))
    yield from flows_of(merger.finish())


def _asides(merged: DataFrame) -> tuple[Counters, Partials]:
    """Everything that rode along: the sum of the counters, and the stretches that are unresolved."""
    counters, stretches = Counters(), []
    for row in merged.where(merged[_ASIDE].isNotNull()).select(_ASIDE).toArrow()[_ASIDE]:
        table = _from_stream(row.as_buffer())
        if "reason" in table.schema.names:
            for counted in table.to_pylist():
                counters.add(*counted.values())
        else:
            stretches.append(_partials_of(table))
    return counters, Partials.concat(stretches)


def _without_asides(merged: DataFrame) -> DataFrame:
    return merged.where(merged[_ASIDE].isNull()).drop(_ASIDE)


def _ids(batches: Iterable[pa.RecordBatch]) -> Iterator[int]:
    return (task for batch in batches for task in batch["id"].to_pylist())


def _numbered(tasks: Sequence[int], batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for number in _ids(batches):
        yield pa.RecordBatch.from_pydict({"id": pa.array([tasks[number]], pa.int64())})


def _splits_of(splits: Broadcast[bytes], task: int, capture: config.Capture, flow: config.Flow) -> TaskSplits:
    table = _from_stream(splits.value)
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


def _rows(batch: pa.RecordBatch, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """The batch in pieces of a size that suits the JVM, with nothing aside."""
    whole = pa.RecordBatch.from_arrays([*batch.columns, pa.nulls(batch.num_rows, pa.binary())], schema=schema)
    for start in range(0, batch.num_rows, _BATCH_ROWS):
        yield whole.slice(start, _BATCH_ROWS)


def _aside(content: pa.Table | pa.BinaryScalar, schema: pa.Schema) -> pa.RecordBatch:
    """One row that holds nothing but a table."""
    stream = _to_stream(content) if isinstance(content, pa.Table) else content.as_py()
    nothing = [pa.nulls(1, field.type) for field in schema][:-1]
    return pa.RecordBatch.from_arrays([*nothing, pa.array([stream], pa.binary())], schema=schema)


def _to_stream(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def _from_stream(stream: Any) -> pa.Table:
    return pa.ipc.open_stream(stream).read_all()


def _of_night(table: pa.Table, contract: schemas.Table, site: str, capture_date: str) -> pa.Table:
    """The table with the columns that folder names hold."""
    night = {"site": pa.array([site] * len(table), pa.string())}
    night["capture_date"] = pa.array([date.fromisoformat(capture_date)] * len(table), pa.date32())
    columns = [night[name] if name in night else table[name] for name in contract.names]
    return pa.Table.from_arrays(columns, schema=contract.arrow_schema())


def _read_stored(spark: SparkSession, uri: str) -> DataFrame:
    return spark.read.schema(_nullable(schemas.FLOWS.arrow_schema(stored=True))).parquet(uri)


def _nullable(schema: pa.Schema) -> StructType:
    from pyspark.sql.pandas.types import from_arrow_schema

    return from_arrow_schema(pa.schema([field.with_nullable(True) for field in schema]))


def _packets_by_reason(counters: pa.Table) -> dict[str, int]:
    summed = counters.group_by("reason").aggregate([("packets", "sum")])
    return dict(sorted(zip(summed["reason"].to_pylist(), summed["packets_sum"].to_pylist(), strict=True)))


def _count(flows: DataFrame) -> tuple[int, int]:
    """Rows, and the packets in them."""
    from pyspark.sql import functions as F

    packets = F.sum(flows["client_packets"] + flows["server_packets"])
    row = flows.agg(F.count("*").alias("rows"), F.coalesce(packets, F.lit(0)).alias("packets")).first()
    assert row is not None
    return row["rows"], row["packets"]
