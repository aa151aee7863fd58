"""Compares a census with the operator's device list: which device is listed at each address, and whether it was found.

Pure functions on tables. An entry of the list is at an address if it lists the MAC or the address, and is valid at a
time between the first and last packet there. Patterns of capture paths are not used: a row has no path.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa

from iotid.census.changes import ABSENT
from iotid.labels.devices import Device, device_kind
from iotid.model.device.decide import WITH_UNKNOWN
from iotid.schemas import CENSUS

AGREES, DIFFERS, NOT_IDENTIFIED, NOT_LISTED, UNKNOWN = LIST_CHECKS = (
    "agrees", "differs", "not_identified", "not_listed", "unknown",
)  # fmt: skip
COLUMNS = ("device_name", "listed_label", "list_check")
_READ = ("device_id", "addresses", "status", "kinds", "first_seen", "last_seen")
_MOST_NAMES = 100  # of listed devices that were not seen


@dataclass(frozen=True)
class ListCheck:
    """The census with the columns of the list, and the counts for its metadata; without a list the columns are null and
    the counts are empty."""

    census: pa.Table
    counts: dict[str, Any] = field(default_factory=dict)


def check_list(census: pa.Table, devices: Sequence[Device] | None, capture_date: str) -> ListCheck:
    """Compare the rows (CENSUS, without its columns about the list) with ``devices``; None: no list was given."""
    if devices is None:
        return ListCheck(_with_columns(census, [(None, None, None)] * len(census)))
    entries = _Entries(devices)
    rows, seen, seen_before = [], set[str](), set[str]()
    counts = dict.fromkeys(LIST_CHECKS, 0)
    for row in census.select(_READ).to_pylist():
        listed = entries.at(row)
        check = None if row["status"] == ABSENT else _check(row, listed)
        names = seen_before if check is None else seen
        names.update(device.name for device in listed)
        if check is not None:
            counts[check] += 1
        rows.append((_joined(device.name for device in listed), _joined(device.model for device in listed), check))
    day = datetime.fromisoformat(capture_date).replace(tzinfo=UTC)
    valid = {
        device.name
        for device in devices
        if (device.mac or device.ip) and device.valid_from < day + timedelta(days=1) and device.valid_to > day
    }
    missing = sorted((valid - seen) & seen_before)
    # a list may be of several sites, so that a device was never seen here is no finding
    never = len(valid - seen - seen_before)
    named = {"not_seen": len(missing), "not_seen_names": missing[:_MOST_NAMES], "never_seen": never}
    found = {"devices": len(valid), **named, **counts}
    return ListCheck(_with_columns(census, rows), found)


class _Entries:
    """The entries of a list by MAC and by address."""

    def __init__(self, devices: Sequence[Device]) -> None:
        self._by_identifier: dict[str, list[Device]] = {}
        for device in devices:
            for identifier in (*device.mac, *device.ip):
                self._by_identifier.setdefault(identifier, []).append(device)

    def at(self, row: dict[str, Any]) -> list[Device]:
        """The entries for the row's MAC; if there is none, those for any of its addresses."""
        return [*self._valid(row, [row["device_id"]])] or [*dict.fromkeys(self._valid(row, row["addresses"]))]

    def _valid(self, row: dict[str, Any], identifiers: Sequence[str]) -> Iterator[Device]:
        for identifier in identifiers:
            for device in self._by_identifier.get(identifier, ()):
                if device.valid_from <= row["last_seen"] and row["first_seen"] < device.valid_to:
                    yield device


def _check(row: dict[str, Any], listed: Sequence[Device]) -> str:
    kinds = row["kinds"]
    if not kinds:
        return NOT_IDENTIFIED if listed else UNKNOWN
    if not listed:
        return NOT_LISTED
    agrees = (
        row["status"] != WITH_UNKNOWN
        and all(any(_is_of(kind, device) for kind in kinds) for device in listed)
        and all(any(_is_of(kind, device) for device in listed) for kind in kinds)
    )
    return AGREES if agrees else DIFFERS


def _is_of(kind: dict[str, Any], device: Device) -> bool:
    """Whether a kind found can be the listed device: its class, where it is known, else its kind. A class is the name,
    the model or the type, depending on the setting dataset.label of the model's training."""
    if kind["label"] is not None:
        return kind["label"] in (device.model, device.name, device.type)
    described = {"vendor": device.vendor, "type": device.type}
    return kind["kind"] in {device_kind(label, described) for label in (device.model, device.name, device.type)}


def _joined(names: Iterator[str]) -> str | None:
    return " + ".join(dict.fromkeys(names)) or None


def _with_columns(census: pa.Table, rows: Sequence[tuple[str | None, str | None, str | None]]) -> pa.Table:
    schema = CENSUS.arrow_schema()
    for name, values in zip(COLUMNS, zip(*rows, strict=True) if rows else [()] * len(COLUMNS), strict=True):
        at, column = census.schema.get_field_index(name), pa.array(values, pa.string())
        if at < 0:
            census = census.append_column(schema.field(name), column)
        else:
            census = census.set_column(at, schema.field(name), column)
    return census
