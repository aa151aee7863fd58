"""The Spark shell of assembly: decode in the worker, group partial flows by key, merge, write.

One task reads its splits once and hands out partial flows and, beside them, its counters. Partial flows are all that
is shuffled, but for the packets of stretches that merging could not decode; those are read a second time, in the tasks
that hold them. Both passes run the same code as ``from_captures``.
"""

from __future__ import annotations

import logging
from datetime import date, timedelta
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from iotid import config, schemas
from iotid.capture.splits.stored import check_splits
from iotid.errors import AccountingError, SchemaError
from iotid.flows import tasks as work
from iotid.flows.local import check_accounting
from iotid.flows.open_flows import CARRIED, carries
from iotid.flows.partial import Partials, rule_of
from iotid.flows.partitions import COUNTERS_FILE, QUARANTINE_FILE, read_stored
from iotid.flows.tasks import OPEN_FOLDER, Told
from iotid.partitions import PartitionKey
from iotid.schemas.metadata import remedy
from iotid.spark.shuffle import BLOCKS, SIDE_OUTPUTS, Buckets, exchange, spark_schema, task_ids, to_stream
from iotid.spark.worker_errors import in_worker
from iotid.storage import read_table, reading, remove_attempts, rows_promised, shown_files

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from iotid.partitions import Partition, Staged, Store

_log = logging.getLogger(__name__)


def write_flows(
    spark: SparkSession, store: Store, site: str, capture_date: str, capture: config.Capture, flow: config.Flow
) -> Partition:
    """Assemble the splits of a night and write the partition of table `flows`, its counters inside it.

    With an idle time-out, flows that the night before left open go on, and those that this night leaves open stand in
    the partition for the next one. The rows are the same each time; which file and place each is in is not.

    Raises:
        PartitionError: the night's splits are absent.
        SchemaError: another iotid has planned them.
        AccountingError: not every packet that was decoded is in a flow, or not every flow in a file.
    """
    keys = PartitionKey.of_date(site, capture_date)
    splits = store.open("splits", keys)
    if splits.metadata["schema_version"] != schemas.SPLITS.version:
        raise SchemaError(
            f"{splits.uri}: splits of schema version {splits.metadata['schema_version']}, this iotid reads "
            f"{schemas.SPLITS.version}; plan the captures again (split-pcaps)"
        )
    before = _night_before(store, keys, flow)
    with store.write("flows", keys, schemas.FLOWS.version) as staged:
        planned = read_table(splits.uri, schemas.SPLITS.arrow_schema(stored=True), remedy("splits"))
        with reading(splits.uri, remedy("splits")):
            check_splits(planned)
        night = _Night(spark, staged, planned, capture, flow, before)
        told = night.assemble()
        packets = _packets_by_reason(told.counters.table())
        carried = before.metadata["open_packets"] - told.sums.idle_packets if before is not None else 0
        check_accounting(told.sums.packets, packets.get("flow", 0) + carried)
        of_open = _trim_open(spark, staged, told.sums.last_us, flow) if carries(flow) else {}
        _check_files(staged, told.sums.rows)
        unreadable = splits.metadata.get("unreadable", {}) | told.counters.unreadable
        for name, table in (
            (COUNTERS_FILE, told.counters.table()),
            (QUARANTINE_FILE, work.quarantine_table(unreadable)),
        ):
            pq.write_table(table, f"{staged.path}/{name}", filesystem=staged.filesystem)
        staged.metadata |= {
            "rows": told.sums.rows,
            "packets": packets,
            "unreadable": len(unreadable),
            "overlapping": told.counters.hint(),  # captures that hold packets of others
            "settings": {"capture": capture.model_dump(mode="json"), "flow": flow.model_dump(mode="json")},
            "settings_hash": config.settings_hash(capture, flow),
            "inputs": {"splits": splits.metadata},
        }
        if carries(flow):
            staged.metadata |= {"last_us": told.sums.last_us, **of_open}
        if before is not None:
            staged.metadata["carried_packets"] = carried
            staged.metadata["inputs"]["night_before"] = {**before.key, "last_us": before.metadata["last_us"]}
    return store.open("flows", keys)


