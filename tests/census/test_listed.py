"""Compares rows of a census with a device list."""

from __future__ import annotations

from typing import Any

import pytest

from iotid.census.listed import LIST_CHECKS, check_list
from iotid.labels.devices import Device

from .report_tables import census_of, kind

A, B = "02:00:00:00:00:00", "02:00:00:00:00:01"  # of the rows of census_of
DATE = "2026-01-10"
PLUG = {"name": "hall", "model": "plug", "vendor": "Acme", "type": "socket", "mac": A}


def _checked(rows: list[dict[str, Any]], *entries: dict[str, Any]) -> tuple[list[tuple[Any, ...]], dict[str, Any]]:
    found = check_list(census_of(rows), [Device.model_validate(entry) for entry in entries], DATE)
    columns = (found.census[name].to_pylist() for name in ("device_name", "listed_label", "list_check"))
    return list(zip(*columns, strict=True)), found.counts


@pytest.mark.parametrize(
    ("row", "check"),
    [
        ({}, "agrees"),
        ({"kinds": [kind(None)]}, "agrees"),  # named by vendor and type alone
        ({"kinds": [kind("hall")]}, "agrees"),  # a model that was trained on names
        ({"kinds": [kind("socket")]}, "agrees"),  # on types
        ({"kinds": [kind("lamp", type="lamp")]}, "differs"),
        ({"kinds": [kind(None, type="lamp")]}, "differs"),
        ({"kinds": [kind("plug"), kind("lamp")], "status": "several"}, "differs"),
        ({"status": "several_with_unknown"}, "differs"),
        ({"status": "unknown"}, "not_identified"),
        ({"status": "undecided"}, "not_identified"),
        ({"change": "gone", "flows": 0}, None),
    ],
)
def test_check__of_a_listed_device(row: dict[str, Any], check: str | None) -> None:
    ((name, label, found),), counts = _checked([row], PLUG)
    assert (name, label, found) == ("hall", "plug", check)
    assert {each: counts[each] for each in LIST_CHECKS} == {each: int(each == check) for each in LIST_CHECKS}
    assert (counts["devices"], counts["not_seen_names"]) == (1, [] if check else ["hall"])


def test_check__of_a_device_on_no_list() -> None:
    rows, counts = _checked([{}, {"status": "unknown"}], {**PLUG, "mac": "02:00:00:00:00:99"})
    assert rows == [(None, None, "not_listed"), (None, None, "unknown")]
    assert (counts["not_listed"], counts["unknown"]) == (1, 1)
    assert (counts["not_seen"], counts["never_seen"]) == (0, 1), "it may be at another site"


def test_check__takes_the_mac_before_the_address_and_all_entries_of_a_shared_address() -> None:
    by_address = {"name": "desk", "model": "lamp", "vendor": "Acme", "type": "lamp", "ip": "10.0.0.7"}
    lamp, plug = kind("lamp", type="lamp"), kind("plug")
    rows, _ = _checked([{"kinds": [lamp]}, {"kinds": [lamp, plug], "status": "several"}], PLUG, by_address)
    assert rows == [("hall", "plug", "differs"), ("desk", "lamp", "differs")]
    shared = {**by_address, "name": "porch", "model": "plug", "type": "socket"}
    rows, _ = _checked([{"device_id": B, "kinds": [lamp, plug], "status": "several"}], by_address, shared)
    assert rows == [("desk + porch", "lamp + plug", "agrees")]


def test_check__uses_entries_that_are_valid_on_the_date() -> None:
    before = {**PLUG, "name": "old", "valid_to": "2026-01-09"}
    now = {**PLUG, "name": "new", "valid_from": "2026-01-10"}
    (row,), counts = _checked([{}], before, now)
    assert (row[0], counts["devices"], counts["never_seen"]) == ("new", 1, 0)


def test_check__without_a_list_says_nothing() -> None:
    found = check_list(census_of([{}]), None, DATE)
    assert found.counts == {}
    assert {found.census[name][0].as_py() for name in ("device_name", "listed_label", "list_check")} == {None}
    assert check_list(census_of([]), [], DATE).census.schema == census_of([]).schema


def test_check__names_a_hundred_missing_devices_and_counts_all_not_known_by_path() -> None:
    macs = [f"02:00:00:00:00:{n:02x}" for n in range(120)]
    entries = [{"name": f"plug {n:03}", "model": "plug", "mac": mac} for n, mac in enumerate(macs)]
    _, counts = _checked([{"change": "away", "flows": 0}] * 120, *entries, {"name": "x", "path": "*/x/*"})
    assert (counts["devices"], counts["not_seen"], len(counts["not_seen_names"])) == (120, 120, 100)
