"""The Spark shell of assembly: decode in the worker, group partial flows by key, merge.

One task reads its splits once and hands out partial flows and, beside them, its counters. Partial flows are all that
is shuffled, but for the packets of stretches that merging could not decide; those are read a second time, in the tasks
that hold them. Both passes run the same code as ``from_captures``.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
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
from iotid.flows.kernels import BEFORE_ALL
from iotid.flows.local import check_accounting
from iotid.flows.merge import Merged, Merger
from iotid.flows.open import CARRIED, OpenFlows, carries, is_carried, take_up
from iotid.flows.partial import Partials, rule_of
from iotid.flows.read import TaskSplits, read_partials, read_stretches
from iotid.flows.table import flow_table

if TYPE_CHECKING:
    from pyspark import Broadcast
    from pyspark.sql import Column, DataFrame, SparkSession
    from pyspark.sql.types import StructType

    from iotid.storage import Partition, Store

_log = logging.getLogger(__name__)

COUNTERS_FILE = "_counters.parquet"  # the underscore hides it from readers of the flows
QUARANTINE_FILE = "_quarantine.parquet"
OPEN_FOLDER = "_open"

# Columns of tables that ride along as an Arrow stream in a row of their own, and what they are
_ASIDE, _KIND = "aside", "kind"
_COUNTERS, _QUARANTINE, _STRETCHES, _OPEN, _TOTALS = "counters", "quarantine", "stretches", "open", "totals"
_RIDERS = [pa.field(_ASIDE, pa.binary()), pa.field(_KIND, pa.string())]
_PARTIAL_FLOWS = pa.schema([*schemas.PARTIAL_FLOWS.arrow_schema(), *_RIDERS])
_FLOWS = pa.schema([*schemas.FLOWS.arrow_schema(stored=True), *_RIDERS])
_BATCH_ROWS = 8192


@dataclass(frozen=True)
class Assembled:
    """``flows``: schemas.FLOWS as stored, held by Spark until ``release``. ``counters``: schemas.COUNTERS.

    ``unreadable``: captures in quarantine, and why.
    ``open``: schemas.OPEN_FLOWS, flows that may go on in the next night; None without an idle time-out.
    ``carried_packets``: packets in ``flows`` that nights before have read. ``last_us``: time of the last packet, in µs.
    """

    flows: DataFrame
    counters: pa.Table
    unreadable: dict[str, str]
    open: DataFrame | None
    carried_packets: int
    last_us: int
    held: tuple[DataFrame, ...]

    def release(self) -> None:
        for frame in self.held:
            frame.unpersist()


def assemble_flows(
    spark: SparkSession,
    splits: DataFrame | pa.Table,
    capture: config.Capture,
    flow: config.Flow,
    site: str,
    capture_date: str,
    night_before: Partition | None = None,
) -> Assembled:
    """The flows of one night's splits (schemas.SPLITS, with or without site and date), each task's splits in one task.

    ``night_before``: the partition of flows whose open ones go on. The same rows come in the same order for the same
    number of shuffle partitions.
    """
    table = splits if isinstance(splits, pa.Table) else splits.toArrow()
    ordered = table.sort_by([("file_index", "ascending"), ("split", "ascending")])
    night = _Night(spark, ordered, capture, flow, night_before)
    held = [night.merge(night.first_pass()).persist()]
    counters, stretches, totals = _asides(held[0])
    if len(stretches):
        held.append(night.merge(night.second_pass(stretches)).persist())
        totals.add(_asides(held[1])[2])
    everything = reduce(lambda left, right: left.unionByName(right), held)
    flows, still_open = _without_asides(everything), None
    if carries(flow):
        flows, still_open = _told_open(flows, everything, totals.last_us, flow)
    of_night = _of_night(counters.table(), schemas.COUNTERS, site, capture_date)
    carried = night_before.metadata["open_packets"] - totals.idle_packets if night_before is not None else 0
    return Assembled(flows, of_night, counters.unreadable, still_open, carried, totals.last_us, tuple(held))


@dataclass
class _Totals:
    """Over all tasks that merge: time of the last packet, and packets of carried flows that this night did not see."""

    last_us: int = BEFORE_ALL
    idle_packets: int = 0

    def add(self, other: _Totals) -> None:
        self.last_us = max(self.last_us, other.last_us)
        self.idle_packets += other.idle_packets


class _Night:
    """What both passes over one night's splits share."""

    def __init__(
        self,
        spark: SparkSession,
        splits: pa.Table,
        capture: config.Capture,
        flow: config.Flow,
        night_before: Partition | None,
    ) -> None:
        self._spark = spark
        self._capture = capture
        self._flow = flow
        self._tasks = pc.unique(splits["task"]).to_pylist()
        self._splits = spark.sparkContext.broadcast(_to_stream(splits))
        self._open: DataFrame | None = None
        self._open_paths: list[str] = []
        if night_before is not None:
            self._open = spark.read.schema(_nullable(schemas.OPEN_FLOWS.arrow_schema())).parquet(
                f"{night_before.uri}/{OPEN_FOLDER}"
            )
            files = self._open.select("capture_file").distinct().toArrow()["capture_file"]
            self._open_paths = sorted(files.to_pylist())

    def first_pass(self) -> DataFrame:
        read = partial(_read_partials, splits=self._splits, capture=self._capture, flow=self._flow)
        return self._with_open(self._on_tasks(self._tasks).mapInArrow(read, _nullable(_PARTIAL_FLOWS)))

    def second_pass(self, stretches: Partials) -> DataFrame:
        told = self._spark.sparkContext.broadcast(_to_stream(pa.Table.from_batches([stretches.to_arrow()])))
        read = partial(_read_stretches, splits=self._splits, stretches=told, capture=self._capture, flow=self._flow)
        tasks = np.unique(stretches.task[stretches.task != CARRIED]).tolist()
        return self._with_open(self._on_tasks(tasks).mapInArrow(read, _nullable(_PARTIAL_FLOWS)), told)

    def merge(self, partials: DataFrame) -> DataFrame:
        parts = int(self._spark.conf.get("spark.sql.shuffle.partitions") or 1)
        order = ["key", "first_us", "first_position"]
        merge = partial(_merge_partition, splits=self._splits, flow=self._flow, open_paths=self._open_paths)
        by_key = partials.repartition(parts, "key").sortWithinPartitions(*order)
        return by_key.mapInArrow(merge, _nullable(_FLOWS))

    def _with_open(self, read: DataFrame, stretches: Broadcast[bytes] | None = None) -> DataFrame:
        """What was read, and what the night before left open: all of it, or that which is in stretches."""
        if self._open is None:
            return read
        take = partial(_take_up, paths=self._open_paths, stretches=stretches)
        return read.unionByName(self._open.mapInArrow(take, _nullable(_PARTIAL_FLOWS)))

    def _on_tasks(self, tasks: Sequence[int]) -> DataFrame:
        """One row and one Spark task for each task number."""
        numbers = self._spark.range(0, len(tasks), 1, max(len(tasks), 1))
        return numbers if tasks == list(range(len(tasks))) else numbers.mapInArrow(partial(_numbered, tasks), "id long")


