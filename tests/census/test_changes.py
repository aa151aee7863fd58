"""Tonight's census against the one before."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest

from iotid.census.changes import COMPARED, compare
from iotid.schemas import CENSUS

NOON = datetime(2026, 1, 10, 12, tzinfo=UTC)
STORED = CENSUS.arrow_schema(stored=True)
GIVEN = pa.schema([field for field in STORED if field.name not in COMPARED])


def kind(finding: str) -> dict[str, Any]:
    """A kind found; ``finding``: its name, or ``kind/label``; an empty label: no class is named."""
    name, _, label = finding.partition("/")
    label = label if "/" in finding else name
    return {"kind": name, "label": label or None, "vendor": None, "type": None, "confidence": 0.9, "flows": 3}


def rows_of(devices: dict[str, str | None], day: int = 0) -> pa.Table:
    """Rows before the comparison; a device's value is its kinds joined by +, `?` for something unknown beside them,
    `unknown`, or None: undecided."""
    rows = []
    for device, finding in devices.items():
        parts = [] if finding in (None, "unknown") else str(finding).split("+")
        kinds = [kind(part) for part in parts if part != "?"]
        status = (
            "undecided" if finding is None else "unknown" if not parts else "several" if len(kinds) > 1 else "known"
        )
        status = "several_with_unknown" if "?" in parts else status
        rows.append(
            {
                "device_id": device, "status": status, "label": kinds[0]["label"] if status == "known" else None,
                "vendor": None, "type": None, "confidence": 0.9, "kinds": kinds, "runners_up": [], "similar_kinds": [],
                "unlike_kind": None,
                "unexplained": 0.25,
                "household": 0.5, "reason": "of 3 distinct flows", "flows": 7, "bytes": 700,
                "first_seen": NOON + timedelta(days=day), "last_seen": NOON + timedelta(days=day, hours=1),
                "addresses": ["10.0.0.1"], "watched": finding == "camera",
                "group_name": "g1" if finding == "unknown" else None,
            }
        )  # fmt: skip
    return pa.Table.from_pylist(rows, schema=GIVEN)


def census(*days: dict[str, str | None], comparable: bool = True, remember_days: int = 30) -> dict[str, dict[str, Any]]:
    """The last of several days' censuses, each compared with the one before it; rows by device."""
    earlier = None
    for day, devices in enumerate(days):
        earlier = compare(rows_of(devices, day), earlier, comparable=comparable, remember_days=remember_days)
        assert earlier.schema.equals(STORED)
        assert earlier["device_id"].to_pylist() == sorted(earlier["device_id"].to_pylist())
    assert earlier is not None
    return {row["device_id"]: row for row in earlier.to_pylist()}


def changes(*days: dict[str, str | None], **more: Any) -> dict[str, str]:
    return {device: row["change"] for device, row in census(*days, **more).items()}


def test_compare__without_an_earlier_census_every_device_is_first() -> None:
    assert changes({"b": "plug", "a": None}) == {"a": "baseline", "b": "baseline"}


def test_compare__new_same_and_gone() -> None:
    assert changes({"a": "plug", "b": "plug"}, {"b": "plug", "c": "plug"}) == {"a": "gone", "b": "same", "c": "new"}


def test_compare__gone_then_away_then_back() -> None:
    there: dict[str, str | None] = {"a": "plug", "b": "camera"}
    without: dict[str, str | None] = {"b": "camera"}
    assert changes(there, without, without)["a"] == "away"
    assert changes(there, without, there)["a"] == "back"
    assert changes(there, without, without, there)["a"] == "back"
    assert changes(there, without, there, there)["a"] == "same"
    assert changes(there, without, there, without)["a"] == "gone"


def test_compare__a_gone_device_has_no_flows_and_is_otherwise_unchanged() -> None:
    row = census({"a": "camera"}, {})["a"]
    assert (row["flows"], row["bytes"], row["watched"]) == (0, 0, False)
    assert (row["label"], row["status"], row["previous_label"]) == ("camera", "absent", "camera")
    assert row["last_seen"] == NOON + timedelta(hours=1)
    unknown = census({"a": "unknown", "b": "plug+camera+?"}, {})
    assert (unknown["a"]["group_name"], unknown["b"]["group_name"]) == ("g1", None)
    assert [one["kind"] for one in unknown["b"]["kinds"]] == ["plug", "camera"]
    assert (unknown["b"]["status"], unknown["b"]["previous_label"]) == ("absent", "camera + plug")


def test_compare__rows_tell_the_history_of_their_device() -> None:
    days: list[dict[str, str | None]] = [{"a": "plug"}, {"a": "lamp"}, {}, {"a": "plug+lamp"}, {"a": None, "b": "plug"}]
    found = census(*days)
    assert (found["a"]["first_seen_ever"], found["a"]["dates_present"]) == (NOON, 4)
    assert found["a"]["earlier_names"] == ["lamp + plug", "lamp", "plug"]
    assert (found["b"]["first_seen_ever"], found["b"]["dates_present"]) == (NOON + timedelta(days=4), 1)
    assert found["b"]["earlier_names"] == []
    absent = census(*days[:3])["a"]
    assert (absent["first_seen_ever"], absent["dates_present"], absent["earlier_names"]) == (NOON, 2, ["plug"])


