"""Spark driver code of the census: scores a partition of flows with a trained model, one row per device.

1. One pass over the flows aggregates them by device and sequences; flows without a device, by reason. The result is
   cached, and the following steps read it.
2. Each device's distinct sequences go to one worker, where the device model scores them.
3. From the scores of all addresses the driver estimates the share of households; then workers decide each row.
4. If there are unknown devices, a second pass over the flows counts their payloads and ports, and the driver groups
   them.

Without a model all devices are unknown, and steps 2 and 3 are left out.

Shape suffixes: N pairs of a device and a distinct flow.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import functions as F
from pyspark.sql.pandas.functions import ArrowUDFType, arrow_udf
from pyspark.sql.pandas.types import from_arrow_schema

from iotid import config
from iotid.arrow import one_chunk
from iotid.census.answers import answer_devices, whole_devices
from iotid.census.behaviour import PAYLOADS_AND_PORTS
from iotid.census.identify import ANSWERS, LIKELY, SCORES, Classes, identify, without_model
from iotid.census.left_out import with_remainder_rows
from iotid.census.scored import BroadcastModel, NoModel, Scored, with_groups, with_traffic
from iotid.census.tally import (
    conflicting_macs,
    endpoints_left_out,
    payloads_and_ports,
    tally_flows,
    top_entries,
    totals_by_reason,
    traffic_by_device,
    with_devices,
)
from iotid.census.totals import expected_of_scores
from iotid.dataset.characteristics import quantise_lists
from iotid.flows import partition_files, read_flows
from iotid.labels.owner import Networks, Site
from iotid.labels.routers import find_routers
from iotid.model.device import share_of_households
from iotid.spark.shuffle import FLOW_BYTES, Buckets, for_all_cores, sql_partitions
from iotid.spark.worker_errors import in_worker

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

    from iotid.census.split_groups import EarlierGroups
    from iotid.dataset.characteristics import Characteristic, Encoding
    from iotid.partitions import Partition
    from iotid.schemas.metadata import Flows


def score_on_spark(
    spark: SparkSession,
    partition: Partition[Flows],
    model: BroadcastModel | None,
    encoding: Encoding | NoModel,
    settings: config.Census,
    earlier: EarlierGroups,
) -> Scored:
    """As `score.score_partition`."""
    inside = Networks(settings.inside)
    routers = find_routers(partition_files([partition]), inside, spark)
    site = Site(inside, routers.get(partition.key.site, frozenset()))
    buckets = Buckets.of(spark, FLOW_BYTES * int(partition.metadata["rows"]))
    named = with_devices(read_flows(spark, [partition]), encoding.protocols, site, buckets)
    with sql_partitions(spark, buckets.partitions):
        scoring = for_all_cores(spark, buckets.partitions)
        return _score(partition, named, site, model, encoding, settings, earlier, scoring)


def _score(
    partition: Partition[Flows],
    named: DataFrame,
    site: Site,
    model: BroadcastModel | None,
    encoding: Encoding | NoModel,
    settings: config.Census,
    earlier: EarlierGroups,
    partitions: int,
) -> Scored:
    """Score the flows ``named`` (of `with_devices`); ``partitions``: Spark's, in which the model scores devices."""
    median_us = named.agg(F.percentile_approx(F.unix_micros("first_seen"), 0.5)).toArrow()[0][0].as_py() or 0
    columns = list(encoding.distinct_columns)
    tally = tally_flows(_quantised(named, encoding), columns, median_us).persist()
    try:
        traffic = traffic_by_device(tally, median_us).toArrow().sort_by("device_id")
        expected = None
        if isinstance(encoding, NoModel) or model is None:
            identified = without_model(*(one_chunk(traffic[name]) for name in ("device_id", "flows")))
        else:
            scores = _scores(tally, model, encoding, columns, settings, partitions).sort_by("device_id")
            expected = expected_of_scores(scores, Classes.of(encoding.labels, encoding.devices))
            identified = scores.drop_columns(LIKELY.names)
        endpoints = endpoints_left_out(tally).persist()
        try:
            totals = totals_by_reason(endpoints).toArrow()
            left_out = with_remainder_rows(top_entries(endpoints).toArrow(), totals)
        finally:
            endpoints.unpersist()
        joins_files = partition.metadata["settings"]["flow"]["join_files"]
        conflicting = conflicting_macs(tally, named, site, joins_files=joins_files)
    finally:
        tally.unpersist()
    devices = with_traffic(identified, traffic, conflicting)

    def values_of(unknown: pa.Array) -> pa.Table:
        return payloads_and_ports(named, unknown).toArrow().cast(PAYLOADS_AND_PORTS)

    devices, groups = with_groups(devices, values_of, earlier, settings.min_similarity)
    of_other_dates = sum(pc.sum(table["outside_time_window"]).as_py() or 0 for table in (traffic, totals))
    return Scored(devices, groups, pc.sum(identified["flows"]).as_py() or 0, left_out, of_other_dates, expected)


def _quantised(named: DataFrame, encoding: Encoding | NoModel) -> DataFrame:
    """The flows with quantised lists, so that flows are equal if they are to the model, and the tally has fewer."""
    if isinstance(encoding, NoModel):
        return named

    def lists_of(name: str, characteristic: Characteristic, max_packets: int) -> Column:
        def quantise(lists: pa.Array) -> pa.Array:
            return quantise_lists(lists, characteristic, max_packets)

        return arrow_udf(quantise, "array<int>", ArrowUDFType.SCALAR)(F.col(name))

    read = encoding.quantised_columns.items()
    return named.withColumns({name: lists_of(name, each, encoding.max_packets) for name, each in read})


def _scores(
    tally: DataFrame,
    model: BroadcastModel,
    encoding: Encoding,
    columns: Sequence[str],
    settings: config.Census,
    partitions: int,
) -> pa.Table:
    """One row of SCORES for each device of ``tally`` (of `tally_flows`)."""
    classes = Classes.of(encoding.labels, encoding.devices)

    def answer(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for rows in whole_devices(batches, settings.batch_rows):
            answered = answer_devices(model.load(), rows, columns, unlike_kind=settings.unlike_kind)
            yield from answered.to_batches()

    # an explicit number of partitions, which adaptive execution does not change: it sizes partitions by bytes, and
    # would give all sequences of a capture date, which are small but expensive to score, to one core
    times = (F.unix_micros(F.col(name)).alias(name) for name in ("first_seen", "last_seen"))
    device_flows = tally.where(F.col("device_id").isNotNull()).select(
        "bucket_hash", "device_id", "flows", "open_us", *times, *columns
    )
    of_device = (
        device_flows.repartition(partitions, "bucket_hash").sortWithinPartitions("device_id").drop("bucket_hash")
    )
    answers = of_device.mapInArrow(in_worker(answer), from_arrow_schema(ANSWERS)).persist()
    try:
        counted = answers.where(F.array_max("known_tokens") >= settings.min_evidence)
        log_odds = counted.select("log_odds").toArrow()["log_odds"].to_numpy()
        # sorted, so that the sum does not depend on the order of Spark's rows
        share = share_of_households(np.sort(log_odds), settings.behind)

        def decide(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            for batch in batches:
                yield from identify(batch, share, classes, settings).to_batches()

        return answers.mapInArrow(in_worker(decide), from_arrow_schema(SCORES)).toArrow().cast(SCORES)
    finally:
        answers.unpersist()
