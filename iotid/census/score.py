"""Spark driver code of the census: scores a partition of flows with a trained model, one row per device.

1. One pass over the flows aggregates them by device and sequences; flows without a device, by reason. The result is
   cached, and the following steps read it.
2. Each device's distinct sequences go to one worker, where the device model scores them.
3. From the scores of all addresses the driver estimates the share of households; then workers decide each row.
4. If there are unknown devices, a second pass over the flows counts their payloads and ports, and the driver groups
   them.

Shape suffixes: N pairs of a device and a distinct flow.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema
from scipy.sparse import coo_matrix

from iotid import config
from iotid.census.groups import PAYLOADS_AND_PORTS
from iotid.census.identify import ANSWERS, IDENTIFIED, Classes, answers_to_arrow, identify
from iotid.census.left_out import with_remainder_rows
from iotid.census.marks import with_conflicts
from iotid.census.split_groups import group_with_splits
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
from iotid.dataset.sets import concurrent_flows, sparse_maximum
from iotid.errors import AccountingError, DataError
from iotid.flows import partition_files, read_flows
from iotid.labels.owner import Networks, Site
from iotid.labels.routers import find_routers
from iotid.model.bundle import DESCRIPTION, WEIGHTS, Predictor
from iotid.model.device import FlowTimes, share_of_households
from iotid.model.device.decide import UNKNOWN
from iotid.model.network.sequences import distinct_sequences
from iotid.schemas import CENSUS
from iotid.spark.shuffle import Buckets
from iotid.spark.worker_errors import in_worker

if TYPE_CHECKING:
    from pyspark import Broadcast
    from pyspark.sql import DataFrame, SparkSession

    from iotid.dataset.characteristics import Encoding
    from iotid.partitions import Partition
    from iotid.schemas.metadata import Flows

_TRAFFIC = ("device_id", "bytes", "first_seen", "last_seen", "addresses")
_loaded: dict[str, Predictor] = {}  # the model of this Python worker, reused by its tasks


@dataclass(frozen=True)
class BroadcastModel:
    """A trained model for the workers: its files are broadcast once, and loaded once in each Python worker."""

    files: Broadcast[tuple[bytes, str]]
    digest: str

    def load(self) -> Predictor:
        if self.digest not in _loaded:
            _loaded.clear()
            _loaded[self.digest] = Predictor.from_bytes(*self.files.value)
        return _loaded[self.digest]


def broadcast_model(spark: SparkSession, folder: Path) -> tuple[BroadcastModel, Encoding]:
    """Broadcast the model in ``folder`` to the workers; return it with its encoding.

    Raises what ``Predictor.load`` raises, and a DataError if the model has no device model.
    """
    predictor = Predictor.load(folder)
    if predictor.learned.devices is None:
        raise DataError(
            f"model {folder}: was trained without sets of flows, so it has no device model; write the dataset and "
            "train again"
        )
    weights, description = (folder / WEIGHTS).read_bytes(), (folder / DESCRIPTION).read_bytes()
    files = spark.sparkContext.broadcast((weights, description.decode()))
    return BroadcastModel(files, hashlib.sha256(weights + description).hexdigest()), predictor.encoding


@dataclass(frozen=True)
class Scored:
    """A partition's devices, sorted, with the columns of IDENTIFIED, traffic and group; the groups (GROUPS) of this and
    earlier censuses; and ``left_out`` (LEFT_OUT), the flows without a device.

    ``flows_of_other_dates``: flows that begin or end `tally.NEAR_DAYS` or more from the median time.
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
    partition: Partition[Flows],
    model: BroadcastModel,
    encoding: Encoding,
    settings: config.Census,
    groups: pa.Table,
    split: Collection[str] = (),
) -> Scored:
    """Identify the device kinds at each address of the flows, and group the unknown devices.

    ``groups`` (GROUPS): those of the earlier census; ``split``: the names of those that are to be split.

    Raises:
        SettingError: an entry of ``inside`` is not a network.
        AccountingError: not all flows of a device were scored.
    """
    inside = Networks(settings.inside)
    routers = find_routers(partition_files([partition]), inside, spark)
    site = Site(inside, routers.get(partition.key.site, frozenset()))
    named = with_devices(read_flows(spark, [partition]), encoding.protocols, site, Buckets.of(spark))
    median_us = named.agg(F.percentile_approx(F.unix_micros("first_seen"), 0.5)).toArrow()[0][0].as_py() or 0
    columns = list(dict.fromkeys(encoding.columns))  # two characteristics may be read from one column
    tally = tally_flows(named, columns, median_us).persist()
    try:
        identified = _identified(tally, model, encoding, columns, settings).sort_by("device_id")
        traffic = traffic_by_device(tally, median_us).toArrow().sort_by("device_id")
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
    _check_counts(identified, traffic)
    schema = CENSUS.arrow_schema()
    devices = with_conflicts(identified, conflicting)
    for name in _TRAFFIC[1:]:
        devices = devices.append_column(schema.field(name), traffic[name].cast(schema.field(name).type))
    devices, groups = _grouped(devices, named, groups, settings.min_similarity, split)
    of_other_dates = sum(pc.sum(table["outside_time_window"]).as_py() or 0 for table in (traffic, totals))
    return Scored(devices, groups, pc.sum(identified["flows"]).as_py() or 0, left_out, of_other_dates)


