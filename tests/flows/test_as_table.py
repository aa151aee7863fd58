"""Flows that Python callers pass: every form gives the same table, and rows that cannot be flows are refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from iotid.errors import InputError, SchemaError
from iotid.flows import as_table
from iotid.flows.as_table import LENGTH_KEY, check_length, flows_of
from iotid.schemas import FLOWS, PACKETS

NEEDED = ("packet_length", "tcp_window", "first_seen", "client_mac", "vlan")


@pytest.fixture
def flows(flow_table: Callable[..., pa.Table]) -> pa.Table:
    return flow_table(
        [{"packet_length": [60, 52]}, {"packet_length": [1500]}, {"vlan": 7, "client_mac": "02:00:00:00:00:01"}]
    )


@pytest.mark.parametrize(
    "form",
    [
        lambda table: table,
        lambda table: pa.concat_tables([table.slice(0, 1), table.slice(1)]),
        lambda table: table.combine_chunks().to_batches()[0],
        lambda table: table.to_reader(),
        lambda table: table.to_pandas(),
        lambda table: table.to_pandas().set_index("first_seen", drop=False),
        lambda table: table.to_pylist(),
        lambda table: table.to_pydict(),
        lambda table: table.set_column(
            table.column_names.index("tcp_window"), "tcp_window", table["tcp_window"].cast(pa.large_list(pa.int64()))
        ),
    ],
    ids=["table", "chunks", "batch", "stream", "data frame", "indexed data frame", "dicts", "columns", "other types"],
)  # fmt: skip
def test_flows_of__takes_every_form_of_a_table(flows: pa.Table, form: Callable[[pa.Table], Any]) -> None:
    schema = FLOWS.arrow_schema()
    found = flows_of(form(flows), NEEDED)
    assert found.column_names == list(NEEDED)
    assert [found.schema.field(name).type for name in NEEDED] == [schema.field(name).type for name in NEEDED]
    assert found.to_pylist() == flows.select(NEEDED).to_pylist()


def test_flows_of__optional_columns_are_kept_where_present(flows: pa.Table) -> None:
    assert flows_of(flows, ["tcp_window"], optional=["vlan", "absent"]).column_names == ["tcp_window", "vlan"]


@pytest.mark.parametrize(
    ("lengths", "windows", "message"),
    [
        ([60, -5], [1, 2], r"row 1: packet_length must be 1 to 1,048,576, got -5; pass"),
        ([60, 0], [1, 2], r"row 1: packet_length must be 1 to 1,048,576, got 0; pass"),
        ([60, 2_000_000], [1, 2], r"row 1: packet_length must be 1 to 1,048,576, got 2000000; pass"),
        ([60, 2**40], [1, 2], r"packet_length must be list<int32>, got .*1099511627776.*; pass"),
        ([60, 52.5], [1, 2], r"packet_length must be list<int32>, got Float value 52\.5.*; pass"),
        ([60, None], [1, 2], r"row 1: packet_length must be 1 to 1,048,576, got None; pass"),
        ([60, 60], [1, 65_536], r"row 1: tcp_window must be 0 to 65,535, got 65536; pass"),
        ([60, 60], [1], r"row 1: packet_length has 2 packets and tcp_window 1; pass as many of each"),
        ([], [], r"row 1: packet_length has no packets; leave the flow out"),
        (None, [1], r"row 1: packet_length must not be null; leave the flow out"),
        ("[60 52]", [1, 2], r"packet_length must be list<int32>, got .*; pass flows of"),
    ],
)  # fmt: skip
def test_flows_of__a_row_that_cannot_be_a_flow_is_named(lengths: Any, windows: Any, message: str) -> None:
    rows = [{"packet_length": [60], "tcp_window": [1]}, {"packet_length": lengths, "tcp_window": windows}]
    with pytest.raises(SchemaError, match=f"^flows: {message}") as caught:
        flows_of(rows, ["packet_length", "tcp_window"])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("direction", [1, 0, 1], r"row 1: direction must be -1 or 1, got 0; pass"),
        ("tcp_flags", [1, 256, 1], r"row 1: tcp_flags must be 0 to 255, got 256; pass"),
        ("inter_arrival_us", [0, -1, 0], r"row 1: inter_arrival_us must be 0 to .*, got -1; pass"),
        ("server_port", -4, r"row 1: server_port must be 0 to 65,535, got -4; pass"),
        ("protocol", 256, r"row 1: protocol must be 0 to 255, got 256; pass"),
        ("client_bytes", -1, r"row 1: client_bytes must be 0 to .*, got -1; pass"),
        ("tcp_window_scale", [257], r"row 1: tcp_window_scale must be 0 to 256, got 257; pass"),
        ("ttl", [], r"row 1: ttl has no packets; assemble the flows with header_fields=True"),
    ],
)
def test_flows_of__every_column_has_its_range(
    flow_table: Callable[..., pa.Table], column: str, value: Any, message: str
) -> None:
    with pytest.raises(SchemaError, match=message):
        flows_of(flow_table([{"ttl": [64], "tcp_window_scale": [0]}, {column: value}]), [column])


def test_flows_of__columns_of_header_fields_that_lack_are_named_with_the_setting() -> None:
    with pytest.raises(SchemaError, match=r"^flows: lack ttl; pass flows of .*; assemble .* header_fields=True"):
        flows_of([{"packet_length": [60]}], ["packet_length", "ttl"])


def test_flows_of__rows_are_numbered_over_all_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(as_table, "_SLICE", 2)
    table = pa.table({"packet_length": pa.array([[60]] * 4 + [[-1]] + [[60]], pa.list_(pa.int32()))})
    with pytest.raises(SchemaError, match="row 4: packet_length"):
        flows_of(table, ["packet_length"])
    assert flows_of(table.slice(0, 4), ["packet_length"]).equals(table.slice(0, 4))


def test_flows_of__fewer_packets_kept_than_are_read_are_refused(flow_table: Callable[..., pa.Table]) -> None:
    flows = flow_table([{"packet_length": [60] * 4}, {"packet_length": [60] * 4, "client_packets": 9}])
    assert flows_of(flows, ["packet_length"], max_packets=4).num_rows == 2
    with pytest.raises(SchemaError, match=r"row 1: keeps 4 of its 9 packets, and the model reads 8; .*max_packets=8$"):
        flows_of(flows, ["packet_length"], max_packets=8)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (None, r"got NoneType; pass flows of iotid\.flows\.from_captures"),
        ("a.pcap", r"got str; pass iotid\.flows\.from_captures\('a\.pcap'\)"),
        ([[60, 52]], r"got list; pass flows of"),
        (b"x", r"got bytes; pass flows of"),
    ],
)
def test_flows_of__other_than_a_table_is_refused(given: Any, message: str) -> None:
    with pytest.raises(InputError, match=f"^flows: must be a pyarrow.Table .*{message}"):
        flows_of(given, ["tcp_window"])


def test_flows_of__a_flow_table_spark_is_to_be_converted() -> None:
    class SparkTable:
        toArrow = __arrow_c_stream__ = columns = None  # noqa: N815 - Spark's name

    with pytest.raises(InputError, match=r"got SparkTable; pass its toArrow\(\)"):
        flows_of(SparkTable(), ["tcp_window"])


@pytest.mark.parametrize("given", [[], {}, pd.DataFrame(), pa.table({})])
def test_flows_of__no_columns_are_refused_and_no_rows_are_not(given: Any, flows: pa.Table) -> None:
    with pytest.raises(SchemaError, match=r"^flows: lack tcp_window; pass flows of"):
        flows_of(given, ["tcp_window"])
    assert flows_of(flows.slice(0, 0), NEEDED).num_rows == 0
    assert flows_of(flows.slice(0, 0).to_pandas(), NEEDED).num_rows == 0


def test_flows_of__packets_instead_of_flows_are_recognised() -> None:
    packets = PACKETS.arrow_schema().empty_table()
    for needed in (["packet_length", "tcp_window"], ["client_ip"]):
        with pytest.raises(SchemaError, match=r"these are packets: pass flows of iotid\.flows\.from_captures$"):
            flows_of(packets, needed)


def test_check_length__of_a_table_that_says_how_its_packets_were_measured(flows: pa.Table) -> None:
    check_length(flows, "ip")
    check_length(flows.to_pandas(), "ip")
    measured = flows.replace_schema_metadata({LENGTH_KEY: b"frame"})
    check_length(measured, "frame")
    with pytest.raises(SchemaError, match="counts from the frame header on, and the model reads those from ip on"):
        check_length(measured, "ip")
