"""The Spark shell: a partition of flows and a trained model in, one row per device out.

One pass over the flows groups them by device and sequences, with their number and traffic; flows without a device are
grouped by reason. These groups are cached, and the rest is computed from them. Each device's distinct sequences reach
one worker, where the device model scores them. The scores of all addresses give the share of households; then each row
is decided in the workers. If there are unknown devices, a second pass counts their payloads and ports, and the driver
groups them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import Window
from pyspark.sql import functions as F
from pyspark.sql.pandas.functions import pandas_udf
from pyspark.sql.pandas.types import from_arrow_schema
from scipy.sparse import coo_matrix

from iotid import config
from iotid.census.groups import MAX_SHOWN, PAYLOAD, PORT, SHOWN, group_devices
from iotid.census.identify import ANSWERS, IDENTIFIED, Classes, answers_to_arrow, identify
from iotid.census.left_out import COUNTS, MAX_LISTED, OTHER_PROTOCOL, SCHEMA, with_rest
from iotid.census.marks import with_conflicts
from iotid.dataset.hashes import hash_for_buckets
from iotid.dataset.sets import at_once, greatest
from iotid.errors import AccountingError, DataError
from iotid.flows import partition_files, read_flows
from iotid.labels.hosts import READ, Named, name_devices
from iotid.labels.owner import Networks, Site
from iotid.labels.routers import find_routers
from iotid.model.bundle import DESCRIPTION, WEIGHTS, Predictor
from iotid.model.device import FlowTimes, share_of_households
from iotid.model.device.decide import UNKNOWN
from iotid.model.network.sequences import distinct_sequences
from iotid.schemas import CENSUS, FLOWS
from iotid.spark.shuffle import Buckets
from iotid.spark.worker_errors import in_worker

if TYPE_CHECKING:
    from pyspark import Broadcast
    from pyspark.sql import Column, DataFrame, SparkSession

    from iotid.dataset.characteristics import Encoding
    from iotid.partitions import Partition

MAX_ADDRESSES = 16  # listed per device; a router that answers for a subnet has one for each of its hosts
NEAR_DAYS = 31  # one packet with a date of another century must not set when a device was seen
_DAY_US = 86_400_000_000
_UNSPECIFIED = ("0.0.0.0", "::")  # source of hosts without an address yet
_CONCURRENT_US = 60_000_000  # after a longer silence the address was reassigned; flows too (kernels.MOVE_US)
_TRAFFIC = ("device_id", "bytes", "first_seen", "last_seen", "addresses")
_loaded: dict[str, Predictor] = {}  # the model of this Python worker, kept from task to task


@dataclass(frozen=True)
class ShippedModel:
    """A trained model for the workers: its files are broadcast once and opened once in each Python worker."""

    files: Broadcast[tuple[bytes, str]]
    digest: str

    def open(self) -> Predictor:
        if self.digest not in _loaded:
            _loaded.clear()
            _loaded[self.digest] = Predictor.from_bytes(*self.files.value)
        return _loaded[self.digest]


def ship_model(spark: SparkSession, folder: Path) -> tuple[ShippedModel, Encoding]:
    """Broadcast the model in ``folder`` to the workers; return it with its encoding.

    Raises what ``Predictor.load`` raises; and DataError where the model learned from no sets of flows.
    """
    predictor = Predictor.load(folder)
    if predictor.learned.devices is None:
        raise DataError(f"model {folder}: learned no sets of flows; write the dataset and train again")
    weights, description = (folder / WEIGHTS).read_bytes(), (folder / DESCRIPTION).read_bytes()
    files = spark.sparkContext.broadcast((weights, description.decode()))
    return ShippedModel(files, hashlib.sha256(weights + description).hexdigest()), predictor.encoding


@dataclass(frozen=True)
class Scored:
    """A partition's devices, in order, with the columns of IDENTIFIED, traffic and group; the groups (GROUPS) of this
    census and of earlier ones; and ``left_out`` (LEFT_OUT), the flows without a device.

    ``flows_of_other_dates``: of all flows, those that begin or end NEAR_DAYS or more from the median time.
    """

    devices: pa.Table
    groups: pa.Table
    flows_of_devices: int
    left_out: pa.Table
    flows_of_other_dates: int = 0

    @property
    def flows(self) -> int:
        return self.flows_of_devices + (pc.sum(self.left_out["flows"]).as_py() or 0)


def score_partition(
    spark: SparkSession,
    partition: Partition,
    model: ShippedModel,
    encoding: Encoding,
    settings: config.Census,
    groups: pa.Table,
) -> Scored:
    """Identify what is behind each address of the flows, and group the unknown devices.

    ``groups`` (GROUPS): those of the earlier census.

    Raises:
        SettingError: a network of ``inside`` is not one.
        AccountingError: a device's flows that were scored are not all of its flows.
    """
    inside = Networks(settings.inside)
    site = Site(
        inside, find_routers(partition_files([partition]), inside, spark).get(partition.key["site"], frozenset())
    )
    named = _with_outcome(read_flows(spark, [partition]), encoding.protocols, site, Buckets.of(spark))
    middle = named.agg(F.percentile_approx(F.unix_micros("first_seen"), 0.5)).toArrow()[0][0].as_py() or 0
    columns = list(dict.fromkeys(encoding.columns))  # two characteristics may be read from one column
    pairs = _pairs(named, columns, middle).persist()
    try:
        votes = _identified(pairs, model, encoding, columns, settings).sort_by("device_id")
        traffic = _traffic(pairs, middle).toArrow().sort_by("device_id")
        endpoints = _endpoints_left_out(pairs).persist()
        try:
            totals = _by_reason(endpoints).toArrow()
            left_out = with_rest(_busiest(endpoints).toArrow(), totals)
        finally:
            endpoints.unpersist()
        conflicting = _conflicting(pairs, named, site, joins_files=partition.metadata["settings"]["flow"]["join_files"])
    finally:
        pairs.unpersist()
    if not all(votes[name].equals(traffic[name]) for name in ("device_id", "flows")):
        scored, counted = (pc.sum(table["flows"]).as_py() or 0 for table in (votes, traffic))
        raise AccountingError(
            f"census: {votes.num_rows} devices with {scored} flows were scored, but {traffic.num_rows} devices with "
            f"{counted} flows are in the table flows; run it again, and report this if it happens twice"
        )
    schema = CENSUS.arrow_schema()
    devices = with_conflicts(votes, conflicting)
    for name in _TRAFFIC[1:]:
        devices = devices.append_column(schema.field(name), traffic[name].cast(schema.field(name).type))
    devices, groups = _grouped(devices, named, groups, settings.min_similarity)
    of_other_dates = sum(pc.sum(table["far"]).as_py() or 0 for table in (traffic, totals))
    return Scored(devices, groups, pc.sum(votes["flows"]).as_py() or 0, left_out, of_other_dates)


def _grouped(devices: pa.Table, named: DataFrame, groups: pa.Table, min_similarity: float) -> tuple[pa.Table, pa.Table]:
    """The devices with their group (null unless they are unknown), and the groups (GROUPS)."""
    unknown = devices["device_id"].filter(pc.equal(devices["status"], UNKNOWN)).combine_chunks()
    shown = _shown(named, unknown).toArrow().cast(SHOWN) if len(unknown) else SHOWN.empty_table()
    group, groups = group_devices(unknown, shown, groups, min_similarity)
    return devices.append_column("group", group.take(pc.index_in(devices["device_id"], value_set=unknown))), groups


def _shown(named: DataFrame, unknown: pa.Array) -> DataFrame:
    """The commonest payloads that these devices send and the commonest ports that they use (SHOWN)."""
    sent = F.filter(F.arrays_zip("direction", "payload_length"), _is_sent)
    lengths = F.array_distinct(F.transform(sent, lambda packet: packet["payload_length"]))

    def one(what: str, value: Column) -> Column:
        return F.struct(F.lit(what).alias("what"), value.alias("value"))

    values = F.concat(F.array(one(PORT, F.col("server_port"))), F.transform(lengths, lambda n: one(PAYLOAD, n)))
    devices = named.sparkSession.createDataFrame(pa.table({"device_id": unknown}))
    flows = named.join(F.broadcast(devices), "device_id", "leftsemi")
    shown = flows.select("bucket_hash", "device_id", "protocol", F.explode(values).alias("shown"))
    by_value = shown.groupBy("bucket_hash", "device_id", "shown.what", "protocol", "shown.value")
    counted = by_value.agg(F.count(F.lit(1)).alias("flows"))
    commonest = Window.partitionBy("bucket_hash", "device_id", "what").orderBy(F.desc("flows"), "protocol", "value")
    ranked = counted.withColumn("rank", F.row_number().over(commonest))
    return ranked.where(F.col("rank") <= MAX_SHOWN).select(*SHOWN.names)


def _is_sent(packet: Column) -> Column:
    """Whether the flow's device sent the packet, with a payload."""
    by_device = F.when(F.col("client_ip") == F.col("address"), 1).otherwise(-1)
    return (packet["direction"] == by_device) & (packet["payload_length"] > 0)


