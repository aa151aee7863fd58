"""Assigns flows to dataset splits (training, validation, test) by one of the split protocols in `SPLIT_PROTOCOLS`.

To add a split protocol: 1. an entry of `SPLIT_PROTOCOLS`: the columns that it reads and how it orders units; 2. its
name in `config.Dataset.protocol`; 3. a line below, and tests in tests/dataset/test_split_protocols.py.

All are stratified by label. The same split protocol, seed and flows give the same splits, however the rows are ordered
or partitioned.

* ``random_flow``: flows, in the order of a seeded hash of what identifies them.
* ``random_unique``: distinct (sequences, label), in the order of a seeded hash; duplicates are in the same split, so no
  sequence is in two splits under one label.
* ``by_capture``: whole capture files, in the order of a seeded hash of their path, stratified by the label of most of a
  file's flows.
* ``by_time``: each label's earliest flows are for training, the next for validation, the last for test. Flows of the
  same microsecond are ordered by the hash.

Of three or more units (flows, sequences, files) of a label, each split gets at least one; of two, training and test get
one each; a single one is for training. The dataset's metadata shows which splits a label lacks.

Each unit has a position, and the splits of a label are ranges of positions. The cuts between them are found without
sorting all units: each bucket (`iotid.spark.shuffle`) sends a summary; if the summaries leave a cut ambiguous, the
units between its bounds are sent in a second round.

Shape suffixes: N flows, U units.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from iotid.dataset.hashes import hash_rows, mix
from iotid.errors import AccountingError

if TYPE_CHECKING:
    import pyarrow as pa

    from iotid import config

Positions = NDArray[np.int64]

DATASET_SPLITS = ("train", "validation", "test")

FLOW_IDENTITY = (
    "site", "capture_date", "protocol", "vlan", "client_ip", "client_port", "server_ip", "server_port", "first_seen",
)  # fmt: skip
"""Columns that identify a flow; without its capture file, so that two copies of a flow are in the same split."""

DATE_IDENTITY = ("site", "capture_date")
CAPTURE_IDENTITY = (*DATE_IDENTITY, "capture_file")


@dataclass(frozen=True)
class SplitProtocol:
    """``unit``: what is never divided between splits; ``columns``: of FLOWS, input of a unit's hash."""

    unit: Literal["flow", "sequences", "capture"]
    columns: tuple[str, ...]
    in_time_order: bool = False


# add yours here
SPLIT_PROTOCOLS: Mapping[str, SplitProtocol] = {
    "random_flow": SplitProtocol("flow", FLOW_IDENTITY),
    "random_unique": SplitProtocol("sequences", ()),
    "by_capture": SplitProtocol("capture", CAPTURE_IDENTITY),
    "by_time": SplitProtocol("flow", FLOW_IDENTITY, in_time_order=True),
}

_TIME_BITS = 52  # µs since 1970 until the year 2112; later times count as that year's
_SAMPLES = 1 << 18  # positions of a label in all summaries together


def columns_read(protocol: str) -> tuple[str, ...]:
    """Columns of FLOWS that ``positions`` reads."""
    return SPLIT_PROTOCOLS[protocol].columns


def positions(
    flows: pa.RecordBatch, settings: config.Dataset, label_hash_N: NDArray[np.uint64], packed: pa.BinaryArray
) -> Positions:
    """(N,) position of each flow's unit in its label, at least 0.

    ``label_hash_N``: hashes of the flows' labels; ``packed``: their sequences.
    """
    protocol = SPLIT_PROTOCOLS[settings.protocol]
    if protocol.unit == "sequences":
        return _positive(mix([label_hash_N, hash_rows([packed])], settings.seed))
    hash_N = hash_rows([flows.column(name) for name in protocol.columns], settings.seed)
    if not protocol.in_time_order:
        return _positive(hash_N)
    time_N = flows.column("first_seen").cast("int64").to_numpy(zero_copy_only=False)
    bits = 63 - _TIME_BITS
    return np.clip(time_N, 0, (1 << _TIME_BITS) - 1) << bits | (hash_N >> np.uint64(64 - bits)).astype(np.int64)


def _positive(hash_N: NDArray[np.uint64]) -> Positions:
    return (hash_N >> np.uint64(1)).astype(np.int64)


def split_sizes(units: int, train: float, validation: float) -> tuple[int, int, int]:
    """Number of a label's ``units`` in each split, by the rule above."""
    if units < len(DATASET_SPLITS):
        return min(units, 1), 0, max(units - 1, 0)
    in_train = min(max(int(units * train + 0.5), 1), units - 2)
    in_validation = min(max(int(units * validation + 0.5), 1), units - in_train - 1)
    return in_train, in_validation, units - in_train - in_validation


@dataclass(frozen=True)
class SplitAssignment:
    """The splits of every label; for ``by_capture``, of every capture file, whatever its flows' labels.

    ``cuts``: int64 (labels, 2): first position after training, and after validation. ``captures``: (positions, sorted;
    their splits).
    """

    cuts: Positions
    captures: tuple[Positions, NDArray[np.int8]] | None = None

    def splits_of(self, label_N: NDArray[np.int32], position_N: Positions) -> NDArray[np.int8]:
        """(N,) index into DATASET_SPLITS of each flow."""
        if self.captures is not None:
            known, split = self.captures
            return split[np.searchsorted(known, position_N)]
        return (position_N[:, None] >= self.cuts[label_N]).sum(axis=1).astype(np.int8)

    def in_training(self, votes: Iterable[tuple[int, str, int]]) -> set[str]:
        """Labels with a capture in the training split; ``votes``: as of `split_captures`."""
        assert self.captures is not None
        training = set(self.captures[0][self.captures[1] == 0].tolist())
        return {label for position, label, _ in votes if position in training}


