"""Assembles flows on Spark: workers decode packets into partial flows, shuffle these by key, merge and write them.

A task reads its splits once and sends partial flows and counters. Only packets of unresolved intervals are shuffled
themselves: the tasks that have them read them a second time. Both passes run the code of ``from_captures``.
"""

from __future__ import annotations

import logging
from datetime import date, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

import iotid
from iotid import config, schemas
from iotid.capture.by_date import date_warning
from iotid.capture.splits.stored import check_splits
from iotid.errors import AccountingError, SchemaError
from iotid.flows import tasks
from iotid.flows.dates import flows_by_date
from iotid.flows.local import check_accounting
from iotid.flows.open_flows import CARRIED, carries_open_flows
from iotid.flows.partial import Partials, rule_of
from iotid.flows.partitions import COUNTERS_FILE, QUARANTINE_FILE, read_stored
from iotid.flows.tasks import OPEN_FOLDER, SideOutputs
from iotid.partitions import PartitionKey
from iotid.schemas.metadata import Flows, Splits, remedy
from iotid.spark.phases import set_phase
from iotid.spark.shuffle import (
    FLOW_BYTES,
    RECORD_BYTES,
    SHUFFLE_BLOCKS,
    SIDE_OUTPUTS,
    Buckets,
    map_batches,
    shuffle_by_bucket,
    sql_partitions,
    task_ids,
    to_partitions,
    to_stream,
)
from iotid.storage import read_table, remove_failed_task_files, rows_in_footers, translate_read_errors, visible_files

if TYPE_CHECKING:
    from iotid.partitions import Partition, Staged, Store
    from iotid.spark.in_process import Frame, Session

_EXPANSION = 4  # usual of a compressed capture
_MANY_DATES = 3  # from so many on, captures are rather a collection than a night

_log = logging.getLogger(__name__)

_STEP = "assemble-flows"  # in the Spark UI


def write_flows(
    spark: Session,
    store: Store,
    site: str,
    capture_date: str,
    capture: config.Capture,
    flow: config.Flow,
    *,
    unless_current: bool = False,
) -> Partition[Flows]:
    """Assemble the splits of a site's capture date and write the partition of table `flows`, its counters inside it.

    With an idle time-out, open flows of the previous date continue, and those of this date are stored in the partition
    for the next one. Each run gives the same rows, but in other files and another order.

    ``unless_current``: keep the partition if it is of the same splits, settings and version of iotid, and continues no
    flows of the previous date.

    Raises:
        AbsentError: the splits are absent.
        SchemaError: another version of iotid planned them.
        AccountingError: a decoded packet is in no flow, or a flow in no file.
    """
    key = PartitionKey.of_date(site, capture_date)
    splits = store.open("splits", key)
    if splits.metadata["schema_version"] != schemas.SPLITS.version:
        raise SchemaError(
            f"{splits.uri}: splits of schema version {splits.metadata['schema_version']}, this iotid reads "
            f"{schemas.SPLITS.version}; plan the captures again (split-pcaps)"
        )
    previous = _previous_partition(store, key, flow)
    settings = {"capture": capture.model_dump(mode="json"), "flow": flow.model_dump(mode="json")}
    if unless_current and previous is None and (kept := _current(store, key, splits, settings)):
        return kept
    with store.write("flows", key, schemas.FLOWS.version) as staged:
        planned = read_table(splits.uri, schemas.SPLITS.arrow_schema(stored=True), remedy("splits"))
        with translate_read_errors(splits.uri, remedy("splits")):
            check_splits(planned)
        result = _Assembly(spark, staged, planned, capture, flow, previous).assemble()
        packets = _packets_by_reason(result.counters.table())
        carried = previous.metadata["open_packets"] - result.totals.idle_packets if previous is not None else 0
        check_accounting(result.totals.packets, packets.get("flow", 0) + carried)
        open_totals = _delete_timed_out(spark, staged, result.totals.last_us, flow) if carries_open_flows(flow) else {}
        _check_files(staged, result.totals.rows)
        unreadable = splits.metadata.get("unreadable", {}) | result.counters.unreadable
        for name, contract, table in (
            (COUNTERS_FILE, schemas.COUNTERS, result.counters.table()),
            (QUARANTINE_FILE, schemas.QUARANTINE, tasks.quarantine_table(unreadable)),
        ):
            pq.write_table(contract.describe(table), f"{staged.path}/{name}", filesystem=staged.filesystem)
        staged.metadata |= {
            "rows": result.totals.rows,
            "flows_by_date": flows_by_date(result.totals.by_day),
            "packets": packets,
            "unreadable": len(unreadable),
            "overlapping": result.counters.log_overlaps(),  # captures that have another capture's first packet
            "settings": settings,
            "settings_hash": config.settings_hash(capture, flow),
            "inputs": {"splits": splits.metadata},
        }
        if carries_open_flows(flow):
            staged.metadata |= {"last_us": result.totals.last_us, **open_totals}
        if previous is not None:
            staged.metadata["carried_packets"] = carried
            staged.metadata["inputs"]["night_before"] = {**previous.key, "last_us": previous.metadata["last_us"]}
    written = store.open("flows", key)
    by_date = written.metadata["flows_by_date"]
    if warning := date_warning(by_date, capture_date, "flows"):
        advice = "check --date, or give the captures of each date separately"
        if len(by_date) > _MANY_DATES and flow.join_files and flow.idle_timeout_s is None:
            advice += "; packets of one key are one flow, however far apart: set flow.idle_timeout_s or flow.join_files"
        _log.warning("assemble-flows: site %s, %s: %s; %s", site, capture_date, warning, advice)
    return written


