"""What the jobs use of Spark, in this process: partitions are lists of batches."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pyspark
import pytest
from pyspark.sql import functions
from pyspark.sql.pandas.types import from_arrow_schema, to_arrow_schema
from pyspark.sql.types import StructType

from iotid.spark.session import DERIVED

Partitions = list[list[pa.RecordBatch]]

_COMPARE = {"=": pc.equal, ">=": pc.greater_equal}


class PlainSpark:
    """A session of a cluster. A worker gets ``batch_rows`` rows of a shuffle at a time.

    ``derived``: the number of partitions is not set, so that jobs derive it.
    """

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, partitions: int = 3, batch_rows: int = 2, *, derived: bool = False
    ) -> None:
        given = {"spark.sql.shuffle.partitions": str(partitions)} | ({DERIVED: "true"} if derived else {})
        self.conf = SimpleNamespace(get=given.get, set=given.__setitem__)
        self.batch_rows = batch_rows
        self.task = 0
        self.described: list[str] = []  # jobs
        self.sparkContext = SimpleNamespace(
            master="spark://elsewhere:7077",
            defaultParallelism=2,
            setJobDescription=self.described.append,
            broadcast=lambda value: SimpleNamespace(value=value),
            parallelize=lambda items, partitions: _Items(items),
        )
        context = SimpleNamespace(partitionId=lambda: self.task, taskAttemptId=lambda: 7)
        monkeypatch.setattr(pyspark.TaskContext, "get", lambda: context)
        monkeypatch.setattr(functions, "lit", lambda value: value)

    def range(self, start: int, end: int, step: int, partitions: int) -> Frame:
        ids = np.array_split(np.arange(start, end, step), partitions)
        schema = pa.schema({"id": pa.int64()})
        return Frame(self, schema, lambda: [[pa.record_batch([pa.array(own)], schema)] for own in ids])

    @property
    def read(self) -> SimpleNamespace:
        """``read.schema(…).parquet(folder)``: a partition for each file that is not hidden."""

        def parquet(pattern: str, schema: pa.Schema) -> Frame:
            folder = Path(re.sub(r"\\(.)", r"\1", pattern))

            def make() -> Partitions:
                files = sorted(path for path in folder.iterdir() if path.is_file() and path.name[0] not in "._")
                tables = [pq.read_table(path, partitioning=None).select(schema.names).cast(schema) for path in files]
                return [table.to_batches(self.batch_rows) for table in tables]

            return Frame(self, schema, make)

        return SimpleNamespace(
            schema=lambda asked: SimpleNamespace(
                parquet=lambda pattern: parquet(pattern, to_arrow_schema(asked, timezone="UTC"))
            )
        )


class _Items:
    """An RDD."""

    def __init__(self, items: Sequence[Any]) -> None:
        self._items = items

    def mapPartitions(self, work: Callable[[Iterator[Any]], Iterable[Any]]) -> _Items:
        return _Items([made for item in self._items for made in work(iter([item]))])

    def collect(self) -> list[Any]:
        return list(self._items)


class Frame:
    """A lazy table: computed by each job that uses it, unless it is persisted."""

    def __init__(self, spark: PlainSpark, schema: pa.Schema, make: Callable[[], Partitions]) -> None:
        self._spark, self._schema, self._make = spark, schema, make
        self._persisted: Partitions | None = None
        self._persists = False

    @property
    def schema(self) -> StructType:
        return from_arrow_schema(self._schema)

    def _partitions(self) -> Partitions:
        made = self._persisted if self._persisted is not None else self._make()
        self._persisted = made if self._persists else None
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
        found = to_arrow_schema(StructType.fromDDL(schema) if isinstance(schema, str) else schema, timezone="UTC")

        def run(own: list[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            for batch in work(iter(own)):
                assert batch.schema.names == found.names
                yield pa.RecordBatch.from_arrays(batch.columns, schema=found)

        return self._next(found, run)

    def repartitionById(self, partitions: int, column: str) -> Frame:
        def make() -> Partitions:
            rows = pa.Table.from_batches([batch for own in self._partitions() for batch in own], self._schema)
            return [rows.filter(pc.equal(rows[column], number)).to_batches() for number in range(partitions)]

        return Frame(self._spark, self._schema, make)

    def sortWithinPartitions(self, *columns: str) -> Frame:
        def ordered(own: list[pa.RecordBatch]) -> list[pa.RecordBatch]:
            rows = pa.Table.from_batches(own, self._schema)
            rows = rows.sort_by([(column, "ascending") for column in columns]).combine_chunks()
            return rows.to_batches(max_chunksize=self._spark.batch_rows)

        return self._next(self._schema, ordered)

    def where(self, condition: str) -> Frame:
        column, how, number = condition.split()
        wanted = pa.scalar(int(number))
        return self._next(self._schema, lambda own: [each.filter(_COMPARE[how](each[column], wanted)) for each in own])

    def select(self, *names: str | list[str]) -> Frame:
        wanted = [name for each in names for name in ([each] if isinstance(each, str) else each)]
        return self._next(
            pa.schema([self._schema.field(name) for name in wanted]), lambda own: [b.select(wanted) for b in own]
        )

    def withColumns(self, values: dict[str, Any]) -> Frame:
        """Each value in every row."""
        scalars = {name: pa.scalar(value) for name, value in values.items()}
        schema = pa.schema([*self._schema, *(pa.field(name, scalar.type) for name, scalar in scalars.items())])

        def add(own: list[pa.RecordBatch]) -> list[pa.RecordBatch]:
            more = [[pa.repeat(scalar, len(batch)) for scalar in scalars.values()] for batch in own]
            return [
                pa.RecordBatch.from_arrays([*batch.columns, *columns], schema=schema)
                for batch, columns in zip(own, more, strict=True)
            ]

        return self._next(schema, add)

    def distinct(self) -> Frame:
        rows = self.toArrow()
        return Frame(self._spark, self._schema, lambda: [rows.group_by(rows.column_names).aggregate([]).to_batches()])

    def unionByName(self, other: Frame) -> Frame:
        assert self._schema.names == other._schema.names
        return Frame(self._spark, self._schema, lambda: [*self._partitions(), *other._partitions()])

    def unionAll(self, other: Frame) -> Frame:
        return self.unionByName(other)

    def persist(self, level: object = None) -> Frame:
        self._persists = True
        return self

    def unpersist(self) -> None:
        self._persists, self._persisted = False, None

    def toArrow(self) -> pa.Table:
        return pa.Table.from_batches([batch for own in self._partitions() for batch in own], self._schema)
