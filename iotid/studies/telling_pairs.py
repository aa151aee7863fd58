"""For each label, the pairs of packets (`baselines.pingpong`) that most of its captures have, and others' do not.

Each task counts its own file of flows. Of each label it returns the `PAIRS` pairs that are in most captures, so that
the size of the result depends on files, labels and captures, and not on how many pairs a device sends.

Shape suffixes: E pairs of flows, V distinct (label, pair, capture).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from iotid.baselines.pingpong import packet_pairs
from iotid.dataset.hashes import hash_rows
from iotid.dataset.split_protocols import CAPTURE_IDENTITY
from iotid.spark.shuffle import read_task_ids

if TYPE_CHECKING:
    from iotid.dataset.label_flows import Source

PAIRS = 1000
"""Pairs of each label that a task returns, at most."""
SHOWN = 3
"""Pairs of each label that are shown, at most."""

_LEAST_SHARE, _LEAST_CAPTURES = 0.5, 2
_DECIMALS = 9  # of differences that are compared: 0.7 - 0.2 is as much as 0.5
_READ = (*CAPTURE_IDENTITY, "direction", "payload_length")
COUNTED = pa.schema(
    [
        ("label", pa.string()),
        ("by_client", pa.int64()),  # 1 if the client sends the first packet
        ("first", pa.int64()),  # bytes of payload; 0 in the row that says that the label has the capture
        ("second", pa.int64()),
        ("capture", pa.int64()),  # hash of its identity
    ]
)


class TellingPair(NamedTuple):
    """A pair that is in ``captures`` of the label's ``of`` captures, and in the share ``elsewhere`` of those of
    ``other``, which has it most often of all other labels (empty: none has it)."""

    by_client: bool
    first: int
    second: int
    captures: int
    of: int
    elsewhere: float
    other: str

    @property
    def packets(self) -> str:
        """Senders and lengths in words."""
        senders = ("client", "server") if self.by_client else ("server", "client")
        return f"{senders[0]} {self.first:,} -> {senders[1]} {self.second:,}"


def count(tasks: Iterable[pa.RecordBatch], source: Source) -> Iterator[pa.RecordBatch]:
    """COUNTED, distinct, of each file of flows."""
    for number in read_task_ids(tasks):
        rows_V5 = np.empty((0, 5), np.int64)
        for flows, label_N, _, _ in source.read(number, _READ, Counter()):
            capture_N = hash_rows([flows[name] for name in CAPTURE_IDENTITY]).view(np.int64)
            pairs, none_N = packet_pairs(flows), np.zeros(len(label_N), np.int64)
            has_E5 = np.stack(
                [label_N[pairs.flow], pairs.by_client, pairs.first, pairs.second, capture_N[pairs.flow]], axis=1
            )
            is_N5 = np.stack([label_N, none_N, none_N, none_N, capture_N], axis=1)
            rows_V5 = np.unique(np.concatenate([rows_V5, is_N5, has_E5]), axis=0)
        rows_V5 = _commonest(rows_V5)
        names = pa.array(source.labels, pa.string()).take(pa.array(rows_V5[:, 0]))
        yield pa.RecordBatch.from_arrays([names, *map(pa.array, rows_V5[:, 1:].T)], schema=COUNTED)


def _commonest(rows_V5: NDArray[np.int64]) -> NDArray[np.int64]:
    """The rows of captures, and of the PAIRS pairs of each label that most captures have; of equals the first."""
    pairs, which_V, captures = np.unique(rows_V5[:, :4], axis=0, return_inverse=True, return_counts=True)
    is_pair = pairs[:, 2] > 0
    order = np.lexsort((-captures, is_pair, pairs[:, 0]))  # stable
    label = pairs[order, 0]
    rank = np.arange(len(order)) - np.searchsorted(label, label)
    kept = np.empty(len(order), np.bool_)
    kept[order] = rank <= PAIRS  # rank 0 is the row of captures
    return rows_V5[kept[which_V.ravel()]]


def choose(counted: pa.Table, labels: Collection[str]) -> dict[str, list[TellingPair]]:
    """The SHOWN most telling pairs of each label, from COUNTED of all tasks; only ``labels`` are compared.

    A pair must be in two captures of the label or more, in half of them, and in a smaller share of those of any other
    label. The best has the greatest difference between the two shares; of equals the one in most captures, then that of
    the client, then the one of the smaller lengths.
    """
    distinct = counted.group_by(counted.column_names, use_threads=False).aggregate([])
    summed = distinct.group_by(counted.column_names[:4], use_threads=False).aggregate([([], "count_all")])
    captures: dict[str, int] = {}
    pairs: dict[tuple[int, int, int], dict[str, int]] = {}
    for label, *pair, number in zip(*(column.to_pylist() for column in summed.columns), strict=True):
        if label in labels and not pair[1]:
            captures[label] = number
        elif label in labels:
            pairs.setdefault((pair[0], pair[1], pair[2]), {})[label] = number
    found: dict[str, list[TellingPair]] = {label: [] for label in sorted(captures)}
    for (by_client, first, second), having in pairs.items():
        share = {label: number / captures[label] for label, number in having.items()}
        ranked = sorted(share, key=lambda label: (-share[label], label))[:2]
        for label, number in having.items():
            other = next((each for each in ranked if each != label), "")
            elsewhere = share.get(other, 0.0)
            if number >= _LEAST_CAPTURES and share[label] >= _LEAST_SHARE and share[label] > elsewhere:
                found[label].append(
                    TellingPair(bool(by_client), first, second, number, captures[label], elsewhere, other)
                )
    return {label: sorted(own, key=_merit)[:SHOWN] for label, own in found.items()}


def _merit(pair: TellingPair) -> tuple[float, int, bool, int, int]:
    difference = round(pair.captures / pair.of - pair.elsewhere, _DECIMALS)
    return -difference, -pair.captures, not pair.by_client, pair.first, pair.second


def to_json(found: Mapping[str, Sequence[TellingPair]]) -> list[dict[str, object]]:
    """One entry for each pair."""
    return [{"label": label, **pair._asdict()} for label, pairs in found.items() for pair in pairs]
