"""Parcels: every row arrives once, in its bucket, whatever the number of partitions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iotid.shuffle import (
    ASIDES,
    NO_BUCKET,
    PARCELS,
    aside,
    beside,
    buckets_of,
    contents,
    mix,
    numbered,
    numbers,
    parcels,
    receive,
    spark_schema,
    spread,
)


def _rows(start: int, count: int) -> tuple[pa.RecordBatch, Any]:
    number_N = np.arange(start, start + count)
    text = pa.array([None if number % 7 == 0 else "x" * (number % 5) for number in number_N.tolist()], pa.string())
    return pa.RecordBatch.from_arrays([pa.array(number_N), text], names=["number", "text"]), mix([number_N])


@settings(deadline=None)  # many partitions take their time, once
@given(counts=st.lists(st.integers(0, 200), max_size=4), partitions=st.sampled_from([1, 2, 3, 64, 65, 5000]))
def test_receive__gives_each_bucket_once_with_all_its_rows(counts: list[int], partitions: int) -> None:
    sent, start = [beside(aside("told", pa.table({"a": [1]})))], 0
    for count in counts:
        rows, hash_N = _rows(start, count)
        sent.append(parcels(rows, hash_N, partitions))
        start += count
    table = pa.Table.from_batches(sent).sort_by("bucket")
    received = list(receive(table.to_batches(max_chunksize=3)))
    buckets = [bucket for bucket, _ in received]
    assert buckets == sorted(set(buckets))
    assert buckets[0] == NO_BUCKET
    assert buckets[-1] < buckets_of(partitions)
    assert [(kind, found.to_pylist()) for kind, found in contents(received[0][1])] == [("told", [{"a": 1}])]
    tables = [found for _, pieces in received[1:] for _, found in contents(pieces)]
    numbers_received = [number for found in tables for number in found["number"].to_pylist()]
    assert sorted(numbers_received) == list(range(start))
    for bucket, pieces in received[1:]:
        for _, found in contents(pieces):
            hash_N = mix([found["number"].to_numpy()]) >> np.uint64(32)
            assert set(((hash_N * np.uint64(buckets_of(partitions))) >> np.uint64(32)).tolist()) == {bucket}
            expected = ["x" * (number % 5) if number % 7 else None for number in found["number"].to_pylist()]
            assert found["text"].to_pylist() == expected


def test_mix__spreads_neighbours_and_depends_on_every_word_and_the_seed() -> None:
    number_N = np.arange(1, 100_001)
    hash_N = mix([number_N, number_N])
    assert len(np.unique(hash_N)) == len(hash_N)
    shares = np.bincount((hash_N >> np.uint64(60)).astype(np.int64), minlength=16) / len(hash_N)
    assert np.abs(shares - 1 / 16).max() < 0.005
    assert not (mix([number_N, number_N * 0]) == hash_N).any()
    assert not (mix([number_N, number_N], seed=1) == hash_N).any()


def _send(tasks: Iterable[pa.RecordBatch], partitions: int) -> Iterator[pa.RecordBatch]:
    for task in numbers(tasks):
        rows, hash_N = _rows(1000 * task, 1000)
        yield parcels(rows, hash_N, partitions)


def _say_where(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    from pyspark import TaskContext

    where = TaskContext.get().partitionId()  # type: ignore[union-attr]
    for bucket, pieces in receive(batches):
        found = [number for _, table in contents(pieces) for number in table["number"].to_pylist()]
        yield aside("where", pa.table({"partition": [where], "bucket": [bucket], "numbers": [found]}))


@pytest.mark.spark
@pytest.mark.parametrize("partitions", [3, 8])
def test_spread__a_partition_has_a_range_of_buckets_of_its_own_and_all_have_as_many(
    spark: Any, partitions: int
) -> None:
    sent = numbered(spark, [4, 0, 7]).mapInArrow(partial(_send, partitions=partitions), spark_schema(PARCELS))
    told = spread(sent, partitions).mapInArrow(_say_where, spark_schema(ASIDES)).toArrow()
    rows = [row for _, table in contents(told) for row in table.to_pylist()]
    each = buckets_of(partitions) // partitions
    assert [row["bucket"] for row in rows] == sorted({row["bucket"] for row in rows})
    assert {row["bucket"] // each == row["partition"] for row in rows} == {True}
    expected = [1000 * task + number for task in (0, 4, 7) for number in range(1000)]
    assert sorted(number for row in rows for number in row["numbers"]) == expected
