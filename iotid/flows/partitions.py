"""Reads partitions of flows, each flow once.

`read_flows` returns a Spark DataFrame; workers that need Arrow columns read `FlowFile`s.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import date
from functools import partial, reduce
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from iotid import schemas
from iotid.schemas.metadata import remedy
from iotid.spark.in_process import InProcess
from iotid.spark.shuffle import map_batches, read_task_ids, spark_schema, task_ids, with_constants
from iotid.storage import (
    SIDE_SUFFIX,
    is_object_store,
    open_filesystem,
    read_table,
    side_name,
    translate_read_errors,
    visible_files,
)  # fmt: skip

if TYPE_CHECKING:
    from iotid.partitions import Partition
    from iotid.schemas.metadata import Flows
    from iotid.spark.in_process import Session

COUNTERS_FILE = f"_counters{SIDE_SUFFIX}"
QUARANTINE_FILE = f"_quarantine{SIDE_SUFFIX}"

IDENTITY_COLUMNS = (
    "protocol", "vlan", "client_ip", "client_port", "server_ip", "server_port", "first_seen", "end_reason",
)  # fmt: skip
"""Columns of FLOWS that `FlowFile.superseded` reads."""

_LATER = pa.schema([(name, pa.string()) for name in ("key", "site", "capture_date")])
_TEXT = ("capture_file", "end_reason", "client_ip", "server_ip", "client_mac", "server_mac")
_BATCH_ROWS = 1 << 16
_SPARK_ROWS = 1 << 13  # of batches that go through the JVM


class FlowFile(NamedTuple):
    """One file of a partition of flows."""

    folder: str
    name: str
    site: str
    capture_date: str

    def read(self, columns: Iterable[str]) -> Iterator[pa.RecordBatch]:
        """Batches with these columns of schemas.FLOWS, site and capture date included; text is dictionary-encoded."""
        wanted = list(columns)
        filesystem, folder = open_filesystem(self.folder)
        key = {"site": self.site, "capture_date": date.fromisoformat(self.capture_date)}
        stored = [name for name in wanted if name not in key]
        with (
            translate_read_errors(f"{self.folder}/{self.name}", remedy("flows")),
            filesystem.open_input_file(f"{folder}/{self.name}") as source,
        ):
            file = pq.ParquetFile(source, read_dictionary=[name for name in _TEXT if name in stored])
            _check_types(file.schema_arrow, stored)
            for batch in file.iter_batches(_BATCH_ROWS, columns=stored, use_threads=False):
                given = {name: pa.repeat(value, batch.num_rows) for name, value in key.items() if name in wanted}
                arrays = [given[name] if name in given else batch.column(name) for name in wanted]
                yield pa.RecordBatch.from_arrays(arrays, names=wanted)

    def superseded(self, flows: pa.RecordBatch, later: pa.Table) -> pa.BooleanArray:
        """Which of these flows a later partition continues; ``later``: the result of `later_flows`."""
        return _superseded(flows, later, self.site, self.capture_date)


def _check_types(found: pa.Schema, names: Iterable[str]) -> None:
    """Raise a KeyError or TypeError unless the columns exist with FLOWS' types; text may be dictionary-encoded."""
    contract = schemas.FLOWS.arrow_schema()
    for name in names:
        kind, expected = found.field(name).type, contract.field(name).type
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        are_lists = pa.types.is_list(kind) and pa.types.is_list(expected)
        if (kind.value_type != expected.value_type) if are_lists else kind != expected:
            raise TypeError(f"{name} is {kind}, must be {expected}")


def partition_files(partitions: Iterable[Partition[Flows]]) -> list[FlowFile]:
    """The files of the partitions' flows."""
    files = []
    for each in partitions:
        names = visible_files(*open_filesystem(each.uri))
        files += [FlowFile(each.uri, name, each.key.site, each.key.capture_date) for name in names]
    return files


def later_flows(spark: Session, partitions: Sequence[Partition[Flows]]) -> pa.Table:
    """_LATER of the flows that a partition continues from the previous date."""
    files = []
    for each in partitions if len(partitions) > 1 else ():
        previous = each.metadata.get("inputs", {}).get("night_before")
        if previous:
            files += [(file, previous["last_us"]) for file in partition_files([each])]
    if not files:
        return _LATER.empty_table()
    later = map_batches(task_ids(spark, range(len(files))), partial(_read_early, files=files), _LATER)
    return later.toArrow().cast(_LATER)


def _read_early(tasks: Iterable[pa.RecordBatch], files: Sequence[tuple[FlowFile, int]]) -> Iterator[pa.RecordBatch]:
    """_LATER of flows that began before the end of the previous partition: only these can have been open in it.

    ``files``: with the end of the previous partition in µs.
    """
    for number in read_task_ids(tasks):
        file, end_us = files[number]
        for batch in file.read(IDENTITY_COLUMNS):
            early = batch.filter(pc.less_equal(batch["first_seen"].cast(pa.int64()), end_us))
            key = [pa.repeat(value, early.num_rows) for value in (file.site, file.capture_date)]
            yield pa.RecordBatch.from_arrays([_identity(early), *key], schema=_LATER)


