"""Nights of flows, read: one after the other, every flow once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date
from functools import reduce
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from iotid import schemas

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession
    from pyspark.sql.types import StructType

    from iotid.storage import Partition

COUNTERS_FILE = "_counters.parquet"  # the underscore hides it from readers of the flows
QUARANTINE_FILE = "_quarantine.parquet"


def read_flows(spark: SparkSession, partitions: Iterable[Partition]) -> DataFrame:
    """schemas.FLOWS of the partitions, site and date included.

    A flow that several of the nights saw, one after the other, is there once, as the last of them tells it.
    """
    return _joined_with_later(spark, list(partitions), "left_anti")


def count_continued(spark: SparkSession, partitions: Iterable[Partition]) -> int:
    """Rows of the partitions that `read_flows` leaves out, because a later one of them tells the same flow further."""
    return _joined_with_later(spark, list(partitions), "left_semi").count()


def _joined_with_later(spark: SparkSession, nights: Sequence[Partition], how: str) -> DataFrame:
    """Flows of all nights, and by ``how`` only or all but those that went on in a later one of the nights."""
    from pyspark.sql import functions as F

    flows = reduce(
        lambda left, right: left.unionAll(right),
        [
            _read_stored(spark, night.uri).select(
                F.lit(night.keys["site"]).alias("site"),
                F.lit(date.fromisoformat(night.keys["capture_date"])).alias("capture_date"),
                "*",
            )
            for night in nights
        ],
    )
    took_up = [night for night in nights if "night_before" in night.metadata.get("inputs", {})]
    if len(nights) == 1 or not took_up:
        return flows if how == "left_anti" else flows.limit(0)
    # Who was the client may look different a night later, so the ends are compared in the order of their text
    ends = [F.concat_ws(" ", f"{side}_ip", f"{side}_port") for side in ("client", "server")]
    identity = {
        "site": F.col("site"),
        "protocol": F.col("protocol"),
        "vlan": F.coalesce("vlan", F.lit(-1)),
        "first_seen": F.col("first_seen"),
        "low_end": F.least(*ends),
        "high_end": F.greatest(*ends),
    }
    began_before = reduce(lambda one, other: one | other, [_began_before(night) for night in took_up])
    later = flows.where(began_before).select(
        *(value.alias(f"later_{name}") for name, value in identity.items()), F.col("capture_date").alias("later_date")
    )
    same = reduce(lambda one, other: one & other, [value == F.col(f"later_{name}") for name, value in identity.items()])
    goes_on = same & (F.col("end_reason") == "end") & (F.col("capture_date") < F.col("later_date"))
    return flows.join(F.broadcast(later), goes_on, how)


def _began_before(night: Partition) -> Column:
    """Rows of the night that may tell of flows which it took up: no other began so early."""
    from pyspark.sql import functions as F

    of_night = (F.col("site") == night.keys["site"]) & (F.col("capture_date") == F.lit(night.keys["capture_date"]))
    return of_night & (F.unix_micros("first_seen") <= night.metadata["inputs"]["night_before"]["last_us"])


def read_counters(partition: Partition) -> pa.Table:
    """schemas.COUNTERS of a partition of table `flows`."""
    table = pq.read_table(f"{partition.uri}/{COUNTERS_FILE}", partitioning=None)
    return _of_night(table, schemas.COUNTERS, partition.keys["site"], partition.keys["capture_date"])


def _of_night(table: pa.Table, contract: schemas.Table, site: str, capture_date: str) -> pa.Table:
    """The table with the columns that folder names hold."""
    night = {"site": pa.array([site] * len(table), pa.string())}
    night["capture_date"] = pa.array([date.fromisoformat(capture_date)] * len(table), pa.date32())
    columns = [night[name] if name in night else table[name] for name in contract.names]
    return pa.Table.from_arrays(columns, schema=contract.arrow_schema())


def _read_stored(spark: SparkSession, uri: str) -> DataFrame:
    return spark.read.schema(nullable(schemas.FLOWS.arrow_schema(stored=True))).parquet(uri)


def nullable(schema: pa.Schema) -> StructType:
    from pyspark.sql.pandas.types import from_arrow_schema

    return from_arrow_schema(pa.schema([field.with_nullable(True) for field in schema]))