def write_flows(
    spark: SparkSession, store: Store, site: str, capture_date: str, capture: config.Capture, flow: config.Flow
) -> Partition:
    """Assemble the splits of a night and write the partition of table `flows`, its counters inside it.

    With an idle time-out, flows that the night before left open go on, and those that this night leaves open stand in
    the partition for the next one.

    Raises:
        PartitionError: the night's splits are absent.
        AccountingError: not every packet that was decoded is in a flow.
    """
    keys = {"site": site, "capture_date": capture_date}
    night = store.open("splits", keys)
    before = _night_before(store, keys, flow)
    assembled = assemble_flows(spark, spark.read.parquet(night.uri), capture, flow, site, capture_date, before)
    packets = _packets_by_reason(assembled.counters)
    try:
        with store.write("flows", keys, schemas.FLOWS.version) as staged:
            assembled.flows.write.mode("append").parquet(staged.uri)
            rows, in_flows = _count(_read_stored(spark, staged.uri))
            check_accounting(in_flows, packets.get("flow", 0) + assembled.carried_packets)
            stored = assembled.counters.drop(list(schemas.COUNTERS.partition_by))
            pq.write_table(stored, f"{staged.path}/{COUNTERS_FILE}", filesystem=staged.filesystem)
            unreadable = night.metadata.get("unreadable", {}) | assembled.unreadable
            pq.write_table(_quarantine(unreadable), f"{staged.path}/{QUARANTINE_FILE}", filesystem=staged.filesystem)
            staged.metadata |= {
                "rows": rows,
                "packets": packets,
                "unreadable": len(unreadable),
                "settings": {"capture": capture.model_dump(mode="json"), "flow": flow.model_dump(mode="json")},
                "settings_hash": config.settings_hash(capture, flow),
                "inputs": {"splits": night.metadata},
            }
            if assembled.open is not None:
                assembled.open.write.mode("append").parquet(f"{staged.uri}/{OPEN_FOLDER}")
                staged.metadata |= {"last_us": assembled.last_us, **_open_totals(spark, staged.uri)}
            if before is not None:
                staged.metadata["carried_packets"] = assembled.carried_packets
                staged.metadata["inputs"]["night_before"] = {**before.keys, "last_us": before.metadata["last_us"]}
    finally:
        assembled.release()
    return store.open("flows", keys)


