"""What changed in a network over its last capture dates: series by date, and what spreads.

Something spreads if the interval of its number of addresses, or of sites, lies above that of an earlier date, both
summed over the sites that have a census on both dates: a site that was missing then is no rise.

Pure functions on tables, but for `History`, which reads stored ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from iotid.census.network.stored import stored_dates, stored_totals
from iotid.census.network.totals import added
from iotid.partitions import PartitionKey

if TYPE_CHECKING:
    from iotid.partitions import Store

WEEK, FOUR_WEEKS = COMPARED_DAYS = (7, 28)
_TOLERANCE = {WEEK: 3, FOUR_WEEKS: 7}  # days by which the earlier date may differ, as dates may be absent
SPREADING_LEVELS = ("type", "kind", "group")
_SHOWN = ("found", "expected", "low", "high", "sites", "sites_expected", "sites_low", "sites_high")

Row = dict[str, Any]


@dataclass(frozen=True)
class DateTotals:
    """A capture date of a network: the rows (NETWORK) of all sites together, and the metadata."""

    capture_date: str
    rows: pa.Table
    metadata: Mapping[str, Any]


class History:
    """The census of a network on earlier dates; each is read once."""

    def __init__(self, store: Store, name: str) -> None:
        self._store, self._name = store, name
        self.dates = stored_dates(store, name)
        self._read: dict[str, DateTotals] = {}

    def add(self, capture_date: str, rows: pa.Table, metadata: Mapping[str, Any]) -> None:
        """Take a date's rows as they are about to be written."""
        self._read[capture_date] = DateTotals(capture_date, rows.filter(pc.is_null(rows["site"])), dict(metadata))
        self.dates = sorted({*self.dates, capture_date})

    def of_window(self, first: str, last: str) -> list[DateTotals]:
        """The dates from ``first`` to ``last`` that are stored."""
        return [self._of(each) for each in self.dates if first <= each <= last]

    def before(self, capture_date: str, days: int) -> tuple[DateTotals, pa.Table] | None:
        """The stored date that is nearest to so many days before, with its rows of sites; None if none is near."""
        wanted = date.fromisoformat(capture_date) - timedelta(days=days)
        near = {each: abs((date.fromisoformat(each) - wanted).days) for each in self.dates if each < capture_date}
        nearest = min(near, key=lambda each: (near[each], each), default=None)
        if nearest is None or near[nearest] > _TOLERANCE[days]:
            return None
        network = self._store.open("network", PartitionKey.of_network(self._name, nearest))
        return self._of(nearest), stored_totals(network, of_sites=True)

    def _of(self, capture_date: str) -> DateTotals:
        if capture_date not in self._read:
            network = self._store.open("network", PartitionKey.of_network(self._name, capture_date))
            self._read[capture_date] = DateTotals(capture_date, stored_totals(network), network.metadata)
        return self._read[capture_date]


def series(
    history: Sequence[DateTotals], level: str, items: Iterable[str], merged: Mapping[str, str]
) -> dict[str, list[Row | None]]:
    """For each item of a level the row of each date; None where it is not listed.

    ``merged``: names of groups that count under another name.
    """
    found: dict[str, list[Row | None]] = {item: [None] * len(history) for item in items}
    wanted = pa.array([*found, *(name for name, into in merged.items() if into in found)], pa.string())
    for number, each in enumerate(history):
        rows = each.rows.filter(pc.and_(pc.equal(each.rows["level"], level), pc.is_in(each.rows["item"], wanted)))
        for row in rows.to_pylist():
            item = merged.get(row["item"], row["item"])
            before = found[item][number]
            found[item][number] = row if before is None else _sum(before, row)
    return found


def _sum(a: Row, b: Row) -> Row:
    """Of two merged groups; a site that has both counts twice, as sites are not known here."""
    names = (*_SHOWN, "new", "gone", "changed", "back", "remembered")
    return a | {name: a[name] + b[name] for name in names}


def spreading(now: pa.Table, before: pa.Table, merged: Mapping[str, str]) -> list[Row]:
    """What lies above its interval of the earlier date, at the sites with a census on both; the steepest rise first.

    ``now``, ``before``: rows (NETWORK) of two dates, those of sites included. Each entry: level, item, ``rise`` in
    standard deviations, whether ``addresses`` and ``sites`` rose, and both dates' numbers under ``now`` and ``before``.
    """
    common = sorted({*now["site"].to_pylist()} & {*before["site"].to_pylist()} - {None})
    current, earlier = (_by_item(rows, common, merged) for rows in (now, before))
    rising = []
    for (level, item), row in current.items():
        was = earlier.get((level, item)) or dict.fromkeys(row, 0)
        flags = {
            "addresses": row["low"] > was["high"],
            "sites": row["sites_low"] > was["sites_high"],
        }
        if any(flags.values()):
            deviation = np.sqrt(row["variance"] + was["variance"] + was["expected"] + 1)
            rise = float((row["expected"] - was["expected"]) / deviation)
            numbers = {when: {name: each[name] for name in _SHOWN} for when, each in (("now", row), ("before", was))}
            rising.append({"level": level, "item": item, "rise": rise, **flags, **numbers})
    return sorted(rising, key=lambda each: (-round(each["rise"], 6), each["level"], each["item"]))


def number_of_common_sites(now: pa.Table, before: pa.Table) -> int:
    return len({*now["site"].to_pylist()} & {*before["site"].to_pylist()} - {None})


def _by_item(rows: pa.Table, sites: Sequence[str], merged: Mapping[str, str]) -> dict[tuple[str, str], Row]:
    chosen = rows.filter(
        pc.and_(
            pc.is_in(rows["site"], value_set=pa.array(sites, pa.string())),
            pc.is_in(rows["level"], value_set=pa.array([*SPREADING_LEVELS, "all"])),
        )
    )
    names = [merged.get(item, item) for item in chosen["item"].to_pylist()]
    chosen = chosen.set_column(
        chosen.schema.get_field_index("item"), chosen.schema.field("item"), [pa.array(names, pa.string())]
    )
    summed = added(chosen)
    return {(row["level"], row["item"]): row for row in summed.to_pylist() if row["level"] in SPREADING_LEVELS}
