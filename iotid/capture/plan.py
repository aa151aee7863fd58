"""The Spark shell of splitting: a night's captures are walked side by side, their splits written as a partition."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from iotid import config, schemas
from iotid.capture.splits import Split, list_captures, pack_tasks, split_capture
from iotid.capture.streams import filesystem_of

if TYPE_CHECKING:
    from pyspark import Broadcast
    from pyspark.sql import SparkSession

    from iotid.storage import Partition, Store

_STORED = schemas.SPLITS.arrow_schema(stored=True)
_WALKED = pa.schema([field for field in _STORED if field.name != "task"])


def write_splits(
    spark: SparkSession, store: Store, location: str, site: str, capture_date: str, capture: config.Capture
) -> Partition:
    """Cut every capture below ``location`` and write the partition of table `splits`.

    Raises:
        InputError: the location is missing or holds no capture.
    """
    keys = {"site": site, "capture_date": capture_date}
    paths = list_captures(location)
    splits = _walk(spark, paths, capture)
    with store.write("splits", keys, schemas.SPLITS.version) as staged:
        columns = {name: [getattr(split, name) for split in splits] for name in _WALKED.names}
        table = pa.table({**columns, "task": pack_tasks(splits, capture)}, schema=_STORED)
        pq.write_table(table, f"{staged.path}/splits.parquet", filesystem=staged.filesystem)
        staged.metadata |= {
            "rows": len(splits),
            "files": len(paths),
            "files_ignored": _count_files(location) - len(paths),
            "bytes": sum(split.file_bytes for split in splits if split.split == 0),
            "records_walked": sum(max(split.records, 0) for split in splits),
            "settings": {"capture": capture.model_dump(mode="json")},
            "settings_hash": config.settings_hash(capture),
            "inputs": {"captures": location},
        }
    return store.open("splits", keys)


def _walk(spark: SparkSession, paths: list[str], capture: config.Capture) -> list[Split]:
    """The splits of all captures, by file and place; as many at once as the cluster has cores."""
    from pyspark.sql.pandas.types import from_arrow_schema

    told = spark.sparkContext.broadcast(paths)
    # a walk takes time in proportion to its file, and files differ: several rounds of tasks even that out
    parts = min(len(paths), 4 * spark.sparkContext.defaultParallelism)
    walk = partial(_split_captures, paths=told, capture=capture)
    rows = spark.range(0, len(paths), 1, parts).mapInArrow(walk, from_arrow_schema(_WALKED)).toArrow().to_pylist()
    return sorted((Split(**row) for row in rows), key=lambda split: (split.file_index, split.split))


def _split_captures(
    batches: Iterable[pa.RecordBatch], paths: Broadcast[list[str]], capture: config.Capture
) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        for index in batch["id"].to_pylist():
            splits = split_capture(paths.value[index], index, capture)
            columns = {name: [getattr(split, name) for split in splits] for name in _WALKED.names}
            yield pa.RecordBatch.from_pydict(columns, schema=_WALKED)


def _count_files(location: str) -> int:
    from pyarrow import fs

    filesystem, inner = filesystem_of(location)
    if filesystem.get_file_info(inner).type == fs.FileType.File:
        return 1
    entries = filesystem.get_file_info(fs.FileSelector(inner, recursive=True))
    return sum(entry.type == fs.FileType.File for entry in entries)
