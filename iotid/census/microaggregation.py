"""Gives devices of a census with the same findings the same numbers and times: their medians, rounded down.

A pseudonym protects a device only if no other column identifies it. Anyone with a clear census of the date, or flow
records, can join on a first_seen in microseconds; rounding each number by itself is not enough, because a few rounded
numbers together identify a device as well as a name. So this is microaggregation (J. Domingo-Ferrer, J. M. Mateo-Sanz,
Practical Data-Oriented Microaggregation for Statistical Disclosure Control, IEEE TKDE 14(1), 2002), with equal findings
in place of clusters of a fixed size. A device with unique kinds is identified by them already, so its numbers are only
rounded.

Counts are rounded to a power of ten, times to the day (UTC), probabilities and shares to tenths. The reason loses its
counts; runners-up are dropped, except the first of an undecided device. unlike_kind is dropped, too: it is about one
device, and a median over several would hide it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from datetime import datetime
from statistics import median_low
from typing import Any

import pyarrow as pa

from iotid.census.marks import MAKER_DIFFERS, with_mark_sentences
from iotid.model.device.decide import UNDECIDED, UNKNOWN

Row = dict[str, Any]
_OF_MAC = ("maker", "mac_randomised")


def aggregate(devices: pa.Table) -> pa.Table:
    """The table (columns of CENSUS without COMPARED) with equal numbers and times for devices of equal status, kinds,
    marks and group (and likeliest kind, if undecided). Other columns are unchanged.

    Kinds are sorted by name, since the order by flows would reveal more. What the MAC says is dropped.
    """
    rows: list[Row] = devices.to_pylist()
    groups = defaultdict(list)
    for row in rows:
        row["kinds"] = sorted(row["kinds"], key=lambda kind: (kind["kind"], kind["label"] or ""))
        row["runners_up"] = row["runners_up"][: row["status"] == UNDECIDED]
        row["similar_kinds"] = []
        row["unlike_kind"] = None
        row.update(dict.fromkeys(_OF_MAC))
        row["marks"] = [mark for mark in row["marks"] if mark != MAKER_DIFFERS]
        groups[_findings(row)].append(row)
    for members in groups.values():
        common = _common(members)
        for row in members:
            row.update(common)
    return pa.Table.from_pylist(rows, schema=devices.schema)


def _findings(row: Row) -> tuple[Any, ...]:
    """The findings of a device; of ``units`` only whether there are several, as on the page."""
    kinds = tuple(
        (*(kind[name] for name in ("kind", "label", "vendor", "type")), kind["units"] > 1) for kind in row["kinds"]
    )
    return row["status"], row["group_name"], kinds, *row["marks"], *(likely["label"] for likely in row["runners_up"])


def _common(members: list[Row]) -> Row:
    """The common numbers and times of devices with the same findings."""
    common: Row = {name: _rounded(members, name) for name in _ROUND if name in members[0]}
    for name in ("kinds", "runners_up"):
        positions = zip(*(row[name] for row in members), strict=True)
        common[name] = [
            same[0] | {field: _rounded(same, field) for field in _ROUND if field in same[0]} for same in positions
        ]
    return common | {"reason": with_mark_sentences(_reason(members[0]["status"], common), members[0]["marks"])}


def _reason(status: str, common: Row) -> str:
    if status == UNKNOWN:
        return "No learned kind explains this address."
    if status == UNDECIDED:
        likeliest = f"; likeliest is {common['runners_up'][0]['label']}" if common["runners_up"] else ""
        return f"Not enough evidence{likeliest}."
    return f"Its flows are like those of {', '.join(kind['kind'] for kind in common['kinds'])}."


def _rounded(rows: Iterable[Row], name: str) -> Any:
    return _ROUND[name](median_low(row[name] for row in rows))


def power_of_ten(count: int) -> int:
    """The count rounded down to a power of ten; 0 for 0."""
    return 10 ** (len(str(count)) - 1) if count else 0


def _tenth(share: float) -> float:
    return int(10 * share) / 10


def _day(time: datetime) -> datetime:
    return time.replace(hour=0, minute=0, second=0, microsecond=0)


_ROUND: dict[str, Callable[[Any], Any]] = {
    "confidence": _tenth, "unexplained": _tenth, "household": _tenth, "flows": power_of_ten, "bytes": power_of_ten,
    "units": lambda units: min(units, 2), "first_seen": _day, "last_seen": _day,
}  # fmt: skip
