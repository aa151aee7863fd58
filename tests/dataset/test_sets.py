"""Sets: few of each label whatever the order, and the same after a way through Arrow; sessions open at once."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iotid.dataset import Encoding, Vocabulary
from iotid.dataset.packed import pack
from iotid.dataset.sets import SCHEMA, FlowSets, at_once, few, sparse_maximum
from iotid.dataset.tasks import sets_of

_ROWS = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 5), st.sampled_from([b"a", b"b"]), st.integers(1, 4)))


def _table(rows: list[tuple[int, int, bytes, int]]) -> pa.Table:
    """SCHEMA of rows of label, unit, sequences and flows; the unit's recording and the times follow from these."""
    whole = [
        (label, unit, unit // 2, sequences, flows, 10 * flows, 100 - flows, 200 + flows)
        for label, unit, sequences, flows in rows
    ]
    columns: list[Any] = [list(column) for column in zip(*whole, strict=True)] or [[]] * len(SCHEMA)
    return pa.table([pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)], SCHEMA)


def _content(rows: pa.Table) -> list[tuple[Any, ...]]:
    return sorted(tuple(row.values()) for row in rows.to_pylist())


@settings(deadline=None)  # Arrow is slow the first time
@given(_ROWS, st.integers(1, 4))
def test_few__keeps_the_units_of_the_lowest_hash_of_each_label(
    rows: list[tuple[int, int, bytes, int]], most: int
) -> None:
    units = {(label, unit) for label, unit, _, _ in rows}
    kept = {(a, b) for a, b in units if sum(x == a and y < b for x, y in units) < most}
    equal: dict[tuple[Any, ...], list[int]] = {}
    for label, unit, sequences, flows in rows:
        if (label, unit) in kept:
            equal.setdefault((label, unit, unit // 2, sequences), []).append(flows)
    # their number and the times for which they were open are summed; the first packet of all, and the last
    expected = [(*key, sum(flows), 10 * sum(flows), 100 - max(flows), 200 + max(flows)) for key, flows in equal.items()]
    assert _content(few(_table(rows), most)) == sorted(expected)


@settings(deadline=None)
@given(_ROWS, _ROWS, st.integers(1, 3))
def test_few__of_parts_and_then_of_all_is_few_of_the_whole(
    one: list[tuple[int, int, bytes, int]], other: list[tuple[int, int, bytes, int]], most: int
) -> None:
    cut = pa.concat_tables([few(_table(one), most), few(_table(other), most)])
    assert _content(few(cut, most)) == _content(few(_table(one + other), most))


def test_from_arrow__gives_the_sets_again() -> None:
    sequences = {"packet_length": np.array([[2, 3], [4, 0], [2, 3]], np.int32), "tcp_window": np.ones((3, 2), np.int32)}
    label, unit, flows = np.array([1, 0, 1]), np.array([7, 9, 8]), np.array([5, 6, 7])
    sets = FlowSets.of(sequences, unit, label, flows, np.array([70, 90, 70]), np.array([2, 1, 3]))
    assert sets.label.tolist() == [0, 1, 1]
    assert sets.recording.tolist() == [90, 70, 70]
    assert len(next(iter(sets.sequences.values()))) == 2  # the first and the last row are one flow
    again = FlowSets.from_arrow(sets.to_arrow())
    assert again.label.tolist() == sets.label.tolist()
    for one, other in ((sets, again), (again, sets)):
        for name, ids in one.sequences.items():
            rows = {tuple(row) for row in ids.tolist()}
            assert rows == {tuple(row) for row in other.sequences[name].tolist()}
    order = [again.sequences["packet_length"].tolist().index(row) for row in sets.sequences["packet_length"].tolist()]
    assert (again.flows.toarray()[:, order] == sets.flows.toarray()).all()
    assert (again.at_once.toarray()[:, order] == sets.at_once.toarray()).all()
    assert again.recording.tolist() == sets.recording.tolist()
    first = order[sets.sequences["packet_length"].tolist().index([2, 3])]
    assert again.at_once.toarray()[:, first].tolist() == [0, 2, 3]
    assert again.flows.toarray()[:, first].tolist() == [0, 5, 7]


def test_of__without_recordings_each_set_is_its_own_and_no_sessions_are_known() -> None:
    sequences = {"packet_length": np.array([[2], [3], [2]], np.int32)}
    sets = FlowSets.of(sequences, np.array([5, 5, 4]), np.array([0, 0, -1]), np.array([1, 2, 3]))
    assert (sets.label.tolist(), sets.recording.tolist()) == ([-1, 0], [4, 5])
    assert sets.at_once.shape == sets.flows.shape == (2, 2)
    assert sets.at_once.nnz == 0


_MINUTE = 60_000_000


@pytest.mark.parametrize(
    ("flows", "open_us", "span_us", "expected"),
    [
        (1, 9 * _MINUTE, 9 * _MINUTE, 1),
        (2, 18 * _MINUTE, 9 * _MINUTE, 2),  # both for the whole time
        (2, 10 * _MINUTE, 10 * _MINUTE, 1),  # one after the other
        (3, 10 * _MINUTE + 1, 10 * _MINUTE, 2),
        (2, 2 * _MINUTE, _MINUTE, 2),
        (2, 2 * _MINUTE - 1, _MINUTE, 1),  # less than a minute on average: no session
        (60, 59 * _MINUTE, 10, 1),
        (3, 40 * _MINUTE, 8 * _MINUTE, 3),  # never more than there are
        (2, 0, 0, 1),
    ],
)
def test_at_once__is_how_often_the_time_there_was_is_in_the_time_of_being_open(
    flows: int, open_us: int, span_us: int, expected: int
) -> None:
    assert at_once(np.array([flows]), np.array([open_us]), np.array([span_us])).tolist() == [expected]


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 20 * _MINUTE), st.integers(_MINUTE, 9 * _MINUTE)), min_size=1, max_size=8))
def test_at_once__is_never_more_than_were_really_open_at_once(sessions: list[tuple[int, int]]) -> None:
    ends = [start + long for start, long in sessions]
    span = max(ends) - min(start for start, _ in sessions)
    really = max(sum(a <= start < a + long for a, long in sessions) for start, _ in sessions)
    found = at_once(np.array([len(sessions)]), np.array([sum(long for _, long in sessions)]), np.array([span]))
    assert 1 <= found[0] <= really


