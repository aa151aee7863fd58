"""Writes a dataset from flows and a device list, on Spark.

Two passes over the flows: `split_tasks` counts outcomes and units, from which the driver assigns splits; `row_tasks`
creates and writes rows. The driver collects counts by label, candidates for the cuts between splits, counts of values
and sampled sets, but no flows.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from iotid import schemas
from iotid.config import settings_hash
from iotid.dataset.accounting import FlowAccounting, coverage
from iotid.dataset.characteristics import Encoding, check_header_fields, learn_vocabularies
from iotid.dataset.from_persons import labels_from_persons
from iotid.dataset.label_flows import (
    CONFLICT,
    CONTINUED,
    DEVICE,
    HOST,
    LABELLED,
    ON_NO_LIST,
    OTHER_PROTOCOL,
    Source,
    busiest,
)
from iotid.dataset.row_tasks import merge_buckets, partition_rows, write_files
from iotid.dataset.set_tasks import sets_of
from iotid.dataset.side_outputs import SideOutputs
from iotid.dataset.split_protocols import (
    DATASET_SPLITS,
    SPLIT_PROTOCOLS,
    SplitAssignment,
    find_cuts,
    resolve_cuts,
    split_captures,
)
from iotid.dataset.split_tasks import refine_cuts, scan, summarise_units
from iotid.dataset.store import ENCODING, SETS, TEST_SETS, group_rows, write_petastorm_metadata, write_sets
from iotid.errors import AccountingError, InputError, LabelError, SchemaError, SettingError, short_repr
from iotid.flows import FlowFile, later_flows, partition_files
from iotid.labels.device_list import DeviceList
from iotid.labels.devices import UNLISTED
from iotid.partitions import PartitionKey
from iotid.schemas.metadata import Datasets, Flows
from iotid.spark.phases import set_phase
from iotid.spark.shuffle import (
    FLOW_BYTES,
    NO_BUCKET,
    SHUFFLE_BLOCKS,
    SIDE_OUTPUTS,
    Buckets,
    map_batches,
    read_task_ids,
    shuffle_by_bucket,
    task_ids,
)
from iotid.storage import remove_failed_task_files

if TYPE_CHECKING:
    from iotid import config
    from iotid.partitions import Partition, Staged, Store
    from iotid.spark.in_process import Frame, Session

log = logging.getLogger(__name__)

_STEP = "write-dataset"  # in the Spark UI

_MACS = pa.schema([("mac", pa.string())])
_MACS_SHOWN = 3
_HOSTS_SHOWN = 5


def write_dataset(
    spark: Session,
    store: Store,
    partitions: Sequence[Partition[Flows]],
    devices: DeviceList,
    settings: config.Dataset,
    flow: config.Flow,
    name: str,
) -> Partition[Datasets]:
    """Write the dataset ``name`` from the flows of ``partitions``: three Petastorm splits, the encoding and sets.

    A row is a flow or, with ``settings.unique``, a distinct (sequences, label) of a split; ``num_flows`` is its weight.
    Left out are labels with fewer than ``min_flows`` flows or none in the training split, and flows that match several
    devices equally well (conflicts). In the metadata, ``accounting`` adds up to all flows, ``dropped`` lists these
    labels, ``without_flows`` names the devices without a flow, ``unlisted_hosts`` the busiest unlisted hosts, and
    ``from_persons`` counts the devices that persons named.

    Raises:
        LabelError: the list matches no flow, leaves fewer than two labels, or leaves a split empty.
        SettingError: a characteristic is unknown, ``min_count`` leaves no value of it, or the flows were assembled with
            other settings.
        AccountingError: flows or rows were lost.
    """
    check_partitions(partitions, settings, flow)
    set_phase(spark, _STEP, "find continued flows and routers")
    files, later = partition_files(partitions), later_flows(spark, partitions)
    source = Source(files, later, devices.at(files, spark), settings, flow.max_packets)
    with ExitStack() as stack:
        num_bytes = FLOW_BYTES * sum(int(each.metadata["rows"]) for each in partitions)
        flows = _FirstPass(spark, source, num_bytes, stack)
        accounting = _account(flows.outputs.outcomes, partitions)
        if not set(accounting.labelled) - {UNLISTED}:
            raise _nothing_matches(spark, files, accounting.flows_in, devices)
        accounting.drop_rare(settings.min_flows, devices.source)
        assignment = flows.assign_splits(accounting)
        labels = tuple(sorted(accounting.labelled))
        rows = _SecondPass(spark, source, num_bytes, assignment, labels, stack)
        rows.check(accounting)
        encoding = Encoding(
            max_packets=flow.max_packets,
            vocabularies=learn_vocabularies(rows.outputs.seen, settings),
            labels=labels,
            devices=devices.describe_all(settings.label, labels),
            protocols=settings.protocols,
            length=flow.length,
        )
        with store.write("datasets", PartitionKey.named(name)) as staged:
            staged.metadata = {
                "hash": dataset_hash(partitions, devices, settings, flow),
                "device_list": devices.source,
                "nights": [each.key for each in partitions],
                "protocol": settings.protocol,
                "settings": {"dataset": settings.model_dump(mode="json"), "flow": flow.model_dump(mode="json")},
                "accounting": accounting.to_json(),
                "dropped": accounting.dropped,
                **_coverage(flows.outputs.outcomes, devices),
                **rows.write(staged, encoding, accounting),
            }
    written = store.open("datasets", PartitionKey.named(name))
    log.info("dataset %s: %s", name, written.metadata["summary"])
    return written


def dataset_hash(
    partitions: Sequence[Partition[Flows]], devices: DeviceList, settings: config.Dataset, flow: config.Flow
) -> str:
    """Hash of all that the rows of a dataset depend on: settings, flows and device list."""
    made_of = {"devices": devices.hash, "inputs": [[each.key, each.metadata] for each in partitions]}
    return settings_hash(settings, flow, extra=made_of)


def check_partitions(partitions: Sequence[Partition[Flows]], settings: config.Dataset, flow: config.Flow) -> None:
    """Check that the flows have this schema, the settings of ``flow``, except for a smaller ``max_packets``, and the
    columns of the characteristics.

    Raises:
        InputError: there is no partition.
        SchemaError: the flows have another schema version.
        SettingError: the flows were assembled with other settings, or without header fields that are read.
    """
    if not partitions:
        raise InputError("flows: no capture date is named; name at least one --site and --date")
    check_header_fields(settings.characteristics, flow)
    wanted = flow.model_dump(mode="json")
    for each in partitions:
        version = each.metadata["schema_version"]
        if version != schemas.FLOWS.version:
            raise SchemaError(
                f"{each.uri}: flows of schema version {version}, this iotid reads {schemas.FLOWS.version}; assemble "
                "the flows of this capture date again"
            )
        made = dict(each.metadata["settings"]["flow"])
        for key, value in wanted.items():
            if value != made.get(key) and not (key == "max_packets" and value < made[key]):
                raise SettingError(
                    f"flow.{key}: is {value}, the flows of {each.uri} were assembled with {short_repr(made.get(key))}; "
                    "assemble them again, or give the same setting"
                )


class _FirstPass:
    """The first pass: outcomes of all flows, and the units that are assigned to splits."""

    def __init__(self, spark: Session, source: Source, num_bytes: int, stack: ExitStack) -> None:
        set_phase(spark, _STEP, f"label flows of {len(source.files):,} files, first pass")
        buckets = Buckets.of(spark, num_bytes)
        first = partial(scan, source=source, buckets=buckets)
        sent = map_batches(task_ids(spark, range(len(source.files))), first, SHUFFLE_BLOCKS)
        self._spark, self._source = spark, source
        self._units = _persist(stack, shuffle_by_bucket(sent, buckets.partitions))
        sum_up = partial(summarise_units, number=buckets.number)
        self.outputs = SideOutputs.of(map_batches(self._units, sum_up, SIDE_OUTPUTS).toArrow())

    def assign_splits(self, accounting: FlowAccounting) -> SplitAssignment:
        """Assign splits to the remaining labels; drop labels without a capture in training."""
        settings, devices = self._source.settings, self._source.devices
        if SPLIT_PROTOCOLS[settings.protocol].unit == "capture":
            votes = [vote for vote in self.outputs.votes if vote[1] in accounting.labelled]
            assignment = split_captures(votes, settings)
            for label in sorted(set(accounting.labelled) - assignment.in_training(votes)):
                accounting.drop(label, f"none of them in the training split ({settings.protocol})")
            accounting.check_classes(devices.source)
            return assignment
        assignment, ambiguous = find_cuts(self.outputs.summaries, len(self._source.labels), settings)
        if not ambiguous:
            return assignment
        set_phase(self._spark, _STEP, "resolve ambiguous cuts between dataset splits")
        refine = partial(refine_cuts, ambiguous=ambiguous)
        found = map_batches(self._units, refine, SIDE_OUTPUTS).toArrow()
        return resolve_cuts(assignment, ambiguous, SideOutputs.of(found).candidates)


class _SecondPass:
    """The second pass: rows of label, split and sequences, persisted until they are written."""

    def __init__(
        self,
        spark: Session,
        source: Source,
        num_bytes: int,
        assignment: SplitAssignment,
        labels: Sequence[str],
        stack: ExitStack,
    ) -> None:
        self._spark, self._source = spark, source
        set_phase(spark, _STEP, "encode sequences, merge equal ones, second pass")
        buckets = Buckets.of(spark, num_bytes)
        read = partial(partition_rows, source=source, assignment=assignment, labels=labels, buckets=buckets)
        merge = partial(merge_buckets, unique=source.settings.unique)
        sent = map_batches(task_ids(spark, range(len(source.files))), read, SHUFFLE_BLOCKS)
        self._merged = _persist(
            stack,
            map_batches(shuffle_by_bucket(sent, buckets.partitions), merge, SHUFFLE_BLOCKS),
        )
        self.outputs = SideOutputs.of(self._merged.where(f"bucket = {NO_BUCKET}").select(*SIDE_OUTPUTS.names).toArrow())
        self._labels: dict[str, dict[str, dict[str, int]]] = {label: {} for label in labels}
        self._splits = {split: {"rows": 0, "flows": 0} for split in DATASET_SPLITS}
        self._of_partitions: list[Counter[str]] = [Counter() for _ in range(buckets.partitions)]
        for row in self.outputs.rows:
            split, of_label = DATASET_SPLITS[row["split"]], self._labels[labels[row["label"]]]
            for total in (self._splits[split], of_label.setdefault(split, {"rows": 0, "flows": 0})):
                total["rows"] += row["num_flows_count"]
                total["flows"] += row["num_flows_sum"]
            self._of_partitions[row["partition"]][split] += row["num_flows_count"]

    def check(self, accounting: FlowAccounting) -> None:
        """Check that no flow was lost and no split is empty."""
        kept, found = accounting.to_json()["kept"], sum(total["flows"] for total in self._splits.values())
        if found != kept:
            raise AccountingError(
                f"write-dataset: {kept:,} labelled flows, {found:,} of them in splits; run the step again, and report "
                "this if it happens again"
            )
        for split, total in self._splits.items():
            if not total["rows"]:
                protocol = self._source.settings.protocol
                raise LabelError(
                    f"{self._source.devices.source}: no flow is in the {split} split under dataset.protocol={protocol}"
                    "; give 3 or more captures of a device, or choose another protocol"
                )

    def write(self, staged: Staged, encoding: Encoding, accounting: FlowAccounting) -> dict[str, Any]:
        """Write the splits, the encoding and the sets; return metadata: rows and flows of each split and label.

        Raises:
            AccountingError: the files have another number of rows.
        """
        rows = {split: total["rows"] for split, total in self._splits.items()}
        groups = group_rows(rows, self._of_partitions, self._source.settings.row_groups)
        write = partial(write_files, folder=staged.uri, encoding=encoding, group_rows=groups)
        for split in DATASET_SPLITS:
            staged.filesystem.create_dir(f"{staged.path}/{split}")
        set_phase(self._spark, _STEP, "write the dataset's files")
        map_batches(self._merged, write, SIDE_OUTPUTS).toArrow()
        for split in DATASET_SPLITS:
            remove_failed_task_files(staged.filesystem, f"{staged.path}/{split}")
            in_footers = write_petastorm_metadata(staged, split, encoding)
            if in_footers != rows[split]:
                raise AccountingError(
                    f"dataset {staged.uri}/{split}: {rows[split]:,} rows were written, the Parquet footers report "
                    f"{in_footers:,}; run the step again, and report this if it happens again"
                )
        staged.write_json(ENCODING, encoding.to_json())
        for name, sets in ((SETS, self.outputs.sets), (TEST_SETS, self.outputs.test_sets)):
            write_sets(staged, name, sets_of(sets, encoding, self._source.settings.sets))
        sizes = ", ".join(
            f"{split} {own['flows']:,} flows in {own['rows']:,} rows" for split, own in self._splits.items()
        )
        dropped = f"; {len(accounting.dropped)} labels left out" if accounting.dropped else ""
        return {
            "rows": rows,
            "flows": {split: total["flows"] for split, total in self._splits.items()},
            "labels": self._labels,
            "summary": f"{len(self._labels)} labels: {sizes}{dropped}",
        }


def _account(outcomes: Mapping[tuple[str, str], int], partitions: Sequence[Partition[Flows]]) -> FlowAccounting:
    accounting = FlowAccounting(
        flows_in=sum(int(each.metadata["rows"]) for each in partitions),
        continued=outcomes[CONTINUED, ""],
        other_protocols=outcomes[OTHER_PROTOCOL, ""],
        unlisted=outcomes[ON_NO_LIST, ""],
        conflicts=outcomes[CONFLICT, ""],
        labelled={label: flows for (outcome, label), flows in outcomes.items() if outcome == LABELLED},
    )
    accounting.check()
    return accounting


def _coverage(outcomes: Mapping[tuple[str, str], int], devices: DeviceList) -> dict[str, Any]:
    """Devices without flows, busiest unlisted hosts, what came from persons, and sentences on all."""
    names = dict.fromkeys(device.name for device in devices.devices)
    without = [name for name in names if (DEVICE, name) not in outcomes]
    hosts = busiest(Counter({host: n for (kind, host), n in outcomes.items() if kind == HOST}), _HOSTS_SHOWN)
    of_persons, sentences = labels_from_persons(outcomes, devices)
    return {
        "without_flows": without,
        "unlisted_hosts": hosts,
        "from_persons": of_persons,
        "coverage": [*coverage(without, len(names), hosts), *sentences],
    }


def _nothing_matches(spark: Session, files: Sequence[FlowFile], flows: int, devices: DeviceList) -> LabelError:
    """The error that the list matches no flow, with examples of MACs in the flows."""
    seen = map_batches(task_ids(spark, range(len(files))), partial(_macs_in, files=files), _MACS).distinct().toArrow()
    macs = sorted(seen["mac"].to_pylist())
    shown = f", such as {', '.join(macs[:_MACS_SHOWN])}" if macs else ""
    return LabelError(
        f"{devices.source}: fits none of the {flows:,} flows ({len(macs):,} distinct MACs seen{shown}); list the MACs, "
        "addresses or capture paths of its devices, and check dataset.protocols"
    )


def _macs_in(tasks: Iterable[pa.RecordBatch], files: Sequence[FlowFile]) -> Iterator[pa.RecordBatch]:
    """The distinct MACs of each file's flows."""
    names = ["client_mac", "server_mac"]
    for number in read_task_ids(tasks):
        for batch in files[number].read(names):
            macs = [pc.unique(batch[name].cast(pa.string())).drop_null() for name in names]
            yield pa.RecordBatch.from_arrays([pa.concat_arrays(macs).unique()], schema=_MACS)


def _persist(stack: ExitStack, frame: Frame) -> Frame:
    """Persist a table that several jobs read, until the stack is closed. DataFrames are kept on disk if memory is
    short: that is what ``persist`` does without a level."""
    stack.callback(frame.unpersist)
    return frame.persist()
