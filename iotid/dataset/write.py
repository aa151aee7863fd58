"""Flows and a device list become a dataset: labels, parts, vocabularies, ids. The Spark shell of the room.

Flows stay distributed. What comes to the driver are counts of each label, the ends of the parts, and vocabularies.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import numpy as np

from iotid import schemas
from iotid.config import settings_hash
from iotid.dataset.accounts import Accounts
from iotid.dataset.characteristics import Characteristic, Encoding, Vocabulary, quantise_column, select_characteristics
from iotid.dataset.labels import UNKNOWN, DeviceList
from iotid.dataset.packed import pack, unpack
from iotid.dataset.partition import PARTS, assign_parts, flow_hashes
from iotid.errors import AccountingError, InputError, LabelError, SchemaError, SettingError
from iotid.flows import count_continued, read_flows

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame, SparkSession
    from pyspark.sql.types import StructType

    from iotid import config
    from iotid.storage import Partition, Staged, Store

log = logging.getLogger(__name__)

_EVIDENCE = ("capture_file", "client_mac", "server_mac", "client_ip", "server_ip", "first_seen")
_LABELLED, _UNLISTED, _CONFLICT = "labelled", "unlisted", "conflict"
_MACS_SHOWN = 3
_PACKED = "sequences"  # of a flow, quantised, in the order of the characteristics: `iotid.dataset.packed`


def write_dataset(
    spark: SparkSession,
    store: Store,
    nights: Sequence[Partition],
    devices: DeviceList,
    settings: config.Dataset,
    flow: config.Flow,
    name: str,
) -> Partition:
    """Write the dataset ``name`` of the flows of ``nights``: three Petastorm parts, and ``encoding.json`` beside them.

    A row is a flow, or with ``settings.unique`` a distinct (sequences, label) of a part; ``num_flows`` is its weight.
    Labels with fewer than ``min_flows`` flows, or with none in the training part, are left out; flows that fit several
    devices equally well (conflicts) are, too. The metadata lists them, and its ``accounting`` adds up to all flows.

    Raises:
        LabelError: the list fits no flow, leaves fewer than two labels, or leaves a part empty.
        SettingError: a characteristic is unknown, ``min_count`` leaves no value of it, or the flows were assembled with
            other settings.
        AccountingError: flows or rows were lost on the way.
    """
    chosen = select_characteristics(settings.characteristics)
    _check_nights(nights, flow)
    with ExitStack() as stack:
        flows = read_flows(spark, nights)
        labelled = _keep(stack, _label(flows, devices, settings, flow, chosen))
        accounts = _account(flows, labelled, nights, settings)
        if not set(accounts.labelled) - {UNKNOWN}:
            raise _nothing_matches(flows, devices)
        accounts.drop_rare(settings.min_flows, devices.source)
        parted = assign_parts(_of_labels(labelled, accounts.labelled), settings, [_PACKED])
        rows = _keep(stack, _weighed(parted, settings.unique))
        _check_parts(rows, accounts, settings, devices.source)
        rows = _of_labels(rows, accounts.labelled)
        encoding = Encoding(
            max_packets=flow.max_packets,
            vocabularies=_learn(rows.where("part = 'train'"), chosen, settings.min_count),
            labels=tuple(sorted(accounts.labelled)),
            devices=_described(devices, settings.label, accounts.labelled),
            protocols=settings.protocols,
            length=flow.length,
        )
        encoded = _keep(stack, _weighed(_encode(rows, encoding), settings.unique))
        made_of = {"devices": devices.hash, "inputs": [[night.keys, night.metadata] for night in nights]}
        with store.write("datasets", {"name": name}) as staged:
            staged.metadata = {
                "hash": settings_hash(settings, flow, extra=made_of),
                "device_list": devices.source,
                "nights": [night.keys for night in nights],
                "protocol": settings.protocol,
                "settings": {"dataset": settings.model_dump(mode="json"), "flow": flow.model_dump(mode="json")},
                "accounting": accounts.to_json(),
                "dropped": accounts.dropped,
                **_write_parts(spark, staged, encoded, encoding, accounts, settings),
            }
    written = store.open("datasets", {"name": name})
    log.info("dataset %s: %s", name, written.metadata["summary"])
    return written


def _check_nights(nights: Sequence[Partition], flow: config.Flow) -> None:
    """Raise where there is no night, or one whose flows are not of this schema or not cut by these settings.

    Keeping fewer packets of a flow than were assembled is the one difference that does no harm.
    """
    if not nights:
        raise InputError("write-dataset: no night is named; name at least one --site and --date")
    wanted = flow.model_dump(mode="json")
    for night in nights:
        version = night.metadata["schema_version"]
        if version != schemas.FLOWS.version:
            raise SchemaError(
                f"{night.uri}: flows of schema version {version}, this iotid reads {schemas.FLOWS.version}; assemble "
                "the flows of this night again"
            )
        made = night.metadata["settings"]["flow"]
        for key, value in wanted.items():
            if value != made[key] and not (key == "max_packets" and value < made[key]):
                raise SettingError(
                    f"flow.{key}: is {value}, the flows of {night.uri} were assembled with {made[key]}; assemble them "
                    "again, or give the same setting"
                )


def _label(
    flows: DataFrame,
    devices: DeviceList,
    settings: config.Dataset,
    flow: config.Flow,
    chosen: Mapping[str, Characteristic],
) -> DataFrame:
    """Flows of the chosen protocols: outcome, label, hashes, packed quantised sequences, and ``num_flows``, which is 1.

    Flows without a label are one row for each batch and outcome, ``num_flows`` their number: an operator's network is
    mostly devices that no list knows.
    """
    from pyspark.sql.pandas.types import to_arrow_schema

    hashes = flow_hashes(settings.seed)
    hash_names = list(hashes)  # the columns themselves belong to the driver
    schema = _labelled_schema(hash_names)
    arrow_schema = to_arrow_schema(schema)
    names = devices.labels(settings.label)
    keep_unlisted = settings.unlisted == "unknown"

    def label(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa

        label_of = pa.array([*names, UNKNOWN])  # -1, the number of no device, takes the last
        for batch in batches:
            device_N, conflict_N = devices.resolve(batch)
            kept_N = (device_N >= 0) | (~conflict_N & keep_unlisted)
            kept = batch.take(pa.array(np.flatnonzero(kept_N)))
            yield pa.RecordBatch.from_arrays(
                [
                    pa.array([_LABELLED] * kept.num_rows, pa.string()),
                    label_of.take(pa.array(device_N[kept_N] % len(label_of))),
                    pa.array(np.ones(kept.num_rows, dtype=np.int64)),
                    *(kept.column(column) for column in hash_names),
                    pack([quantise_column(kept, each, flow.max_packets) for each in chosen.values()]),
                ],
                schema=arrow_schema,
            )
            conflicts = int(conflict_N.sum())
            left_out = {_CONFLICT: conflicts, _UNLISTED: batch.num_rows - kept.num_rows - conflicts}
            yield _counts_only(left_out, arrow_schema)

    evidence = flows.where(flows.protocol.isin(list(settings.protocols))).withColumns(hashes)
    needed = dict.fromkeys([*_EVIDENCE, *hash_names, *(each.column for each in chosen.values())])
    return evidence.select(*needed).mapInArrow(label, schema)


def _labelled_schema(hashes: Sequence[str]) -> StructType:
    from pyspark.sql import types as T

    return T.StructType(
        [
            T.StructField("outcome", T.StringType(), nullable=False),
            T.StructField("label", T.StringType()),
            T.StructField("num_flows", T.LongType(), nullable=False),
            *(T.StructField(name, T.LongType()) for name in hashes),
            T.StructField(_PACKED, T.BinaryType()),
        ]
    )


def _counts_only(flows: Mapping[str, int], schema: pa.Schema) -> pa.RecordBatch:
    """A row for each outcome that flows had, with nothing but their number."""
    import pyarrow as pa

    rows = [{"outcome": outcome, "num_flows": number} for outcome, number in flows.items() if number]
    return pa.RecordBatch.from_pylist(rows, schema=schema)


def _account(flows: DataFrame, labelled: DataFrame, nights: Sequence[Partition], settings: config.Dataset) -> Accounts:
    from pyspark.sql import functions as F

    counted = {
        (row["outcome"], row["label"]): row["flows"]
        for row in labelled.groupBy("outcome", "label").agg(F.sum("num_flows").alias("flows")).collect()
    }
    accounts = Accounts(
        flows_in=sum(int(night.metadata["rows"]) for night in nights),
        continued=count_continued(flows.sparkSession, nights),
        other_protocols=flows.where(~flows.protocol.isin(list(settings.protocols))).count(),
        unlisted=counted.pop((_UNLISTED, None), 0),
        conflicts=counted.pop((_CONFLICT, None), 0),
        labelled={label: number for (_, label), number in counted.items()},
    )
    accounts.check()
    return accounts


def _nothing_matches(flows: DataFrame, devices: DeviceList) -> LabelError:
    """The error that says what the list was held against."""
    seen = flows.selectExpr("explode(array(client_mac, server_mac)) AS mac").where("mac IS NOT NULL").distinct()
    shown = ", ".join(row["mac"] for row in seen.orderBy("mac").limit(_MACS_SHOWN).collect())
    macs = f"{seen.count():,} distinct MACs seen{f', such as {shown}' if shown else ''}"
    return LabelError(
        f"{devices.source}: fits none of the {flows.count():,} flows ({macs}); list the MACs, addresses or capture "
        "paths of its devices, and check dataset.protocols"
    )


def _check_parts(rows: DataFrame, accounts: Accounts, settings: config.Dataset, source: str) -> None:
    """Take out labels that training never sees, and see that no flow was lost and no part is empty."""
    from pyspark.sql import functions as F

    flows = {
        (row["label"], row["part"]): row["flows"]
        for row in rows.groupBy("label", "part").agg(F.sum("num_flows").alias("flows")).collect()
    }
    if sum(flows.values()) != sum(accounts.labelled.values()):
        raise AccountingError(
            f"write-dataset: {sum(accounts.labelled.values()):,} labelled flows, {sum(flows.values()):,} of them in "
            "parts; run the step again, and report this if it comes back"
        )
    for label in sorted(accounts.labelled):
        if (label, "train") not in flows:
            accounts.drop(label, f"none of them in the training part ({settings.protocol})")
    accounts.check_classes(source)
    for part in PARTS:
        if not any((label, part) in flows for label in accounts.labelled):
            raise LabelError(
                f"{source}: no flow falls to the {part} part under dataset.protocol={settings.protocol}; give 3 or "
                "more captures of a device, or choose another protocol"
            )


def _learn(train: DataFrame, chosen: Mapping[str, Characteristic], min_count: int) -> dict[str, Vocabulary]:
    """The values of each characteristic that the training part has at least ``min_count`` times, flow by flow."""
    from pyspark.sql import functions as F

    names = list(chosen)

    def count(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa

        for batch in batches:
            flows_N = batch.column("num_flows").to_numpy()
            for name, lists in zip(names, unpack(batch.column(_PACKED), len(names)), strict=True):
                weight = np.repeat(flows_N, np.diff(lists.offsets.to_numpy()))
                values, place = np.unique(lists.values.to_numpy(), return_inverse=True)
                seen = np.bincount(place, weights=weight, minlength=len(values)).astype(np.int64)
                yield pa.RecordBatch.from_pydict({"name": [name] * len(values), "value": values, "seen": seen})

    values = train.select(_PACKED, "num_flows").mapInArrow(count, "name string, value int, seen long")
    counted = values.groupBy("name", "value").agg(F.sum("seen").alias("seen"))
    kept: dict[str, list[int]] = {name: [] for name in chosen}
    for row in counted.where(counted.seen >= min_count).collect():
        kept[row["name"]].append(row["value"])
    for name, of_name in kept.items():
        if not of_name:
            raise SettingError(f"dataset.min_count: no value of {name} occurs {min_count} times in training; lower it")
    return {name: Vocabulary(tuple(sorted(of_name))) for name, of_name in kept.items()}


def _described(devices: DeviceList, kind: str, labels: Iterable[str]) -> dict[str, dict[str, str]]:
    """What the list knows of each label; nothing, of the class of unlisted devices."""
    known = devices.describe(kind)
    return {label: known.get(label, {"vendor": "", "type": "", "model": ""}) for label in sorted(labels)}


def _encode(rows: DataFrame, encoding: Encoding) -> DataFrame:
    """part, label_id, a padded list of ids for each characteristic, num_flows."""
    from pyspark.sql import types as T
    from pyspark.sql.pandas.types import to_arrow_schema

    from iotid.dataset.store import LABEL, WEIGHT

    sequence = T.ArrayType(T.IntegerType(), containsNull=False)
    schema = T.StructType(
        [
            T.StructField("part", T.StringType(), nullable=False),
            T.StructField(LABEL, T.IntegerType(), nullable=False),
            *(T.StructField(name, sequence, nullable=False) for name in encoding.vocabularies),
            T.StructField(WEIGHT, T.LongType(), nullable=False),
        ]
    )
    arrow_schema = to_arrow_schema(schema)

    def encode(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa
        import pyarrow.compute as pc

        labels = pa.array(encoding.labels)
        for batch in batches:
            lists = unpack(batch.column(_PACKED), len(encoding.columns))
            ids = encoding.encode(pa.RecordBatch.from_arrays(lists, names=list(encoding.columns)))
            offsets = np.arange(batch.num_rows + 1, dtype=np.int32) * encoding.max_packets
            yield pa.RecordBatch.from_arrays(
                [
                    batch.column("part"),
                    pc.index_in(batch.column("label"), value_set=labels),
                    *(pa.ListArray.from_arrays(offsets, ids_NM.ravel()) for ids_NM in ids.values()),
                    batch.column(WEIGHT),
                ],
                schema=arrow_schema,
            )

    return rows.mapInArrow(encode, schema)


def _write_parts(
    spark: SparkSession,
    staged: Staged,
    encoded: DataFrame,
    encoding: Encoding,
    accounts: Accounts,
    settings: config.Dataset,
) -> dict[str, Any]:
    """Write the parts and the encoding; rows and flows of each part and of each label."""
    from pyspark.sql import functions as F

    from iotid.dataset.store import ENCODING, LABEL, WEIGHT, write_part

    counts = encoded.groupBy(LABEL, "part").agg(F.count("*").alias("rows"), F.sum(WEIGHT).alias("flows")).collect()
    labels: dict[str, dict[str, dict[str, int]]] = {label: {} for label in encoding.labels}
    totals = {part: {"rows": 0, "flows": 0} for part in PARTS}
    for row in counts:
        labels[encoding.labels[row[LABEL]]][row["part"]] = {"rows": row["rows"], "flows": row["flows"]}
        for key in ("rows", "flows"):
            totals[row["part"]][key] += row[key]
    kept = accounts.to_json()["kept"]
    if sum(total["flows"] for total in totals.values()) != kept:
        raise AccountingError(
            f"write-dataset: {kept:,} flows were labelled, the rows weigh {totals}; run the step again"
        )
    for part, total in totals.items():
        frame = encoded.where(F.col("part") == part).withColumn(WEIGHT, F.col(WEIGHT).cast("int"))
        write_part(spark, staged, part, frame, total["rows"], encoding, settings.row_groups)
    staged.write_json(ENCODING, encoding.to_json())
    told = ", ".join(f"{part} {total['flows']:,} flows in {total['rows']:,} rows" for part, total in totals.items())
    dropped = f"; {len(accounts.dropped)} labels left out" if accounts.dropped else ""
    return {
        "rows": {part: total["rows"] for part, total in totals.items()},
        "flows": {part: total["flows"] for part, total in totals.items()},
        "labels": labels,
        "summary": f"{len(labels)} labels: {told}{dropped}",
    }


def _keep(stack: ExitStack, frame: DataFrame) -> DataFrame:
    """Several passes read the frame: hold it, on disk where memory does not suffice, until the stack is left."""
    from pyspark import StorageLevel

    stack.callback(frame.unpersist)
    return frame.persist(StorageLevel.MEMORY_AND_DISK)


def _of_labels(rows: DataFrame, labels: Iterable[str]) -> DataFrame:
    return rows.where(rows.label.isin(sorted(labels)))


def _weighed(rows: DataFrame, unique: bool) -> DataFrame:
    """With ``unique``, equal rows become one, whose ``num_flows`` is their sum."""
    from pyspark.sql import functions as F

    if not unique:
        return rows
    keys = [column for column in rows.columns if column != "num_flows"]
    return rows.groupBy(*keys).agg(F.sum("num_flows").alias("num_flows"))