class _Assembly:
    """The two passes over the splits of one partition."""

    def __init__(
        self,
        spark: Session,
        staged: Staged,
        splits: pa.Table,
        capture: config.Capture,
        flow: config.Flow,
        previous: Partition[Flows] | None,
    ) -> None:
        self._spark = spark
        self._staged = staged
        self._capture = capture
        self._flow = flow
        ordered = splits.sort_by([("file_index", "ascending"), ("split", "ascending")])
        self._tasks = pc.unique(ordered["task"]).to_pylist()
        self._splits = spark.sparkContext.broadcast(to_stream(ordered))
        carried = previous.metadata["open_flows"] if previous is not None else 0
        self._buckets = Buckets.of(spark, _size_of(splits) + FLOW_BYTES * carried)
        self._open: Frame | None = None
        self._open_paths: list[str] = []
        if previous is not None and previous.metadata["open_flows"]:
            self._open = _read_open(spark, previous.uri, previous.metadata["last_us"], flow)
            set_phase(spark, _STEP, f"list the captures of flows that are open since {previous.key.title}")
            with sql_partitions(spark, self._buckets.partitions):
                files = self._open.select("capture_file").distinct().toArrow()["capture_file"]
            self._open_paths = sorted(files.to_pylist())

    def assemble(self) -> SideOutputs:
        """Write the files of flows; return counters and totals."""
        if carries_open_flows(self._flow):
            self._staged.filesystem.create_dir(f"{self._staged.path}/{OPEN_FOLDER}")
        target = tasks.OutputTarget(self._splits, self._flow, self._open_paths, self._staged.uri)
        set_phase(self._spark, _STEP, f"read captures, assemble flows (tasks: {len(self._tasks):,})")
        result = SideOutputs.of(
            map_batches(self._first_pass(), partial(tasks.merge_buckets, target=target), SIDE_OUTPUTS).toArrow()
        )
        if len(result.unresolved):
            set_phase(self._spark, _STEP, f"read {len(result.unresolved):,} unresolved intervals packet by packet")
            packets = self._second_pass(result.unresolved)
            merged = map_batches(packets, partial(tasks.merge_unresolved, target=target), SIDE_OUTPUTS)
            result.totals.add(SideOutputs.of(merged.toArrow()).totals)
        return result

    def _first_pass(self) -> Frame:
        """SHUFFLE_BLOCKS of all partial flows, shuffled by bucket."""
        read = partial(
            tasks.read_tasks, splits=self._splits, capture=self._capture, flow=self._flow, buckets=self._buckets
        )
        sent = map_batches(task_ids(self._spark, self._tasks), read, SHUFFLE_BLOCKS)
        if self._open is not None:
            load = partial(tasks.load_open_partials, paths=self._open_paths, flow=self._flow, buckets=self._buckets)
            sent = sent.unionByName(map_batches(self._open, load, SHUFFLE_BLOCKS))
        return shuffle_by_bucket(sent, self._buckets.partitions)

    def _second_pass(self, unresolved: Partials) -> Frame:
        """The packets and open flows of unresolved intervals, sorted for the merger."""
        intervals = self._spark.sparkContext.broadcast(to_stream(unresolved.to_arrow()))
        read = partial(
            tasks.read_unresolved,
            splits=self._splits,
            intervals=intervals,
            capture=self._capture,
            flow=self._flow,
            buckets=self._buckets,
        )
        to_reread = np.unique(unresolved.task[unresolved.task != CARRIED]).tolist()
        packets = map_batches(task_ids(self._spark, to_reread), read, tasks.SINGLE_PACKETS)
        if self._open is not None:
            load = partial(
                tasks.load_unresolved_partials,
                paths=self._open_paths,
                flow=self._flow,
                intervals=intervals,
                buckets=self._buckets,
            )
            packets = packets.unionByName(map_batches(self._open, load, tasks.SINGLE_PACKETS))
        by_key = to_partitions(packets, self._buckets.partitions)
        return by_key.sortWithinPartitions("key", "first_us", "first_position")