def _with_outcome(flows: DataFrame, protocols: Sequence[int], site: Site, buckets: Buckets) -> DataFrame:
    """The flows with ``device_id`` and ``address`` of their device; without a device, with ``outcome`` (the reason),
    ``left_mac`` and ``left_ip``.

    ``bucket_hash`` is a hash of ``device_id`` under the job's secret. Spark's own hashes have no secret: a sender could
    choose MACs that all go to one worker, if ``bucket_hash`` were not among the grouping columns.
    """
    columns_read = (*READ, "address_conflict")

    def name(rows: pd.DataFrame) -> pd.DataFrame:
        read = pa.table({column: pa.array(rows[column], schema.field(column).type) for column in columns_read})
        named = name_devices(read, site)
        # with two local ends the conflicting MACs may be of either
        other = pc.if_else(pc.equal(read["client_ip"], named.ip), read["server_ip"], read["client_ip"])
        is_own = read["address_conflict"].to_numpy() & ~site.networks.contain(other)
        columns = {field: column.to_pandas() for field, column in named._asdict().items()}
        bucket_hash_N = hash_for_buckets([pc.coalesce(named.mac, named.ip)], buckets).astype(np.int64)
        return pd.DataFrame(columns | {"conflict": is_own, "bucket_hash": bucket_hash_N})

    schema = FLOWS.arrow_schema()
    # nondeterministic, or Spark would push filters below it and call it twice
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


