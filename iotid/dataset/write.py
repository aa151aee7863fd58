"""Flows and a device list become a dataset: labels, parts, vocabularies, ids. The Spark shell of the room.

Flows stay distributed. What comes to the driver are counts of each label, the ends of the parts, and vocabularies.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

from iotid import schemas
from iotid.config import settings_hash
from iotid.dataset import tasks as work
from iotid.dataset.accounts import Accounts, coverage
from iotid.dataset.characteristics import Encoding, learn_vocabularies, select_characteristics
from iotid.dataset.split_protocols import DATASET_SPLITS, FileSplit, find_ends, settle, split_captures
from iotid.dataset.store import ENCODING, describe_part, group_rows, write_sets
from iotid.errors import AccountingError, InputError, LabelError, SchemaError, SettingError, shown
from iotid.flows import later_flows, partition_files, read_flows
from iotid.labels.device_list import UNKNOWN, DeviceList
from iotid.partitions import PartitionKey
from iotid.spark.shuffle import BLOCKS, NO_BUCKET, SIDE_OUTPUTS, Buckets, exchange, spark_schema, task_ids
from iotid.spark.worker_errors import in_worker
from iotid.storage import remove_attempts

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from iotid import config
    from iotid.partitions import Partition, Staged, Store

log = logging.getLogger(__name__)

_MACS_SHOWN = 3
_HOSTS_SHOWN = 5


def write_dataset(
    spark: SparkSession,
    store: Store,
    nights: Sequence[Partition],
    devices: DeviceList,
    settings: config.Dataset,
    flow: config.Flow,
    name: str,
) -> Partition:
    """Write the dataset ``name`` of the flows of ``nights``: three Petastorm parts, the encoding and some sets.

    A row is a flow, or with ``settings.unique`` a distinct (sequences, label) of a part; ``num_flows`` is its weight.
    Labels with fewer than ``min_flows`` flows, or with none in the training part, are left out; flows that fit several
    devices equally well (conflicts) are, too. The metadata lists them, and its ``accounting`` adds up to all flows;
    ``without_flows`` are the names of devices that no flow fits, ``unlisted_hosts`` the busiest that fit no entry.

    Raises:
        LabelError: the list fits no flow, leaves fewer than two labels, or leaves a part empty.
        SettingError: a characteristic is unknown, ``min_count`` leaves no value of it, or the flows were assembled with
            other settings.
        AccountingError: flows or rows were lost on the way.
    """
    select_characteristics(settings.characteristics)
    check_partitions(nights, flow)
    files, later = partition_files(nights), later_flows(spark, nights)
    source = work.Source(files, later, devices.at(files, spark), settings, flow.max_packets)
    with ExitStack() as stack:
        flows = _Flows(spark, source, stack)
        accounts = _account(flows.told.outcomes, nights)
        if not set(accounts.labelled) - {UNKNOWN}:
            raise _nothing_matches(read_flows(spark, nights), devices)
        accounts.drop_rare(settings.min_flows, devices.source)
        split = flows.split(accounts)
        labels = tuple(sorted(accounts.labelled))
        rows = _Rows(spark, source, split, labels, stack)
        rows.check(accounts)
        encoding = Encoding(
            max_packets=flow.max_packets,
            vocabularies=learn_vocabularies(rows.told.seen, settings),
            labels=labels,
            devices=devices.describe_all(settings.label, labels),
            protocols=settings.protocols,
            length=flow.length,
        )
        with store.write("datasets", PartitionKey.named(name)) as staged:
            staged.metadata = {
                "hash": dataset_hash(nights, devices, settings, flow),
                "device_list": devices.source,
                "nights": [night.key for night in nights],
                "protocol": settings.protocol,
                "settings": {"dataset": settings.model_dump(mode="json"), "flow": flow.model_dump(mode="json")},
                "accounting": accounts.to_json(),
                "dropped": accounts.dropped,
                **_coverage(flows.told.outcomes, devices),
                **rows.write(staged, encoding, accounts),
            }
    written = store.open("datasets", PartitionKey.named(name))
    log.info("dataset %s: %s", name, written.metadata["summary"])
    return written


def dataset_hash(nights: Sequence[Partition], devices: DeviceList, settings: config.Dataset, flow: config.Flow) -> str:
    """Names all that the rows of a dataset depend on: settings, flows and device list."""
    made_of = {"devices": devices.hash, "inputs": [[night.key, night.metadata] for night in nights]}
    return settings_hash(settings, flow, extra=made_of)


def check_partitions(nights: Sequence[Partition], flow: config.Flow) -> None:
    """Raise where there is no night, or one whose flows are not of this schema or not cut by these settings.

    Keeping fewer packets of a flow than were assembled is the one difference that does no harm.
    """
    if not nights:
        raise InputError("flows: no night is named; name at least one --site and --date")
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
            if value != made.get(key) and not (key == "max_packets" and value < made[key]):
                raise SettingError(
                    f"flow.{key}: is {value}, the flows of {night.uri} were assembled with {shown(made.get(key))}; "
                    "assemble them again, or give the same setting"
                )


class _Flows:
    """The first pass: what became of every flow, and the units of which parts are made."""

    def __init__(self, spark: SparkSession, source: work.Source, stack: ExitStack) -> None:
        buckets = Buckets.of(spark)
        look = partial(work.look, source=source, buckets=buckets)
        sent = task_ids(spark, range(len(source.files))).mapInArrow(in_worker(look), spark_schema(BLOCKS))
        self._source = source
        self._units = _keep(stack, exchange(sent, buckets.partitions))
        sum_up = partial(work.sum_up_units, number=buckets.number)
        self.told = work.Told.of(self._units.mapInArrow(in_worker(sum_up), spark_schema(SIDE_OUTPUTS)).toArrow())

    def split(self, accounts: Accounts) -> FileSplit:
        """The parts of the labels that are kept; those that training never sees are taken out."""
        settings, devices = self._source.settings, self._source.devices
        if settings.protocol == "by_capture":
            votes = [vote for vote in self.told.votes if vote[1] in accounts.labelled]
            split = split_captures(votes, settings)
            for label in sorted(set(accounts.labelled) - split.in_training(votes)):
                accounts.drop(label, f"none of them in the training part ({settings.protocol})")
            accounts.check_classes(devices.source)
            return split
        split, doubts = find_ends(self.told.summaries, len(self._source.labels), settings)
        if not doubts:
            return split
        closer = self._units.mapInArrow(in_worker(partial(work.look_closer, doubts=doubts)), spark_schema(SIDE_OUTPUTS))
        return settle(split, doubts, work.Told.of(closer.toArrow()).answers)


class _Rows:
    """The second pass: rows of label, part and sequences, held until they are written."""

    def __init__(
        self, spark: SparkSession, source: work.Source, split: FileSplit, labels: Sequence[str], stack: ExitStack
    ) -> None:
        self._source = source
        buckets = Buckets.of(spark)
        deal = partial(work.deal, source=source, split=split, labels=labels, buckets=buckets)
        gather = partial(work.gather, unique=source.settings.unique)
        sent = task_ids(spark, range(len(source.files))).mapInArrow(in_worker(deal), spark_schema(BLOCKS))
        self._gathered = _keep(
            stack, exchange(sent, buckets.partitions).mapInArrow(in_worker(gather), spark_schema(BLOCKS))
        )
        self.told = work.Told.of(self._gathered.where(f"bucket = {NO_BUCKET}").select(SIDE_OUTPUTS.names).toArrow())
        self._labels: dict[str, dict[str, dict[str, int]]] = {label: {} for label in labels}
        self._parts = {part: {"rows": 0, "flows": 0} for part in DATASET_SPLITS}
        self._of_partitions: list[Counter[str]] = [Counter() for _ in range(buckets.partitions)]
        for row in self.told.rows:
            part, of_label = DATASET_SPLITS[row["part"]], self._labels[labels[row["label"]]]
            for total in (self._parts[part], of_label.setdefault(part, {"rows": 0, "flows": 0})):
                total["rows"] += row["num_flows_count"]
                total["flows"] += row["num_flows_sum"]
            self._of_partitions[row["partition"]][part] += row["num_flows_count"]

    def check(self, accounts: Accounts) -> None:
        """See that no flow was lost and no part is empty."""
        kept, found = accounts.to_json()["kept"], sum(total["flows"] for total in self._parts.values())
        if found != kept:
            raise AccountingError(
                f"write-dataset: {kept:,} labelled flows, {found:,} of them in parts; run the step again, and report "
                "this if it comes back"
            )
        for part, total in self._parts.items():
            if not total["rows"]:
                protocol = self._source.settings.protocol
                raise LabelError(
                    f"{self._source.devices.source}: no flow falls to the {part} part under dataset.protocol={protocol}"
                    "; give 3 or more captures of a device, or choose another protocol"
                )

    def write(self, staged: Staged, encoding: Encoding, accounts: Accounts) -> dict[str, Any]:
        """Write the parts and the encoding; rows and flows of each part and of each label.

        Raises:
            AccountingError: the files hold another number of rows.
        """
        rows = {part: total["rows"] for part, total in self._parts.items()}
        groups = group_rows(rows, self._of_partitions, self._source.settings.row_groups)
        write = partial(work.write, folder=staged.uri, encoding=encoding, group_rows=groups)
        for part in DATASET_SPLITS:
            staged.filesystem.create_dir(f"{staged.path}/{part}")
        self._gathered.mapInArrow(in_worker(write), spark_schema(SIDE_OUTPUTS)).toArrow()
        for part in DATASET_SPLITS:
            remove_attempts(staged.filesystem, f"{staged.path}/{part}")
            promised = describe_part(staged, part, encoding)
            if promised != rows[part]:
                raise AccountingError(
                    f"dataset {staged.uri}/{part}: {rows[part]:,} rows went in, the files hold {promised:,}"
                )
        staged.write_json(ENCODING, encoding.to_json())
        write_sets(staged, work.sets_of(self.told.sets, encoding, self._source.settings.sets))
        told = ", ".join(f"{part} {own['flows']:,} flows in {own['rows']:,} rows" for part, own in self._parts.items())
        dropped = f"; {len(accounts.dropped)} labels left out" if accounts.dropped else ""
        return {
            "rows": rows,
            "flows": {part: total["flows"] for part, total in self._parts.items()},
            "labels": self._labels,
            "summary": f"{len(self._labels)} labels: {told}{dropped}",
        }


def _account(outcomes: Mapping[tuple[str, str], int], nights: Sequence[Partition]) -> Accounts:
    accounts = Accounts(
        flows_in=sum(int(night.metadata["rows"]) for night in nights),
        continued=outcomes[work.CONTINUED, ""],
        other_protocols=outcomes[work.OTHER_PROTOCOL, ""],
        unlisted=outcomes[work.UNLISTED, ""],
        conflicts=outcomes[work.CONFLICT, ""],
        labelled={label: flows for (outcome, label), flows in outcomes.items() if outcome == work.LABELLED},
    )
    accounts.check()
    return accounts


def _coverage(outcomes: Mapping[tuple[str, str], int], devices: DeviceList) -> dict[str, Any]:
    """What the list and the flows have not in common, and sentences on it."""
    names = dict.fromkeys(device.name for device in devices.devices)
    without = [name for name in names if (work.DEVICE, name) not in outcomes]
    hosts = work.busiest(Counter({host: n for (kind, host), n in outcomes.items() if kind == work.HOST}), _HOSTS_SHOWN)
    return {
        "without_flows": without,
        "unlisted_hosts": hosts,
        "coverage": list(coverage(without, len(names), hosts)),
    }


def _nothing_matches(flows: DataFrame, devices: DeviceList) -> LabelError:
    """The error that says what the list was held against."""
    seen = flows.selectExpr("explode(array(client_mac, server_mac)) AS mac").where("mac IS NOT NULL").distinct()
    shown = ", ".join(row["mac"] for row in seen.orderBy("mac").limit(_MACS_SHOWN).collect())
    macs = f"{seen.count():,} distinct MACs seen{f', such as {shown}' if shown else ''}"
    return LabelError(
        f"{devices.source}: fits none of the {flows.count():,} flows ({macs}); list the MACs, addresses or capture "
        "paths of its devices, and check dataset.protocols"
    )


def _keep(stack: ExitStack, frame: DataFrame) -> DataFrame:
    """Several jobs read the frame: hold it, on disk where memory does not suffice, until the stack is left."""
    from pyspark import StorageLevel

    stack.callback(frame.unpersist)
    return frame.persist(StorageLevel.MEMORY_AND_DISK)