def _size_of(splits: pa.Table) -> int:
    """Bytes of captures of RECORD_BYTES a record that are as much work as these splits (schemas.SPLITS).

    Where the plan did not count records, the bytes; a compressed capture's as if they were _EXPANSION times as many.
    """
    stored, start, stop, records = (splits[name].to_numpy() for name in ("file_bytes", "start", "stop", "records"))
    is_plain = splits["compression"].to_numpy(zero_copy_only=False) == "none"
    expanded = np.where(is_plain, stored, stored * _EXPANSION)
    bytes_of_split = np.where(stop >= 0, stop, np.maximum(expanded, start)) - start
    counted = np.where(records >= 0, np.minimum(bytes_of_split, records * RECORD_BYTES), bytes_of_split)
    return int(counted.sum())


def _current(
    store: Store, key: PartitionKey, splits: Partition[Splits], settings: dict[str, Any]
) -> Partition[Flows] | None:
    """The stored partition if nothing that it was made from has changed."""
    if not store.exists("flows", key):
        return None
    stored = store.open("flows", key)
    made_of = {
        "schema_version": schemas.FLOWS.version, "code_version": iotid.__version__, "settings": settings,
        "inputs": {"splits": splits.metadata},
    }  # fmt: skip
    return stored if all(stored.metadata.get(name) == value for name, value in made_of.items()) else None


def _previous_partition(store: Store, key: PartitionKey, flow: config.Flow) -> Partition[Flows] | None:
    """The site's partition of the previous date; None if it is absent or its open flows cannot continue."""
    day = date.fromisoformat(key.capture_date) - timedelta(days=1)
    previous = PartitionKey.of_date(key.site, day.isoformat())
    if not carries_open_flows(flow) or not store.exists("flows", previous):
        return None
    partition = store.open("flows", previous)
    same_version = partition.metadata["schema_version"] == schemas.FLOWS.version
    if not same_version or partition.metadata["settings"]["flow"] != flow.model_dump(mode="json"):
        _log.warning(
            "%s: was assembled by another version or with other settings of section flow; its open flows end there",
            partition.uri,
        )
        return None
    return partition


def _read_open(spark: Session, uri: str, last_us: int, flow: config.Flow) -> Frame:
    """schemas.OPEN_FLOWS of a partition whose last packet was at ``last_us``."""
    stored = read_stored(spark, f"{uri}/{OPEN_FOLDER}", schemas.OPEN_FLOWS.arrow_schema())
    return stored.where(f"last_us >= {last_us - rule_of(flow).idle_us}")


def _delete_timed_out(spark: Session, staged: Staged, last_us: int, flow: config.Flow) -> dict[str, int]:
    """Delete open flows that had already timed out when the partition ended; return OPEN_TOTALS of the others.

    The workers could not: each sees only its own flows, and the assignment differs between runs.
    """
    files = visible_files(staged.filesystem, f"{staged.path}/{OPEN_FOLDER}")
    delete = partial(
        tasks.delete_timed_out,
        folder=f"{staged.uri}/{OPEN_FOLDER}",
        files=files,
        since_us=last_us - rule_of(flow).idle_us,
    )
    set_phase(spark, _STEP, "delete open flows that have timed out")
    totals = map_batches(task_ids(spark, range(len(files))), delete, tasks.OPEN_TOTALS).toArrow()
    for number in totals.filter(pc.equal(totals["open_flows"], 0))["file"].to_pylist():
        staged.filesystem.delete_file(f"{staged.path}/{OPEN_FOLDER}/{files[number]}")
    return {name: pc.sum(totals[name]).as_py() or 0 for name in ("open_flows", "open_packets")}


def _check_files(staged: Staged, rows: int) -> None:
    """Raise an AccountingError unless the files hold ``rows`` flows."""
    for folder in (staged.path, f"{staged.path}/{OPEN_FOLDER}"):
        remove_failed_task_files(staged.filesystem, folder)
    in_footers = rows_in_footers(staged.filesystem, staged.path)
    if in_footers != rows:
        raise AccountingError(
            f"flows: {rows:,} were written, the Parquet footers report {in_footers:,}; run the step again, and report "
            "this if it happens again"
        )


def _packets_by_reason(counters: pa.Table) -> dict[str, int]:
    summed = counters.group_by("reason").aggregate([("packets", "sum")])
    return dict(sorted(zip(summed["reason"].to_pylist(), summed["packets_sum"].to_pylist(), strict=True)))
