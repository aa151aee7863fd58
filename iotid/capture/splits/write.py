"""Splits captures on Spark: scans large captures in parallel and writes table `splits`."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

import iotid
from iotid import config, schemas
from iotid.capture.by_date import LAST_US, OTHER, date_warning, day_of
from iotid.capture.file_split import FileSplit
from iotid.capture.splits.byte_ranges import ByteRange
from iotid.capture.splits.discovery import count_same_start, find_captures
from iotid.capture.splits.overlaps import first_packet, time_of
from iotid.capture.splits.plan import ScanOutcome, pack_tasks, split_captures
from iotid.capture.splits.sample import duplicates_warning
from iotid.partitions import PartitionKey
from iotid.schemas.metadata import Splits, remedy
from iotid.spark.phases import set_phase
from iotid.spark.worker_errors import in_worker
from iotid.storage import read_table

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from iotid.partitions import Partition, Store

_log = logging.getLogger(__name__)


def write_splits(
    spark: SparkSession | None,
    store: Store,
    location: str,
    site: str,
    capture_date: str,
    capture: config.Capture,
    *,
    unless_current: bool = False,
) -> Partition[Splits]:
    """Divide every capture below ``location`` and write the partition (``site``, ``capture_date``) of table `splits`.

    Without ``spark``, or if it runs on this machine only, threads of this process scan the captures. The partition's
    metadata is schemas.metadata.Splits: numbers of files, bytes and records, and the captures in quarantine.

    ``unless_current``: keep the partition if it is of the same captures, settings and version of iotid.

    Raises:
        InputError: the location is missing or holds no capture; or a capture cannot be read, and
            ``capture.unreadable`` is `fail`.
        StaleError: the same, and a capture changed meanwhile.
    """

    def scan_all(scan: Callable[[ByteRange], ScanOutcome], byte_ranges: Sequence[ByteRange]) -> Sequence[ScanOutcome]:
        assert spark is not None
        set_phase(spark, "split-pcaps", f"find record boundaries in {len(byte_ranges):,} byte ranges of {location}")
        distributed = spark.sparkContext.parallelize(byte_ranges, len(byte_ranges))
        return distributed.mapPartitions(in_worker(partial(map, scan))).collect()

    keys = PartitionKey.of_date(site, capture_date)
    captures, ignored, unreadable, same = find_captures([location], capture.unreadable)
    if unless_current and (kept := _current(store, keys, captures, unreadable, capture)):
        return kept
    _warn_of_dates(captures, site, capture_date)
    if warning := duplicates_warning(captures, capture):
        _log.warning("split-pcaps: %s", warning)
    # on one machine workers would have the same cores as this process, and would take time to start
    local = spark is None or str(spark.sparkContext.master).startswith("local")
    with store.write("splits", keys, schemas.SPLITS.version) as staged:
        plan = split_captures(captures, capture, None if local else scan_all)
        schema = schemas.SPLITS.arrow_schema(stored=True)
        columns = {f.name: [getattr(split, f.name) for split in plan.splits] for f in schema if f.name != "task"}
        table = pa.table({**columns, "task": pack_tasks(plan.splits, capture)}, schema=schema)
        pq.write_table(schemas.SPLITS.describe(table), f"{staged.path}/splits.parquet", filesystem=staged.filesystem)
        staged.metadata |= {
            "rows": len(plan.splits),
            "files": len(captures),
            "files_ignored": ignored,
            "files_same": same,
            "files_alike": count_same_start(captures),
            "files_unplanned": len(plan.unreadable),  # of `files`: those that could not be scanned
            "unreadable": unreadable | plan.unreadable,
            "bytes": sum(found.file_bytes for found in captures),
            "records_walked": sum(max(split.records, 0) for split in plan.splits),
            "splits_repaired": plan.splits_repaired,
            "bytes_repaired": plan.bytes_repaired,
            "settings": {"capture": capture.model_dump(mode="json")},
            "settings_hash": config.settings_hash(capture),
            "inputs": {"captures": location},
        }
    return store.open("splits", keys)


def _current(
    store: Store, key: PartitionKey, captures: Sequence[FileSplit], unreadable: dict[str, str], capture: config.Capture
) -> Partition[Splits] | None:
    """The stored partition if nothing that it was made from has changed."""
    if not store.exists("splits", key):
        return None
    stored = store.open("splits", key)
    was = {name: stored.metadata.get(name) for name in ("schema_version", "code_version", "settings_hash")}
    if was != {
        "schema_version": schemas.SPLITS.version, "code_version": iotid.__version__,
        "settings_hash": config.settings_hash(capture),
    }:  # fmt: skip
        return None
    rows = read_table(stored.uri, schemas.SPLITS.arrow_schema(stored=True), remedy("splits"))
    planned = set(zip(rows["path"].to_pylist(), rows["fingerprint"].to_pylist(), strict=True))
    is_same = planned == {(each.path, each.fingerprint) for each in captures}
    return stored if is_same and stored.metadata["unreadable"] == unreadable else None


def _warn_of_dates(captures: Sequence[FileSplit], site: str, capture_date: str) -> None:
    """Warn if the captures begin on other dates, before hours are spent on them; flows are checked when assembled."""
    times = [time_of(found.first_packet or first_packet(found)) for found in captures]
    by_date = Counter(day_of(time) if time < LAST_US else OTHER for time in times if time)
    if warning := date_warning(by_date, capture_date, "captures"):
        _log.warning(
            "split-pcaps: site %s, %s: %s; check --date, or give the captures of each date separately",
            site, capture_date, warning,
        )  # fmt: skip
