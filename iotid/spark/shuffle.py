"""Shuffles tables as few large values: as single rows, the JVM would cost more than the work itself.

A worker divides its rows into buckets (ranges of a 32-bit hash) and sends one shuffle block (an Arrow stream) for each.
Spark moves the blocks to the shuffle partition of their bucket, whose worker reads one bucket at a time. Small tables
for the driver, such as counters, are side outputs, named by ``kind``: the driver collects those of the last stage.

The hash is keyed by a random secret of the job, which is not stored (`Buckets`). So a row is in another bucket and file
in each run; readers of a table must not depend on the order of its rows or files.

The number of partitions follows from the size of a job's input (`derive_partitions`), so that what a worker and the
JVM hold does not grow with it.

Shape suffixes: N rows, B buckets.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from iotid.spark.in_process import InProcess, Rows, Work, is_in_process
from iotid.spark.session import DERIVED
from iotid.spark.worker_errors import in_worker
from iotid.spark.worker_start import prepare_next_task

if TYPE_CHECKING:
    from pyspark.sql import SparkSession
    from pyspark.sql.types import StructType

    from iotid.spark.in_process import Session

Hashes = NDArray[np.uint64]

SIDE_OUTPUTS = pa.schema([pa.field("kind", pa.string()), pa.field("content", pa.binary())])
SHUFFLE_BLOCKS = pa.schema([pa.field("partition", pa.int32()), pa.field("bucket", pa.int32()), *SIDE_OUTPUTS])
TASK_IDS = pa.schema([pa.field("id", pa.int64())])
NO_BUCKET = -1  # of side outputs, which sort before all blocks of rows

RECORD_BYTES = 85  # of captures, for each record, if they are the input; a partial flow grows with packets, not bytes
FLOW_BYTES = 1500  # of captures, for each flow, if flows are the input

_SQL_PARTITIONS = "spark.sql.shuffle.partitions"
_PARTITION_BYTES = 512 << 20  # of captures: 80 MB of shuffle blocks, which the JVM sorts; a bucket is 64 MB of captures
_LEAST_BYTES = 32 << 20  # of captures: smaller partitions are not worth a task
_PARTITIONS_OF_CORE = 2  # of jobs whose size is not known

_ROWS = "rows"
_BUCKETS = 1024  # in total, unless there are more partitions: a block of few rows is mostly header
_BUCKETS_OF_PARTITION = 8
_COMPRESSED = pa.ipc.IpcWriteOptions(compression="lz4")
_SECRET_BYTES = 32
_HASHED_ROWS = 1 << 13  # at a time, to fit into the CPU cache
_HALF, _LOW = np.uint64(32), np.uint64(0xFFFFFFFF)


@dataclass(frozen=True)
class Buckets:
    """Assigns rows of one job to buckets, and buckets to ``partitions`` shuffle partitions, by a secret of the job.

    The driver creates it and sends it to the job's workers; the secret is neither stored nor logged.
    """

    partitions: int
    secret: bytes = field(default_factory=partial(secrets.token_bytes, _SECRET_BYTES), repr=False)

    @classmethod
    def of(cls, spark: Session, num_bytes: int) -> Buckets:
        """Create it for a new job of that size (see `derive_partitions`), with a new secret."""
        return cls(partitions_for(spark, num_bytes))

    @property
    def each(self) -> int:
        """Number of buckets per partition."""
        return max(min(_BUCKETS // self.partitions, _BUCKETS_OF_PARTITION), 1)

    @property
    def number(self) -> int:
        """Number of buckets in total."""
        return self.each * self.partitions

    def hashed(self, words: Sequence[NDArray[Any]] | NDArray[Any]) -> Hashes:
        """(N,) 32-bit hash of each row's 64-bit words.

        An attacker can choose the words by sending packets, and must not be able to choose the bucket. As in the flow
        table (`flows.key_table`) the hash is Multilinear (Lemire, Kaser 2014, after Carter, Wegman 1979): to anyone
        without the secret, the buckets of any two rows are independent and uniform. The finalizer of MurmurHash3 breaks
        up arithmetic progressions.
        """
        numbers = self._numbers(2 * len(words) + 1)
        hash_N = np.full(len(words[0]), numbers[0])
        for start in range(0, len(hash_N), _HASHED_ROWS):
            some = slice(start, start + _HASHED_ROWS)
            mixed = hash_N[some]
            for word_N, low, high in zip(words, numbers[1::2], numbers[2::2], strict=True):
                word = word_N[some].astype(np.uint64, copy=False)
                mixed += (word & _LOW) * low
                mixed += (word >> _HALF) * high
            mixed >>= _HALF
            for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
                mixed ^= mixed >> np.uint64(shift)
                mixed *= np.uint64(factor)
                mixed &= _LOW
        return hash_N

    def of_hash(self, hash_N: Hashes) -> NDArray[np.int32]:
        """(N,) the bucket of each row, by its 32-bit hash."""
        return (hash_N * np.uint64(self.number) >> _HALF).astype(np.int32)

    def text_key(self) -> str:
        """16 characters: the key for hashing text and bytes (SipHash), so that nobody can choose collisions."""
        return hashlib.blake2b(b"text", key=self.secret, digest_size=8).hexdigest()

    def _numbers(self, count: int) -> Hashes:
        """The first ``count`` numbers of a pseudorandom sequence, seeded by the secret."""
        return np.frombuffer(hashlib.shake_256(self.secret).digest(8 * count), "<u8").astype(np.uint64)


def shuffle_blocks(rows: pa.RecordBatch, hash_N: Hashes, buckets: Buckets) -> pa.RecordBatch:
    """SHUFFLE_BLOCKS of the rows; ``hash_N`` (`Buckets.hashed`) says which bucket each belongs to."""
    bucket_N = buckets.of_hash(hash_N)
    order = np.argsort(bucket_N, kind="stable")
    in_order = rows.take(pa.array(order))
    bucket_N = bucket_N[order]
    bounds = [0, *(np.flatnonzero(np.diff(bucket_N)) + 1).tolist(), len(bucket_N)] if len(bucket_N) else []
    bucket_B = bucket_N[bounds[:-1]]
    return pa.RecordBatch.from_arrays(
        [
            pa.array(bucket_B // np.int32(buckets.each), pa.int32()),
            pa.array(bucket_B),
            pa.array([_ROWS] * len(bucket_B), pa.string()),
            pa.array([to_stream(in_order.slice(start, end - start)) for start, end in pairwise(bounds)], pa.binary()),
        ],
        schema=SHUFFLE_BLOCKS,
    )


def local_block(bucket: int, rows: pa.Table) -> pa.RecordBatch:
    """All rows of a bucket as SHUFFLE_BLOCKS that are not shuffled again."""
    return with_bucket(side_output(_ROWS, rows), bucket)


def side_output(kind: str, content: pa.Table) -> pa.RecordBatch:
    """The table as a row of SIDE_OUTPUTS."""
    row = [pa.array([kind]), pa.array([to_stream(content)], pa.binary())]
    return pa.RecordBatch.from_arrays(row, schema=SIDE_OUTPUTS)


def with_bucket(side_outputs: pa.RecordBatch, bucket: int = NO_BUCKET) -> pa.RecordBatch:
    """SIDE_OUTPUTS as SHUFFLE_BLOCKS, to be shuffled with those of rows."""
    where = [pa.array(np.full(side_outputs.num_rows, number, np.int32)) for number in (0, bucket)]
    return pa.RecordBatch.from_arrays([*where, *side_outputs.columns], schema=SHUFFLE_BLOCKS)


def derive_partitions(num_bytes: int, cores: int) -> int:
    """Number of shuffle partitions for an input that equals ``num_bytes`` of captures.

    Few bytes: as many as are worth a task, at most one a core. Many: as many as keep each small, a multiple of the
    cores, so that no core waits for the last ones.
    """
    wanted = max(-(-num_bytes // _PARTITION_BYTES), 1)
    if wanted <= cores:
        return max(min(-(-num_bytes // _LEAST_BYTES), cores), 1)
    return -(-wanted // cores) * cores


def partitions_for(spark: Session, num_bytes: int) -> int:
    """Number of shuffle partitions of a job whose input equals ``num_bytes`` of captures, or what the session sets."""
    if isinstance(spark, InProcess) or not _is_derived(spark):
        return partitions_of(spark)
    return derive_partitions(num_bytes, spark.sparkContext.defaultParallelism)


def for_all_cores(spark: SparkSession, partitions: int) -> int:
    """``partitions``, but at least one a core: for work that takes long though its input is small.

    A number that the session sets stands.
    """
    return max(partitions, spark.sparkContext.defaultParallelism) if _is_derived(spark) else partitions


def partitions_of(spark: Session) -> int:
    """Number of partitions of a job whose size is not known."""
    if isinstance(spark, InProcess):
        return 1
    if _is_derived(spark):
        return _PARTITIONS_OF_CORE * spark.sparkContext.defaultParallelism
    return int(spark.conf.get(_SQL_PARTITIONS) or 1)


@contextmanager
def sql_partitions(spark: Session, partitions: int) -> Iterator[None]:
    """Within it, Spark's own shuffles, such as those of groupBy, have so many partitions.

    Adaptive execution may merge small ones. Only the queries that run within it count, not those that are written
    within it.
    """
    if isinstance(spark, InProcess):
        yield
        return
    usual = str(spark.conf.get(_SQL_PARTITIONS))
    spark.conf.set(_SQL_PARTITIONS, str(partitions))
    try:
        yield
    finally:
        spark.conf.set(_SQL_PARTITIONS, usual)


def _is_derived(spark: SparkSession) -> bool:
    return spark.conf.get(DERIVED, "false") == "true"


def running_task() -> tuple[int, int]:
    """Partition and attempt of the running task; 0 and 0 in this process."""
    if is_in_process():
        return 0, 0
    from pyspark import TaskContext

    context = TaskContext.get()
    assert context is not None
    return context.partitionId(), context.taskAttemptId()


def map_batches(rows: Any, work: Work, schema: pa.Schema) -> Any:
    """The table (a Frame) of ``schema`` that ``work`` makes of each partition's batches, in a task of its own."""
    if isinstance(rows, Rows):
        return rows.map_batches(work, schema)
    return rows.mapInArrow(in_worker(work), spark_schema(schema))


