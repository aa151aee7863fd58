"""Second pass over the flows, in workers: rows, vocabulary counts, sets and files of each split.

Equal rows are merged in the worker that read them, then in their bucket. When all are counted, each worker writes the
rows of its buckets.

Shape suffixes: N flows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from iotid import config
from iotid.dataset.characteristics import Encoding
from iotid.dataset.hashes import hash_for_buckets
from iotid.dataset.label_flows import Source
from iotid.dataset.packed_sequences import unpack_sequences
from iotid.dataset.set_tasks import SetBuffer
from iotid.dataset.side_outputs import ROWS, VALUES, table_schema
from iotid.dataset.split_protocols import CAPTURE_IDENTITY, DATASET_SPLITS, SplitAssignment, columns_read
from iotid.dataset.store import WEIGHT, split_schema
from iotid.spark.shuffle import (
    NO_BUCKET,
    Buckets,
    local_block,
    read_blocks,
    read_tables,
    read_task_ids,
    running_task,
    shuffle_blocks,
    side_output,
    with_bucket,
)
from iotid.storage import OutputFile

_ROW = pa.schema(
    [
        pa.field("split", pa.int8()),
        pa.field("label", pa.int32()),
        pa.field("hash", pa.uint64()),
        pa.field("sequences", pa.binary()),
        pa.field(WEIGHT, pa.int64()),
    ]
)
_HELD_ROWS = 1 << 18  # rows that a task buffers before it sends them


def partition_rows(
    tasks: Iterable[pa.RecordBatch],
    source: Source,
    assignment: SplitAssignment,
    labels: Sequence[str],
    buckets: Buckets,
) -> Iterator[pa.RecordBatch]:
    """SHUFFLE_BLOCKS of the rows with one of ``labels``, counts of each value in training, and sets.

    With ``settings.unique``, equal (split, label, sequences) in the buffer are one row.
    """
    index = {name: number for number, name in enumerate(labels)}
    label_of = np.array([index.get(name, -1) for name in source.labels], np.int32)
    columns = [*columns_read(source.settings.protocol), *CAPTURE_IDENTITY, "last_seen"]
    columns += source.sequence_columns
    for number in read_task_ids(tasks):
        rows = _RowBuffer(source.settings, buckets)
        sets = SetBuffer(source, source.files[number].site)
        for read, read_N, device_N, unlisted in source.read(number, columns, Counter()):
            kept_N = label_of[read_N] >= 0
            flows, label_N = read.filter(pa.array(kept_N)), read_N[kept_N]
            packed = source.packed(flows)
            split_N = assignment.splits_of(label_N, source.positions(flows, label_N, packed))
            sets.add(flows, packed, split_N == DATASET_SPLITS.index("test"), label_of[label_N], device_N[kept_N])
            sets.add_unlisted(unlisted)
            yield from rows.add(split_N, label_of[label_N], packed)
        yield from rows.send()
        for kind, table in sets.tables():
            yield with_bucket(side_output(kind, table))
        yield with_bucket(side_output(VALUES, rows.seen()))


class _RowBuffer:
    """Buffer for the rows of a task."""

    def __init__(self, settings: config.Dataset, buckets: Buckets) -> None:
        self._settings = settings
        self._buckets = buckets
        self._rows: list[pa.Table] = []
        self._seen: dict[str, Counter[int]] = {name: Counter() for name in settings.characteristics}

    def add(
        self, split_N: NDArray[np.int8], label_N: NDArray[np.int32], packed: pa.BinaryArray
    ) -> Iterator[pa.RecordBatch]:
        ones = np.ones(len(packed), np.int64)
        names = ["split", "label", "sequences", WEIGHT]
        rows = pa.table([pa.array(split_N), pa.array(label_N), packed, pa.array(ones)], names=names)
        self._rows.append(_distinct(rows) if self._settings.unique else rows)
        if sum(map(len, self._rows)) > _HELD_ROWS:
            if self._settings.unique:
                self._rows = [_distinct(pa.concat_tables(self._rows))]
            if not self._settings.unique or len(self._rows[0]) > _HELD_ROWS // 2:
                yield from self.send()

    def send(self) -> Iterator[pa.RecordBatch]:
        if not self._rows:
            return
        rows = pa.concat_tables(self._rows)
        rows = (_distinct(rows) if self._settings.unique else rows).combine_chunks()
        self._rows = []
        for batch in rows.to_batches():
            self._see(batch.filter(pc.equal(batch["split"], DATASET_SPLITS.index("train"))))
            hash_N = hash_for_buckets([batch["sequences"], batch["label"]], self._buckets)
            columns = {**{name: batch[name] for name in batch.schema.names}, "hash": pa.array(hash_N)}
            batch_of_rows = pa.RecordBatch.from_arrays([columns[name] for name in _ROW.names], schema=_ROW)
            yield shuffle_blocks(batch_of_rows, hash_N, self._buckets)

    def _see(self, rows: pa.RecordBatch) -> None:
        flows_N = rows[WEIGHT].to_numpy()
        for seen, lists in zip(self._seen.values(), unpack_sequences(rows["sequences"], len(self._seen)), strict=True):
            weight = np.repeat(flows_N, np.diff(lists.offsets.to_numpy()))
            values, index = np.unique(lists.values.to_numpy(), return_inverse=True)
            times = np.bincount(index, weights=weight, minlength=len(values)).astype(np.int64)
            seen.update(dict(zip(values.tolist(), times.tolist(), strict=True)))

    def seen(self) -> pa.Table:
        rows = [
            {"name": name, "value": value, "seen": times}
            for name, seen in self._seen.items()
            for value, times in seen.items()
        ]
        return pa.Table.from_pylist(rows, table_schema("name string, value int64, seen int64"))


def _distinct(rows: pa.Table) -> pa.Table:
    """Merge equal rows and sum their weights."""
    keys = [name for name in rows.schema.names if name != WEIGHT]
    summed = rows.group_by(keys, use_threads=False).aggregate([(WEIGHT, "sum")])
    return summed.rename_columns([name.removesuffix("_sum") for name in summed.schema.names]).select(rows.schema.names)


def merge_buckets(batches: Iterable[pa.RecordBatch], unique: bool) -> Iterator[pa.RecordBatch]:
    """SHUFFLE_BLOCKS: one for each bucket, its rows sorted by split and hash; and their counts."""
    partition, _ = running_task()
    for bucket, blocks in read_blocks(batches):
        if bucket == NO_BUCKET:
            yield from map(with_bucket, blocks)
            continue
        rows = pa.concat_tables([table for _, table in read_tables(blocks)]).combine_chunks()
        rows = _distinct(rows) if unique else rows
        rows = rows.take(pa.array(np.lexsort((rows["hash"].to_numpy(), rows["split"].to_numpy()))))
        counted = rows.group_by(["split", "label"], use_threads=False).aggregate([(WEIGHT, "count"), (WEIGHT, "sum")])
        where = pa.array(np.full(len(counted), partition, np.int32))
        yield with_bucket(side_output(ROWS, counted.append_column("partition", where)))
        yield local_block(bucket, rows)


def write_files(
    batches: Iterable[pa.RecordBatch], folder: str, encoding: Encoding, group_rows: Sequence[Mapping[str, int]]
) -> Iterator[pa.RecordBatch]:
    """Write a file of each split for a shuffle partition; ``group_rows``: rows per group, by partition and split."""
    partition, attempt = running_task()
    schema = split_schema(encoding)
    name, own = f"part-{partition:05}.parquet", group_rows[partition]
    files = {split: OutputFile(f"{folder}/{split}", name, attempt, schema, size) for split, size in own.items()}
    whole = False
    try:
        for bucket, blocks in read_blocks(batches):
            if bucket == NO_BUCKET:
                continue
            for _, rows in read_tables(blocks):
                for number, split in enumerate(DATASET_SPLITS):
                    of_split = rows.filter(pc.equal(rows["split"], number))
                    if len(of_split):
                        files[split].write(_encoded(of_split, encoding, schema))
        whole = True
    finally:
        for file in files.values():
            file.close(whole=whole)
    yield from ()


def _encoded(rows: pa.Table, encoding: Encoding, schema: pa.Schema) -> pa.Table:
    lists = unpack_sequences(rows["sequences"].combine_chunks(), len(encoding.columns))
    ids = encoding.encode(pa.RecordBatch.from_arrays(lists, names=list(encoding.columns)))
    offsets = pa.array(np.arange(len(rows) + 1, dtype=np.int32) * encoding.max_packets)
    sequences = [
        pa.ListArray.from_arrays(offsets, pa.array(ids_NM.ravel()), type=schema.field(0).type)
        for ids_NM in ids.values()
    ]
    return pa.Table.from_arrays([*sequences, rows["label"], rows[WEIGHT].cast(pa.int32())], schema=schema)