class _Night:
    """What both passes over one night's splits share."""

    def __init__(
        self,
        spark: SparkSession,
        staged: Staged,
        splits: pa.Table,
        capture: config.Capture,
        flow: config.Flow,
        before: Partition | None,
    ) -> None:
        self._spark = spark
        self._staged = staged
        self._capture = capture
        self._flow = flow
        ordered = splits.sort_by([("file_index", "ascending"), ("split", "ascending")])
        self._tasks = pc.unique(ordered["task"]).to_pylist()
        self._splits = spark.sparkContext.broadcast(to_stream(ordered))
        self._buckets = Buckets.of(spark)
        self._open: DataFrame | None = None
        self._open_paths: list[str] = []
        if before is not None and before.metadata["open_flows"]:
            self._open = _read_open(spark, before.uri, before.metadata["last_us"], flow)
            files = self._open.select("capture_file").distinct().toArrow()["capture_file"]
            self._open_paths = sorted(files.to_pylist())

    def assemble(self) -> Told:
        """Write the files of flows; what is to be told of them."""
        if carries(self._flow):
            self._staged.filesystem.create_dir(f"{self._staged.path}/{OPEN_FOLDER}")
        target = work.Target(self._splits, self._flow, self._open_paths, self._staged.uri)
        told = Told.of(
            self._first_pass()
            .mapInArrow(in_worker(partial(work.merge_buckets, target=target)), spark_schema(SIDE_OUTPUTS))
            .toArrow()
        )
        if len(told.stretches):
            packets = self._second_pass(told.stretches)
            again = packets.mapInArrow(in_worker(partial(work.merge_again, target=target)), spark_schema(SIDE_OUTPUTS))
            told.sums.add(Told.of(again.toArrow()).sums)
        return told

    def _first_pass(self) -> DataFrame:
        """BLOCKS of all partial flows, where they are to be merged."""
        read = partial(
            work.read_tasks, splits=self._splits, capture=self._capture, flow=self._flow, buckets=self._buckets
        )
        sent = task_ids(self._spark, self._tasks).mapInArrow(in_worker(read), spark_schema(BLOCKS))
        if self._open is not None:
            take = partial(work.take_up_open, paths=self._open_paths, flow=self._flow, buckets=self._buckets)
            sent = sent.unionByName(self._open.mapInArrow(in_worker(take), spark_schema(BLOCKS)))
        return exchange(sent, self._buckets.partitions)

    def _second_pass(self, stretches: Partials) -> DataFrame:
        """The packets of stretches and what was open of them, sorted for the merger."""
        told = self._spark.sparkContext.broadcast(to_stream(stretches.to_arrow()))
        read = partial(
            work.read_again,
            splits=self._splits,
            stretches=told,
            capture=self._capture,
            flow=self._flow,
            buckets=self._buckets,
        )
        tasks = np.unique(stretches.task[stretches.task != CARRIED]).tolist()
        packets = task_ids(self._spark, tasks).mapInArrow(in_worker(read), spark_schema(work.PACKETS_ALONE))
        if self._open is not None:
            take = partial(
                work.take_up_again, paths=self._open_paths, flow=self._flow, stretches=told, buckets=self._buckets
            )
            packets = packets.unionByName(self._open.mapInArrow(in_worker(take), spark_schema(work.PACKETS_ALONE)))
        by_key = packets.repartitionById(self._buckets.partitions, "partition")
        return by_key.sortWithinPartitions("key", "first_us", "first_position")


def _night_before(store: Store, key: PartitionKey, flow: config.Flow) -> Partition | None:
    """The site's partition of the day before, where its open flows go on."""
    day = date.fromisoformat(key.capture_date) - timedelta(days=1)
    before = PartitionKey.of_date(key.site, day.isoformat())
    if not carries(flow) or not store.exists("flows", before):
        return None
    partition = store.open("flows", before)
    is_alike = partition.metadata["schema_version"] == schemas.FLOWS.version
    if not is_alike or partition.metadata["settings"]["flow"] != flow.model_dump(mode="json"):
        _log.warning(
            "%s: was assembled by another version or with other settings of flow; its open flows do not go on",
            partition.uri,
        )
        return None
    return partition


def _read_open(spark: SparkSession, uri: str, last_us: int, flow: config.Flow) -> DataFrame:
    """schemas.OPEN_FLOWS of a night that ended at ``last_us``."""
    stored = read_stored(spark, f"{uri}/{OPEN_FOLDER}", schemas.OPEN_FLOWS.arrow_schema())
    return stored.where(f"last_us >= {last_us - rule_of(flow).idle_us}")


def _trim_open(spark: SparkSession, staged: Staged, last_us: int, flow: config.Flow) -> dict[str, int]:
    """Take out of a night's open flows those that its end has closed; what the metadata says of the others.

    Each worker knew the end of its own part alone, and which flows are in it is drawn anew by each run.
    """
    files = shown_files(staged.filesystem, f"{staged.path}/{OPEN_FOLDER}")
    trim = partial(
        work.trim_open, folder=f"{staged.uri}/{OPEN_FOLDER}", files=files, since_us=last_us - rule_of(flow).idle_us
    )
    told = task_ids(spark, range(len(files))).mapInArrow(in_worker(trim), spark_schema(work.OPEN_TOTALS)).toArrow()
    for number in told.filter(pc.equal(told["open_flows"], 0))["file"].to_pylist():
        staged.filesystem.delete_file(f"{staged.path}/{OPEN_FOLDER}/{files[number]}")
    return {name: pc.sum(told[name]).as_py() or 0 for name in ("open_flows", "open_packets")}


def _check_files(staged: Staged, rows: int) -> None:
    """Raise an AccountingError unless the files hold as many flows as told."""
    for folder in (staged.path, f"{staged.path}/{OPEN_FOLDER}"):
        remove_attempts(staged.filesystem, folder)
    promised = rows_promised(staged.filesystem, staged.path)
    if promised != rows:
        raise AccountingError(
            f"flows: {rows:,} were written, the files' footers promise {promised:,}; run the step again, and report it "
            "if it comes back"
        )


def _packets_by_reason(counters: pa.Table) -> dict[str, int]:
    summed = counters.group_by("reason").aggregate([("packets", "sum")])
    return dict(sorted(zip(summed["reason"].to_pylist(), summed["packets_sum"].to_pylist(), strict=True)))