def split_captures(votes: Iterable[tuple[int, str, int]], settings: config.Dataset) -> SplitAssignment:
    """Assign captures; ``votes``: (position of a capture, label, flows). A capture's label is that of most flows."""
    of_capture: dict[int, dict[str, int]] = {}
    for position, label, flows in votes:
        counted = of_capture.setdefault(position, {})
        counted[label] = counted.get(label, 0) + flows
    strata: dict[str, list[int]] = {}
    for position, counted in of_capture.items():
        majority = max(counted, key=lambda label: (counted[label], label))
        strata.setdefault(majority, []).append(position)
    split_of: dict[int, int] = {}
    for units in strata.values():
        splits = np.repeat(np.arange(len(DATASET_SPLITS)), split_sizes(len(units), settings.train, settings.validation))
        split_of |= dict(zip(sorted(units), splits.tolist(), strict=True))
    known = sorted(split_of)
    captures = np.array(known, np.int64), np.array([split_of[position] for position in known], np.int8)
    return SplitAssignment(np.empty((0, 2), np.int64), captures)


@dataclass(frozen=True)
class Summary:
    """One bucket's units of one label: their number, and the position of every ``step``-th, sorted."""

    label: int
    count: int
    step: int
    positions: Positions


def distinct_units(label_U: NDArray[np.int32], position_U: Positions) -> list[tuple[int, Positions]]:
    """(label, its distinct positions, sorted) of each label."""
    if not len(label_U):
        return []
    order = np.lexsort((position_U, label_U))
    label_U, position_U = label_U[order], position_U[order]
    labels, starts = np.unique(label_U, return_index=True)
    return [(int(label), np.unique(own)) for label, own in zip(labels, np.split(position_U, starts[1:]), strict=True)]


def summarise(units: Sequence[tuple[int, Positions]], buckets: int) -> list[Summary]:
    """Summaries of the units of one of ``buckets`` buckets."""
    summaries = []
    for label, own in units:
        step = -(-len(own) // max(_SAMPLES // buckets, 1))
        summaries.append(Summary(label, len(own), step, own[step - 1 :: step]))
    return summaries


@dataclass(frozen=True)
class AmbiguousCut:
    """A cut at the unit of rank ``rank`` of a label, whose position is above ``low`` and at most ``high``."""

    label: int
    after: int  # 0: training, 1: validation
    rank: int
    low: int
    high: int

    def among(self, own: Positions) -> tuple[int, Positions]:
        """Of a bucket's sorted units of the label: (how many are up to ``low``; those above it, up to ``high``)."""
        first, last = np.searchsorted(own, [self.low, self.high], side="right")
        return int(first), own[first:last]

    def resolve(self, answers: Sequence[tuple[int, Positions]]) -> int:
        """The position of the unit; ``answers``: results of ``among`` for every bucket."""
        below = sum(count for count, _ in answers)
        candidates = np.sort(np.concatenate([own for _, own in answers]))
        if not 0 < self.rank - below <= len(candidates):
            raise AccountingError("write-dataset: flows changed between two passes over them; run the step again")
        return int(candidates[self.rank - below - 1])


def find_cuts(
    summaries: Iterable[Summary], labels: int, settings: config.Dataset
) -> tuple[SplitAssignment, list[AmbiguousCut]]:
    """(the assignment as far as summaries determine it; the cuts that they leave ambiguous)."""
    cuts = np.zeros((labels, 2), np.int64)
    ambiguous = []
    of_label: dict[int, list[Summary]] = {}
    for summary in summaries:
        of_label.setdefault(summary.label, []).append(summary)
    for label, own in of_label.items():
        sizes = split_sizes(sum(each.count for each in own), settings.train, settings.validation)
        sampled = np.concatenate([each.positions for each in own])
        order = np.argsort(sampled)
        sampled = sampled[order]
        at_least = np.cumsum(np.concatenate([np.full(len(each.positions), each.step) for each in own])[order])
        slack = sum(each.step - 1 for each in own)  # how many more units may be at or before a sample
        for after, rank in enumerate((sizes[0], sizes[0] + sizes[1])):
            high = np.searchsorted(at_least, rank)
            low = np.searchsorted(at_least + slack, rank) - 1
            if slack == 0:
                cuts[label, after] = sampled[high] + 1 if rank else 0
            else:
                highest = sampled[high] if high < len(sampled) else np.iinfo(np.int64).max
                ambiguous.append(AmbiguousCut(label, after, rank, int(sampled[low]) if low >= 0 else -1, int(highest)))
    return SplitAssignment(cuts), ambiguous


def resolve_cuts(
    assignment: SplitAssignment, ambiguous: Sequence[AmbiguousCut], answers: Mapping[int, list[tuple[int, Positions]]]
) -> SplitAssignment:
    """The complete assignment; ``answers``: index of an ambiguous cut -> `AmbiguousCut.among` of each bucket."""
    cuts = assignment.cuts.copy()
    for number, cut in enumerate(ambiguous):
        cuts[cut.label, cut.after] = cut.resolve(answers[number]) + 1
    return SplitAssignment(cuts)