def test_greatest__keeps_of_each_cell_the_greatest_value() -> None:
    found = sparse_maximum(np.array([2, 5, 1, 3]), np.array([0, 1, 0, 1]), np.array([1, 0, 1, 0]), (3, 2))
    assert found.toarray().tolist() == [[0, 2], [5, 0], [0, 0]]
    nothing = np.zeros(0, np.int64)
    assert sparse_maximum(nothing, nothing, nothing, (2, 2)).toarray().tolist() == [[0, 0], [0, 0]]


def test_sets_of__are_written_the_same_in_whatever_order_the_tasks_ended() -> None:
    lengths = [[60, 1500], [60, 40], [1500], [60, 1500], [40]]
    packed = pack([pa.array(lengths, pa.list_(pa.int32()))])
    columns: list[Any] = [
        [0, 0, 1, 0, 1], [7, 7, 3, 8, 3], [6, 6, 2, 6, 2], packed, [1, 2, 3, 4, 5], [0, 2 * _MINUTE, 0, 0, 0],
        [10, 10, 10, 10, 10], [_MINUTE + 10] * 5,
    ]  # fmt: skip
    rows = pa.table([pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)], SCHEMA)
    vocabularies = {"packet_length": Vocabulary((40, 60, 1500))}
    encoding = Encoding(2, vocabularies, ("camera", "plug"), devices={}, protocols=(6,), length="ip")
    tasks = [rows.slice(number, 1) for number in range(len(rows))]
    expected = sets_of(tasks, encoding, 10).to_arrow()
    assert sets_of(tasks, encoding, 10).recording.tolist() == [6, 6, 2]
    assert sorted(sets_of(tasks, encoding, 10).at_once.data.tolist()) == [1, 1, 1, 1, 2]
    assert all(sets_of(order, encoding, 10).to_arrow() == expected for order in permutations(tasks))
