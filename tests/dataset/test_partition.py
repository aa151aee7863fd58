"""The four protocols: what each keeps together, that all parts get their share, and that only the flows decide."""

from __future__ import annotations

import functools
import random
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iotid.config import Dataset, load_settings
from iotid.dataset.partition import PARTS, assign_parts, part_sizes

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

PROTOCOLS = ("random_flow", "random_unique", "by_capture", "by_time")
_SCHEMA = (
    "label string, flow_hash long, capture_hash long, first_seen_us long, packet_length array<int>, num_flows long"
)


@given(units=st.integers(0, 10_000), train=st.floats(0.01, 0.98), share=st.floats(0.01, 0.99))
def test_part_sizes__add_up_and_leave_no_part_empty_from_three_on(units: int, train: float, share: float) -> None:
    sizes = part_sizes(units, train, (1 - train) * share)
    assert sum(sizes) == units
    assert min(sizes) >= (1 if units >= 3 else 0)
    if units >= 100:
        assert abs(sizes[0] - units * train) <= 2


def test_part_sizes__one_unit_trains_and_of_two_the_other_tests() -> None:
    assert [part_sizes(units, 0.8, 0.1) for units in (1, 2, 3, 10)] == [(1, 0, 0), (1, 0, 1), (1, 1, 1), (8, 1, 1)]


def _settings(protocol: str) -> Dataset:
    return load_settings([], [f"dataset.protocol={protocol}"]).dataset


def _rows() -> list[tuple[Any, ...]]:
    """Label `many` in 20 captures, `few` in 3, `pair` in 2, `one` in 1; `mixed` is a minority in captures of `many`."""
    chance = random.Random(7)
    rows: list[tuple[Any, ...]] = []
    for label, flows, captures in (("many", 400, 20), ("few", 9, 3), ("pair", 6, 2), ("one", 5, 1), ("mixed", 30, 20)):
        for number in range(flows):
            capture = _capture("many" if label == "mixed" else label, number % captures)
            sequence = [chance.randrange(8), chance.randrange(8)] if label != "one" else [number]
            rows.append((label, chance.getrandbits(60), capture, 1_000_000 - number, sequence, 1))
    return rows


def _capture(label: str, capture: int) -> int:
    return random.Random(f"{label}/{capture}").getrandbits(60)


Assigned = Callable[..., list[Any]]


@pytest.fixture(scope="module")
def assigned(spark: SparkSession) -> Assigned:
    """(label, sequence, part, time, capture) of every row under a protocol, sorted."""

    @functools.cache
    def assign(protocol: str, shuffled: bool = False) -> list[Any]:
        rows = _rows()
        if shuffled:
            random.Random(3).shuffle(rows)
        frame = spark.createDataFrame(rows, _SCHEMA).coalesce(2 if shuffled else 1)
        # time and capture ride along as one more list, except where it would make every sequence a distinct one
        lists = ["packet_length"] if protocol == "random_unique" else ["packet_length", "mark"]
        parted = assign_parts(
            frame.selectExpr("*", "array(first_seen_us, capture_hash) AS mark"), _settings(protocol), lists
        )
        found = parted.collect()
        return sorted(
            (row.label, tuple(row.packet_length), row.part, *(row.mark if "mark" in row else ())) for row in found
        )

    return assign


@pytest.mark.spark
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_assign__order_and_spread_of_the_rows_change_nothing(assigned: Assigned, protocol: str) -> None:
    first = assigned(protocol)
    assert assigned(protocol, shuffled=True) == first
    assert Counter(row[0] for row in first) == Counter(row[0] for row in _rows())


@pytest.mark.spark
def test_random_flow__each_label_has_its_shares(assigned: Assigned) -> None:
    parts = Counter((label, part) for label, _, part, *_ in assigned("random_flow"))
    assert [parts["many", part] for part in PARTS] == [320, 40, 40]
    assert [parts["few", part] for part in PARTS] == [7, 1, 1]
    assert [parts["one", part] for part in PARTS] == [3, 1, 1]


@pytest.mark.spark
def test_random_unique__no_sequence_is_in_two_parts_under_one_label(assigned: Assigned) -> None:
    parts = defaultdict(set)
    for label, sequence, part in assigned("random_unique"):
        parts[label, sequence].add(part)
    assert {len(found) for found in parts.values()} == {1}
    assert {part for (label, _), found in parts.items() for part in found if label == "few"} == set(PARTS)


@pytest.mark.spark
def test_by_capture__files_stay_whole_and_follow_their_majority(assigned: Assigned) -> None:
    parts: dict[int, set[str]] = defaultdict(set)
    captures: dict[tuple[str, str], set[int]] = defaultdict(set)
    for label, _, part, _, capture in assigned("by_capture"):
        parts[capture].add(part)
        captures[label, part].add(capture)
    assert {len(found) for found in parts.values()} == {1}
    assert [len(captures["many", part]) for part in PARTS] == [16, 2, 2]
    assert [len(captures["few", part]) for part in PARTS] == [1, 1, 1]
    assert [len(captures["pair", part]) for part in PARTS] == [1, 0, 1]
    assert [len(captures["one", part]) for part in PARTS] == [1, 0, 0]


@pytest.mark.spark
def test_by_time__training_comes_before_validation_before_test(assigned: Assigned) -> None:
    times: dict[tuple[str, str], list[int]] = defaultdict(list)
    for label, _, part, time, _ in assigned("by_time"):
        times[label, part].append(time)
    for label in ("many", "few", "pair", "one", "mixed"):
        assert max(times[label, "train"]) < min(times[label, "validation"])
        assert max(times[label, "validation"]) < min(times[label, "test"])
    assert [len(times["many", part]) for part in PARTS] == [320, 40, 40]
