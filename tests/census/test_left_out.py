"""What a census leaves out."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from iotid.census.left_out import SCHEMA, flows_by_reason, pseudonymize, with_remainder_rows
from iotid.census.pseudonyms import Pseudonyms

LISTED = pa.schema([field for field in SCHEMA if field.name != "ends"])


def row(reason: str, mac: str | None, flows: int, **more: Any) -> dict[str, Any]:
    return {
        "reason": reason, "mac": mac, "address": None, "addresses": 3, "in_census": False, "flows": flows,
        "packets": 10 * flows, **more,
    }  # fmt: skip


def total(reason: str, ends: int, flows: int) -> dict[str, Any]:
    return {"reason": reason, "ends": ends, "addresses": 5 * ends, "flows": flows, "packets": 100 * flows}


def mac(number: int) -> str:
    return f"02:00:00:00:00:{number:02x}"


def test_with_rest__sums_to_all_flows_left_out() -> None:
    listed = [row("unanswered", mac(1), 9), row("router", mac(2), 50), row("router", mac(3), 40)]
    totals = [total("other_protocol", 1, 4), total("router", 12, 100), total("unanswered", 1, 9)]
    found = with_remainder_rows(pa.Table.from_pylist(listed, schema=LISTED), pa.Table.from_pylist(totals))
    assert found.schema == SCHEMA
    rows = [[each[name] for name in ("reason", "mac", "ends", "flows", "packets")] for each in found.to_pylist()]
    assert rows == [
        ["router", mac(2), 1, 50, 500], ["router", mac(3), 1, 40, 400], ["router", None, 10, 10, 9100],
        ["unanswered", mac(1), 1, 9, 90],
        ["other_protocol", None, 1, 4, 400],
    ]  # fmt: skip
    assert found["in_census"].to_pylist() == [False, False, None, False, None]
    assert flows_by_reason(found) == {"router": 100, "unanswered": 9, "other_protocol": 4}
    assert flows_by_reason(found.slice(0, 0)) == {}


@pytest.mark.parametrize("keep_prefixes", [True, False])
def test_hide__lists_pseudonyms_of_senders_without_own_numbers(
    keep_prefixes: bool,
) -> None:
    listed = [
        row("router", mac(1), 4567, in_census=True),
        *(row("router", mac(number), 800 - number, address="100.64.0.9", addresses=1) for number in range(2, 6)),
        row("outside", None, 77, address="52.1.2.3", addresses=1),
        row("unanswered", mac(7), 30, address="203.0.113.9", addresses=1),
        row("other_protocol", mac(8), 23),
        row("other_protocol", mac(9), 24, in_census=True),
    ]
    totals = [total("router", 5, 7800), total("outside", 1, 77), total("unanswered", 1, 30)]
    totals.append(total("other_protocol", 3, 60))
    pseudonyms = Pseudonyms(b"one key of this test", keep_prefixes=keep_prefixes)
    clear = with_remainder_rows(pa.Table.from_pylist(listed, schema=LISTED), pa.Table.from_pylist(totals))
    hidden = pseudonymize(clear, pseudonyms)
    names = pseudonyms.of(pa.array([mac(number) for number in range(10)])).to_pylist()
    shown = [(each["reason"], each["mac"], each["flows"], each["packets"]) for each in hidden.to_pylist()]
    assert shown == [
        *(("router", name, 100, 1000) for name in sorted(names[2:6])), ("router", None, 1000, 10_000),
        ("outside", None, 10, 100), ("unanswered", None, 10, 100),
        ("other_protocol", names[8], 10, 100), ("other_protocol", None, 10, 1000),
    ]  # fmt: skip
    assert set(hidden["address"].to_pylist()) == {None}
    assert hidden.schema == SCHEMA
    others = with_remainder_rows(pa.Table.from_pylist(listed[::-1], schema=LISTED), pa.Table.from_pylist(totals))
    assert pseudonymize(others, pseudonyms).equals(hidden), "their order reveals nothing"
