"""Tables through Spark's shuffle as few large values: row by row, the way through the JVM costs more than the work.

A worker deals its rows into buckets, ranges of a 64-bit hash, and hands out a parcel (an Arrow stream) for each. Spark
moves parcels to the worker that has their bucket; there a bucket's parcels come together, bucket after bucket, so that
a worker holds one bucket at once. Tables that concern the whole job (counters and the like) travel aside, told by
`kind`: a driver that collects the asides of the last stage has all that it must know, and no row.

Shape suffixes: N rows.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import cache, partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any
from zipimport import zipimporter

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from iotid.remote import in_worker

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession
    from pyspark.sql.types import StructType

Hashes = NDArray[np.uint64]

ASIDES = pa.schema([pa.field("kind", pa.string()), pa.field("content", pa.binary())])
PARCELS = pa.schema([pa.field("partition", pa.int32()), pa.field("bucket", pa.int32()), *ASIDES])
NO_BUCKET = -1  # of asides, which come before all parcels

_ROWS = "rows"
_BUCKETS = 1024  # in all, unless there are more partitions: a parcel that holds few rows is mostly its own head
_BUCKETS_OF_PARTITION = 16
_COMPRESSED = pa.ipc.IpcWriteOptions(compression="lz4")


def parcels(rows: pa.RecordBatch, hash_N: Hashes, partitions: int) -> pa.RecordBatch:
    """PARCELS of the rows, whose hashes say which bucket each belongs to."""
    each = _buckets_of_partition(partitions)
    bucket_N = ((hash_N >> np.uint64(32)) * np.uint64(buckets_of(partitions)) >> np.uint64(32)).astype(np.int32)
    order = np.argsort(bucket_N, kind="stable")
    dealt = rows.take(pa.array(order))
    bucket_N = bucket_N[order]
    bounds = [0, *(np.flatnonzero(np.diff(bucket_N)) + 1).tolist(), len(bucket_N)] if len(bucket_N) else []
    buckets = bucket_N[bounds[:-1]]
    return pa.RecordBatch.from_arrays(
        [
            pa.array(buckets // np.int32(each), pa.int32()),
            pa.array(buckets),
            pa.array([_ROWS] * len(buckets), pa.string()),
            pa.array([to_stream(dealt.slice(start, end - start)) for start, end in pairwise(bounds)], pa.binary()),
        ],
        schema=PARCELS,
    )


def parcel(bucket: int, rows: pa.Table) -> pa.RecordBatch:
    """All rows of a bucket as PARCELS that stay where they are."""
    return beside(aside(_ROWS, rows), bucket)


def aside(kind: str, content: pa.Table) -> pa.RecordBatch:
    """The table as a row of ASIDES."""
    row = [pa.array([kind]), pa.array([to_stream(content)], pa.binary())]
    return pa.RecordBatch.from_arrays(row, schema=ASIDES)


def beside(asides: pa.RecordBatch, bucket: int = NO_BUCKET) -> pa.RecordBatch:
    """ASIDES as PARCELS, to travel with those of rows."""
    where = [pa.array(np.full(asides.num_rows, number, np.int32)) for number in (0, bucket)]
    return pa.RecordBatch.from_arrays([*where, *asides.columns], schema=PARCELS)


def partitions_of(spark: SparkSession) -> int:
    """Partitions that a shuffle has."""
    return int(spark.conf.get("spark.sql.shuffle.partitions") or 1)


def buckets_of(partitions: int) -> int:
    """Buckets, over all partitions."""
    return _buckets_of_partition(partitions) * partitions


def numbered(spark: SparkSession, tasks: Sequence[int]) -> DataFrame:
    """One row and one Spark task for each number, for workers to read with ``numbers``."""
    each = spark.range(0, len(tasks), 1, max(len(tasks), 1))
    same = list(tasks) == list(range(len(tasks)))
    return each if same else each.mapInArrow(in_worker(partial(_renumber, list(tasks))), "id long")


def numbers(batches: Iterable[pa.RecordBatch]) -> Iterator[int]:
    """The numbers of a task's rows of ``numbered``."""
    _stay_loaded()
    for batch in batches:
        yield from batch["id"].to_pylist()


