"""Aggregates flows on Spark: sums per device, distinct flow and reason.

All functions but `conflicting_macs` return DataFrames. ``bucket_hash`` is among the grouping columns, so that no sender
can choose MACs that all go to one worker.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import Window
from pyspark.sql import functions as F
from pyspark.sql.pandas.functions import pandas_udf
from pyspark.sql.pandas.types import from_arrow_schema

from iotid.arrow import one_chunk
from iotid.census.behaviour import MAX_VALUES, PAYLOADS_AND_PORTS, count_values
from iotid.census.behaviour import READ as READ_VALUES
from iotid.census.left_out import COUNTS, MAX_LISTED, OTHER_PROTOCOL, SCHEMA
from iotid.census.tally_in_process import CONCURRENT_US, MAX_ADDRESSES, NEAR_DAYS
from iotid.dataset.hashes import hash_for_buckets
from iotid.labels.hosts import READ, UNSPECIFIED, Named, name_devices
from iotid.labels.owner import Site
from iotid.schemas import FLOWS
from iotid.spark.shuffle import Buckets
from iotid.spark.worker_errors import in_worker

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame


_DAY_US = 86_400_000_000


def with_devices(flows: DataFrame, protocols: Sequence[int], site: Site, buckets: Buckets) -> DataFrame:
    """The flows with ``device_id`` and ``address`` of their device; without a device, with ``outcome`` (the reason),
    ``left_mac`` and ``left_ip``.

    ``bucket_hash`` is a hash of ``device_id`` under the job's secret; Spark's own hashes have no secret.
    """
    columns_read = (*READ, "address_conflict")

    def name(rows: pd.DataFrame) -> pd.DataFrame:
        read = pa.table({column: pa.array(rows[column], schema.field(column).type) for column in columns_read})
        named = name_devices(read, site)
        # if both ends are local, the conflicting MACs may be those of either
        other = pc.if_else(pc.equal(read["client_ip"], named.ip), read["server_ip"], read["client_ip"])
        is_own = read["address_conflict"].to_numpy() & ~site.networks.contain(other)
        columns = {field: column.to_pandas() for field, column in named._asdict().items()}
        bucket_hash_N = hash_for_buckets([pc.coalesce(named.mac, named.ip)], buckets).astype(np.int64)
        return pd.DataFrame(columns | {"conflict": is_own, "bucket_hash": bucket_hash_N})

    schema = FLOWS.arrow_schema()
    # nondeterministic, otherwise Spark would push filters below it and call it twice
    returned = "mac string, ip string, reason string, conflict boolean, bucket_hash long"
    named = pandas_udf(name, returned).asNondeterministic()  # type: ignore[call-overload] # a frame to a frame
    mac, ip, reason = (F.col(f"named.{field}") for field in Named._fields)
    outcome = F.when(F.col("protocol").isin(*protocols), reason).otherwise(F.lit(OTHER_PROTOCOL))
    is_device = F.col("outcome").isNull()
    return (
        flows.withColumn("named", named(F.struct(*columns_read)))
        .withColumn("outcome", outcome)
        .withColumn("device_id", F.when(is_device, F.coalesce(mac, ip)))
        .withColumn("address", F.when(is_device, ip))
        .withColumn("conflict", is_device & mac.isNotNull() & F.col("named.conflict"))
        .withColumn("left_mac", F.when(~is_device, mac))
        .withColumn("left_ip", F.when(~is_device, ip))
        .withColumn("bucket_hash", F.col("named.bucket_hash"))
        .drop("named")
    )


def tally_flows(named: DataFrame, columns: Sequence[str], median_us: int) -> DataFrame:
    """Flows, traffic, times and addresses of each device and distinct flow; for flows without a device, of each
    outcome, MAC and address.

    ``median_us``: median time of the flows; near_first and near_last omit times NEAR_DAYS or more from it.
    """

    def is_near(name: str) -> Column:
        return F.abs(F.unix_micros(F.col(name)) - median_us) < NEAR_DAYS * _DAY_US

    is_device = F.col("device_id").isNotNull()
    sequences = [F.when(is_device, F.col(name)).alias(name) for name in columns]
    return named.groupBy("bucket_hash", "device_id", "outcome", "left_mac", "left_ip", *sequences).agg(
        F.count(F.lit(1)).alias("flows"),
        F.sum(F.col("client_packets") + F.col("server_packets")).alias("packets"),
        F.sum(F.col("client_bytes") + F.col("server_bytes")).alias("bytes"),
        F.min("first_seen").alias("first_seen"),
        F.max("last_seen").alias("last_seen"),
        F.min(F.when(is_near("first_seen"), F.col("first_seen"))).alias("near_first"),
        F.max(F.when(is_near("last_seen"), F.col("last_seen"))).alias("near_last"),
        F.count_if(~(is_near("first_seen") & is_near("last_seen"))).alias("outside_time_window"),
        F.sum(F.unix_micros(F.col("last_seen")) - F.unix_micros(F.col("first_seen"))).alias("open_us"),
        F.collect_set("address").alias("addresses"),
        F.max("conflict").alias("conflict"),
    )


def traffic_by_device(tally: DataFrame, median_us: int) -> DataFrame:
    """The sums of each device; times outside the window are clamped to it if a device has no others."""
    earliest, latest = (F.timestamp_micros(F.lit(median_us + sign * NEAR_DAYS * _DAY_US)) for sign in (-1, 1))

    def nearest(time: Column) -> Column:
        return F.least(F.greatest(time, earliest), latest)

    seen = F.array_except(F.flatten(F.collect_list("addresses")), F.array(*map(F.lit, UNSPECIFIED)))
    addresses = F.slice(F.sort_array(seen), 1, MAX_ADDRESSES)
    return (
        tally.where(F.col("device_id").isNotNull())
        .groupBy("bucket_hash", "device_id")
        .agg(
            F.sum("flows").alias("flows"),
            F.sum("bytes").alias("bytes"),
            F.coalesce(F.min("near_first"), nearest(F.min("first_seen"))).alias("first_seen"),
            F.coalesce(F.max("near_last"), nearest(F.max("last_seen"))).alias("last_seen"),
            F.sum("outside_time_window").alias("outside_time_window"),
            addresses.alias("addresses"),
        )
        .drop("bucket_hash")
    )


def conflicting_macs(tally: DataFrame, named: DataFrame, site: Site, *, joins_files: bool) -> pa.Array:
    """The MACs, without routers, that sent from one address at the same time as another MAC: within one flow, or with a
    packet of the other between two of its own that are at most CONCURRENT_US apart.

    A reassigned address has one MAC after the other. Only the times of a flow's first and last packet are used: without
    a time-out, another device may have had the address in between.
    """
    of_mac = tally.where("device_id IS NOT NULL AND NOT array_contains(addresses, device_id)")
    in_flow = of_mac.where("conflict").select("device_id").distinct().toArrow()["device_id"]
    # a table, not a list of literals: senders determine how many routers are detected
    names = pa.table({"device_id": pa.array(sorted(site.routers or ()), pa.string())})
    routers = named.sparkSession.createDataFrame(names)
    used = of_mac.join(routers, "device_id", "leftanti").select("device_id", F.explode("addresses").alias("address"))
    users = used.where(~F.col("address").isin(*UNSPECIFIED)).groupBy("address")
    shared = users.agg(F.min("device_id").alias("one"), F.max("device_id").alias("other")).where("one < other")
    if shared.isEmpty():
        return in_flow.combine_chunks()
    network = ["vlan", "address"] if joins_files else ["vlan", "address", "capture_file"]
    packets = F.when(F.col("client_ip") == F.col("address"), F.col("client_packets")).otherwise(F.col("server_packets"))
    both_times = F.explode(F.array(F.unix_micros("first_seen"), F.unix_micros("last_seen"))).alias("us")
    flows = named.join(shared.select("address"), "address", "leftsemi").where(packets > 0)
    flows = flows.where(F.col("device_id") != F.col("address")).join(routers, "device_id", "leftanti")
    of_address = Window.partitionBy(*network).orderBy("us", "device_id")
    of_device = Window.partitionBy(*network, "device_id").orderBy("position")
    packets_at = flows.select(*network, "device_id", both_times)
    packets_at = packets_at.withColumn("position", F.row_number().over(of_address))
    packets_at = packets_at.withColumn("between", F.lag("device_id").over(of_address))
    is_back = F.col("position") - F.lag("position").over(of_device) > 1
    soon = F.col("us") - F.lag("us").over(of_device) <= CONCURRENT_US
    both = F.explode(F.array("device_id", "between")).alias("device_id")
    alternating = (
        packets_at.withColumn("is_back", is_back & soon).where("is_back").select(both).distinct().toArrow()["device_id"]
    )
    return pa.chunked_array([*in_flow.chunks, *alternating.chunks], pa.string()).unique()


def endpoints_left_out(tally: DataFrame) -> DataFrame:
    """Each MAC, or address without a MAC, whose flows are left out: LEFT_OUT without ``ends``, with
    ``who`` and ``outside_time_window``."""
    is_device = F.col("device_id").isNotNull()
    devices = tally.where(is_device).select("bucket_hash", F.col("device_id").alias("who"), F.lit(True).alias("known"))
    endpoints = tally.where(~is_device).withColumn("who", F.coalesce("left_mac", "left_ip"))
    summed = endpoints.groupBy("bucket_hash", F.col("outcome").alias("reason"), "who").agg(
        F.min("left_mac").alias("mac"),
        F.min("left_ip").alias("address"),
        F.count(F.lit(1)).alias("addresses"),
        *(F.sum(name).alias(name) for name in ("flows", "packets", "outside_time_window")),
    )
    of_one = F.when(F.col("addresses") == 1, F.col("address"))
    known = F.coalesce(F.col("known"), F.lit(False))
    joined = summed.join(devices.distinct(), ["bucket_hash", "who"], "left").drop("bucket_hash")
    return joined.withColumn("address", of_one).withColumn("in_census", known)


def top_entries(endpoints: DataFrame) -> DataFrame:
    """The MAX_LISTED entries with most flows of each reason, those without a row in the census first."""
    order = ("in_census", F.desc("flows"), "who")
    rank = F.row_number().over(Window.partitionBy("reason").orderBy(*order))
    listed = endpoints.withColumn("rank", rank).where(F.col("rank") <= MAX_LISTED).orderBy("reason", "rank")
    return listed.select(*(name for name in SCHEMA.names if name != "ends"))


def totals_by_reason(endpoints: DataFrame) -> DataFrame:
    sums = (F.sum(name).alias(name) for name in (*COUNTS, "outside_time_window"))
    return endpoints.groupBy("reason").agg(F.count(F.lit(1)).alias("ends"), *sums)


def payloads_and_ports(named: DataFrame, unknown: pa.Array) -> DataFrame:
    """What these devices do: the commonest values of each type (PAYLOADS_AND_PORTS); see `iotid.census.behaviour`."""
    devices = named.sparkSession.createDataFrame(pa.table({"device_id": unknown}))
    flows = named.join(F.broadcast(devices), "device_id", "leftsemi").select("bucket_hash", *READ_VALUES)

    def count(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            flows = pa.Table.from_batches([batch])
            counted = count_values(flows)
            of_device = pc.index_in(counted["device_id"], value_set=one_chunk(flows["device_id"]))
            yield from counted.append_column("bucket_hash", flows["bucket_hash"].take(of_device)).to_batches()

    schema = from_arrow_schema(PAYLOADS_AND_PORTS.append(pa.field("bucket_hash", pa.int64())))
    by_value = flows.mapInArrow(in_worker(count), schema).groupBy(
        "bucket_hash", "device_id", "what", "protocol", "value"
    )
    counted = by_value.agg(F.sum("flows").alias("flows"))
    commonest = Window.partitionBy("bucket_hash", "device_id", "what").orderBy(F.desc("flows"), "protocol", "value")
    ranked = counted.withColumn("rank", F.row_number().over(commonest))
    return ranked.where(F.col("rank") <= MAX_VALUES).select(*PAYLOADS_AND_PORTS.names)
