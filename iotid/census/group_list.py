"""Lists the groups of the stored censuses: how many devices, where and since when, what they do, what persons said."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from iotid.census.stored import stored_groups
from iotid.labels.group_names import GroupNames, Statement
from iotid.labels.grouped_devices import OTHERS, CensusesRead
from iotid.partitions import PartitionKey, Store

_MAKERS = 3  # listed for each group


@dataclass(frozen=True)
class GroupLine:
    """``devices``: distinct ones by site; ``makers``: the commonest, and of how many devices; ``statements``: in force
    where the group is, the latest first."""

    group: str
    devices: int
    sites: int
    dates: tuple[str, str]
    date_count: int
    services: tuple[str, ...]
    makers: tuple[tuple[str, int], ...]
    statements: tuple[Statement, ...]

    def __str__(self) -> str:
        days = f"on {self.dates[0]}" if self.date_count == 1 else f"on {self.date_count:,} dates since {self.dates[0]}"
        parts = [
            f"{self.group}: {_plural(self.devices, 'device')} at {_plural(self.sites, 'site')} {days}",
            ", ".join(self.services) or "no services",
            ", ".join(f"{count:,} {maker}" for maker, count in self.makers) or "makers unknown",
            *(f"{each.title}: {each.said}{_where(each)}" for each in self.statements),
        ]
        return "; ".join(parts if self.statements else [*parts, "not named"])


def list_groups(censuses: CensusesRead) -> list[GroupLine]:
    """The groups of these censuses, those of most devices first."""
    names, rows = GroupNames.read(censuses.store), censuses.members(columns=("maker",))
    rows = rows.filter(pc.not_equal(rows["group_name"], OTHERS))
    devices = rows.group_by(["group_name", "site", "device_id"], use_threads=False).aggregate([("maker", "max")])
    makers: dict[str, Counter[str]] = {}
    for group, maker in zip(*(devices[name].to_pylist() for name in ("group_name", "maker_max")), strict=True):
        makers.setdefault(group, Counter())[maker or ""] += 1
    places = _places(rows)
    services = _services(censuses.store, _places(rows.filter(pc.is_null(rows["key_fingerprint"]))))
    lines = [_line(group, places[group], makers[group], services.get(group, ()), names) for group in makers]
    return sorted(lines, key=lambda line: (-line.devices, line.group))


def _line(
    group: str, places: set[tuple[str, str]], makers: Counter[str], services: tuple[str, ...], names: GroupNames
) -> GroupLine:
    days = sorted({day for _, day in places})
    in_force = {each.name: each for place in places if (each := names.in_force(*place).get(group))}
    known = sorted(((maker, count) for maker, count in makers.items() if maker), key=lambda item: (-item[1], item[0]))
    return GroupLine(
        group,
        makers.total(),
        len({site for site, _ in places}),
        (days[0], days[-1]),
        len(days),
        services,
        tuple(known[:_MAKERS]),
        tuple(in_force[name] for name in sorted(in_force, reverse=True)),
    )


def _places(rows: pa.Table) -> dict[str, set[tuple[str, str]]]:
    """Group -> sites and capture dates where it is."""
    seen = rows.group_by(["group_name", "site", "capture_date"], use_threads=False).aggregate([])
    places: dict[str, set[tuple[str, str]]] = {}
    for group, site, day in zip(*(seen[name].to_pylist() for name in seen.column_names), strict=True):
        places.setdefault(group, set()).add((site, day.isoformat()))
    return places


def _services(store: Store, places: Mapping[str, set[tuple[str, str]]]) -> dict[str, tuple[str, ...]]:
    """The services of each group in its latest census of ``places``: those without pseudonyms, which encrypt them."""
    latest = {group: max(own, key=lambda place: place[::-1]) for group, own in places.items()}
    found: dict[str, tuple[str, ...]] = {}
    for site, day in sorted(set(latest.values())):
        groups = stored_groups(store, store.open("census", PartitionKey.of_date(site, day)), None)
        of_groups = zip(groups["group_name"].to_pylist(), map(tuple, groups["services"].to_pylist()), strict=True)
        found |= {group: services for group, services in of_groups if latest.get(group) == (site, day)}
    return found


def _where(statement: Statement) -> str:
    places = [*statement.sites, *statement.dates]
    return f" (for {', '.join(places)})" if places else ""


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'s' * (count != 1)}"