def test_compare__a_forgotten_device_that_returns_has_a_new_history() -> None:
    days: list[dict[str, str | None]] = [{"a": "plug", "b": "plug"}, *[{"b": "plug"}] * 4, {"a": "lamp", "b": "plug"}]
    found = census(*days, remember_days=2)["a"]
    assert (found["change"], found["dates_present"], found["earlier_names"]) == ("new", 1, [])


def test_compare__at_most_eight_earlier_names_are_kept_the_latest_first() -> None:
    names = [f"model {number}" for number in range(12)]
    found = census(*({"a": name} for name in names))["a"]
    assert found["earlier_names"] == names[-2:-10:-1]


def test_compare__an_absent_device_is_forgotten_after_remember_days() -> None:
    days: list[dict[str, str | None]] = [{"a": "plug", "b": "plug"}, *[{"b": "plug"}] * 3]
    assert changes(*days, remember_days=3)["a"] == "away"
    assert changes(*days, remember_days=2) == {"b": "same"}
    assert changes(*days, days[0], remember_days=2)["a"] == "new"
    assert changes(days[0], {"b": "plug"}, remember_days=0)["a"] == "gone"  # it is listed once in any case


@pytest.mark.parametrize(
    ("before", "now", "change", "new"),
    [
        ("plug", "plug", "same", []),
        ("plug", "camera", "changed", ["camera"]),
        ("plug", "unknown", "changed", []),
        ("unknown", "plug", "changed", ["plug"]),
        ("unknown", "unknown", "same", []),
        ("plug", None, "same", []),
        (None, "plug", "same", []),
        (None, None, "same", []),
        (None, "unknown", "same", []),
        ("unknown", None, "same", []),
        ("plug+camera", "camera+plug", "same", []),
        ("plug+camera", "camera+lamp", "changed", ["lamp"]),
        ("plug+camera", "plug", "same", []),  # the camera may have sent too little now
        ("plug+camera", "lamp", "changed", ["lamp"]),
        ("plug", "plug+camera", "changed", ["camera"]),
        ("plug", "lamp+plug+camera", "changed", ["lamp", "camera"]),  # in the order of kinds
        ("plug+camera", "unknown", "changed", []),
        ("plug+camera", None, "same", []),
        ("plug", "plug+?", "same", []),  # what is unknown beside it may have been there before
        ("plug+?", "plug", "same", []),
        ("plug+?", "plug+camera+?", "changed", ["camera"]),
        ("plug+?", "unknown", "changed", []),
        ("unknown", "plug+?", "changed", ["plug"]),
    ],
)
def test_compare__changed_is_a_kind_not_found_before_and_never_undecided(
    before: str | None, now: str | None, change: str, new: list[str]
) -> None:
    row = census({"a": before}, {"a": now})["a"]
    assert (row["change"], row["new_kinds"]) == (change, new)
    named = sorted(part for part in (before or "unknown").split("+") if part not in ("?", "unknown"))
    assert row["previous_label"] == (" + ".join(named) or None)


@pytest.mark.parametrize(
    ("before", "now", "new"),
    [
        ("Acme camera/", "Acme camera/C100", []),  # the same kind, whose class is named now
        ("Acme camera/C100", "Acme camera/", []),
        ("Acme camera/C100", "Acme camera/C200", ["C200"]),
        ("Acme camera/C100", "Acme camera/+plug", ["plug"]),
        ("lamp", "Acme camera/", ["Acme camera"]),
    ],
)
def test_compare__an_unnamed_class_is_no_other_class(before: str, now: str, new: list[str]) -> None:
    row = census({"a": before, "b": "plug"}, {"a": now, "b": "plug"})["a"]
    assert (row["change"], row["new_kinds"]) == ("changed" if new else "same", new)


def test_compare__only_a_changed_device_has_new_kinds() -> None:
    there, more = {"a": "plug", "b": "plug"}, {"a": "plug+lamp", "b": "plug+lamp", "c": "lamp"}
    assert census(there)["a"]["new_kinds"] == []
    assert census(there, more)["c"]["new_kinds"] == []  # new itself
    back = census({"a": "plug", "b": "plug"}, {"b": "plug"}, {"a": "lamp"})
    assert {device: (row["change"], row["new_kinds"]) for device, row in back.items()} == {
        "a": ("back", []), "b": ("gone", []),
    }  # fmt: skip
    assert census(there, more, comparable=False)["a"]["new_kinds"] == []


def test_compare__of_another_model_labels_are_not_compared_but_presence_is() -> None:
    found = changes({"a": "plug", "b": "plug"}, {"a": "camera", "c": "plug"}, comparable=False)
    assert found == {"a": "same", "b": "gone", "c": "new"}


def test_compare__empty_censuses_are_compared() -> None:
    assert changes({}, {"a": "plug"}) == {"a": "new"}
    assert changes({"a": "plug"}, {}) == {"a": "gone"}
    assert changes({}, {}) == {}
