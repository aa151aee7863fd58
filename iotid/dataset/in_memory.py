"""A dataset in memory: the same labels, splits, vocabularies and rows as of ``write_dataset``.

Studies use it for what a stored dataset does not have: the capture of a test flow, folds of captures, training on one
network and testing on another.

Shape suffixes: N flows, P flows of a split.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from iotid import config
from iotid.arrow import one_chunk
from iotid.dataset.accounting import FlowAccounting
from iotid.dataset.arrays import distinct_rows
from iotid.dataset.characteristics import Encoding, learn_vocabularies, quantise_column, select_characteristics
from iotid.dataset.hashes import hash_rows
from iotid.dataset.label_flows import FlowFile, Source
from iotid.dataset.split_protocols import (  # fmt: skip
    CAPTURE_IDENTITY,
    DATASET_SPLITS,
    FLOW_IDENTITY,
    SPLIT_PROTOCOLS,
    SplitAssignment,
    distinct_units,
    find_cuts,
    resolve_cuts,
    split_captures,
    summarise,
)
from iotid.dataset.store import EncodedFlows
from iotid.dataset.write import check_partitions
from iotid.flows import later_flows, partition_files
from iotid.labels.device_list import DeviceList
from iotid.labels.owner import SERVER, owner_side

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from iotid.partitions import Partition
    from iotid.schemas.metadata import Flows

# columns read besides identity and sequences: times and directions of packets
_OF_TIME = ("last_seen", "packet_length", "direction", "inter_arrival_us")


class DatasetSplit(NamedTuple):
    """The rows of a split; the index of each of its flows (P,), and the row that counts the flow (P,)."""

    rows: EncodedFlows
    flow: NDArray[np.int64]
    row_of_flow: NDArray[np.int64]

    @classmethod
    def of(
        cls,
        sequences: Mapping[str, NDArray[np.int32]],
        label_P: NDArray[np.int64],
        flow_P: NDArray[np.int64],
        *,
        unique: bool = True,
    ) -> DatasetSplit:
        """The split of flows with ids ``sequences`` (P, M); if ``unique``, equal flows of a label share a row."""
        if not unique:
            ones = np.ones(len(flow_P), np.int64)
            return cls(EncodedFlows(dict(sequences), label_P, ones), flow_P, np.arange(len(flow_P)))
        joined = np.concatenate([*sequences.values(), label_P[:, np.newaxis].astype(np.int32)], axis=1)
        distinct, row_P = distinct_rows(joined)
        columns = np.split(distinct[:, :-1], len(sequences), axis=1)
        rows = EncodedFlows(
            dict(zip(sequences, columns, strict=True)),
            distinct[:, -1].astype(np.int64),
            np.bincount(row_P).astype(np.int64),
        )
        return cls(rows, flow_P, row_P)


@dataclass(frozen=True)
class LabelledFlows:
    """Flows (schemas.FLOWS) with a label; ``label`` (N,): index into ``labels``; ``device`` (N,): index into
    ``devices.entries``, -1 of unlisted devices."""

    flows: pa.Table
    label: NDArray[np.int64]
    device: NDArray[np.int32]
    labels: tuple[str, ...]
    devices: DeviceList
    settings: config.Dataset
    flow: config.Flow

    @classmethod
    def of(
        cls,
        flows: pa.Table | Sequence[FlowFile],
        devices: DeviceList,
        settings: config.Dataset,
        flow: config.Flow,
        later: pa.Table | None = None,
        further: Iterable[str] = (),
    ) -> LabelledFlows:
        """The flows that ``write_dataset`` would keep: of a table, in its order, or of files of partitions
        (`flows.partition_files`), sorted by time.

        ``later``: the result of `flows.later_flows` if there are several partitions; ``further``: columns of FLOWS to
        read besides identity, sequences and times.

        Raises:
            LabelError: fewer than two labels are left.
        """
        files = FlowsInMemory.by_site(flows) if isinstance(flows, pa.Table) else flows
        devices = devices.at(files)
        source = Source(files, () if later is None else later, devices, settings, flow.max_packets)
        columns = {*FLOW_IDENTITY, *CAPTURE_IDENTITY, *_OF_TIME, *source.sequence_columns, *further}
        columns |= {"first_bytes"} if flow.keep_bytes else set()
        read = [batch for number in range(len(files)) for batch in source.read(number, sorted(columns), Counter())]
        table = pa.Table.from_batches([batch.flows for batch in read]).select(sorted(columns)).unify_dictionaries()
        number_N, device_N = (np.concatenate([getattr(batch, of) for batch in read]) for of in ("label", "device"))
        if not isinstance(flows, pa.Table):  # files have another order in each run (`iotid.spark.shuffle`)
            first_us_N = table["first_seen"].cast(pa.int64()).to_numpy()
            order_N = np.lexsort((hash_rows([table[name] for name in FLOW_IDENTITY]), first_us_N))
            table, number_N, device_N = table.take(pa.array(order_N)), number_N[order_N], device_N[order_N]
        counted = {source.labels[number]: flows for number, flows in enumerate(np.bincount(number_N).tolist()) if flows}
        accounting = FlowAccounting(len(table), 0, 0, 0, 0, counted)
        accounting.drop_rare(settings.min_flows, devices.source)
        labels = tuple(sorted(accounting.labelled))
        label_N = np.array([labels.index(name) if name in labels else -1 for name in source.labels])[number_N]
        kept_N = label_N >= 0
        return cls(table.filter(pa.array(kept_N)), label_N[kept_N], device_N[kept_N], labels, devices, settings, flow)

    @classmethod
    def of_partitions(
        cls,
        spark: SparkSession | None,
        partitions: Sequence[Partition[Flows]],
        devices: DeviceList,
        settings: config.Dataset,
        flow: config.Flow,
        further: Iterable[str] = (),
    ) -> LabelledFlows:
        """The flows of several partitions; ``spark`` is needed if one continues flows of another.

        ``further``: as of `of`. Raises what `check_partitions` raises.
        """
        check_partitions(partitions, settings, flow)
        later = later_flows(spark, partitions) if spark else None
        return cls.of(partition_files(partitions), devices, settings, flow, later, further)

    def with_protocol(self, protocol: str) -> LabelledFlows:
        """The same flows, to be split by another of `split_protocols.SPLIT_PROTOCOLS`."""
        changed = self.settings.model_dump() | {"protocol": protocol}
        return replace(self, settings=config.Dataset.model_validate(changed))

    def assign_splits(self) -> NDArray[np.int8]:
        """(N,) index into DATASET_SPLITS of each flow; -1 for a label without training flows."""
        source = Source([], (), self.devices, self.settings, self.flow.max_packets)
        batch = self.flows.combine_chunks().to_batches()[0]
        number_N = np.array([source.labels.index(label) for label in self.labels], np.int32)[self.label]
        packed = source.packed(batch) if SPLIT_PROTOCOLS[self.settings.protocol].unit == "sequences" else None
        position_N = source.positions(batch, number_N, packed)
        if SPLIT_PROTOCOLS[self.settings.protocol].unit == "capture":
            pairs, counts = np.unique(np.stack([position_N, self.label]), axis=1, return_counts=True)
            votes = [
                (at, self.labels[label], flows)
                for (at, label), flows in zip(pairs.T.tolist(), counts.tolist(), strict=True)
            ]
            assignment = split_captures(votes, self.settings)
            trained = assignment.in_training(votes)
            unseen = [label not in trained for label in self.labels]
            split_N = assignment.splits_of(number_N, position_N)
            split_N[np.array(unseen)[self.label]] = -1
            return split_N
        return _by_position(number_N, position_N, len(source.labels), self.settings).splits_of(number_N, position_N)

    @cached_property
    def capture(self) -> NDArray[np.int64]:
        """(N,) number of each flow's capture file, in the order of a seeded hash of its identity."""
        hash_N = hash_rows([self.flows[name] for name in CAPTURE_IDENTITY], self.settings.seed)
        return np.unique(hash_N, return_inverse=True)[1]

    @cached_property
    def is_client(self) -> NDArray[np.bool_]:
        """(N,) whether the flow's device is its client; needs `iotid.labels.owner`'s columns among ``further``."""
        side_N = np.zeros(len(self.label), np.int8)
        site_N = np.asarray(self.flows["site"])
        for site in np.unique(site_N):
            own_N = site_N == site
            side_N[own_N] = owner_side(self.flows.filter(pa.array(own_N)), self.devices.site(str(site)))
        return side_N != SERVER

    @cached_property
    def device_at_site(self) -> NDArray[np.int64]:
        """(N,) number of each flow's device at its site; unlisted devices of a site have one number."""
        site_N = one_chunk(self.flows["site"].dictionary_encode()).indices.to_numpy()
        pair_N = site_N.astype(np.int64) * (len(self.devices.entries) + 1) + self.device
        return np.unique(pair_N, return_inverse=True)[1]

    def bytes_of(self, flow_P: NDArray[np.int64]) -> NDArray[np.uint8]:
        """(P, keep_packets * keep_bytes) the ``first_bytes`` of these flows."""
        first_bytes = self.flows["first_bytes"].take(pa.array(flow_P))
        joined = b"".join(first_bytes.to_pylist())
        return np.frombuffer(joined, np.uint8).reshape(len(flow_P), self.flow.keep_packets * self.flow.keep_bytes)

    def folds(self, count: int) -> NDArray[np.int64]:
        """(N,) fold of each flow, 0 to ``count`` - 1: whole captures, distributed evenly by label.

        The label of a capture is that of most of its flows.
        """
        flows_XC = np.zeros((int(self.capture.max()) + 1, len(self.labels)), np.int64)
        np.add.at(flows_XC, (self.capture, self.label), 1)
        label_X = flows_XC.argmax(axis=1)
        fold_X = np.zeros(len(label_X), np.int64)
        for label in range(len(self.labels)):
            own = np.flatnonzero(label_X == label)
            fold_X[own] = (np.arange(len(own)) + label) % count  # not all labels' first captures in one fold
        return fold_X[self.capture]

    def dataset(self, split_N: NDArray[Any]) -> tuple[Encoding, dict[str, DatasetSplit]]:
        """(encoding learned from the training split, all splits that have flows); ``split_N``: as `assign_splits`."""
        encoding = Encoding(
            max_packets=self.flow.max_packets,
            vocabularies=learn_vocabularies(self._seen(split_N == DATASET_SPLITS.index("train")), self.settings),
            labels=self.labels,
            devices=self.devices.describe_all(self.settings.label, self.labels),
            protocols=self.settings.protocols,
            length=self.flow.length,
        )
        found = {}
        for number, name in enumerate(DATASET_SPLITS):
            flow_P = np.flatnonzero(split_N == number)
            if len(flow_P):
                sequences = encoding.encode(self.flows.take(pa.array(flow_P)))
                found[name] = DatasetSplit.of(sequences, self.label[flow_P], flow_P, unique=self.settings.unique)
        return encoding, found

    def _seen(self, of_training_N: NDArray[np.bool_]) -> Mapping[str, Mapping[int, int]]:
        flows = self.flows.filter(pa.array(of_training_N))
        seen = {}
        for name, each in select_characteristics(self.settings.characteristics).items():
            lists = quantise_column(flows, each, self.flow.max_packets)
            values, times = np.unique(lists.values.to_numpy(), return_counts=True)
            seen[name] = dict(zip(values.tolist(), times.tolist(), strict=True))
        return seen