def with_constants(rows: Any, values: Mapping[str, Any]) -> Any:
    """The Frame with a column for each value, the same in every row."""
    if isinstance(rows, Rows):
        return rows.with_constants({name: pa.scalar(value) for name, value in values.items()})
    from pyspark.sql import functions as F

    return rows.withColumns({name: F.lit(value) for name, value in values.items()})


def task_ids(spark: Session, tasks: Sequence[int]) -> Any:
    """One row for each id, in a Spark task of its own, as a Frame that workers read with `read_task_ids`."""
    if isinstance(spark, InProcess):
        return Rows(TASK_IDS, lambda: [pa.record_batch([pa.array(tasks, pa.int64())], TASK_IDS)])
    rows = spark.range(0, len(tasks), 1, max(len(tasks), 1))
    same = list(tasks) == list(range(len(tasks)))
    return rows if same else map_batches(rows, partial(_renumber, list(tasks)), TASK_IDS)


def read_task_ids(batches: Iterable[pa.RecordBatch]) -> Iterator[int]:
    """The ids in a Spark task's rows of `task_ids`."""
    prepare_next_task()
    for batch in batches:
        yield from batch["id"].to_pylist()


def _renumber(tasks: list[int], batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for number in read_task_ids(batches):
        yield pa.RecordBatch.from_pydict({"id": pa.array([tasks[number]], pa.int64())})


def shuffle_by_bucket(blocks: Any, partitions: int) -> Any:
    """Shuffle the blocks of a Frame to the partition of their bucket, sorted by bucket; ``partitions``: that of
    `Buckets`."""
    return to_partitions(blocks, partitions).sortWithinPartitions("bucket")


def to_partitions(rows: Any, partitions: int) -> Any:
    """The rows of a Frame, each in the partition that its column ``partition`` names."""
    return rows if isinstance(rows, Rows) else rows.repartitionById(partitions, "partition")


def read_blocks(batches: Iterable[pa.RecordBatch]) -> Iterator[tuple[int, list[pa.RecordBatch]]]:
    """(bucket, its blocks as SIDE_OUTPUTS in any order) of a shuffle partition; NO_BUCKET, if any, is first."""
    prepare_next_task()
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
            block = batch.slice(start, end - start)
            waiting.append(pa.RecordBatch.from_arrays([block["kind"], block["content"]], schema=SIDE_OUTPUTS))
    if waiting:
        yield bucket, waiting


def read_tables(blocks: Sequence[pa.RecordBatch] | pa.Table) -> Iterator[tuple[str, pa.Table]]:
    """(kind, table) of every row of SIDE_OUTPUTS."""
    for block in blocks.to_batches() if isinstance(blocks, pa.Table) else blocks:
        for kind, stream in zip(block["kind"].to_pylist(), block["content"], strict=True):
            yield kind, from_stream(stream.as_buffer())


def spark_schema(schema: pa.Schema) -> StructType:
    """The schema in Spark's types, every column nullable."""
    from pyspark.sql.pandas.types import from_arrow_schema

    return from_arrow_schema(pa.schema([field.with_nullable(True) for field in schema]))


def to_stream(table: pa.Table | pa.RecordBatch) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=_COMPRESSED) as writer:
        writer.write(table)
    return bytes(sink.getvalue())


def from_stream(stream: Any) -> pa.Table:
    return pa.ipc.open_stream(stream).read_all()
