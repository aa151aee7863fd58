"""A dataset of flows that fit into memory: the labels, parts, vocabularies and rows that ``write_dataset`` would make.

For what a written dataset does not tell: which capture a test flow is in, and what folds of captures, or a training on
one network and a test on another, would answer.

Shape suffixes: N flows, P flows of a part.
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
from iotid.dataset import tasks as work
from iotid.dataset.accounts import Accounts
from iotid.dataset.arrays import distinct_rows
from iotid.dataset.characteristics import Encoding, learn_vocabularies, quantise_column, select_characteristics
from iotid.dataset.hashes import hash_rows
from iotid.dataset.split_protocols import (  # fmt: skip
    CAPTURE_IDENTITY,
    DATASET_SPLITS,
    FLOW_IDENTITY,
    FileSplit,
    distinct_units,
    find_ends,
    settle,
    split_captures,
    summarise,
)
from iotid.dataset.store import EncodedFlows
from iotid.dataset.write import check_partitions
from iotid.flows import later_flows, partition_files
from iotid.labels.device_list import DeviceList

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from iotid.partitions import Partition

# what is read of flows beside their identity and sequences: when and which way their packets went
_OF_TIME = ("last_seen", "packet_length", "direction", "inter_arrival_us")


class DatasetSplit(NamedTuple):
    """The rows of a part; the number of each of its flows (P,), and the row that it stands behind (P,)."""

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
        """Flows whose ids are ``sequences`` (P, M); where ``unique``, equal ones of a label are one row."""
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
    """Flows of schemas.FLOWS that have one of ``labels``: ``label`` (N,) is its number."""

    flows: pa.Table
    label: NDArray[np.int64]
    labels: tuple[str, ...]
    devices: DeviceList
    settings: config.Dataset
    flow: config.Flow

    @classmethod
    def of(
        cls,
        flows: pa.Table | Sequence[work.FlowFile],
        devices: DeviceList,
        settings: config.Dataset,
        flow: config.Flow,
        later: pa.Table | None = None,
    ) -> LabelledFlows:
        """Those of a table, in its order, or of files of nights (`flows.partition_files`), ordered by time, that
        ``write_dataset`` would keep.

        ``later``: of `flows.later_flows`, where several nights are read.

        Raises:
            LabelError: fewer than two labels are left.
        """
        files = HeldFlows.by_site(flows) if isinstance(flows, pa.Table) else flows
        devices = devices.at(files)
        source = work.Source(files, () if later is None else later, devices, settings, flow.max_packets)
        columns = {*FLOW_IDENTITY, *CAPTURE_IDENTITY, *_OF_TIME, *source.sequence_columns}
        columns |= {"first_bytes"} if flow.keep_bytes else set()
        read = [batch for number in range(len(files)) for batch in source.read(number, sorted(columns), Counter())]
        table = pa.Table.from_batches([batch.flows for batch in read]).select(sorted(columns)).unify_dictionaries()
        number_N = np.concatenate([batch.label for batch in read])
        if not isinstance(
            flows, pa.Table
        ):  # which file a flow is in is drawn anew for each night (`iotid.spark.shuffle`)
            first_us_N = table["first_seen"].cast(pa.int64()).to_numpy()
            order_N = np.lexsort((hash_rows([table[name] for name in FLOW_IDENTITY]), first_us_N))
            table, number_N = table.take(pa.array(order_N)), number_N[order_N]
        counted = {source.labels[number]: flows for number, flows in enumerate(np.bincount(number_N).tolist()) if flows}
        accounts = Accounts(len(table), 0, 0, 0, 0, counted)
        accounts.drop_rare(settings.min_flows, devices.source)
        labels = tuple(sorted(accounts.labelled))
        label_N = np.array([labels.index(name) if name in labels else -1 for name in source.labels])[number_N]
        return cls(table.filter(pa.array(label_N >= 0)), label_N[label_N >= 0], labels, devices, settings, flow)

    @classmethod
    def of_partitions(
        cls,
        spark: SparkSession | None,
        nights: Sequence[Partition],
        devices: DeviceList,
        settings: config.Dataset,
        flow: config.Flow,
    ) -> LabelledFlows:
        """Those of several nights; ``spark`` is needed where a later night tells a flow further.

        Raises what ``write_dataset`` raises for nights that were assembled by another version or other settings.
        """
        check_partitions(nights, flow)
        later = later_flows(spark, nights) if spark else None
        return cls.of(partition_files(nights), devices, settings, flow, later)

    def under(self, protocol: str) -> LabelledFlows:
        """The same flows, to be split by another protocol of the dataset's."""
        changed = self.settings.model_dump() | {"protocol": protocol}
        return replace(self, settings=config.Dataset.model_validate(changed))

    def parts(self) -> NDArray[np.int8]:
        """(N,) index into PARTS of each flow, by ``settings.protocol``; -1 of a label that training would never see."""
        source = work.Source([], (), self.devices, self.settings, self.flow.max_packets)
        batch = self.flows.combine_chunks().to_batches()[0]
        number_N = np.array([source.labels.index(label) for label in self.labels], np.int32)[self.label]
        packed = source.packed(batch) if self.settings.protocol == "random_unique" else None
        position_N = source.positions(batch, number_N, packed)
        if self.settings.protocol == "by_capture":
            pairs, counts = np.unique(np.stack([position_N, self.label]), axis=1, return_counts=True)
            votes = [
                (at, self.labels[label], flows)
                for (at, label), flows in zip(pairs.T.tolist(), counts.tolist(), strict=True)
            ]
            split = split_captures(votes, self.settings)
            trained = split.in_training(votes)
            unseen = [label not in trained for label in self.labels]
            part_N = split.parts(number_N, position_N)
            part_N[np.array(unseen)[self.label]] = -1
            return part_N
        return _by_position(number_N, position_N, len(source.labels), self.settings).parts(number_N, position_N)

    @cached_property
    def capture(self) -> NDArray[np.int64]:
        """(N,) a number for each capture file, in the order of a seeded hash of what identifies it."""
        hash_N = hash_rows([self.flows[name] for name in CAPTURE_IDENTITY], self.settings.seed)
        return np.unique(hash_N, return_inverse=True)[1]

    def bytes_of(self, flow_P: NDArray[np.int64]) -> NDArray[np.uint8]:
        """(P, keep_packets * keep_bytes) what ``flow.keep_bytes`` kept of these flows."""
        kept = self.flows["first_bytes"].take(pa.array(flow_P))
        joined = b"".join(kept.to_pylist())
        return np.frombuffer(joined, np.uint8).reshape(len(flow_P), self.flow.keep_packets * self.flow.keep_bytes)

    def folds(self, count: int) -> NDArray[np.int64]:
        """(N,) from 0 to ``count`` - 1: captures dealt out, those of each label evenly; a capture is never cut.

        A capture goes with the label of most of its flows.
        """
        flows_XC = np.zeros((int(self.capture.max()) + 1, len(self.labels)), np.int64)
        np.add.at(flows_XC, (self.capture, self.label), 1)
        label_X = flows_XC.argmax(axis=1)
        fold_X = np.zeros(len(label_X), np.int64)
        for label in range(len(self.labels)):
            own = np.flatnonzero(label_X == label)
            fold_X[own] = (np.arange(len(own)) + label) % count  # not all labels' first captures in one fold
        return fold_X[self.capture]

    def dataset(self, part_N: NDArray[Any]) -> tuple[Encoding, dict[str, DatasetSplit]]:
        """Vocabularies of the training part, and all parts that have flows; ``part_N`` as ``parts`` gives it."""
        encoding = Encoding(
            max_packets=self.flow.max_packets,
            vocabularies=learn_vocabularies(self._seen(part_N == DATASET_SPLITS.index("train")), self.settings),
            labels=self.labels,
            devices=self.devices.describe_all(self.settings.label, self.labels),
            protocols=self.settings.protocols,
            length=self.flow.length,
        )
        found = {}
        for number, name in enumerate(DATASET_SPLITS):
            flow_P = np.flatnonzero(part_N == number)
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