def _night_before(store: Store, keys: Mapping[str, str], flow: config.Flow) -> Partition | None:
    """The site's partition of the day before, where its open flows go on."""
    day = date.fromisoformat(keys["capture_date"]) - timedelta(days=1)
    before = {**keys, "capture_date": day.isoformat()}
    if not carries(flow) or not store.exists("flows", before):
        return None
    partition = store.open("flows", before)
    if partition.metadata["settings"]["flow"] != flow.model_dump(mode="json"):
        _log.warning("%s: was assembled with other settings of flow; its open flows do not go on", partition.uri)
        return None
    return partition


def read_flows(spark: SparkSession, partitions: Iterable[Partition]) -> DataFrame:
    """schemas.FLOWS of the partitions, site and date included.

    A flow that several of the nights saw, one after the other, is there once, as the last of them tells it.
    """
    return _joined_with_later(spark, list(partitions), "left_anti")


def count_continued(spark: SparkSession, partitions: Iterable[Partition]) -> int:
    """Rows of the partitions that `read_flows` leaves out, because a later one of them tells the same flow further."""
    return _joined_with_later(spark, list(partitions), "left_semi").count()


def _joined_with_later(spark: SparkSession, nights: Sequence[Partition], how: str) -> DataFrame:
    """Flows of all nights, and by ``how`` only or all but those that went on in a later one of the nights."""
    from pyspark.sql import functions as F

    flows = reduce(
        lambda left, right: left.unionAll(right),
        [
            _read_stored(spark, night.uri).select(
                F.lit(night.keys["site"]).alias("site"),
                F.lit(date.fromisoformat(night.keys["capture_date"])).alias("capture_date"),
                "*",
            )
            for night in nights
        ],
    )
    took_up = [night for night in nights if "night_before" in night.metadata.get("inputs", {})]
    if len(nights) == 1 or not took_up:
        return flows if how == "left_anti" else flows.limit(0)
    # Who was the client may look different a night later, so the ends are compared in the order of their text
    ends = [F.concat_ws(" ", f"{side}_ip", f"{side}_port") for side in ("client", "server")]
    identity = {
        "site": F.col("site"),
        "protocol": F.col("protocol"),
        "vlan": F.coalesce("vlan", F.lit(-1)),
        "first_seen": F.col("first_seen"),
        "low_end": F.least(*ends),
        "high_end": F.greatest(*ends),
    }
    began_before = reduce(lambda one, other: one | other, [_began_before(night) for night in took_up])
    later = flows.where(began_before).select(
        *(value.alias(f"later_{name}") for name, value in identity.items()), F.col("capture_date").alias("later_date")
    )
    same = reduce(lambda one, other: one & other, [value == F.col(f"later_{name}") for name, value in identity.items()])
    goes_on = same & (F.col("end_reason") == "open") & (F.col("capture_date") < F.col("later_date"))
    return flows.join(F.broadcast(later), goes_on, how)