def _pairs(named: DataFrame, columns: Sequence[str], middle_us: int) -> DataFrame:
    """Flows, traffic, times and addresses of each device and distinct flow; of flows without a device by outcome, MAC
    and address.

    ``middle_us``: median time of the flows; near_first and near_last omit times NEAR_DAYS or more from it.
    """

    def is_near(name: str) -> Column:
        return F.abs(F.unix_micros(F.col(name)) - middle_us) < NEAR_DAYS * _DAY_US

    is_device = F.col("device_id").isNotNull()
    shown = [F.when(is_device, F.col(name)).alias(name) for name in columns]
    return named.groupBy("bucket_hash", "device_id", "outcome", "left_mac", "left_ip", *shown).agg(
        F.count(F.lit(1)).alias("flows"),
        F.sum(F.col("client_packets") + F.col("server_packets")).alias("packets"),
        F.sum(F.col("client_bytes") + F.col("server_bytes")).alias("bytes"),
        F.min("first_seen").alias("first_seen"),
        F.max("last_seen").alias("last_seen"),
        F.min(F.when(is_near("first_seen"), F.col("first_seen"))).alias("near_first"),
        F.max(F.when(is_near("last_seen"), F.col("last_seen"))).alias("near_last"),
        F.count_if(~(is_near("first_seen") & is_near("last_seen"))).alias("far"),
        F.sum(F.unix_micros(F.col("last_seen")) - F.unix_micros(F.col("first_seen"))).alias("open_us"),
        F.collect_set("address").alias("addresses"),
        F.max("conflict").alias("conflict"),
    )


def _traffic(pairs: DataFrame, middle_us: int) -> DataFrame:
    """The sums of each device; a device without a near time has the nearest allowed one."""
    earliest, latest = (F.timestamp_micros(F.lit(middle_us + sign * NEAR_DAYS * _DAY_US)) for sign in (-1, 1))

    def nearest(time: Column) -> Column:
        return F.least(F.greatest(time, earliest), latest)

    times = F.array_except(F.flatten(F.collect_list("addresses")), F.array(*map(F.lit, _UNSPECIFIED)))
    addresses = F.slice(F.sort_array(times), 1, MAX_ADDRESSES)
    return (
        pairs.where(F.col("device_id").isNotNull())
        .groupBy("bucket_hash", "device_id")
        .agg(
            F.sum("flows").alias("flows"),
            F.sum("bytes").alias("bytes"),
            F.coalesce(F.min("near_first"), nearest(F.min("first_seen"))).alias("first_seen"),
            F.coalesce(F.max("near_last"), nearest(F.max("last_seen"))).alias("last_seen"),
            F.sum("far").alias("far"),
            addresses.alias("addresses"),
        )
        .drop("bucket_hash")
    )


