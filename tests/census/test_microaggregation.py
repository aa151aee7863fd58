"""Numbers of a census with pseudonyms: they do not distinguish devices with equal findings."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa
import pytest

from iotid.census.marks import SENTENCES
from iotid.census.microaggregation import aggregate
from iotid.schemas import CENSUS

SCHEMA = CENSUS.arrow_schema(stored=True)
UNCHANGED = {
    "device_id",
    "addresses",
    "group_name",
    "status",
    "label",
    "vendor",
    "type",
    "watched",
    "marks",
    "named_by",
}
MADE_LATER = {
    "device_name",
    "listed_label",
    "list_check",
    "change",
    "previous_label",
    "new_kinds",
    "same_as",
    "first_seen_ever",
    "dates_present",
    "earlier_names",
}


def kind(name: str, **more: Any) -> dict[str, Any]:
    found = {"kind": f"{name}s", "label": name, "vendor": "Acme", "type": "any", "confidence": 0.95, "flows": 41}
    return found | {"units": 1} | more


def devices_of(*rows: dict[str, Any]) -> pa.Table:
    """Known plugs, changed by the rows."""
    usual = {
        "status": "known", "label": "plug", "vendor": "Acme", "type": "any", "confidence": 0.95,
        "kinds": [kind("plug")],
        "runners_up": [{"label": "lamp", "confidence": 0.31}, {"label": "bell", "confidence": 0.2}],
        "unexplained": 0.17, "household": 0.09, "reason": "Of 43 distinct flows: 41 like those of plugs alone.",
        "marks": [], "unlike_kind": 0.004, "named_by": None, "maker": "Acme", "mac_randomised": False,
        "group_name": None, "flows": 812, "bytes": 98_765, "first_seen": datetime(2026, 1, 10, 1, 2, 3, 456789, UTC),
        "last_seen": datetime(2026, 1, 10, 23, 59, 59, 999999, UTC), "addresses": ["10.0.0.7"], "watched": False,
    }  # fmt: skip
    numbered = [{"device_id": f"d{n}", **usual, **row} for n, row in enumerate(rows)]
    return pa.Table.from_pylist(numbered, pa.schema([field for field in SCHEMA if field.name not in MADE_LATER]))


def test_aggregate__decides_for_every_column_of_the_census() -> None:
    clear = devices_of({})
    (row,), (before,) = aggregate(clear).to_pylist(), clear.to_pylist()
    assert aggregate(clear).schema == clear.schema
    assert {name for name in row if row[name] == before[name]} == UNCHANGED
    assert {name: row[name] for name in row if name not in UNCHANGED} == {
        "confidence": 0.9, "kinds": [kind("plug", confidence=0.9, flows=10)], "runners_up": [], "similar_kinds": [],
        "unlike_kind": None,
        "unexplained": 0.1,
        "household": 0.0, "reason": "Its flows are like those of plugs.", "flows": 100, "bytes": 10_000,
        "maker": None, "mac_randomised": None,
        "first_seen": datetime(2026, 1, 10, tzinfo=UTC), "last_seen": datetime(2026, 1, 10, tzinfo=UTC),
    }  # fmt: skip


def test_aggregate__what_the_prefix_of_a_mac_says_is_dropped() -> None:
    (row,) = aggregate(devices_of({"marks": ["kinds_at_once", "maker_differs"]})).to_pylist()
    assert (row["maker"], row["mac_randomised"], row["marks"]) == (None, None, ["kinds_at_once"])
    assert SENTENCES["maker_differs"] not in row["reason"]


def test_aggregate__marks_are_explained_and_separate_the_numbers() -> None:
    clear = devices_of({"flows": 9000}, {"marks": ["address_conflict"], "flows": 80}, {"flows": 7000})
    first, marked, third = aggregate(clear).to_pylist()
    assert (first["flows"], marked["flows"], third["flows"]) == (1000, 10, 1000)
    assert marked["marks"] == ["address_conflict"]
    assert marked["reason"] == f"Its flows are like those of plugs. {SENTENCES['address_conflict']}"


def test_aggregate__devices_with_equal_findings_have_median_numbers() -> None:
    flows = [5, 70, 800, 9000, 10_000]
    rows = [{"flows": each, "bytes": 10 * each, "kinds": [kind("plug", flows=each)]} for each in flows]
    rows += [{"flows": 3, "kinds": [kind("lamp")], "label": "lamp"}, {"flows": 3, "watched": True}]
    *plugs, lamp, watched = aggregate(devices_of(*rows)).to_pylist()
    for plug in (*plugs, watched):  # the watch list separates no numbers
        assert (plug["flows"], plug["bytes"], plug["kinds"][0]["flows"]) == (10, 1000, 10)
    assert (lamp["flows"], lamp["bytes"]) == (1, 10_000)


def test_aggregate__separates_by_status_kinds_group_and_likeliest_kind_alone() -> None:
    several = {"status": "several", "label": None, "flows": 20}
    likely = [{"label": "lamp", "confidence": 0.4}, {"label": "bell", "confidence": 0.1}]
    undecided = {"status": "undecided", "label": None, "kinds": [], "runners_up": likely}
    unknown = {"status": "unknown", "label": None, "kinds": []}
    rows = [
        several | {"kinds": [kind("plug", flows=9), kind("lamp", flows=2)]},
        several | {"kinds": [kind("lamp", flows=90), kind("plug", flows=20)], "flows": 1},  # in the other order
        several | {"kinds": [kind("plug"), kind("lamp", units=2)], "flows": 3000},
        several | {"kinds": [kind("plug"), kind("lamp", units=9)], "flows": 500_000},
        undecided | {"flows": 7},
        undecided | {"flows": 70, "runners_up": likely[:1]},
        undecided | {"flows": 700, "runners_up": likely[::-1]},
        undecided | {"flows": 7000, "runners_up": []},
        unknown | {"group_name": "g1", "flows": 5},
        unknown | {"group_name": "g1", "flows": 60_000, "runners_up": []},
        unknown | {"group_name": "g2", "flows": 60_000},
    ]
    result = aggregate(devices_of(*rows)).to_pylist()
    assert [row["flows"] for row in result] == [1, 1, 1000, 1000, 1, 1, 100, 1000, 1, 1, 10_000]
    assert [[each["label"] for each in row["kinds"]] for row in result[:4]] == [["lamp", "plug"]] * 4
    assert [row["kinds"][0]["units"] for row in result[:4]] == [1, 1, 2, 2]
    assert [row["runners_up"] for row in result[4:]] == [
        [{"label": "lamp", "confidence": 0.4}]] * 2 + [[{"label": "bell", "confidence": 0.1}]] + [[]] * 4  # fmt: skip
    assert [row["reason"] for row in result[3:9]] == [
        "Its flows are like those of lamps, plugs.", "Not enough evidence; likeliest is lamp.",
        "Not enough evidence; likeliest is lamp.", "Not enough evidence; likeliest is bell.", "Not enough evidence.",
        "No learned kind explains this address.",
    ]  # fmt: skip


def test_aggregate__tenths_are_rounded_down_and_stay_what_they_are() -> None:
    shares = [0.0, 0.049, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.999999, 1.0]
    rows = [{"household": share, "label": f"{n}", "kinds": [kind(f"{n}")]} for n, share in enumerate(shares)]
    result = aggregate(devices_of(*rows))
    assert result["household"].to_pylist() == [0.0, 0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.9, 1.0]
    assert aggregate(result).equals(result)


def test_aggregate__of_no_device_is_none() -> None:
    assert aggregate(devices_of()).equals(devices_of())


@pytest.fixture
def bench(module_at: Callable[[Path], ModuleType]) -> ModuleType:
    return module_at(Path(__file__).parents[1] / "bench" / "linkage.py")


@pytest.mark.parametrize(("devices", "kinds"), [(11, 8), (150, 12)])
def test_linkage__a_clear_table_identifies_only_devices_with_unique_kinds(
    bench: ModuleType, devices: int, kinds: int
) -> None:
    result = bench.measure(bench.synthetic_census(devices, kinds))
    everyone = {"first_seen": devices, "numbers": devices, "everything": devices, "nearest": devices}
    assert result["renamed"].items() >= everyone.items(), "with changed names alone, numbers identify devices"
    assert result["rounded"]["everything"] > result["said"], "rounding each row by itself is not enough"
    for mode in ("opaque", "prefixes"):
        assert result[mode]["everything"] == result["said"]
        assert result[mode]["nearest"] <= result["said"] + 2, "two by chance"
        assert max(result[mode]["first_seen"], result[mode]["numbers"]) <= result["said"]
    assert result["opaque"]["prefixes"] == 0 < result["prefixes"]["prefixes"]


def test_linkage__no_columns_together_identify_more_than_the_findings(bench: ModuleType) -> None:
    coarse, released = bench.released_as(bench.synthetic_census(60, 6))["opaque"]
    numbers = (*bench.NUMBERS, "reason", "kinds", "runners_up")
    said = bench.measure(bench.synthetic_census(60, 6))["said"]
    for size in (1, 2, 3):
        for columns in combinations(numbers, size):
            assert bench.joined(coarse, released, columns) <= said, columns