def _check_counts(identified: pa.Table, traffic: pa.Table) -> None:
    if not all(identified[name].equals(traffic[name]) for name in ("device_id", "flows")):
        scored, counted = (pc.sum(table["flows"]).as_py() or 0 for table in (identified, traffic))
        raise AccountingError(
            f"census: {identified.num_rows} devices with {scored} flows were scored, but {traffic.num_rows} devices "
            f"with {counted} flows are in the table flows; run it again, and report this if it happens again"
        )


def _grouped(
    devices: pa.Table, named: DataFrame, groups: pa.Table, min_similarity: float, split: Collection[str]
) -> tuple[pa.Table, pa.Table]:
    """The devices with their group (null unless they are unknown), and the groups (GROUPS)."""
    unknown = devices["device_id"].filter(pc.equal(devices["status"], UNKNOWN)).combine_chunks()
    if len(unknown):
        values = payloads_and_ports(named, unknown).toArrow().cast(PAYLOADS_AND_PORTS)
    else:
        values = PAYLOADS_AND_PORTS.empty_table()
    group, groups = group_with_splits(unknown, values, groups, min_similarity, split)
    return devices.append_column("group", group.take(pc.index_in(devices["device_id"], value_set=unknown))), groups


def _identified(
    tally: DataFrame, model: BroadcastModel, encoding: Encoding, columns: Sequence[str], settings: config.Census
) -> pa.Table:
    """One row of IDENTIFIED for each device of ``tally`` (of `tally_flows`)."""
    classes = Classes.of(encoding.labels, encoding.devices)

    def answer(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for rows in _whole_devices(batches, settings.batch_rows):
            yield from _answers(model.load(), rows, columns).to_batches()

    # an explicit number of partitions, which adaptive execution does not change: it sizes partitions by bytes, and
    # would give all sequences of a capture date, which are small but expensive to score, to one core
    partitions = int(str(tally.sparkSession.conf.get("spark.sql.shuffle.partitions")))
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

        return answers.mapInArrow(in_worker(decide), from_arrow_schema(IDENTIFIED)).toArrow().cast(IDENTIFIED)
    finally:
        answers.unpersist()


def _whole_devices(batches: Iterable[pa.RecordBatch], max_rows: int) -> Iterator[pa.Table]:
    """Tables of about ``max_rows`` rows, from rows sorted by device; all rows of a device are in one table."""
    pending: list[pa.RecordBatch] = []
    for batch in batches:
        pending.append(batch)
        if sum(part.num_rows for part in pending) > max_rows:
            rows = pa.Table.from_batches(pending)
            start_of_last = pc.index(rows["device_id"], rows["device_id"][-1]).as_py()
            if start_of_last:
                yield rows.slice(0, start_of_last)
            pending = rows.slice(start_of_last).combine_chunks().to_batches()
    if pending:
        yield pa.Table.from_batches(pending)


def _answers(predictor: Predictor, rows: pa.Table, columns: Sequence[str]) -> pa.Table:
    """One row of ANSWERS for each device of ``rows``, which have all its distinct flows."""
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
    times = FlowTimes(device_N, row_of_pair, first_us, last_us)
    answer = predictor.learned.devices.answer(distinct, flows, sessions, times)
    return answers_to_arrow(device.dictionary, of_device_N, answer)
