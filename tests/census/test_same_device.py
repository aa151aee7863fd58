"""Devices that change their MACs: joined where nothing else is possible, and never else."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest

from iotid.census.changes import COMPARED, compare
from iotid.census.same_device import MIN_FLOWS
from iotid.schemas import CENSUS

STORED = CENSUS.arrow_schema(stored=True)
GIVEN = pa.schema([field for field in STORED if field.name not in COMPARED])
NOON = datetime(2026, 1, 10, 12, tzinfo=UTC)
PHONE, CAM = {"what": "phone"}, {"what": "camera"}
Device = dict[str, Any]


def _kind(name: str, label: str | None) -> dict[str, Any]:
    return {"kind": name, "label": label, "vendor": None, "type": None, "confidence": 0.9, "flows": 3, "units": 1}


def _rows(devices: dict[str, Device], day: int) -> pa.Table:
    """``what``: name of the kind; a name that begins with g: a group of unknown devices; None: undecided."""
    rows = []
    for name, given in devices.items():
        what = given["what"]
        kinds = [] if what is None or what[0] == "g" or what == "others" else [_kind(what, given.get("label", what))]
        begin = NOON + timedelta(days=given.get("day", day))
        row = {
            "device_id": name, "status": "known" if kinds else "unknown" if what else "undecided", "label": None,
            "confidence": 0.9, "kinds": kinds, "runners_up": [], "similar_kinds": [], "unlike_kind": None,
            "unexplained": 0.0, "household": 0.1, "reason": "Why.",
            "marks": [], "group_name": None if kinds else what, "mac_randomised": given.get("local", True),
            "flows": given.get("flows", MIN_FLOWS), "bytes": 700, "first_seen": begin,
            "last_seen": begin + timedelta(hours=1), "addresses": ["10.0.0.1"], "watched": False,
        }  # fmt: skip
        rows.append(row | given.get("row", {}))
    return pa.Table.from_pylist(rows, schema=GIVEN)


def _joined(*days: dict[str, Device], comparable: bool = True) -> dict[str, str]:
    """device_id -> same_as in the last of several days' censuses."""
    earlier = None
    for day, devices in enumerate(days):
        earlier = compare(_rows(devices, day), earlier, comparable=comparable, remember_days=30)
        assert earlier.schema.equals(STORED)
    assert earlier is not None
    return {row["device_id"]: row["same_as"] for row in earlier.to_pylist() if row["same_as"] is not None}


@pytest.mark.parametrize("what", ["phone", "g1"])
def test_same_as__one_new_and_one_gone_device_of_one_kind_or_group_are_one(what: str) -> None:
    device = {"what": what}
    assert _joined({"a": device, "c": CAM}, {"b": device, "c": CAM}) == {"b": "a"}


def test_same_as__stays_while_the_device_is_known_and_follows_further_changes() -> None:
    assert _joined({"a": PHONE}, {"b": PHONE}, {"b": PHONE}) == {"b": "a"}
    assert _joined({"a": PHONE}, {"b": PHONE}, {"c": PHONE}) == {"b": "a", "c": "b"}
    assert _joined({"a": PHONE}, {"b": PHONE}, {}, {"b": PHONE}) == {"b": "a"}


def test_same_as__two_phones_that_both_change_are_not_joined() -> None:
    assert _joined({"a": PHONE, "b": PHONE}, {"c": PHONE, "d": PHONE}) == {}


def test_same_as__not_if_another_could_be_either() -> None:
    assert _joined({"a": PHONE}, {"b": PHONE, "c": PHONE}) == {}
    assert _joined({"a": PHONE, "b": PHONE}, {"c": PHONE}) == {}
    few = {"what": "phone", "flows": 1}
    assert _joined({"a": PHONE, "b": few}, {"c": PHONE}) == {}, "one of few flows could be it, too"


def test_same_as__not_if_an_undecided_device_could_be_either() -> None:
    undecided: Device = {"what": None, "flows": 1}
    assert _joined({"a": PHONE}, {"b": PHONE, "x": undecided}) == {}
    assert _joined({"a": PHONE, "x": undecided}, {"b": PHONE}) == {}
    assert _joined({"a": PHONE, "x": undecided}, {"b": PHONE, "x": undecided}) == {"b": "a"}, "that one is itself"
    fixed = undecided | {"local": False}
    assert _joined({"a": PHONE}, {"b": PHONE, "x": fixed}) == {"b": "a"}, "its MAC does not change"


def test_same_as__not_while_both_are_there_or_their_times_overlap() -> None:
    assert _joined({"a": PHONE}, {"a": PHONE, "b": PHONE}) == {}
    assert _joined({"a": PHONE}, {"a": PHONE, "b": PHONE}, {"b": PHONE}) == {}, "not new when the other is gone"
    late = {"what": "phone", "row": {"last_seen": NOON + timedelta(days=1, minutes=1)}}
    assert _joined({"a": late}, {"b": PHONE}) == {}


def test_same_as__not_across_a_night_of_absence() -> None:
    assert _joined({"a": PHONE, "c": CAM}, {"c": CAM}, {"b": PHONE, "c": CAM}) == {}


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ({"local": False}, {}),
        ({}, {"local": False}),
        ({"local": None}, {"local": None}),  # addresses, and pseudonyms
        ({"what": "camera"}, {}),
        ({"what": "g1"}, {}),
        ({"what": "g1"}, {"what": "g2"}),
        ({"what": "others"}, {"what": "others"}),
        ({"flows": MIN_FLOWS - 1}, {}),
        ({}, {"flows": MIN_FLOWS - 1}),
        ({"label": "phone 1"}, {"label": "phone 2"}),
        ({"row": {"status": "several", "kinds": [_kind("phone", None), _kind("camera", None)]}}, {}),
    ],
)
def test_same_as__needs_two_local_macs_one_kind_and_evidence(before: Device, now: Device) -> None:
    assert _joined({"a": PHONE | before}, {"b": PHONE | now}) == {}


def test_same_as__an_undetermined_class_of_the_same_kind_is_no_contradiction() -> None:
    assert _joined({"a": PHONE | {"label": None}}, {"b": PHONE}) == {"b": "a"}


def test_same_as__not_if_names_are_not_comparable() -> None:
    assert _joined({"a": PHONE}, {"b": PHONE}, comparable=False) == {}


def test_same_as__does_not_depend_on_the_order_of_rows() -> None:
    first, second = {"a": PHONE, "c": CAM, "e": {"what": "g1"}}, {"b": PHONE, "d": CAM, "f": {"what": "g1"}}
    backwards = [dict(reversed(day.items())) for day in (first, second)]
    assert _joined(first, second) == _joined(*backwards) == {"b": "a", "d": "c", "f": "e"}
