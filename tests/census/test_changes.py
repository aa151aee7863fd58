"""Tonight's census against the one before."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest

from iotid.census.changes import compare
from iotid.schemas import CENSUS

NOON = datetime(2026, 1, 10, 12, tzinfo=UTC)
STORED = CENSUS.arrow_schema(stored=True)
GIVEN = pa.schema([field for field in STORED if field.name not in ("change", "previous_label")])


def night(devices: dict[str, str | None], day: int = 0) -> pa.Table:
    """Rows before the comparison; a device's value is its label, several joined by +, `unknown`, or None: undecided."""

    def status(said: str | None) -> str:
        return (
            "undecided" if said is None else "unknown" if said == "unknown" else "several" if "+" in said else "known"
        )

    rows = [
        {
            "device_id": device,
            "status": status(said),
            "label": said if status(said) == "known" else None,
            "vendor": None, "type": None, "confidence": 0.9, "runners_up": [], "flows": 7, "bytes": 700,
            "first_seen": NOON + timedelta(days=day), "last_seen": NOON + timedelta(days=day, hours=1),
            "addresses": ["10.0.0.1"], "watched": said == "camera", "group": "g1" if said == "unknown" else None,
            "several": [
                {"label": label, "vendor": None, "type": None, "confidence": 0.4}
                for label in (said or "").split("+") if status(said) == "several"
            ],
        }
        for device, said in devices.items()
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, schema=GIVEN)


def census(
    *nights: dict[str, str | None], comparable: bool = True, remember_days: int = 30
) -> dict[str, dict[str, Any]]:
    """The last of several nights' censuses, each compared with the one before it; rows by device."""
    earlier = None
    for day, devices in enumerate(nights):
        earlier = compare(night(devices, day), earlier, comparable=comparable, remember_days=remember_days)
        assert earlier.schema.equals(STORED)
        assert earlier["device_id"].to_pylist() == sorted(earlier["device_id"].to_pylist())
    assert earlier is not None
    return {row["device_id"]: row for row in earlier.to_pylist()}


def changes(*nights: dict[str, str | None], **more: Any) -> dict[str, str]:
    return {device: row["change"] for device, row in census(*nights, **more).items()}


def test_compare__without_a_census_before_every_device_is_first() -> None:
    assert changes({"b": "plug", "a": None}) == {"a": "first", "b": "first"}


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


def test_compare__a_gone_device_has_no_flows_and_is_else_what_it_was() -> None:
    row = census({"a": "camera"}, {})["a"]
    assert (row["flows"], row["bytes"], row["watched"]) == (0, 0, False)
    assert (row["label"], row["status"], row["previous_label"]) == ("camera", "known", "camera")
    assert row["last_seen"] == NOON + timedelta(hours=1)
    unknown = census({"a": "unknown", "b": "plug+camera"}, {})
    assert (unknown["a"]["group"], unknown["b"]["group"]) == ("g1", None)
    assert [one["label"] for one in unknown["b"]["several"]] == ["plug", "camera"]
    assert unknown["b"]["previous_label"] == "camera + plug"


def test_compare__an_absent_device_is_forgotten_after_the_days_that_are_set() -> None:
    nights: list[dict[str, str | None]] = [{"a": "plug", "b": "plug"}, *[{"b": "plug"}] * 3]
    assert changes(*nights, remember_days=3)["a"] == "away"
    assert changes(*nights, remember_days=2) == {"b": "same"}
    assert changes(*nights, nights[0], remember_days=2)["a"] == "new"
    assert changes(nights[0], {"b": "plug"}, remember_days=0)["a"] == "gone"  # it is told of once in any case


@pytest.mark.parametrize(
    ("before", "now", "change"),
    [
        ("plug", "plug", "same"),
        ("plug", "camera", "changed"),
        ("plug", "unknown", "changed"),
        ("unknown", "plug", "changed"),
        ("unknown", "unknown", "same"),
        ("plug", None, "same"),
        (None, "plug", "same"),
        (None, None, "same"),
        (None, "unknown", "same"),
        ("unknown", None, "same"),
        ("plug+camera", "camera+plug", "same"),
        ("plug+camera", "camera+lamp", "changed"),
        ("plug+camera", "plug", "same"),  # the camera may have sent too little tonight
        ("plug+camera", "lamp", "changed"),
        ("plug", "plug+camera", "changed"),
        ("plug+camera", "unknown", "changed"),
        ("plug+camera", None, "same"),
    ],
)
def test_compare__changed_is_another_opinion_and_undecided_is_none(
    before: str | None, now: str | None, change: str
) -> None:
    row = census({"a": before}, {"a": now})["a"]
    assert row["change"] == change
    assert row["previous_label"] == (
        None if before == "unknown" else " + ".join(sorted(before.split("+"))) if before else None
    )


def test_compare__of_another_model_labels_are_not_compared_but_presence_is() -> None:
    told = changes({"a": "plug", "b": "plug"}, {"a": "camera", "c": "plug"}, comparable=False)
    assert told == {"a": "same", "b": "gone", "c": "new"}


def test_compare__empty_nights_are_nights() -> None:
    assert changes({}, {"a": "plug"}) == {"a": "new"}
    assert changes({"a": "plug"}, {}) == {"a": "gone"}
    assert changes({}, {}) == {}
