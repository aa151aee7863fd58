"""Which part a flow belongs to: training, validation or test, by one of four protocols.

All are stratified by label and decided by the flows alone: the same protocol, seed and flows give the same parts,
however the rows are ordered or spread over workers.

* ``random_flow``: flows, in the order of a seeded hash of what identifies them.
* ``random_unique``: distinct (sequences, label), in the order of a seeded hash; all repeats follow, so that no sequence
  is in two parts under one label.
* ``by_capture``: whole capture files, in the order of a seeded hash of their path, stratified by the label that most of
  a file's flows have.
* ``by_time``: each label's earliest flows are for training, the next for validation, the last for the test. Flows of
  one microsecond are ordered by the hash.

Of three units (flows, sequences, files) of a label or more, each part gets at least one; of two, training and test get
one each; a single one is for training. A label may then lack a validation or a test part, which the metadata of the
dataset shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

    from iotid import config

PARTS = ("train", "validation", "test")

FLOW_IDENTITY = (
    "site", "capture_date", "protocol", "vlan", "client_ip", "client_port", "server_ip", "server_port", "first_seen",
)  # fmt: skip
"""What tells one flow from every other; not its capture file, so that two copies of a flow stay together."""


def part_sizes(units: int, train: float, validation: float) -> tuple[int, int, int]:
    """How many of a label's ``units`` each part gets, by the rule above."""
    if units < len(PARTS):
        return min(units, 1), 0, max(units - 1, 0)
    in_train = min(max(int(units * train + 0.5), 1), units - 2)
    in_validation = min(max(int(units * validation + 0.5), 1), units - in_train - 1)
    return in_train, in_validation, units - in_train - in_validation


def flow_hashes(seed: int) -> dict[str, Column]:
    """Columns made of FLOWS by which ``assign_parts`` orders flows and captures, whatever their order in the table."""
    from pyspark.sql import functions as F

    return {
        "flow_hash": F.xxhash64(F.lit(seed), *FLOW_IDENTITY),
        "capture_hash": F.xxhash64(F.lit(seed), "site", "capture_date", "capture_file"),
        "first_seen_us": F.unix_micros("first_seen"),
    }


def assign_parts(flows: DataFrame, settings: config.Dataset, sequences: Sequence[str]) -> DataFrame:
    """``flows`` (label, columns of ``flow_hashes``, lists ``sequences``, num_flows), with ``part`` in place of hashes.

    Within a stratum, nearly always the label, units are ranked by their position; the ranks at which training and
    validation end become positions, and each flow is compared with those of its stratum. What is sorted is a pair of
    numbers for each unit, never a flow.
    """
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    placed = _place(flows, settings, sequences)
    units = placed.select("stratum", "position").distinct()
    rank = F.row_number().over(Window.partitionBy("stratum").orderBy("position"))
    position_at = {
        part: F.max(F.when(F.col("rank") == F.col(f"{part}_ends"), F.col("position"))).alias(f"{part}_end")
        for part in PARTS[:2]
    }
    ends = (
        units.withColumn("rank", rank)
        .join(F.broadcast(_last_ranks(units, settings)), "stratum")
        .groupBy("stratum")
        .agg(*position_at.values())
    )
    part = F.lit(PARTS[2])
    for name in reversed(PARTS[:2]):
        part = F.when(F.col("position") <= F.col(f"{name}_end"), name).otherwise(part)
    parted = placed.join(F.broadcast(ends), "stratum").withColumn("part", part)
    return parted.select("label", "part", *sequences, "num_flows")


def _place(flows: DataFrame, settings: config.Dataset, sequences: Sequence[str]) -> DataFrame:
    """``flows`` with the stratum of each and its position there: a pair of numbers, one for all flows of a unit."""
    from pyspark.sql import functions as F

    none = F.lit(0).cast("long")
    if settings.protocol == "by_capture":
        of_label = flows.groupBy("capture_hash", "label").agg(F.struct(F.count("*"), "label").alias("votes"))
        majority = of_label.groupBy("capture_hash").agg(F.max("votes").getField("label").alias("stratum"))
        return flows.join(majority, "capture_hash").withColumn("position", F.struct(none, "capture_hash"))
    position = {
        "random_flow": F.struct(none, F.col("flow_hash")),
        "random_unique": F.struct(none, F.xxhash64(F.lit(settings.seed), "label", *sequences)),
        "by_time": F.struct(F.col("first_seen_us"), F.col("flow_hash")),
    }[settings.protocol]
    return flows.withColumn("stratum", F.col("label")).withColumn("position", position)


def _last_ranks(units: DataFrame, settings: config.Dataset) -> DataFrame:
    """Stratum -> ranks of the last units of training and of validation, from 1."""
    ranks = []
    for row in units.groupBy("stratum").count().collect():
        in_train, in_validation, _ = part_sizes(row["count"], settings.train, settings.validation)
        ranks.append((row["stratum"], in_train, in_train + in_validation))
    return units.sparkSession.createDataFrame(ranks, "stratum string, train_ends long, validation_ends long")
