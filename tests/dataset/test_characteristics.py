"""Vocabularies and encodings, compared with slow references."""

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

from iotid.config import load_settings
from iotid.dataset import Encoding, Vocabulary, out_of_vocabulary_rate
from iotid.dataset.characteristics import (
    CHARACTERISTICS,
    check_header_fields,
    quantise_column,
    select_characteristics,
)
from iotid.errors import SchemaError, SettingError
from iotid.flows.as_table import PER_PACKET
from iotid.schemas import FLOWS, HEADER_COLUMNS

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
        assert columns[characteristic.column].startswith(("list<int", "int32")), name
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


def test_ttl_class__is_the_lowest_usual_initial_ttl() -> None:
    quantise = CHARACTERISTICS["ttl_class"].quantise
    assert (
        quantise(np.array([0, 1, 32, 33, 64, 65, 128, 129, 255])).tolist()
        == [32] * 3 + [64] * 2 + [128] * 2 + [255] * 2
    )
    assert set(quantise(np.arange(256)).tolist()) == set(CHARACTERISTICS["ttl_class"].always or ())


def test_header_fields__fixed_vocabularies_have_every_value_of_their_columns() -> None:
    fixed = {each.column: each for each in CHARACTERISTICS.values() if each.column in HEADER_COLUMNS and each.always}
    assert set(fixed) == {"ttl", "dscp", "dont_fragment", "ip_id_step", "timestamp_rate"}
    for column, characteristic in fixed.items():
        low, high = PER_PACKET[column]
        assert set(characteristic.quantise(np.arange(low, high + 1)).tolist()) == set(characteristic.always or ())


def test_header_fields__characteristics_of_them_need_flows_that_have_them(flow_table: FlowTable) -> None:
    flow = load_settings().flow
    check_header_fields(["packet_length", "server_port"], flow)
    check_header_fields(["ttl_class"], flow.model_copy(update={"header_fields": True}))
    with pytest.raises(SettingError, match=r"ttl_class, dscp must have flow\.header_fields=true, got false; assemble"):
        check_header_fields(["packet_length", "ttl_class", "dscp"], flow)
    encoding, made = _encoding(packet_length=(60,), tcp_mss=(0, 1460)), flow.model_dump()
    assert encoding.misfit({**made, "header_fields": True}) is None
    lacking = "has flow.header_fields=false, the model reads tcp_mss"
    assert encoding.misfit(made) == encoding.misfit({"length": "ip", "max_packets": 32}) == lacking
    assert _encoding(server_port=(443,)).misfit(made) is None
    empty = flow_table([{"packet_length": [60], "tcp_mss": [0]}, {"packet_length": [60]}])
    for read in (encoding.encode, lambda flows: quantise_column(flows, CHARACTERISTICS["tcp_mss"], 4)):
        with pytest.raises(SchemaError, match=r"tcp_mss must have a value .*, got an empty list; .*header_fields=true"):
            read(empty)


def test_encode__one_value_of_a_flow_is_at_each_of_its_packets(flow_table: FlowTable) -> None:
    encoding = _encoding(server_port=(53, 443), packet_length=(60,))
    flows = flow_table([{"packet_length": [60], "server_port": 443}, {"packet_length": [60] * 9, "server_port": 1}])
    for table in (flows, flows.slice(0), *flows.to_batches()):
        assert encoding.encode(table)["server_port"].tolist() == [[3, 0, 0, 0], [1, 1, 1, 1]]
    assert _encoding(server_port=(443,)).encode(flows)["server_port"].tolist() == [[2, 0, 0, 0], [1, 0, 0, 0]]
    lists = quantise_column(flows, CHARACTERISTICS["server_port"], 4)
    assert lists.to_pylist() == [[443], [1]]
    packed = flows.set_column(flows.column_names.index("server_port"), "server_port", lists)
    assert encoding.encode(packed)["server_port"].tolist() == encoding.encode(flows)["server_port"].tolist()


def test_select__unknown_or_repeated_name_is_an_error_that_lists_the_names() -> None:
    with pytest.raises(SettingError, match=r"'packet_size' is not known; choose from packet_length, tcp_window"):
        select_characteristics(["packet_size"])
    with pytest.raises(SettingError, match="is given twice"):
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
def test_encode__equals_its_slow_reference_also_on_slices_and_chunks(
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
