"""The four protocols: what each keeps together, that all splits get their share, and that only the flows decide."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iotid.config import Dataset, load_settings
from iotid.dataset import split_protocols as partition
from iotid.dataset.hashes import hash_rows
from iotid.dataset.packed_sequences import pack_sequences
from iotid.dataset.split_protocols import (
    DATASET_SPLITS,
    SplitAssignment,
    distinct_units,
    find_cuts,
    positions,
    resolve_cuts,
    split_captures,
    split_sizes,
    summarise,
)

SPLIT_PROTOCOLS = ("random_flow", "random_unique", "by_capture", "by_time")
LABELS = ("few", "many", "mixed", "one", "pair")


@given(units=st.integers(0, 10_000), train=st.floats(0.01, 0.98), share=st.floats(0.01, 0.99))
def test_part_sizes__add_up_and_leave_no_part_empty_from_three_on(units: int, train: float, share: float) -> None:
    sizes = split_sizes(units, train, (1 - train) * share)
    assert sum(sizes) == units
    assert min(sizes) >= (1 if units >= 3 else 0)
    if units >= 100:
        assert abs(sizes[0] - units * train) <= 2


def test_part_sizes__one_unit_trains_and_of_two_the_other_tests() -> None:
    assert [split_sizes(units, 0.8, 0.1) for units in (1, 2, 3, 10)] == [(1, 0, 0), (1, 0, 1), (1, 1, 1), (8, 1, 1)]


def _settings(protocol: str, **shares: float) -> Dataset:
    overrides = [f"dataset.{name}={value}" for name, value in {"protocol": protocol, **shares}.items()]
    return load_settings([], overrides).dataset


def _split(units: Sequence[tuple[str, int]], settings: Dataset, buckets: int, order: random.Random) -> SplitAssignment:
    """The assignment of (label, position) pairs that lie in buckets, as workers and driver make it between them."""
    dealt: dict[int, list[tuple[str, int]]] = defaultdict(list)
    for unit in units:
        dealt[unit[1] % buckets].append(unit)
    contents = []
    for own in dealt.values():
        order.shuffle(own)
        labels = np.array([LABELS.index(label) for label, _ in own], np.int32)
        contents.append(distinct_units(labels, np.array([position for _, position in own], np.int64)))
    order.shuffle(contents)
    summaries = [summary for content in contents for summary in summarise(content, buckets)]
    assignment, ambiguous = find_cuts(summaries, len(LABELS), settings)
    nothing = np.empty(0, np.int64)
    answers = {
        number: [cut.among(dict(content).get(cut.label, nothing)) for content in contents]
        for number, cut in enumerate(ambiguous)
    }
    return resolve_cuts(assignment, ambiguous, answers)


@given(data=st.data(), samples=st.sampled_from([1, 4, 16, 1 << 18]), buckets=st.integers(1, 5))
def test_find_ends__are_those_of_all_units_in_order_however_few_are_sampled(
    data: st.DataObject, samples: int, buckets: int
) -> None:
    sizes = data.draw(st.tuples(*[st.integers(0, 60)] * len(LABELS)))
    chance = random.Random(data.draw(st.integers(0, 1 << 32)))
    train = data.draw(st.floats(0.05, 0.9))
    settings = _settings("random_flow", train=train, validation=(1 - train) / 2)
    units = [(label, chance.randrange(1 << 62)) for label, size in zip(LABELS, sizes, strict=True) for _ in range(size)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(partition, "_SAMPLES", samples)
        assignment = _split(units * 2, settings, buckets, chance)  # a unit that two workers have seen is one
    for number, label in enumerate(LABELS):
        own = np.array(sorted(position for name, position in units if name == label), np.int64)
        expected = np.repeat(np.arange(3), split_sizes(len(own), train, (1 - train) / 2))
        assert assignment.splits_of(np.full(len(own), number), own).tolist() == expected.tolist()


def _rows() -> list[dict[str, Any]]:
    """Label `many` in 20 captures, `few` in 3, `pair` in 2, `one` in 1; `mixed` is a minority in captures of `many`."""
    chance = random.Random(7)
    rows = []
    for label, flows, captures in (("many", 400, 20), ("few", 9, 3), ("pair", 6, 2), ("one", 5, 1), ("mixed", 30, 20)):
        for number in range(flows):
            sequence = [chance.randrange(8), chance.randrange(8)] if label != "one" else [number]
            rows.append(
                {
                    "label": label,
                    "capture_file": f"{'many' if label == 'mixed' else label}/{number % captures}.pcap",
                    "client_port": len(rows),
                    "first_seen": datetime(2024, 3, 1, tzinfo=UTC) - timedelta(microseconds=number),
                    "packet_length": sequence,
                }
            )
    return rows


def _assigned(protocol: str, flow_table: Callable[..., pa.Table], *, shuffled: bool = False) -> list[dict[str, Any]]:
    """The rows with the split of each."""
    settings, rows = _settings(protocol), _rows()
    if shuffled:
        random.Random(3).shuffle(rows)
    flows = flow_table([{key: value for key, value in row.items() if key != "label"} for row in rows])
    for name, value in (("site", "lab"), ("capture_date", datetime(2024, 3, 1, tzinfo=UTC).date())):
        flows = flows.append_column(name, pa.repeat(value, len(flows)))
    labels = np.array([LABELS.index(row["label"]) for row in rows], np.int32)
    packed = pack_sequences([flows["packet_length"].combine_chunks().cast(pa.list_(pa.int32()))])
    [batch] = flows.combine_chunks().to_batches()
    position = positions(batch, settings, hash_rows([pa.array(LABELS)])[labels], packed)
    assert (position >= 0).all()
    if protocol == "by_capture":
        seen = Counter(zip(position.tolist(), (row["label"] for row in rows), strict=True))
        votes = [(at, label, flows) for (at, label), flows in seen.items()]
        assignment = split_captures(votes, settings)
        assert assignment.in_training(votes) == set(LABELS)
    else:
        units = [(LABELS[label], at) for label, at in zip(labels.tolist(), position.tolist(), strict=True)]
        assignment = _split(units, settings, 4, random.Random(5))
    return [
        {**row, "split": DATASET_SPLITS[split]}
        for row, split in zip(rows, assignment.splits_of(labels, position), strict=True)
    ]


@pytest.mark.parametrize("protocol", SPLIT_PROTOCOLS)
def test_parts__order_and_spread_of_the_rows_change_nothing(protocol: str, flow_table: Any) -> None:
    one, other = (sorted(_assigned(protocol, flow_table, shuffled=shuffled), key=str) for shuffled in (False, True))
    assert one == other


def test_random_flow__each_label_has_its_shares(flow_table: Any) -> None:
    splits = Counter((row["label"], row["split"]) for row in _assigned("random_flow", flow_table))
    assert [splits["many", split] for split in DATASET_SPLITS] == [320, 40, 40]
    assert [splits["few", split] for split in DATASET_SPLITS] == [7, 1, 1]
    assert [splits["one", split] for split in DATASET_SPLITS] == [3, 1, 1]


def test_random_unique__no_sequence_is_in_two_parts_under_one_label(flow_table: Any) -> None:
    splits = defaultdict(set)
    for row in _assigned("random_unique", flow_table):
        splits[row["label"], tuple(row["packet_length"])].add(row["split"])
    assert {len(found) for found in splits.values()} == {1}
    assert {split for (label, _), found in splits.items() for split in found if label == "few"} == set(DATASET_SPLITS)


def test_by_capture__files_stay_whole_and_follow_their_majority(flow_table: Any) -> None:
    splits: dict[str, set[str]] = defaultdict(set)
    captures: dict[tuple[str, str], set[str]] = defaultdict(set)
    for row in _assigned("by_capture", flow_table):
        splits[row["capture_file"]].add(row["split"])
        captures[row["label"], row["split"]].add(row["capture_file"])
    assert {len(found) for found in splits.values()} == {1}
    assert [len(captures["many", split]) for split in DATASET_SPLITS] == [16, 2, 2]
    assert [len(captures["few", split]) for split in DATASET_SPLITS] == [1, 1, 1]
    assert [len(captures["pair", split]) for split in DATASET_SPLITS] == [1, 0, 1]
    assert [len(captures["one", split]) for split in DATASET_SPLITS] == [1, 0, 0]


def test_by_time__training_comes_before_validation_before_test(flow_table: Any) -> None:
    times: dict[tuple[str, str], list[datetime]] = defaultdict(list)
    for row in _assigned("by_time", flow_table):
        times[row["label"], row["split"]].append(row["first_seen"])
    for label in ("many", "few", "pair", "one", "mixed"):
        assert max(times[label, "train"], default=datetime.min.replace(tzinfo=UTC)) < min(times[label, "validation"])
        assert max(times[label, "validation"]) < min(times[label, "test"])
    assert [len(times["many", split]) for split in DATASET_SPLITS] == [320, 40, 40]