class FlowsInMemory(NamedTuple):
    """Flows of one site in memory, with the interface of `FlowFile`."""

    flows: pa.Table
    site: str = ""
    capture_date: str = ""  # of none: persons name devices for `write_dataset` only

    @classmethod
    def by_site(cls, flows: pa.Table) -> list[FlowsInMemory]:
        """The flows by their column ``site``, sorted by site."""
        sites = flows["site"].unique().to_pylist() if "site" in flows.column_names else []
        if len(sites) < 2:
            return [cls(flows, *sites)]
        return [cls(flows.filter(pc.equal(flows["site"], site)), site) for site in sorted(sites)]

    def read(self, columns: Iterable[str]) -> Iterator[pa.RecordBatch]:
        yield from self.flows.select(list(columns)).combine_chunks().to_batches()

    def superseded(self, flows: pa.RecordBatch, later: pa.Table) -> pa.BooleanArray:
        raise NotImplementedError  # called only if a later partition continues flows


def _by_position(
    number_N: NDArray[np.int32], position_N: NDArray[np.int64], labels: int, settings: config.Dataset
) -> SplitAssignment:
    units = distinct_units(number_N, position_N)
    assignment, ambiguous = find_cuts(summarise(units, 1), labels, settings)
    answers = {number: [cut.among(dict(units)[cut.label])] for number, cut in enumerate(ambiguous)}
    return resolve_cuts(assignment, ambiguous, answers) if ambiguous else assignment
