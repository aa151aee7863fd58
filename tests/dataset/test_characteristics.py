"""Vocabularies and encodings, held against slow twins."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iotid.dataset import Encoding, Vocabulary, out_of_vocabulary_rate
from iotid.dataset.characteristics import CHARACTERISTICS, quantise_column, select_characteristics
from iotid.errors import SchemaError, SettingError
from iotid.schemas import FLOWS

FlowTable = Callable[[Sequence[dict[str, Any]]], pa.Table]


def _encoding(**vocabularies: tuple[int, ...]) -> Encoding:
    return Encoding(
        max_packets=4,
        vocabularies={name: Vocabulary(values) for name, values in vocabularies.items()},
        labels=("cam", "plug"),
        devices={
            "cam": {"vendor": "Acme", "type": "camera", "model": "C1"},
            "plug": {"vendor": "", "type": "", "model": ""},
        },
        protocols=(6, 17),
        length="ip",
    )


def test_registry__every_entry_reads_a_column_of_flows_and_quantises_once() -> None:
    columns = {column.name: column.type for column in FLOWS.columns}
    values = np.concatenate([np.arange(70_000), 2 ** np.arange(17, 45), 2 ** np.arange(17, 45) - 1])
    for name, characteristic in CHARACTERISTICS.items():
        assert columns[characteristic.column].startswith("list<int"), name
        once = characteristic.quantise(values)
        assert np.array_equal(characteristic.quantise(once), once), name


def test_inter_arrival__bins_are_half_octaves_and_keep_the_order_of_waits() -> None:
    quantise = CHARACTERISTICS["inter_arrival"].quantise
    assert quantise(np.array([0, 1, 2, 3, 4, 5, 7, 8, 1000, 1100])).tolist() == [0, 1, 2, 2, 4, 5, 5, 8, 724, 1024]
    longest = quantise(np.array([10**9 * 2, 10**15]))
    assert longest[0] == longest[1] < 2**31
    waits = np.unique(np.geomspace(1, 1e9, 5000).astype(np.int64))
    assert (np.diff(quantise(waits)) >= 0).all()
    assert len(np.unique(quantise(waits))) < 64


def test_select__unknown_or_repeated_name_is_an_error_that_lists_the_names() -> None:
    with pytest.raises(SettingError, match=r"'packet_size' is not known; choose from packet_length, tcp_window"):
        select_characteristics(["packet_size"])
    with pytest.raises(SettingError, match="stands twice"):
        select_characteristics(["tcp_flags", "tcp_flags"])


def test_vocabulary__values_are_numbered_from_two_and_others_are_one() -> None:
    vocabulary = Vocabulary((-1, 40, 1500))
    assert vocabulary.size == 5
    assert vocabulary.ids(np.array([1500, 40, -1, 41, -2, 9999])).tolist() == [4, 3, 2, 1, 1, 1]
    assert Vocabulary(()).ids(np.array([3])).tolist() == [1]


def _slow_encode(encoding: Encoding, flows: pa.Table) -> dict[str, list[list[int]]]:
    edges = sorted({0, *(int(2 ** (half / 2)) for half in range(62))})
    encoded: dict[str, list[list[int]]] = {}
    for name, vocabulary in encoding.vocabularies.items():
        column = CHARACTERISTICS[name].column
        encoded[name] = []
        for values in flows.column(column).to_pylist():
            row = []
            for value in values[: encoding.max_packets]:
                coarse = edges[bisect_right(edges, value) - 1] if name == "inter_arrival" else value
                row.append(vocabulary.values.index(coarse) + 2 if coarse in vocabulary.values else 1)
            encoded[name].append(row + [0] * (encoding.max_packets - len(row)))
    return encoded


_LENGTHS = st.lists(st.integers(0, 6), min_size=0, max_size=7)


@settings(max_examples=100, deadline=None)
@given(rows=st.lists(_LENGTHS, max_size=8), known=st.sets(st.integers(0, 6)), start=st.integers(0, 3))
def test_encode__equals_its_slow_twin_also_on_slices_and_chunks(
    flow_table: FlowTable, rows: list[list[int]], known: set[int], start: int
) -> None:
    encoding = _encoding(packet_length=tuple(sorted(known)), inter_arrival=(0, 1, 4))
    flows = flow_table([{"packet_length": row, "inter_arrival_us": [value**2 for value in row]} for row in rows])
    for table in (flows, flows.slice(start), pa.concat_tables([flows.slice(start), flows])):
        encoded = encoding.encode(table)
        assert {name: ids.tolist() for name, ids in encoded.items()} == _slow_encode(encoding, table)
        assert all(ids.dtype == np.int32 and ids.shape == (table.num_rows, 4) for ids in encoded.values())
    for batch in flows.to_batches():
        assert {name: ids.tolist() for name, ids in encoding.encode(batch).items()} == _slow_encode(encoding, flows)


def test_encode__quantised_columns_give_the_same_ids_as_raw_ones(flow_table: FlowTable) -> None:
    encoding = _encoding(inter_arrival=(0, 724, 1024))
    flows = flow_table([{"packet_length": [1] * 6, "inter_arrival_us": [0, 1000, 1100, 5, 1000, 1000]}])
    coarse = quantise_column(flows, CHARACTERISTICS["inter_arrival"], 4)
    assert coarse.to_pylist() == [[0, 724, 1024, 5]]
    again = encoding.encode(pa.table({"inter_arrival_us": coarse}))
    assert again["inter_arrival"].tolist() == encoding.encode(flows)["inter_arrival"].tolist() == [[2, 3, 4, 1]]


def test_encode__flows_without_the_column_are_refused() -> None:
    with pytest.raises(SchemaError, match="lack tcp_window"):
        _encoding(tcp_window=(1,)).encode(pa.table({"packet_length": [[1]]}))


def test_json__the_way_there_and_back_changes_nothing() -> None:
    encoding = _encoding(tcp_window=(0, 65535), packet_length=(40,))
    content = json.loads(json.dumps(encoding.to_json(), sort_keys=True))
    assert content == encoding.to_json()
    assert Encoding.from_json(content) == encoding
    assert list(Encoding.from_json(content).vocabularies) == ["tcp_window", "packet_length"]


@pytest.mark.parametrize(
    "change", [{"schema_version": 2}, {"schema_version": None}, {"labels": None}, {"vocabularies": 3}]
)
def test_json__another_version_or_shape_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(SchemaError, match="encoding: "):
        Encoding.from_json({**_encoding(tcp_window=(0,)).to_json(), **change})


def test_unseen_share__counts_values_of_all_characteristics_but_no_padding() -> None:
    ids = {
        "a": np.array([[1, 2, 0], [3, 3, 3], [0, 0, 0]], np.int32),
        "b": np.array([[1, 1, 0], [2, 2, 1], [0, 0, 0]], np.int32),
    }
    assert out_of_vocabulary_rate(ids).tolist() == [0.75, 1 / 6, 0.0]
