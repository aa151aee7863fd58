"""What needs attention in a census: sections, their severities, and the order of the rows."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from iotid.census.attention import ACT, CHECK, NOTE, VIEWS, Section, ranks, sections
from iotid.schemas import CENSUS

from .report_tables import census_of, kind

UNKNOWN: dict[str, Any] = {"status": "unknown", "group_name": "gmany"}
BESIDE: dict[str, Any] = {"status": "several_with_unknown"}


def _sections(rows: list[dict[str, Any]], device_list: dict[str, Any] | None = None) -> list[Section]:
    census = census_of(rows)
    return sections(census.append_column("also", pa.nulls(len(census), pa.string())), device_list or {})


def _numbers(*rows: dict[str, Any]) -> dict[str, int]:
    return {each.view: each.number for each in _sections(list(rows)) if each.number}


def test_sections__are_all_given_the_most_severe_first() -> None:
    found = _sections([{}])
    order = [(ACT, CHECK, NOTE).index(each.severity) for each in found]
    assert order == sorted(order)
    assert {each.number for each in found} == {0}
    assert [each.view for each in found if each.severity == ACT] == [
        "watched", "address_conflict", "new_unknown", "differs",
    ]  # fmt: skip
    severities = {each.view: each.severity for each in found}
    assert (severities["unknown"], severities["gone"], severities["not_seen"]) == (CHECK, NOTE, NOTE)
    titles = {each.view: each.title for each in found if each.view != "not_seen"}
    assert titles == VIEWS, "each has a view of the table"


@pytest.mark.parametrize(
    ("row", "views"),
    [
        ({}, set()),
        ({"watched": True}, {"watched"}),
        ({"change": "new"}, {"new_other"}),
        (UNKNOWN, {"unknown"}),
        (UNKNOWN | {"change": "new"}, {"unknown", "new_unknown"}),
        (BESIDE, {"several_with_unknown"}),
        (BESIDE | {"change": "new"}, {"several_with_unknown", "new_unknown"}),
        ({"change": "changed"}, {"changed"}),
        ({"change": "back"}, {"back"}),
        ({"change": "gone"}, {"gone"}),
        ({"change": "away"}, set()),
        ({"status": "undecided"}, {"undecided"}),
        ({"status": "several", "kinds": [kind("plug"), kind("lamp")]}, {"several"}),
        ({"status": "named", "group_name": "gmany"}, {"named"}),
        ({"marks": ["address_conflict", "kinds_at_once"]}, {"address_conflict", "kinds_at_once"}),
        ({"marks": ["maker_differs"], "change": "gone"}, {"gone"}),  # a mark of an absent device is of an earlier date
        ({"list_check": "differs"}, {"differs"}),
        ({"list_check": "not_listed"}, {"not_listed"}),
        ({"list_check": "not_listed", "status": "named"}, {"named"}),  # a person said it, nothing recognised it
        (UNKNOWN | {"list_check": "not_identified"}, {"unknown", "not_identified"}),
        ({"list_check": "agrees"}, set()),
    ],
)
def test_sections__of_one_row(row: dict[str, Any], views: set[str]) -> None:
    assert _numbers(row) == dict.fromkeys(views, 1)


def test_sections__list_the_five_rows_of_most_flows_and_count_all() -> None:
    rows = [{"change": "new", "flows": flows} for flows in (1, 9, 3, 9, 5, 2, 8)]
    (new,) = [each for each in _sections(rows) if each.number]
    assert (new.view, new.title, new.number) == ("new_other", "New, other than unknown", 7)
    assert [(row["device_id"][-1], row["flows"]) for row in new.rows] == [
        ("1", 9), ("3", 9), ("6", 8), ("4", 5), ("2", 3),
    ]  # fmt: skip
    assert new.rows[0]["name"] == "plug"


def test_sections__name_the_listed_devices_that_were_not_seen() -> None:
    names = [f"cam {n}" for n in range(7)]
    (missing,) = [each for each in _sections([{}], {"not_seen": 140, "not_seen_names": names}) if each.number]
    assert (missing.view, missing.severity, missing.number) == ("not_seen", NOTE, 140)
    assert missing.rows == [{"device_name": f"cam {n}"} for n in range(5)]


def test_ranks__unknown_ones_first_and_absent_ones_last() -> None:
    rows: list[dict[str, Any]] = [
        {"change": "gone"}, {}, {"status": "undecided"}, {"change": "new"}, {"change": "changed"},
        {"list_check": "differs"}, {"watched": True}, BESIDE, UNKNOWN, {**UNKNOWN, "change": "new"},
    ]  # fmt: skip
    found = ranks(census_of(rows))
    assert found == sorted(found, reverse=True)
    assert len(set(found)) == len(rows)
    assert ranks(census_of([{"watched": True, **UNKNOWN}, UNKNOWN])) == [found[8]] * 2, "the first that fits counts"
    assert ranks(census_of([{"change": "away"}, {"change": "gone"}])) == [found[0]] * 2
    assert ranks(census_of([{"change": "back"}, {}])) == [found[1]] * 2, "what is for information only is as usual"


def test_sections_and_ranks__of_an_empty_census() -> None:
    empty = CENSUS.arrow_schema(stored=True).empty_table()
    assert ranks(empty) == []
    assert {each.number for each in _sections([])} == {0}
