"""The Spark shell: a night's flows and a trained model make one row per device.

One pass over the flows groups them by device and sequences, with their number and traffic; flows of no device by what
becomes of them. These groups are kept, and all else is made of them. Each device's distinct sequences come together
once, for the device model to answer what is behind it; how common households are among the night's addresses, the
answers tell; then each row is decided where it is. Where that leaves unknown devices, a second pass counts what they
send, and the driver groups them by it.
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
from iotid.census.groups import MOST, PAYLOAD, PORT, SHOWN, group_devices
from iotid.census.identify import ANSWERS, IDENTIFIED, Classes, answers_to_arrow, identify
from iotid.census.left_out import COUNTS, OTHER_PROTOCOL, SCHEMA, with_rest
from iotid.census.left_out import MOST as MOST_LEFT_OUT
from iotid.census.marks import with_conflicts
from iotid.dataset.hashes import hash_for_buckets
from iotid.dataset.sets import concurrent_flows, sparse_maximum
from iotid.errors import AccountingError, DataError
from iotid.flows import partition_files, read_flows
from iotid.labels.hosts import READ, Named, name_devices
from iotid.labels.owner import Networks, Site
from iotid.labels.routers import find_routers
from iotid.model.bundle import DESCRIPTION, WEIGHTS, Predictor
from iotid.model.device import Seen, share_of_households
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
NEAR_DAYS = 31  # one packet with a date of another century must not say when a device was seen
_DAY_US = 86_400_000_000
_UNSPECIFIED = ("0.0.0.0", "::")  # what a host sends from that has no address yet
_AT_ONCE_US = 60_000_000  # a MAC after longer silence has taken the address over, for flows too (kernels.MOVE_US)
_TRAFFIC = ("device_id", "bytes", "first_seen", "last_seen", "addresses")
_loaded: dict[str, Predictor] = {}  # the model of this Python worker, kept from task to task


@dataclass(frozen=True)
class ShippedModel:
    """A trained model as workers get it: its files are broadcast once and opened once in each Python worker."""

    files: Broadcast[tuple[bytes, str]]
    digest: str

    def open(self) -> Predictor:
        if self.digest not in _loaded:
            _loaded.clear()
            _loaded[self.digest] = Predictor.from_bytes(*self.files.value)
        return _loaded[self.digest]


def ship_model(spark: SparkSession, folder: Path) -> tuple[ShippedModel, Encoding]:
    """Send the model in ``folder`` to the workers, and tell what it reads.

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
    """A night's devices, in order, with the columns of IDENTIFIED, of their traffic and their group; the groups
    (GROUPS) of this night and of those before; and what became of every flow: ``left_out`` (LEFT_OUT) counts those that
    are of no device.

    ``flows_of_other_dates``: of all those, flows that begin or end NEAR_DAYS or more from the night.
    """

    devices: pa.Table
    groups: pa.Table
    flows_of_devices: int
    left_out: pa.Table
    flows_of_other_dates: int = 0

    @property
    def flows(self) -> int:
        return self.flows_of_devices + (pc.sum(self.left_out["flows"]).as_py() or 0)


def score_night(
    spark: SparkSession,
    night: Partition,
    model: ShippedModel,
    encoding: Encoding,
    settings: config.Census,
    groups: pa.Table,
) -> Scored:
    """Say of the flows of one night what is behind each address, and group those that are unknown.

    ``groups`` (GROUPS) are those of the nights before.

    Raises:
        SettingError: a network of ``inside`` is not one.
        AccountingError: a device's flows that were scored are not all of its flows.
    """
    inside = Networks(settings.inside)
    site = Site(inside, find_routers(partition_files([night]), inside, spark).get(night.key["site"], frozenset()))
    named = _with_outcome(read_flows(spark, [night]), encoding.protocols, site, Buckets.of(spark))
    middle = named.agg(F.percentile_approx(F.unix_micros("first_seen"), 0.5)).toArrow()[0][0].as_py() or 0
    columns = list(dict.fromkeys(encoding.columns))  # two characteristics may be read from one column
    pairs = _pairs(named, columns, middle).persist()
    try:
        votes = _identified(pairs, model, encoding, columns, settings).sort_by("device_id")
        traffic = _traffic(pairs, middle).toArrow().sort_by("device_id")
        ends = _ends_left_out(pairs).persist()
        try:
            totals = _by_reason(ends).toArrow()
            left_out = with_rest(_busiest(ends).toArrow(), totals)
        finally:
            ends.unpersist()
        conflicting = _conflicting(pairs, named, site, joins_files=night.metadata["settings"]["flow"]["join_files"])
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


