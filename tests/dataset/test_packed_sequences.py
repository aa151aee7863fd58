"""Packed sequences come out as they went in, and equal ones are equal."""

from __future__ import annotations

import pyarrow as pa
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from iotid.dataset.packed_sequences import pack_sequences, unpack_sequences

_LISTS = st.lists(st.integers(-(2**31), 2**31 - 1), max_size=5)


@hypothesis_settings(deadline=None)
@given(rows=st.lists(st.tuples(_LISTS, _LISTS, _LISTS), max_size=8), start=st.integers(0, 8))
def test_unpack__gives_what_was_packed_also_of_a_slice(rows: list[tuple[list[int], ...]], start: int) -> None:
    columns = [pa.array([row[i] for row in rows], pa.list_(pa.int32())) for i in range(3)]
    packed = pack_sequences(columns)
    assert len(packed) == len(rows)
    for some, expected in ((packed, rows), (packed.slice(start), rows[start:])):
        found = unpack_sequences(some, 3)
        assert [column.to_pylist() for column in found] == [[row[i] for row in expected] for i in range(3)]
    values = packed.to_pylist()
    assert [one == other for one in values for other in values] == [one == other for one in rows for other in rows]