def _began_before(night: Partition) -> Column:
    """Rows of the night that may tell of flows which it took up: no other began so early."""
    from pyspark.sql import functions as F

    of_night = (F.col("site") == night.keys["site"]) & (F.col("capture_date") == F.lit(night.keys["capture_date"]))
    return of_night & (F.unix_micros("first_seen") <= night.metadata["inputs"]["night_before"]["last_us"])


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
        yield _aside(_COUNTERS, counters.table(), _PARTIAL_FLOWS)
        if counters.unreadable:
            yield _aside(_QUARANTINE, _quarantine(counters.unreadable), _PARTIAL_FLOWS)


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


def _take_up(
    batches: Iterable[pa.RecordBatch], paths: list[str], stretches: Broadcast[bytes] | None
) -> Iterator[pa.RecordBatch]:
    wanted = None
    if stretches is not None:
        told = _from_stream(stretches.value)
        wanted = told.filter(pc.equal(told["task"], CARRIED))["key"]
    for batch in batches:
        # a key has one open flow at most, and a stretch names this task only if that flow is in it
        some = batch if wanted is None else batch.filter(pc.is_in(batch["key"], value_set=wanted))
        if some.num_rows:
            yield from _rows(take_up(some, paths).to_arrow(), _PARTIAL_FLOWS)


def _merge_partition(
    batches: Iterable[pa.RecordBatch], splits: Broadcast[bytes], flow: config.Flow, open_paths: list[str]
) -> Iterator[pa.RecordBatch]:
    carried = len(open_paths)
    paths = pa.concat_arrays([pa.array(open_paths, pa.string()), _paths(_from_stream(splits.value))])
    merger, still_open = Merger(flow), OpenFlows(flow)
    idle_packets = 0

    def flows_of(merged: Merged) -> Iterator[pa.RecordBatch]:
        nonlocal idle_packets
        flows = merged.flows
        if carries(flow):
            still_open.add(flows)
            waits = is_carried(flows)  # the night before has them as they are
            idle_packets += int(flows.packets[waits].sum())
            flows = flows.take(np.flatnonzero(~waits))
        for batch in flow_table(flows, paths, carried).to_batches():
            yield from _rows(batch, _FLOWS)
        if len(merged.unresolved):
            yield _aside(_STRETCHES, pa.Table.from_batches([merged.unresolved.to_arrow()]), _FLOWS)

    for batch in batches:
        is_aside = pc.is_valid(batch[_ASIDE])
        for kind, stream in zip(batch[_KIND].filter(is_aside), batch[_ASIDE].filter(is_aside), strict=True):
            yield _aside(kind.as_py(), stream, _FLOWS)
        yield from flows_of(merger.add(Partials.from_arrow(batch.filter(pc.invert(is_aside)))))
    yield from flows_of(merger.finish())
    if carries(flow):
        for table in still_open.tables(paths, carried, _BATCH_ROWS):
            yield _aside(_OPEN, table, _FLOWS)
        yield _aside(_TOTALS, pa.table({"last_us": [still_open.last_us], "idle_packets": [idle_packets]}), _FLOWS)