def _grouped(devices: pa.Table, named: DataFrame, groups: pa.Table, likeness: float) -> tuple[pa.Table, pa.Table]:
    """The devices with their group (null of those that are not unknown), and the groups (GROUPS)."""
    unknown = devices["device_id"].filter(pc.equal(devices["status"], UNKNOWN)).combine_chunks()
    shown = _shown(named, unknown).toArrow().cast(SHOWN) if len(unknown) else SHOWN.empty_table()
    group, groups = group_devices(unknown, shown, groups, likeness)
    return devices.append_column("group", group.take(pc.index_in(devices["device_id"], value_set=unknown))), groups


def _shown(named: DataFrame, unknown: pa.Array) -> DataFrame:
    """Of these devices the commonest payloads that they send and ports that they use (SHOWN)."""
    sent = F.filter(F.arrays_zip("direction", "payload_length"), _is_sent)
    lengths = F.array_distinct(F.transform(sent, lambda packet: packet["payload_length"]))

    def one(what: str, value: Column) -> Column:
        return F.struct(F.lit(what).alias("what"), value.alias("value"))

    things = F.concat(F.array(one(PORT, F.col("server_port"))), F.transform(lengths, lambda n: one(PAYLOAD, n)))
    devices = named.sparkSession.createDataFrame(pa.table({"device_id": unknown}))
    flows = named.join(F.broadcast(devices), "device_id", "leftsemi")
    shown = flows.select("spread", "device_id", "protocol", F.explode(things).alias("thing"))
    by_thing = shown.groupBy("spread", "device_id", "thing.what", "protocol", "thing.value")
    counted = by_thing.agg(F.count(F.lit(1)).alias("flows"))
    commonest = Window.partitionBy("spread", "device_id", "what").orderBy(F.desc("flows"), "protocol", "value")
    ranked = counted.withColumn("rank", F.row_number().over(commonest))
    return ranked.where(F.col("rank") <= MOST).select(*SHOWN.names)


def _is_sent(packet: Column) -> Column:
    """Whether the flow's device sent the packet, and something in it."""
    by_device = F.when(F.col("client_ip") == F.col("address"), 1).otherwise(-1)
    return (packet["direction"] == by_device) & (packet["payload_length"] > 0)


def _with_outcome(flows: DataFrame, protocols: Sequence[int], site: Site, buckets: Buckets) -> DataFrame:
    """The flows with ``device_id`` and ``address`` of their device; else with ``outcome``, why they have none, and
    ``left_mac`` and ``left_ip``.

    ``spread`` is a hash of ``device_id`` under the job's secret. Spark's own hashes have none: without ``spread`` among
    the columns that it groups by, MACs could be chosen that all fall to one worker.
    """
    columns_read = (*READ, "address_conflict")

    def name(rows: pd.DataFrame) -> pd.DataFrame:
        read = pa.table({column: pa.array(rows[column], schema.field(column).type) for column in columns_read})
        named = name_devices(read, site)
        # of two local ends nobody knows here whose MACs they are
        other = pc.if_else(pc.equal(read["client_ip"], named.ip), read["server_ip"], read["client_ip"])
        is_own = read["address_conflict"].to_numpy() & ~site.networks.contain(other)
        columns = {field: column.to_pandas() for field, column in named._asdict().items()}
        spread_N = hash_for_buckets([pc.coalesce(named.mac, named.ip)], buckets).astype(np.int64)
        return pd.DataFrame(columns | {"conflict": is_own, "spread": spread_N})

    schema = FLOWS.arrow_schema()
    # nondeterministic: or else Spark would push filters below it and then call it twice
    returned = "mac string, ip string, reason string, conflict boolean, spread long"
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
        .withColumn("spread", F.col("named.spread"))
        .drop("named")
    )