def read_flows(spark: Session, partitions: Iterable[Partition[Flows]]) -> Any:
    """schemas.FLOWS of the partitions, site and capture date included.

    A flow that continues over several of the partitions is included once, from the last of them.
    """
    partitions, schema = list(partitions), schemas.FLOWS.arrow_schema(stored=True)
    later = later_flows(spark, partitions)
    frames = []
    for each in partitions:
        site, day = each.key.site, each.key.capture_date
        stored = read_stored(spark, each.uri, schema)
        if len(later):
            once = partial(_without_superseded, later=later, site=site, capture_date=day)
            stored = map_batches(stored, once, schema)
        key = {"site": site, "capture_date": date.fromisoformat(day)}
        frames.append(with_constants(stored, key).select(*schemas.FLOWS.names))
    return reduce(lambda left, right: left.unionAll(right), frames)


def read_stored(spark: Session, folder: str, schema: pa.Schema) -> Any:
    """The rows of the folder's Parquet files, except hidden ones, as a DataFrame, or as Rows in this process.

    Spark reads them, but on object stores, for which it would need extra jars, Python workers do.
    """
    filesystem, path = open_filesystem(folder)
    if not isinstance(spark, InProcess) and not is_object_store(filesystem):
        return spark.read.schema(spark_schema(schema)).parquet(
            re.sub(r"[][\\*?{}]", r"\\\g<0>", folder)
        )  # escaped: not a glob pattern
    read = partial(_read_files, folder=folder, files=visible_files(filesystem, path), schema=schema)
    return map_batches(task_ids(spark, range(len(read.keywords["files"]))), read, schema)


def _read_files(
    tasks: Iterable[pa.RecordBatch], folder: str, files: Sequence[str], schema: pa.Schema
) -> Iterator[pa.RecordBatch]:
    filesystem, path = open_filesystem(folder)
    for number in read_task_ids(tasks):
        with (
            translate_read_errors(f"{folder}/{files[number]}", remedy("flows")),
            filesystem.open_input_file(f"{path}/{files[number]}") as source,
        ):
            for batch in pq.ParquetFile(source).iter_batches(_SPARK_ROWS, use_threads=False):
                yield pa.RecordBatch.from_arrays([batch.column(name) for name in schema.names], schema=schema)


def _without_superseded(
    batches: Iterable[pa.RecordBatch], later: pa.Table, site: str, capture_date: str
) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        yield batch.filter(pc.invert(_superseded(batch, later, site, capture_date)))


def _superseded(flows: pa.RecordBatch, later: pa.Table, site: str, capture_date: str) -> pa.BooleanArray:
    ours = pc.and_(pc.equal(later["site"], site), pc.greater(later["capture_date"], capture_date))
    keys = later.filter(ours)["key"]
    return pc.and_(pc.equal(flows["end_reason"], "end"), pc.is_in(_identity(flows), value_set=keys.combine_chunks()))


def _identity(flows: pa.RecordBatch) -> pa.Array:
    """Protocol, VLAN, time of the first packet and both ends as text.

    The ends are sorted, because the client may be another end on the next date.
    """
    one, other = (
        pc.binary_join_element_wise(flows[f"{end}_ip"].cast(pa.string()), flows[f"{end}_port"].cast(pa.string()), " ")
        for end in ("client", "server")
    )
    swap = pc.greater(one, other)
    values = [flows["protocol"], flows["vlan"].fill_null(-1), flows["first_seen"].cast(pa.int64())]
    return pc.binary_join_element_wise(
        *(number.cast(pa.string()) for number in values),
        pc.if_else(swap, other, one),
        pc.if_else(swap, one, other),
        " ",
    )


def read_counters(partition: Partition[Flows]) -> pa.Table:
    """schemas.COUNTERS of a partition of table `flows`."""
    stored = schemas.COUNTERS.arrow_schema(stored=True)
    name = side_name(*open_filesystem(partition.uri), COUNTERS_FILE)
    table = read_table(f"{partition.uri}/{name}", stored, remedy("flows"))
    return _with_key_columns(table, schemas.COUNTERS, partition.key.site, partition.key.capture_date)


def _with_key_columns(table: pa.Table, contract: schemas.Table, site: str, capture_date: str) -> pa.Table:
    """The table with the columns of the partition key added."""
    key = {"site": pa.array([site] * len(table), pa.string())}
    key["capture_date"] = pa.array([date.fromisoformat(capture_date)] * len(table), pa.date32())
    columns = [key[name] if name in key else table[name] for name in contract.names]
    return pa.Table.from_arrays(columns, schema=contract.arrow_schema())
