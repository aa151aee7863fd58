"""Runs a step's worker functions in this process, for nights so small that starting Java would take longer.

`InProcess` stands for a Spark session, and `Rows` for a DataFrame, where steps ask for little: `map_batches`,
`task_ids` and `shuffle_by_bucket` of `iotid.spark.shuffle`, broadcasts, and reading stored files. Its tables have one
partition, so a shuffle moves nothing. Methods have the names and the meaning of Spark's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    from typing import TypeAlias

    from pyspark import Broadcast as SparkBroadcast
    from pyspark.sql import DataFrame, SparkSession

    Session: TypeAlias = "SparkSession | InProcess"
    Frame: TypeAlias = "DataFrame | Rows"

T = TypeVar("T")
if TYPE_CHECKING:
    Broadcast: TypeAlias = "SparkBroadcast[T] | Value[T]"
Work = Callable[[Iterable[pa.RecordBatch]], Iterable[pa.RecordBatch]]

_COMPARE = {"=": pc.equal, ">=": pc.greater_equal}
_is_running: ContextVar[bool] = ContextVar("_is_running", default=False)


@dataclass(frozen=True)
class Value(Generic[T]):
    """A broadcast."""

    value: T


class InProcess:
    """A session without Java: one partition, one thread."""

    master = "local"

    @property
    def sparkContext(self) -> InProcess:  # noqa: N802 - Spark's names, here and below
        return self

    def broadcast(self, value: T) -> Value[T]:
        return Value(value)

    def setJobDescription(self, description: str) -> None:  # noqa: N802
        """Nobody can look at the jobs of this process."""


def is_in_process() -> bool:
    """Whether the caller is work of `Rows.map_batches`, also within a task of Spark."""
    return _is_running.get()


class Rows:
    """A table that each use computes again, unless it is persisted."""

    def __init__(self, schema: pa.Schema, make: Callable[[], Iterable[pa.RecordBatch]]) -> None:
        self._schema, self._make = schema, make
        self._kept: list[pa.RecordBatch] | None = None
        self._is_persisted = False

    def _batches(self) -> Iterable[pa.RecordBatch]:
        if self._kept is not None:
            return self._kept
        if not self._is_persisted:
            return self._make()
        self._kept = list(self._make())
        return self._kept

    def map_batches(self, work: Work, schema: pa.Schema) -> Rows:
        """The batches that ``work`` makes of this table's."""

        def make() -> Iterator[pa.RecordBatch]:
            with _running():
                yield from work(iter(self._batches()))

        return Rows(schema, make)

    def where(self, condition: str) -> Rows:
        """``condition``: ``COLUMN = INTEGER`` or ``COLUMN >= INTEGER``."""
        column, how, number = condition.split()
        compare, value = _COMPARE[how], int(number)
        return Rows(self._schema, lambda: (each.filter(compare(each[column], value)) for each in self._batches()))

    def select(self, *names: str) -> Rows:
        schema = pa.schema([self._schema.field(name) for name in names])
        return Rows(schema, lambda: (each.select(list(names)) for each in self._batches()))

    def distinct(self) -> Rows:
        return Rows(self._schema, lambda: self.toArrow().group_by(self._schema.names).aggregate([]).to_batches())

    def with_constants(self, values: Mapping[str, pa.Scalar]) -> Rows:
        """The table with a column for each value, the same in every row."""
        schema = pa.schema([*self._schema, *(pa.field(name, value.type) for name, value in values.items())])

        def make() -> Iterator[pa.RecordBatch]:
            for batch in self._batches():
                more = [pa.repeat(value, batch.num_rows) for value in values.values()]
                yield pa.RecordBatch.from_arrays([*batch.columns, *more], schema=schema)

        return Rows(schema, make)

    def sortWithinPartitions(self, *columns: str) -> Rows:  # noqa: N802
        order = [(column, "ascending") for column in columns]
        return Rows(self._schema, lambda: self.toArrow().sort_by(order).to_batches())

    def unionByName(self, other: Rows) -> Rows:  # noqa: N802
        def make() -> Iterator[pa.RecordBatch]:
            yield from self._batches()
            for batch in other._batches():
                yield batch.select(self._schema.names)

        return Rows(self._schema, make)

    unionAll = unionByName  # noqa: N815

    def persist(self, *_: object) -> Rows:
        self._is_persisted = True
        return self

    def unpersist(self) -> None:
        self._is_persisted, self._kept = False, None

    def toArrow(self) -> pa.Table:  # noqa: N802
        return pa.Table.from_batches(list(self._batches()), self._schema)


@contextmanager
def _running() -> Iterator[None]:
    token = _is_running.set(True)
    try:
        yield
    finally:
        _is_running.reset(token)
