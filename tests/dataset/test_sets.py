"""Sets: few of each label whatever the order, and the same after a way through Arrow."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from iotid.dataset import Encoding, Vocabulary
from iotid.dataset.packed import pack
from iotid.dataset.sets import SCHEMA, Sets, few
from iotid.dataset.work import sets_of

_ROWS = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 5), st.sampled_from([b"a", b"b"]), st.integers(1, 4)))


def _table(rows: list[tuple[int, int, bytes, int]]) -> pa.Table:
    columns: list[Any] = [list(column) for column in zip(*rows, strict=True)] or [[], [], [], []]
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
    summed: dict[tuple[Any, ...], int] = {}
    for label, unit, sequences, flows in rows:
        if (label, unit) in kept:
            summed[label, unit, sequences] = summed.get((label, unit, sequences), 0) + flows
    assert _content(few(_table(rows), most)) == sorted((*key, flows) for key, flows in summed.items())


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
    sets = Sets.of(sequences, unit, label, flows)
    assert sets.label.tolist() == [0, 1, 1]
    assert len(next(iter(sets.sequences.values()))) == 2  # the first and the last row are one flow
    again = Sets.from_arrow(sets.to_arrow())
    assert again.label.tolist() == sets.label.tolist()
    for one, other in ((sets, again), (again, sets)):
        for name, ids in one.sequences.items():
            rows = {tuple(row) for row in ids.tolist()}
            assert rows == {tuple(row) for row in other.sequences[name].tolist()}
    order = [again.sequences["packet_length"].tolist().index(row) for row in sets.sequences["packet_length"].tolist()]
    assert (again.flows.toarray()[:, order] == sets.flows.toarray()).all()


def test_sets_of__are_written_the_same_in_whatever_order_the_tasks_ended() -> None:
    lengths = [[60, 1500], [60, 40], [1500], [60, 1500], [40]]
    packed = pack([pa.array(lengths, pa.list_(pa.int32()))])
    rows = pa.table([pa.array([0, 0, 1, 0, 1], pa.int32()), pa.array([7, 7, 3, 8, 3], pa.uint64()), packed,
                     pa.array([1, 2, 3, 4, 5], pa.int64())], SCHEMA)  # fmt: skip
    vocabularies = {"packet_length": Vocabulary((40, 60, 1500))}
    encoding = Encoding(2, vocabularies, ("camera", "plug"), devices={}, protocols=(6,), length="ip")
    tasks = [rows.slice(number, 1) for number in range(len(rows))]
    expected = sets_of(tasks, encoding, 10).to_arrow()
    assert all(sets_of(order, encoding, 10).to_arrow() == expected for order in permutations(tasks))