def _renumber(tasks: list[int], batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for number in numbers(batches):
        yield pa.RecordBatch.from_pydict({"id": pa.array([tasks[number]], pa.int64())})


def spread(sent: DataFrame, partitions: int) -> DataFrame:
    """Every parcel where its bucket is: in as many partitions as it was dealt for, in the order of the buckets."""
    return sent.repartitionById(partitions, "partition").sortWithinPartitions("bucket")


def receive(batches: Iterable[pa.RecordBatch]) -> Iterator[tuple[int, list[pa.RecordBatch]]]:
    """Each bucket of a partition with its parcels as ASIDES, in no order. NO_BUCKET, where it is, comes first."""
    _stay_loaded()
    bucket = NO_BUCKET
    waiting: list[pa.RecordBatch] = []
    for batch in batches:
        bucket_of_row = batch["bucket"].to_numpy()
        bounds = [0, *(np.flatnonzero(np.diff(bucket_of_row)) + 1).tolist(), batch.num_rows]
        for start, end in pairwise(bounds):
            if start == end:
                continue
            if waiting and bucket_of_row[start] != bucket:
                yield bucket, waiting
                waiting = []
            bucket = int(bucket_of_row[start])
            piece = batch.slice(start, end - start)
            waiting.append(pa.RecordBatch.from_arrays([piece["kind"], piece["content"]], schema=ASIDES))
    if waiting:
        yield bucket, waiting


def contents(pieces: Sequence[pa.RecordBatch] | pa.Table) -> Iterator[tuple[str, pa.Table]]:
    """(kind, table) of every row of ASIDES."""
    for piece in pieces.to_batches() if isinstance(pieces, pa.Table) else pieces:
        for kind, stream in zip(piece["kind"].to_pylist(), piece["content"], strict=True):
            yield kind, from_stream(stream.as_buffer())


def spark_schema(schema: pa.Schema) -> StructType:
    """The schema as Spark takes it, every column nullable."""
    from pyspark.sql.pandas.types import from_arrow_schema

    return from_arrow_schema(pa.schema([field.with_nullable(True) for field in schema]))


def _stay_loaded() -> None:
    """Make this worker's next task start sooner.

    pyspark looks through all that is loaded for garbage after a task, and has every importer of its zip files read its
    directory anew before the next one: 0.2 s each, whatever the task does.
    """
    for path, importer in list(sys.path_importer_cache.items()):
        if isinstance(importer, zipimporter):
            del sys.path_importer_cache[path]  # it is made again where something is imported from there
    _freeze()


@cache
def _freeze() -> None:
    gc.freeze()


def to_stream(table: pa.Table | pa.RecordBatch) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=_COMPRESSED) as writer:
        writer.write(table)
    return bytes(sink.getvalue())


def from_stream(stream: Any) -> pa.Table:
    return pa.ipc.open_stream(stream).read_all()


def mix(words: Iterable[NDArray[Any]], seed: int = 0) -> Hashes:
    """(N,) hash of each row of N, made of its 64-bit words: multiply and xor-shift as in SplitMix64."""
    mixed: Any = np.uint64(seed & 0xFFFF_FFFF_FFFF_FFFF)
    for word_N in words:
        mixed = (mixed ^ word_N.astype(np.uint64, copy=False)) * np.uint64(0xBF58476D1CE4E5B9)
        mixed ^= mixed >> np.uint64(29)
    mixed = mixed * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(32))


def _buckets_of_partition(partitions: int) -> int:
    return max(min(_BUCKETS // partitions, _BUCKETS_OF_PARTITION), 1)
