"""Shuffle blocks: every row arrives once, in its bucket, whatever the number of partitions."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Iterator
from functools import partial
from hashlib import shake_256
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iotid.dataset.hashes import hash_for_buckets, hash_rows
from iotid.spark.shuffle import (
    NO_BUCKET,
    SHUFFLE_BLOCKS,
    SIDE_OUTPUTS,
    Buckets,
    derive_partitions,
    for_all_cores,
    partitions_for,
    partitions_of,
    read_blocks,
    read_tables,
    read_task_ids,
    shuffle_blocks,
    shuffle_by_bucket,
    side_output,
    spark_schema,
    sql_partitions,
    task_ids,
    with_bucket,
)

SECRET = b"of these tests"
_WORD = (1 << 64) - 1

_ON_A_CLUSTER = pytest.mark.parametrize("plain_spark", ["cluster"], indirect=True)


def _rows(start: int, count: int) -> tuple[pa.RecordBatch, Any]:
    number_N = np.arange(start, start + count)
    text = pa.array([None if number % 7 == 0 else "x" * (number % 5) for number in number_N.tolist()], pa.string())
    return pa.RecordBatch.from_arrays([pa.array(number_N), text], names=["number", "text"]), number_N


@settings(deadline=None)  # many partitions take their time, once
@given(counts=st.lists(st.integers(0, 200), max_size=4), partitions=st.sampled_from([1, 2, 3, 64, 65, 5000]))
def test_read_blocks__gives_each_bucket_once_with_all_its_rows(counts: list[int], partitions: int) -> None:
    buckets = Buckets(partitions, SECRET)
    sent, start = [with_bucket(side_output("counts", pa.table({"a": [1]})))], 0
    for count in counts:
        rows, number_N = _rows(start, count)
        sent.append(shuffle_blocks(rows, buckets.hashed([number_N]), buckets))
        start += count
    table = pa.Table.from_batches(sent).sort_by("bucket")
    received = list(read_blocks(table.to_batches(max_chunksize=3)))
    order = [bucket for bucket, _ in received]
    assert order == sorted(set(order))
    assert order[0] == NO_BUCKET
    assert order[-1] < buckets.number
    assert [(kind, found.to_pylist()) for kind, found in read_tables(received[0][1])] == [("counts", [{"a": 1}])]
    tables = [found for _, blocks in received[1:] for _, found in read_tables(blocks)]
    numbers_received = [number for found in tables for number in found["number"].to_pylist()]
    assert sorted(numbers_received) == list(range(start))
    for bucket, blocks in received[1:]:
        for _, found in read_tables(blocks):
            assert set(buckets.of_hash(buckets.hashed([found["number"].to_numpy()])).tolist()) == {bucket}
            expected = ["x" * (number % 5) if number % 7 else None for number in found["number"].to_pylist()]
            assert found["text"].to_pylist() == expected


def _undoes_a_step(count: int) -> list[Any]:
    """Words that are equal to a hash of multiplications and xor-shifts without a secret: each undoes the one before."""
    first_N = np.arange(1, count + 1).astype(np.uint64)
    mixed_N = first_N * np.uint64(0xBF58476D1CE4E5B9)
    return [first_N, mixed_N ^ mixed_N >> np.uint64(29)]


def _chosen_under_another_secret(count: int) -> list[Any]:
    """Words that are all in one bucket of another job."""
    number_N = np.arange(count * 200, dtype=np.uint64)
    other = Buckets(8, b"another")
    chosen_N = np.flatnonzero(other.of_hash(other.hashed([number_N, number_N])) == 3)[:count]
    assert len(chosen_N) == count
    return [number_N[chosen_N]] * 2


WORDS = {
    "undoes a step": _undoes_a_step,
    "another secret": _chosen_under_another_secret,
    "neighbours": lambda count: [np.arange(count) % 64, np.arange(count) // 64],
    "halves swapped": lambda count: [np.arange(count), np.arange(count) << 32],
    "high bits": lambda count: [np.arange(count) << 48, np.arange(count) * 0],
    "one and its opposite": lambda count: [np.arange(count), -np.arange(count)],
}


@pytest.mark.parametrize("kind", WORDS)
@pytest.mark.parametrize("secret", range(3))
def test_hashed__chosen_words_spread_over_the_buckets_as_any_others(kind: str, secret: int) -> None:
    buckets, count = Buckets(8, bytes([secret])), 4096
    bucket_N = buckets.of_hash(buckets.hashed(WORDS[kind](count)))
    of_bucket = np.bincount(bucket_N, minlength=buckets.number)
    assert len(of_bucket) == buckets.number == 64
    assert of_bucket.max() < 112, "beyond 5 standard deviations of a uniform hash, whose mean is 64"
    assert (of_bucket > 0).all()


@settings(deadline=None)
@given(
    pairs=st.lists(st.tuples(st.integers(0, _WORD), st.integers(0, _WORD)), min_size=1, max_size=40),
    secrets=st.lists(st.binary(min_size=32, max_size=32), min_size=2, max_size=2, unique=True),
)
def test_hashed__depends_on_the_row_and_the_secret_alone(pairs: list[tuple[int, int]], secrets: list[bytes]) -> None:
    words = list(np.array(pairs, np.uint64).T)
    one, other = (Buckets(4, secret) for secret in secrets)
    hash_N = one.hashed(words)
    assert Buckets(7, secrets[0]).hashed([word_N[::-1] for word_N in words])[::-1].tolist() == hash_N.tolist()
    assert int(hash_N.max()) < 1 << 32
    assert other.hashed(words).tolist() != hash_N.tolist() or len(set(pairs)) < 2
    assert words[0].tolist() == [pair[0] for pair in pairs], "the words are the caller's"


def test_hashed__in_blocks_or_row_by_row_is_the_written_formula() -> None:
    word_N = np.random.default_rng(1).integers(0, _WORD, (3, 20_001), np.uint64)
    buckets = Buckets(8, SECRET)
    hash_N = buckets.hashed(word_N)
    assert len(np.unique(hash_N)) > 19_990
    first, *others = (int(n) for n in np.frombuffer(shake_256(SECRET).digest(56), "<u8"))
    for row in (0, 8191, 8192, 20_000):
        mixed = first
        for word, low, high in zip(word_N[:, row].tolist(), others[::2], others[1::2], strict=True):
            mixed += (word & 0xFFFFFFFF) * low + (word >> 32) * high
        mixed = (mixed & _WORD) >> 32
        mixed = (mixed ^ mixed >> 16) * 0x85EBCA6B & 0xFFFFFFFF
        mixed = (mixed ^ mixed >> 13) * 0xC2B2AE35 & 0xFFFFFFFF
        assert int(hash_N[row]) == mixed ^ mixed >> 16
        assert buckets.hashed(word_N[:, row : row + 1]).tolist() == [hash_N[row]]


@_ON_A_CLUSTER
def test_buckets__each_job_has_a_secret_of_its_own_that_is_not_shown(plain_spark: Any) -> None:
    one, other = (Buckets.of(plain_spark(partitions=5), 1) for _ in range(2))
    assert one.partitions == other.partitions == 5
    assert len(one.secret) == 32
    assert one.secret != other.secret
    assert one != other
    for text in (repr(one), str(one), f"{one}", repr(partial(_send, buckets=one)), repr([one])):
        assert "secret" not in text
        assert repr(one.secret) not in text
    assert pickle.loads(pickle.dumps(one)) == one


GB = 1_000_000_000


@pytest.mark.parametrize(
    ("num_bytes", "cores", "partitions"),
    [
        (0, 2, 1), (1, 64, 1), (32 << 20, 2, 1), ((32 << 20) + 1, 2, 2), (GB // 4, 4, 4), (GB // 4, 64, 8),
        (GB, 2, 2), (4 * GB, 2, 8), (16 * GB, 2, 30), (32 * GB, 2, 60), (32 * GB, 7, 63), (32 * GB, 400, 400),
        (300 * GB, 400, 800),
    ],
)  # fmt: skip
def test_derive_partitions__few_for_little_a_multiple_of_the_cores_for_much(
    num_bytes: int, cores: int, partitions: int
) -> None:
    assert derive_partitions(num_bytes, cores) == partitions


@given(num_bytes=st.integers(0, 100 << 40), cores=st.integers(1, 1000))
def test_derive_partitions__none_is_above_its_limit_nor_too_small_for_a_task(num_bytes: int, cores: int) -> None:
    partitions = derive_partitions(num_bytes, cores)
    assert num_bytes / partitions <= 512 << 20
    assert partitions == 1 or num_bytes / partitions > 16 << 20
    assert partitions <= cores or partitions % cores == 0
    assert derive_partitions(num_bytes + GB, cores) >= partitions


@pytest.mark.parametrize("gigabytes", [1, 4, 16, 32, 60])
def test_buckets__hold_at_most_64_mib_of_captures_up_to_64_gb(gigabytes: int) -> None:
    buckets = Buckets(derive_partitions(gigabytes * GB, 2), SECRET)
    assert 16 << 20 < gigabytes * GB / buckets.number <= 64 << 20


@_ON_A_CLUSTER
def test_partitions_for__follows_the_size_unless_the_session_has_a_number(plain_spark: Any) -> None:
    given_number, derived = plain_spark(partitions=5), plain_spark(partitions=8, derived=True)
    assert [partitions_for(given_number, size) for size in (0, 4 * GB)] == [5, 5]
    assert partitions_of(given_number) == 5
    assert [partitions_for(derived, size) for size in (0, 4 * GB)] == [1, 8]
    assert partitions_of(derived) == 4, "two for each of its two cores"
    assert Buckets.of(derived, 16 * GB).partitions == 30
    assert [for_all_cores(spark, 1) for spark in (given_number, derived)] == [1, 2]
    assert for_all_cores(derived, 30) == 30


@_ON_A_CLUSTER
def test_sql_partitions__are_set_for_the_jobs_within_it_alone(plain_spark: Any) -> None:
    spark, name = plain_spark(partitions=8, derived=True), "spark.sql.shuffle.partitions"
    with pytest.raises(KeyError), sql_partitions(spark, 40):  # noqa: PT012  # that it was set within is the point
        assert spark.conf.get(name) == "40"
        raise KeyError
    assert spark.conf.get(name) == "8"


def test_hash_for_buckets__text_that_is_chosen_for_a_public_hash_spreads() -> None:
    text = np.array([f"{number:x}" for number in range(200_000)])
    hash_N = hash_rows([pa.array(text)])
    chosen = text[np.argsort(hash_N)[:2000]]  # the lowest hundredth of all hashes
    of_bucket = []
    for secret in (b"one", b"other"):
        buckets = Buckets(1, secret)
        for column in (pa.array(chosen), pa.array(chosen.astype(bytes), pa.binary())):
            of_bucket.append(np.bincount(buckets.of_hash(hash_for_buckets([column], buckets)), minlength=8))
    assert max(counts.max() for counts in of_bucket) < 345, "250 each, and 6 standard deviations"
    assert of_bucket[0].tolist() != of_bucket[2].tolist()


def _send(tasks: Iterable[pa.RecordBatch], buckets: Buckets) -> Iterator[pa.RecordBatch]:
    for task in read_task_ids(tasks):
        rows, number_N = _rows(1000 * task, 1000)
        yield shuffle_blocks(rows, buckets.hashed([number_N]), buckets)


def _report_partition(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    from pyspark import TaskContext

    where = TaskContext.get().partitionId()  # type: ignore[union-attr]
    for bucket, blocks in read_blocks(batches):
        found = [number for _, table in read_tables(blocks) for number in table["number"].to_pylist()]
        yield side_output("where", pa.table({"partition": [where], "bucket": [bucket], "numbers": [found]}))


@pytest.mark.spark
@pytest.mark.parametrize("partitions", [3, 8])
def test_exchange__each_partition_has_its_own_range_of_equally_many_buckets(spark: Any, partitions: int) -> None:
    buckets = Buckets(partitions, SECRET)
    sent = task_ids(spark, [4, 0, 7]).mapInArrow(partial(_send, buckets=buckets), spark_schema(SHUFFLE_BLOCKS))
    outputs = shuffle_by_bucket(sent, partitions).mapInArrow(_report_partition, spark_schema(SIDE_OUTPUTS)).toArrow()
    rows = [row for _, table in read_tables(outputs) for row in table.to_pylist()]
    assert [row["bucket"] for row in rows] == sorted({row["bucket"] for row in rows})
    assert {row["bucket"] // buckets.each == row["partition"] for row in rows} == {True}
    expected = [1000 * task + number for task in (0, 4, 7) for number in range(1000)]
    assert sorted(number for row in rows for number in row["numbers"]) == expected