def _pairs(named: DataFrame, columns: Sequence[str], middle_us: int) -> DataFrame:
    """Flows, traffic, times and addresses of each device and distinct flow; of flows of no device by outcome, MAC and
    address.

    ``middle_us``: median time of the night's flows; times NEAR_DAYS or more from it are in no near_first and near_last.
    """

    def is_near(name: str) -> Column:
        return F.abs(F.unix_micros(F.col(name)) - middle_us) < NEAR_DAYS * _DAY_US

    is_device = F.col("device_id").isNotNull()
    shown = [F.when(is_device, F.col(name)).alias(name) for name in columns]
    return named.groupBy("spread", "device_id", "outcome", "left_mac", "left_ip", *shown).agg(
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
    """The same of each device. What has no near time has the nearest."""
    earliest, latest = (F.timestamp_micros(F.lit(middle_us + sign * NEAR_DAYS * _DAY_US)) for sign in (-1, 1))

    def nearest(time: Column) -> Column:
        return F.least(F.greatest(time, earliest), latest)

    seen = F.array_except(F.flatten(F.collect_list("addresses")), F.array(*map(F.lit, _UNSPECIFIED)))
    addresses = F.slice(F.sort_array(seen), 1, MAX_ADDRESSES)
    return (
        pairs.where(F.col("device_id").isNotNull())
        .groupBy("spread", "device_id")
        .agg(
            F.sum("flows").alias("flows"),
            F.sum("bytes").alias("bytes"),
            F.coalesce(F.min("near_first"), nearest(F.min("first_seen"))).alias("first_seen"),
            F.coalesce(F.max("near_last"), nearest(F.max("last_seen"))).alias("last_seen"),
            F.sum("far").alias("far"),
            addresses.alias("addresses"),
        )
        .drop("spread")
    )


def _conflicting(pairs: DataFrame, named: DataFrame, site: Site, *, joins_files: bool) -> pa.Array:
    """The MACs that sent from one address at the same time as another, routers left off: within one flow, or a packet
    of another between two of its own that are _AT_ONCE_US apart or less.

    An address that is handed on shows one MAC after the other. The times of a flow that are known for certain are its
    first and its last packet; of a flow without a time-out its address may have been another's meanwhile.
    """
    of_mac = pairs.where("device_id IS NOT NULL AND NOT array_contains(addresses, device_id)")
    in_flow = of_mac.where("conflict").select("device_id").distinct().toArrow()["device_id"]
    # a table and no list of literals: who sends from many networks decides how many routers there seem to be
    names = pa.table({"device_id": pa.array(sorted(site.routers or ()), pa.string())})
    routers = named.sparkSession.createDataFrame(names)
    held = of_mac.join(routers, "device_id", "leftanti").select("device_id", F.explode("addresses").alias("address"))
    holders = held.where(~F.col("address").isin(*_UNSPECIFIED)).groupBy("address")
    shared = holders.agg(F.min("device_id").alias("one"), F.max("device_id").alias("other")).where("one < other")
    if shared.isEmpty():
        return in_flow.combine_chunks()
    network = ["vlan", "address"] if joins_files else ["vlan", "address", "capture_file"]
    packets = F.when(F.col("client_ip") == F.col("address"), F.col("client_packets")).otherwise(F.col("server_packets"))
    times = F.explode(F.array(F.unix_micros("first_seen"), F.unix_micros("last_seen"))).alias("us")
    flows = named.join(shared.select("address"), "address", "leftsemi").where(packets > 0)
    flows = flows.where(F.col("device_id") != F.col("address")).join(routers, "device_id", "leftanti")
    of_address = Window.partitionBy(*network).orderBy("us", "device_id")
    of_holder = Window.partitionBy(*network, "device_id").orderBy("place")
    seen = flows.select(*network, "device_id", times)
    seen = seen.withColumn("place", F.row_number().over(of_address))
    seen = seen.withColumn("between", F.lag("device_id").over(of_address))
    is_back = F.col("place") - F.lag("place").over(of_holder) > 1
    soon = F.col("us") - F.lag("us").over(of_holder) <= _AT_ONCE_US
    both = F.explode(F.array("device_id", "between")).alias("device_id")
    in_turn = seen.withColumn("is_back", is_back & soon).where("is_back").select(both).distinct().toArrow()["device_id"]
    return pa.chunked_array([*in_flow.chunks, *in_turn.chunks], pa.string()).unique()


def _ends_left_out(pairs: DataFrame) -> DataFrame:
    """Of ``pairs`` each MAC, or address without one, under which flows are left out: LEFT_OUT but for ``ends``, with
    ``who`` and ``far``."""
    is_device = F.col("device_id").isNotNull()
    devices = pairs.where(is_device).select("spread", F.col("device_id").alias("who"), F.lit(True).alias("known"))
    ends = pairs.where(~is_device).withColumn("who", F.coalesce("left_mac", "left_ip"))
    summed = ends.groupBy("spread", F.col("outcome").alias("reason"), "who").agg(
        F.min("left_mac").alias("mac"),
        F.min("left_ip").alias("address"),
        F.count(F.lit(1)).alias("addresses"),
        *(F.sum(name).alias(name) for name in ("flows", "packets", "far")),
    )
    of_one = F.when(F.col("addresses") == 1, F.col("address"))
    known = F.coalesce(F.col("known"), F.lit(False))
    joined = summed.join(devices.distinct(), ["spread", "who"], "left").drop("spread")
    return joined.withColumn("address", of_one).withColumn("in_census", known)


def _busiest(ends: DataFrame) -> DataFrame:
    """Of each reason the MOST_LEFT_OUT with most flows, those without a row in the census first."""
    order = ("in_census", F.desc("flows"), "who")
    rank = F.row_number().over(Window.partitionBy("reason").orderBy(*order))
    listed = ends.withColumn("rank", rank).where(F.col("rank") <= MOST_LEFT_OUT).orderBy("reason", "rank")
    return listed.select(*(name for name in SCHEMA.names if name != "ends"))


def _by_reason(ends: DataFrame) -> DataFrame:
    sums = (F.sum(name).alias(name) for name in (*COUNTS, "far"))
    return ends.groupBy("reason").agg(F.count(F.lit(1)).alias("ends"), *sums)


def _identified(
    pairs: DataFrame, model: ShippedModel, encoding: Encoding, columns: Sequence[str], settings: config.Census
) -> pa.Table:
    """One row of IDENTIFIED per device of ``pairs`` (``_pairs``)."""
    classes = Classes.of(encoding.labels, encoding.devices)

    def answer(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for rows in _whole_devices(batches, settings.batch_rows):
            yield from _answers(model.open(), rows, columns).to_batches()

    # an explicit number of partitions is one that adaptive execution leaves alone: it judges by bytes, and would give
    # all sequences of a night, which are few bytes and much work, to one core
    partitions = int(str(pairs.sparkSession.conf.get("spark.sql.shuffle.partitions")))
    times = (F.unix_micros(F.col(name)).alias(name) for name in ("first_seen", "last_seen"))
    shown = pairs.where(F.col("device_id").isNotNull()).select(
        "spread", "device_id", "flows", "open_us", *times, *columns
    )
    of_device = shown.repartition(partitions, "spread").sortWithinPartitions("device_id").drop("spread")
    answers = of_device.mapInArrow(in_worker(answer), from_arrow_schema(ANSWERS)).persist()
    try:
        counted = answers.where(F.array_max("evidence") >= settings.min_evidence)
        log_odds = counted.select("log_odds").toArrow()["log_odds"].to_numpy()
        share = share_of_households(np.sort(log_odds), settings.behind)  # sums in one order, whatever Spark's

        def decide(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            for batch in batches:
                yield from identify(batch, share, classes, settings).to_batches()

        return answers.mapInArrow(in_worker(decide), from_arrow_schema(IDENTIFIED)).toArrow().cast(IDENTIFIED)
    finally:
        answers.unpersist()


def _whole_devices(batches: Iterable[pa.RecordBatch], rows_at_once: int) -> Iterator[pa.Table]:
    """Tables of about so many rows, of rows that come ordered by device; no device is in two of them."""
    held: list[pa.RecordBatch] = []
    for batch in batches:
        held.append(batch)
        if sum(part.num_rows for part in held) > rows_at_once:
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
    sessions = sparse_maximum(concurrent_flows(num_flows, open_us, last_us - first_us), device_N, row_of_pair, shape)
    of_device_N = np.bincount(device_N, num_flows, shape[0]).astype(np.int64)
    seen = Seen(device_N, row_of_pair, first_us, last_us)
    answer = predictor.learned.devices.answer(distinct, flows, sessions, seen)
    return answers_to_arrow(device.dictionary, of_device_N, answer)
