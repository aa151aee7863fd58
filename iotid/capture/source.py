"""``spark.read.format("pcap")``: captures as a DataFrame of schemas.PACKETS, read by many workers.

Registered by `iotid.spark_session`; elsewhere by ``spark.dataSource.register(PcapDataSource)``. Options are the
settings of section ``capture`` (names of ``tunnels`` separated by commas). Select columns by
``.schema("timestamp timestamp, packet_length int")``: Spark does not report to a Python reader which columns a query
uses, so all others are computed unless you do. Spark's reader interface cannot return counters: use the jobs or
`iotid.capture.read_packets` to count the packets that are left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from pydantic import ValidationError
from pyspark.sql.datasource import DataSource, DataSourceReader, InputPartition
from pyspark.sql.types import StructType

from iotid import config
from iotid.capture.counters import Counters
from iotid.capture.file_split import FileSplit
from iotid.capture.packets import to_arrow
from iotid.capture.reader import read_splits
from iotid.capture.splits.discovery import find_captures
from iotid.capture.splits.plan import last_splits, pack_tasks, split_captures, splits_before
from iotid.errors import InputError, SettingError
from iotid.schemas import PACKETS

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["PcapDataSource"]

_BATCH_ROWS = 1 << 16  # per Arrow batch, which the JVM holds in memory


class PcapDataSource(DataSource):
    """Options: ``path`` (set by ``load``) and any setting of config.Capture, such as ``duplicate_window_us``."""

    @classmethod
    def name(cls) -> str:
        return "pcap"

    def schema(self) -> StructType:
        from pyspark.sql.pandas.types import from_arrow_schema

        return from_arrow_schema(PACKETS.arrow_schema())

    def reader(self, schema: StructType) -> DataSourceReader:
        options = dict(self.options)
        single, several = options.pop("path", None), options.pop("paths", "[]")
        locations = [single] if single is not None else json.loads(several)
        if not locations:
            raise InputError('spark.read.format("pcap"): no path is given; use load(path)')
        return _Reader(locations, _settings(options), _columns(schema, self.schema()))


@dataclass
class _Task(InputPartition):
    """The splits of one Spark task, in order, and the captures before them."""

    splits: list[FileSplit]
    before: list[FileSplit]


class _Reader(DataSourceReader):
    def __init__(self, locations: list[str], settings: config.Capture, columns: dict[str, bool]) -> None:
        self._locations = locations
        self._settings = settings
        self._columns = columns

    def partitions(self) -> list[_Task]:
        captures = find_captures(self._locations, self._settings.unreadable).captures
        splits = split_captures(captures, self._settings).splits
        last_of = last_splits(splits)
        tasks = zip(pack_tasks(splits, self._settings), splits, strict=True)
        of_task = [[split for _, split in group] for _, group in groupby(tasks, key=lambda pair: pair[0])]
        return [_Task(own, splits_before(last_of, own[0], self._settings)) for own in of_task]

    def read(self, partition: InputPartition) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa

        assert isinstance(partition, _Task)
        first = partition.splits[0].file_index
        paths = [""] * (partition.splits[-1].file_index - first + 1)  # a capture in quarantine leaves a gap
        for split in partition.splits:
            paths[split.file_index - first] = split.path
        for packets in read_splits(partition.splits, self._settings, Counters(), partition.before):
            packets.file_index[:] -= first
            table = to_arrow(packets, paths, list(self._columns))
            # Spark compares the schemas including nullability
            asked = pa.schema([field.with_nullable(self._columns[field.name]) for field in table.schema])
            yield from table.cast(asked).to_batches(_BATCH_ROWS)


def _columns(asked: StructType, whole: StructType) -> dict[str, bool]:
    """Requested column -> whether it may be null, in the order requested."""
    types = {field.name: field.dataType for field in whole}
    for field in asked:
        if types.get(field.name) != field.dataType:
            known = ", ".join(f"{name} {kind.simpleString()}" for name, kind in types.items())
            raise InputError(
                f'spark.read.format("pcap").schema(…): no column is {field.name} {field.dataType.simpleString()}; '
                f"columns are {known}"
            )
    return {field.name: field.nullable for field in asked}


def _settings(options: dict[str, str]) -> config.Capture:
    """The defaults, overridden by the options, whose names Spark converts to lower case."""
    unknown = sorted(set(options) - set(config.Capture.model_fields))
    if unknown:
        known = ", ".join(config.Capture.model_fields)
        raise SettingError(f'spark.read.format("pcap"): unknown option {unknown[0]}; options are {known}')
    defaults = config.load_settings().capture.model_dump()
    given: dict[str, object] = dict(options)
    if "tunnels" in options:
        given["tunnels"] = [name.strip() for name in options["tunnels"].split(",") if name.strip()]
    try:
        return config.Capture.model_validate({**defaults, **given})
    except ValidationError as fault:
        first = fault.errors()[0]
        raise SettingError(
            f'spark.read.format("pcap"): {first["loc"][0]}: {first["msg"]}, got {first["input"]!r}; see conf/base.yaml'
        ) from None
