"""As much of Spark as `iotid.dataset.write` asks of it, in this process: partitions are lists of batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyspark
import pytest
from pyspark.sql.pandas.types import to_arrow_schema

Partitions = list[list[pa.RecordBatch]]


class PlainSpark:
    """A session. ``batch_rows`` of a shuffle come together to a worker."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, partitions: int = 3, batch_rows: int = 2) -> None:
        self.conf = SimpleNamespace(get=lambda name: {"spark.sql.shuffle.partitions": str(partitions)}[name])
        self.batch_rows = batch_rows
        self.task = 0
        context = SimpleNamespace(partitionId=lambda: self.task, taskAttemptId=lambda: 7)
        monkeypatch.setattr(pyspark.TaskContext, "get", lambda: context)

    def range(self, start: int, end: int, step: int, partitions: int) -> Frame:
        ids = np.array_split(np.arange(start, end, step), partitions)
        schema = pa.schema({"id": pa.int64()})
        return Frame(self, schema, lambda: [[pa.record_batch([pa.array(own)], schema)] for own in ids])


class Frame:
    """A lazy table: made anew by every job that asks for it, unless it is kept."""

    def __init__(self, spark: PlainSpark, schema: pa.Schema, make: Callable[[], Partitions]) -> None:
        self._spark, self._schema, self._make = spark, schema, make
        self._kept: Partitions | None = None
        self._keeps = False

    def _partitions(self) -> Partitions:
        made = self._kept if self._kept is not None else self._make()
        self._kept = made if self._keeps else None
        return made

    def _next(self, schema: pa.Schema, change: Callable[[list[pa.RecordBatch]], Iterable[pa.RecordBatch]]) -> Frame:
        def make() -> Partitions:
            made = []
            for number, own in enumerate(self._partitions()):
                self._spark.task = number
                made.append(list(change(own)))
            return made

        return Frame(self._spark, schema, make)

    def mapInArrow(self, work: Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]], schema: Any) -> Frame:
        told = to_arrow_schema(schema)

        def run(own: list[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            for batch in work(iter(own)):
                assert batch.schema.names == told.names
                yield batch

        return self._next(told, run)

    def repartitionById(self, partitions: int, column: str) -> Frame:
        def make() -> Partitions:
            rows = pa.Table.from_batches([batch for own in self._partitions() for batch in own], self._schema)
            return [rows.filter(pc.equal(rows[column], number)).to_batches() for number in range(partitions)]

        return Frame(self._spark, self._schema, make)

    def sortWithinPartitions(self, column: str) -> Frame:
        def ordered(own: list[pa.RecordBatch]) -> list[pa.RecordBatch]:
            rows = pa.Table.from_batches(own, self._schema).sort_by(column).combine_chunks()
            return rows.to_batches(max_chunksize=self._spark.batch_rows)

        return self._next(self._schema, ordered)

    def where(self, condition: str) -> Frame:
        column, equals, number = condition.split()
        assert equals == "="
        return self._next(self._schema, lambda own: [each.filter(pc.equal(each[column], int(number))) for each in own])

    def select(self, names: list[str]) -> Frame:
        return self._next(
            pa.schema([self._schema.field(name) for name in names]), lambda own: [b.select(names) for b in own]
        )

    def persist(self, level: object) -> Frame:
        self._keeps = True
        return self

    def unpersist(self) -> None:
        self._keeps, self._kept = False, None

    def toArrow(self) -> pa.Table:
        return pa.Table.from_batches([batch for own in self._partitions() for batch in own], self._schema)
