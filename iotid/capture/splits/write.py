"""Splitting in Spark: segments of large captures are walked in parallel, the splits written as a table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from iotid import config, schemas
from iotid.capture.splits.byte_ranges import Segment
from iotid.capture.splits.discovery import count_same_start, find_captures
from iotid.capture.splits.plan import Walked, pack_tasks, split_captures
from iotid.partitions import PartitionKey
from iotid.schemas.metadata import Splits
from iotid.spark.worker_errors import in_worker

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from iotid.partitions import Partition, Store


def write_splits(
    spark: SparkSession | None, store: Store, location: str, site: str, capture_date: str, capture: config.Capture
) -> Partition[Splits]:
    """Cut every capture below ``location`` and write the partition (``site``, ``capture_date``) of table `splits`.

    Without ``spark``, or where it has only this machine, the captures are walked in threads of this process. The
    partition's metadata are schemas.metadata.Splits: numbers of files, bytes and records, and what is in quarantine.

    Raises:
        InputError: the location is missing or holds no capture; or a capture cannot be read, and
            ``capture.unreadable`` is `fail`.
        StaleError: the same, and a capture was changed meanwhile.
    """

    def walk_all(walk: Callable[[Segment], Walked], segments: Sequence[Segment]) -> Sequence[Walked]:
        assert spark is not None
        distributed = spark.sparkContext.parallelize(segments, len(segments))
        return distributed.mapPartitions(in_worker(partial(map, walk))).collect()

    keys = PartitionKey.of_date(site, capture_date)
    captures, ignored, unreadable, same = find_captures([location], capture.unreadable)
    # on one machine this process has the same cores as workers would have, and need not be started
    local = spark is None or str(spark.sparkContext.master).startswith("local")
    with store.write("splits", keys, schemas.SPLITS.version) as staged:
        plan = split_captures(captures, capture, None if local else walk_all)
        schema = schemas.SPLITS.arrow_schema(stored=True)
        columns = {f.name: [getattr(split, f.name) for split in plan.splits] for f in schema if f.name != "task"}
        table = pa.table({**columns, "task": pack_tasks(plan.splits, capture)}, schema=schema)
        pq.write_table(table, f"{staged.path}/splits.parquet", filesystem=staged.filesystem)
        staged.metadata |= {
            "rows": len(plan.splits),
            "files": len(captures),
            "files_ignored": ignored,
            "files_same": same,
            "files_alike": count_same_start(captures),
            "files_unplanned": len(plan.unreadable),  # of `files`: those that could not be walked
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