def _told_open(flows: DataFrame, everything: DataFrame, last_us: int, flow: config.Flow) -> tuple[DataFrame, DataFrame]:
    """The flows, those told by name that are still open at the night's end; and these as schemas.OPEN_FLOWS."""
    from pyspark.sql import functions as F

    least_us = last_us - rule_of(flow).idle_us
    is_open = (F.col("end_reason") == "end") & (F.unix_micros("last_seen") >= least_us)
    told = flows.withColumn("end_reason", F.when(is_open, "open").otherwise(F.col("end_reason")))
    carried = everything.where(F.col(_KIND) == _OPEN).select(_ASIDE)
    unpacked = carried.mapInArrow(_unpacked, _nullable(schemas.OPEN_FLOWS.arrow_schema()))
    return told, unpacked.where(F.col("last_us") >= least_us)


def _unpacked(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        for stream in batch[_ASIDE]:
            yield from _from_stream(stream.as_buffer()).to_batches()


def _asides(merged: DataFrame) -> tuple[Counters, Partials, _Totals]:
    """What rode along and concerns the whole night: the sums of all counters and totals, and unresolved stretches."""
    counters, stretches, totals = Counters(), [], _Totals()
    riders = (
        merged.where(merged[_KIND].isin(_COUNTERS, _QUARANTINE, _STRETCHES, _TOTALS)).select(_KIND, _ASIDE).toArrow()
    )
    for kind, stream in zip(riders[_KIND].to_pylist(), riders[_ASIDE], strict=True):
        table = _from_stream(stream.as_buffer())
        if kind == _COUNTERS:
            for counted in table.to_pylist():
                counters.add(*counted.values())
        elif kind == _QUARANTINE:
            counters.unreadable |= dict(zip(*table.to_pydict().values(), strict=True))
        elif kind == _STRETCHES:
            stretches.append(_partials_of(table))
        else:
            totals.add(_Totals(*table.to_pylist()[0].values()))
    return counters, Partials.concat(stretches), totals


def _without_asides(merged: DataFrame) -> DataFrame:
    return merged.where(merged[_ASIDE].isNull()).drop(_ASIDE, _KIND)


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
    riders = [pa.nulls(batch.num_rows, field.type) for field in _RIDERS]
    whole = pa.RecordBatch.from_arrays([*batch.columns, *riders], schema=schema)
    for start in range(0, batch.num_rows, _BATCH_ROWS):
        yield whole.slice(start, _BATCH_ROWS)


def _aside(kind: str, content: pa.Table | pa.BinaryScalar, schema: pa.Schema) -> pa.RecordBatch:
    """One row that holds nothing but a table."""
    stream = _to_stream(content) if isinstance(content, pa.Table) else content.as_py()
    nothing = [pa.nulls(1, field.type) for field in schema][: -len(_RIDERS)]
    return pa.RecordBatch.from_arrays([*nothing, pa.array([stream], pa.binary()), pa.array([kind])], schema=schema)


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


def _quarantine(unreadable: Mapping[str, str]) -> pa.Table:
    """schemas.QUARANTINE of captures and why they cannot be read."""
    rows = sorted(unreadable.items())
    columns = [[path for path, _ in rows], [why for _, why in rows]]
    return pa.table(columns, schema=schemas.QUARANTINE.arrow_schema())


def _open_totals(spark: SparkSession, uri: str) -> dict[str, int]:
    """What the metadata says of a night's open flows."""
    from pyspark.sql import functions as F

    stored = spark.read.schema(_nullable(schemas.OPEN_FLOWS.arrow_schema())).parquet(f"{uri}/{OPEN_FOLDER}")
    row = stored.agg(F.count("*").alias("flows"), F.coalesce(F.sum("packets_seen"), F.lit(0)).alias("packets")).first()
    assert row is not None
    return {"open_flows": row["flows"], "open_packets": row["packets"]}


def _count(flows: DataFrame) -> tuple[int, int]:
    """Rows, and the packets in them."""
    from pyspark.sql import functions as F

    packets = F.sum(flows["client_packets"] + flows["server_packets"])
    row = flows.agg(F.count("*").alias("rows"), F.coalesce(packets, F.lit(0)).alias("packets")).first()
    assert row is not None
    return row["rows"], row["packets"]