def _conflicting(pairs: DataFrame, named: DataFrame, site: Site, *, joins_files: bool) -> pa.Array:
    """The MACs, without routers, that sent from one address at the same time as another: within one flow, or with a
    packet of the other between two of its own that are _CONCURRENT_US apart or less.

    An address that is reassigned shows one MAC after the other. Only a flow's first and last packet have certain times:
    in a flow without a time-out, the address may have been another device's in between.
    """
    of_mac = pairs.where("device_id IS NOT NULL AND NOT array_contains(addresses, device_id)")
    in_flow = of_mac.where("conflict").select("device_id").distinct().toArrow()["device_id"]
    # a table, not a list of literals: senders decide how many routers there seem to be
    names = pa.table({"device_id": pa.array(sorted(site.routers or ()), pa.string())})
    routers = named.sparkSession.createDataFrame(names)
    held = of_mac.join(routers, "device_id", "leftanti").select("device_id", F.explode("addresses").alias("address"))
    holders = held.where(~F.col("address").isin(*_UNSPECIFIED)).groupBy("address")
    shared = holders.agg(F.min("device_id").alias("one"), F.max("device_id").alias("other")).where("one < other")
    if shared.isEmpty():
        return in_flow.combine_chunks()
    network = ["vlan", "address"] if joins_files else ["vlan", "address", "capture_file"]
    packets = F.when(F.col("client_ip") == F.col("address"), F.col("client_packets")).otherwise(F.col("server_packets"))
    both_times = F.explode(F.array(F.unix_micros("first_seen"), F.unix_micros("last_seen"))).alias("us")
    flows = named.join(shared.select("address"), "address", "leftsemi").where(packets > 0)
    flows = flows.where(F.col("device_id") != F.col("address")).join(routers, "device_id", "leftanti")
    of_address = Window.partitionBy(*network).orderBy("us", "device_id")
    of_holder = Window.partitionBy(*network, "device_id").orderBy("position")
    packets_at = flows.select(*network, "device_id", both_times)
    packets_at = packets_at.withColumn("position", F.row_number().over(of_address))
    packets_at = packets_at.withColumn("between", F.lag("device_id").over(of_address))
    is_back = F.col("position") - F.lag("position").over(of_holder) > 1
    soon = F.col("us") - F.lag("us").over(of_holder) <= _CONCURRENT_US
    both = F.explode(F.array("device_id", "between")).alias("device_id")
    alternating = (
        packets_at.withColumn("is_back", is_back & soon).where("is_back").select(both).distinct().toArrow()["device_id"]
    )
    return pa.chunked_array([*in_flow.chunks, *alternating.chunks], pa.string()).unique()


def _endpoints_left_out(pairs: DataFrame) -> DataFrame:
    """Of ``pairs`` each MAC, or address without a MAC, whose flows are left out: LEFT_OUT without ``ends``, with
    ``who`` and ``far``."""
    is_device = F.col("device_id").isNotNull()
    devices = pairs.where(is_device).select("bucket_hash", F.col("device_id").alias("who"), F.lit(True).alias("known"))
    endpoints = pairs.where(~is_device).withColumn("who", F.coalesce("left_mac", "left_ip"))
    summed = endpoints.groupBy("bucket_hash", F.col("outcome").alias("reason"), "who").agg(
        F.min("left_mac").alias("mac"),
        F.min("left_ip").alias("address"),
        F.count(F.lit(1)).alias("addresses"),
        *(F.sum(name).alias(name) for name in ("flows", "packets", "far")),
    )
    of_one = F.when(F.col("addresses") == 1, F.col("address"))
    known = F.coalesce(F.col("known"), F.lit(False))
    joined = summed.join(devices.distinct(), ["bucket_hash", "who"], "left").drop("bucket_hash")
    return joined.withColumn("address", of_one).withColumn("in_census", known)