class HeldFlows(NamedTuple):
    """Flows of one site in memory, read like a file of a night."""

    flows: pa.Table
    site: str = ""

    @classmethod
    def by_site(cls, flows: pa.Table) -> list[HeldFlows]:
        """The flows of each site that their column ``site`` names, in the order of the sites."""
        sites = flows["site"].unique().to_pylist() if "site" in flows.column_names else []
        if len(sites) < 2:
            return [cls(flows, *sites)]
        return [cls(flows.filter(pc.equal(flows["site"], site)), site) for site in sorted(sites)]

    def read(self, columns: Iterable[str]) -> Iterator[pa.RecordBatch]:
        yield from self.flows.select(list(columns)).combine_chunks().to_batches()

    def superseded(self, flows: pa.RecordBatch, later: pa.Table) -> pa.BooleanArray:
        raise NotImplementedError  # asked only where a later night tells flows again


def _by_position(
    number_N: NDArray[np.int32], position_N: NDArray[np.int64], labels: int, settings: config.Dataset
) -> FileSplit:
    units = distinct_units(number_N, position_N)
    split, doubts = find_ends(summarise(units, 1), labels, settings)
    answers = {number: [doubt.among(dict(units)[doubt.label])] for number, doubt in enumerate(doubts)}
    return settle(split, doubts, answers) if doubts else split