def _busiest(endpoints: DataFrame) -> DataFrame:
    """The MAX_LISTED entries of each reason with most flows, those without a row in the census first."""
    order = ("in_census", F.desc("flows"), "who")
    rank = F.row_number().over(Window.partitionBy("reason").orderBy(*order))
    listed = endpoints.withColumn("rank", rank).where(F.col("rank") <= MAX_LISTED).orderBy("reason", "rank")
    return listed.select(*(name for name in SCHEMA.names if name != "ends"))


def _by_reason(endpoints: DataFrame) -> DataFrame:
    sums = (F.sum(name).alias(name) for name in (*COUNTS, "far"))
    return endpoints.groupBy("reason").agg(F.count(F.lit(1)).alias("ends"), *sums)


def _identified(
    pairs: DataFrame, model: ShippedModel, encoding: Encoding, columns: Sequence[str], settings: config.Census
) -> pa.Table:
    """One row of IDENTIFIED per device of ``pairs`` (``_pairs``)."""
    classes = Classes.of(encoding.labels, encoding.devices)

    def answer(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for rows in _whole_devices(batches, settings.batch_rows):
            yield from _answers(model.open(), rows, columns).to_batches()

    # an explicit number of partitions, which adaptive execution does not change: it goes by bytes, and would give all
    # sequences of a capture date, few bytes and much work, to one core
    partitions = int(str(pairs.sparkSession.conf.get("spark.sql.shuffle.partitions")))
    times = (F.unix_micros(F.col(name)).alias(name) for name in ("first_seen", "last_seen"))
    shown = pairs.where(F.col("device_id").isNotNull()).select(
        "bucket_hash", "device_id", "flows", "open_us", *times, *columns
    )
    of_device = shown.repartition(partitions, "bucket_hash").sortWithinPartitions("device_id").drop("bucket_hash")
    answers = of_device.mapInArrow(in_worker(answer), from_arrow_schema(ANSWERS)).persist()
    try:
        counted = answers.where(F.array_max("evidence") >= settings.min_evidence)
        log_odds = counted.select("log_odds").toArrow()["log_odds"].to_numpy()
        share = share_of_households(
            np.sort(log_odds), settings.behind
        )  # sorted, so that the sum does not depend on Spark's order

        def decide(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            for batch in batches:
                yield from identify(batch, share, classes, settings).to_batches()

        return answers.mapInArrow(in_worker(decide), from_arrow_schema(IDENTIFIED)).toArrow().cast(IDENTIFIED)
    finally:
        answers.unpersist()


def _whole_devices(batches: Iterable[pa.RecordBatch], max_rows: int) -> Iterator[pa.Table]:
    """Tables of about ``max_rows`` rows, from rows ordered by device; no device is in two tables."""
    held: list[pa.RecordBatch] = []
    for batch in batches:
        held.append(batch)
        if sum(part.num_rows for part in held) > max_rows:
            rows = pa.Table.from_batches(held)
            start_of_last = pc.index(rows["device_id"], rows["device_id"][-1]).as_py()
            if start_of_last:
                yield rows.slice(0, start_of_last)
            held = rows.slice(start_of_last).combine_chunks().to_batches()
    if held:
        yield pa.Table.from_batches(held)


def _answers(predictor: Predictor, rows: pa.Table, columns: Sequence[str]) -> pa.Table:
    """ANSWERS of the devices of ``rows``, each with all its distinct flows."""
    assert predictor.learned.devices is not None
    device = rows["device_id"].combine_chunks().dictionary_encode()
    distinct, row_of_pair = distinct_sequences(predictor.encoding.encode(rows.select(columns).combine_chunks()))
    shape = (len(device.dictionary), len(next(iter(distinct.values()))))
    num_flows, open_us, first_us, last_us = (
        rows[name].to_numpy() for name in ("flows", "open_us", "first_seen", "last_seen")
    )
    device_N = device.indices.to_numpy().astype(np.int64)
    flows = coo_matrix((num_flows, (device_N, row_of_pair)), shape=shape).tocsr()
    sessions = greatest(at_once(num_flows, open_us, last_us - first_us), device_N, row_of_pair, shape)
    of_device_N = np.bincount(device_N, num_flows, shape[0]).astype(np.int64)
    times = FlowTimes(device_N, row_of_pair, first_us, last_us)
    answer = predictor.learned.devices.answer(distinct, flows, sessions, times)
    return answers_to_arrow(device.dictionary, of_device_N, answer)
