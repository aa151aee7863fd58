"""Unknown groups over sites: one name for the same unknown device kind at every site and on every capture date.

The items are the sites' groups (`census.groups`), each with its profile. As within a site, an item joins the most
similar leader, and one that is similar to none becomes a leader (Hartigan 1975), those with most addresses first. The
first leaders are the network's groups of the earlier census of the network, so names last:

* **Sticky.** An item stays in the group that it was in, by its name or by the earlier members, unless its similarity
  falls _HYSTERESIS below the least one. Otherwise it joins another group or becomes one, and the split is recorded.
* **One of each site.** A site that has two groups has seen that their devices differ. So of each site at most one item
  joins a group, the most similar one, and groups of which a site has both are not merged.
* **Profiles** follow: half the earlier profile, half the mean of the present items by addresses.
* **Splits by persons.** A group that a person wants split leads no more. Its items form new groups, with a least
  similarity half-way to 1, and say what they come from.
* **Mergers.** Two groups whose profiles have become similar, more so than is needed to join, are one: the older name
  survives, and the younger group says what it became.
* A **new group** has the name of its leader at its site, if no other group has it. If the date, or a later one, was
  summed before, new groups get the names that they have there, so that a late site renames nothing.

Pure functions on tables. Shape suffixes: I items, L leaders.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from iotid.census.groups import MAX_GROUPS, NO_GROUPS, OTHERS, mean_profile, similarities
from iotid.schemas import GROUPS, MEMBERS, NETWORK_GROUPS

# of items of two sites. Lower than census.min_similarity, because an item is a mean of devices and of dates. With the
# set-ups of each device of aalto, lsif and ucl dealt out to two sites, 43 of 48 devices have one name at both, and
# purity is 1.000, 0.959 and 1.000 (0.9: 32 names; 0.6: 44, but purity 0.920 in ucl)
MIN_SIMILARITY = 0.8
_HYSTERESIS = 0.1  # of similarity: profiles of one group differ from date to date
_MOST_CANDIDATES = 16  # leaders that an item may join
_BLOCK = 256  # items compared with all leaders in one product
_MOST_SITES = 100  # listed for each group
_MOST_MAKERS, _MOST_SERVICES = 5, 3
_RHYTHM = ("flows_per_hour", "active_hours")
_OF_SITES = dict.fromkeys(("device", "absent", "merged"))  # columns of GROUPS that have a meaning at one site only

Member = tuple[str, str]  # a site and the name of a group there
Row = dict[str, Any]


@dataclass(frozen=True)
class NetworkGroups:
    """``groups`` (NETWORK_GROUPS), their ``profiles`` (GROUPS, under the network's names) and MEMBERS."""

    groups: pa.Table = field(default_factory=lambda: NETWORK_GROUPS.arrow_schema().empty_table())
    profiles: pa.Table = field(default_factory=lambda: NO_GROUPS)
    members: pa.Table = field(default_factory=lambda: MEMBERS.arrow_schema().empty_table())

    @cached_property
    def names(self) -> dict[Member, str]:
        """The network's group of each site's group."""
        columns = (self.members[name].to_pylist() for name in ("site", "site_group", "group_name"))
        return {(site, group): name for site, group, name in zip(*columns, strict=True)}


@dataclass(frozen=True)
class Rules:
    """``min_similarity`` of an item and its leader; ``remember_days``: for how long an absent group is remembered;
    ``split``: names of groups that a person wants split."""

    min_similarity: float
    remember_days: int
    split: frozenset[str] = frozenset()

    @property
    def min_similarity_of_parts(self) -> float:
        """Of the items that would be in a group to be split."""
        return (1 + self.min_similarity) / 2


@dataclass(frozen=True)
class Items:
    """The present groups of all sites: ``sites`` (I,), their ``profiles`` (I rows of GROUPS) and ``counts`` (I rows of
    `read.GROUP_COUNTS`)."""

    sites: Sequence[str]
    profiles: pa.Table
    counts: Sequence[Row]

    @classmethod
    def of(cls, by_site: Iterable[tuple[str, pa.Table, pa.Table]]) -> Items:
        """From (site, GROUPS, GROUP_COUNTS): items in the order of addresses, most first, then site and group."""
        sites, tables, counts = [], [], []
        for site, groups, counted in by_site:
            rows = {row["group_name"]: row for row in counted.to_pylist()}
            present = groups.filter(pc.is_in(groups["group_name"], value_set=pa.array(list(rows), pa.string())))
            tables.append(present)
            sites += [site] * len(present)
            counts += [rows[name] for name in present["group_name"].to_pylist()]
        profiles = pa.concat_tables(tables) if tables else NO_GROUPS
        order = sorted(range(len(sites)), key=lambda n: (-counts[n]["addresses"], sites[n], counts[n]["group_name"]))
        taken = profiles.take(pa.array(order, pa.int64())).combine_chunks()
        return cls([sites[n] for n in order], taken, [counts[n] for n in order])

    def member(self, item: int) -> Member:
        return self.sites[item], self.counts[item]["group_name"]

    def __len__(self) -> int:
        return len(self.sites)


def join_groups(
    items: Items,
    earlier: NetworkGroups,
    known: Sequence[NetworkGroups],
    capture_date: date,
    rules: Rules,
) -> NetworkGroups:
    """The network's groups on a date.

    Args:
        items: the sites' groups of the date.
        earlier: the network's groups on the date before.
        known: those of this date as it was summed before, and of the latest date: for the names of new groups.
        rules: which items join, and for how long groups are remembered.
    """
    min_similarity, oldest = rules.min_similarity, capture_date - timedelta(days=rules.remember_days)
    rows: dict[str, Row] = {row["group_name"]: row for row in earlier.groups.to_pylist() if row["last_date"] >= oldest}
    alive = earlier.profiles.filter(_is_in(earlier.profiles, [name for name in rows if not rows[name]["merged_into"]]))
    leading = alive.filter(pc.invert(_is_in(alive, sorted(rules.split))))
    leader_I, home_I = _homes(items, leading, earlier.names, min_similarity)
    left = [item for item, name in enumerate(leader_I) if name is None]
    parent = _split_parents(items, left, alive.filter(_is_in(alive, sorted(rules.split))), min_similarity)
    for item, name in parent.items():
        home_I[item] = name
    started = _new_leaders(items, [item for item in left if item not in parent], min_similarity)
    started |= _new_leaders(items, list(parent), rules.min_similarity_of_parts)
    taken = {*rows, *earlier.groups["group_name"].to_pylist()}
    for leader in dict.fromkeys(leader for leader in started.values() if leader is not None):
        name = _new_name(items, leader, known, taken, min_similarity)
        taken.add(name)
        own = [item for item, of in started.items() if of == leader]
        rows[name] = _started(name, items, leader, capture_date, home_I[leader])
        for item in own:
            leader_I[item] = name
    names = [name if name is not None else OTHERS for name in leader_I]
    profiles = _profiles(items, names, leading)
    at = {(name, items.sites[item]) for item, name in enumerate(names)}
    merged = _merge(profiles, rows, min_similarity, at)
    names = [merged.get(name, name) for name in names]
    for younger, older in merged.items():
        rows[younger]["merged_into"] = older
    rows = {name: row for name, row in rows.items() if row["last_date"] or not row["merged_into"]}  # merged when new
    profiles = profiles.filter(_is_in(profiles, [name for name in rows if not rows[name]["merged_into"]]))
    counted = _counted(items, names, rows, capture_date)
    return NetworkGroups(
        counted, profiles.sort_by("group_name").combine_chunks(), _members(items, names, earlier, rows)
    )


def without_rhythm(groups: NetworkGroups) -> NetworkGroups:
    """The groups without numbers of flows, for a census with pseudonyms: a clear census of the date could be joined by
    them. The profiles, which are encrypted, keep them."""
    table = groups.groups
    for name in _RHYTHM:
        table = table.set_column(
            table.schema.get_field_index(name), table.schema.field(name), pa.nulls(len(table), pa.float64())
        )
    return replace(groups, groups=table)


def _is_in(table: pa.Table, names: Sequence[str]) -> pa.ChunkedArray:
    return pc.is_in(table["group_name"], value_set=pa.array(names, pa.string()))


def _homes(
    items: Items, leading: pa.Table, members: dict[Member, str], min_similarity: float
) -> tuple[list[str | None], list[str | None]]:
    """For each item the group that it stays in or joins, if any; and the group that it was in, if any."""
    leaders = leading["group_name"].to_pylist()
    index = {name: number for number, name in enumerate(leaders)}
    home_I = [
        own if (own := items.member(item)[1]) in index else members.get(items.member(item))
        for item in range(len(items))
    ]
    home_I = [home if home in index else None for home in home_I]
    stays: dict[int, int] = {}
    similar: dict[int, list[tuple[float, int]]] = {}
    for start in range(0, len(items), _BLOCK):
        similarity_BL = similarities(items.profiles.slice(start, _BLOCK), leading)
        for item, similarity_L in enumerate(similarity_BL, start):
            home = home_I[item]
            if home is not None and similarity_L[index[home]] >= min_similarity - _HYSTERESIS:
                stays[item] = index[home]
            else:
                similar[item] = _candidates(similarity_L, min_similarity)
    occupied = {(leader, items.sites[item]) for item, leader in stays.items()}
    joined = stays | _assigned(items, similar, occupied)
    return [leaders[joined[item]] if item in joined else None for item in range(len(items))], home_I


def _home(member: Member, leaders: Collection[str], members: dict[Member, str]) -> str | None:
    name = member[1] if member[1] in leaders else members.get(member)
    return name if name in leaders else None


def _candidates(similarity_L: NDArray[np.float64], min_similarity: float) -> list[tuple[float, int]]:
    """Similarity and index of the leaders that are similar enough, the most similar first."""
    found = np.flatnonzero(similarity_L >= min_similarity)
    order = found[np.argsort(-similarity_L[found], kind="stable")][:_MOST_CANDIDATES]
    return [(float(similarity_L[leader]), int(leader)) for leader in order]


def _assigned(
    items: Items, similar: dict[int, list[tuple[float, int]]], occupied: set[tuple[int, str]]
) -> dict[int, int]:
    """Item -> leader, the most similar pairs first; of each site at most one item for each leader (``occupied``)."""
    pairs = sorted((-similarity, item, leader) for item, found in similar.items() for similarity, leader in found)
    joined: dict[int, int] = {}
    for _, item, leader in pairs:
        if item not in joined and (leader, items.sites[item]) not in occupied:
            joined[item] = leader
            occupied.add((leader, items.sites[item]))
    return joined


def _split_parents(items: Items, left: list[int], split: pa.Table, min_similarity: float) -> dict[int, str]:
    """Of items that no group leads: the group to be split (``split``: GROUPS) that they would be in."""
    if not len(split) or not left:
        return {}
    best_B, similarity_B = _best(similarities(items.profiles.take(pa.array(left, pa.int64())), split))
    names = split["group_name"].to_pylist()
    found = zip(left, best_B.tolist(), (similarity_B >= min_similarity).tolist(), strict=True)
    return {item: names[best] for item, best, is_similar in found if is_similar}


def _new_leaders(items: Items, left: list[int], min_similarity: float) -> dict[int, int | None]:
    """For each item that no earlier group leads: the item that leads it; None beyond MAX_GROUPS leaders."""
    leaders: list[int] = []
    sites: list[set[str]] = []  # of each leader's items so far
    for start in range(0, len(left), _BLOCK):
        block = left[start : start + _BLOCK]
        profiles = items.profiles.take(pa.array(block, pa.int64()))
        before_BL = similarities(profiles, items.profiles.take(pa.array(leaders, pa.int64())))
        own_BB = similarities(profiles, profiles)
        rows: list[int] = []  # of this block that are leaders
        for row, item in enumerate(block):
            found = _candidates(np.concatenate([before_BL[row], own_BB[row, rows]]), min_similarity)
            free = next((leader for _, leader in found if items.sites[item] not in sites[leader]), None)
            if free is not None:
                sites[free].add(items.sites[item])
            elif len(leaders) < MAX_GROUPS:
                leaders.append(item)
                sites.append({items.sites[item]})
                rows.append(row)
    return _led(items, left, leaders, min_similarity)


def _led(items: Items, left: list[int], leaders: list[int], min_similarity: float) -> dict[int, int | None]:
    """Each item's leader: itself, or the most similar one that has no other item of its site."""
    similar: dict[int, list[tuple[float, int]]] = {}
    leading = items.profiles.take(pa.array(leaders, pa.int64()))
    rest = [item for item in left if item not in set(leaders)]
    for start in range(0, len(rest), _BLOCK):
        block = rest[start : start + _BLOCK]
        similarity_BL = similarities(items.profiles.take(pa.array(block, pa.int64())), leading)
        for item, similarity_L in zip(block, similarity_BL, strict=True):
            similar[item] = _candidates(similarity_L, min_similarity)
    joined = _assigned(items, similar, {(number, items.sites[item]) for number, item in enumerate(leaders)})
    alone = [item for item in rest if item not in joined][: MAX_GROUPS - len(leaders)]
    led: dict[int, int | None] = dict.fromkeys(rest)
    return (
        led | {item: leaders[leader] for item, leader in joined.items()} | {item: item for item in [*leaders, *alone]}
    )


def _best(similarity_BL: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    if not similarity_BL.shape[1]:
        return np.zeros(len(similarity_BL), np.int64), np.zeros(len(similarity_BL))
    return similarity_BL.argmax(axis=1), similarity_BL.max(axis=1)


def _new_name(items: Items, leader: int, known: Sequence[NetworkGroups], taken: set[str], min_similarity: float) -> str:
    """The name of the group of an item in another census of the network; else the item's own name at its site; else one
    made from both."""
    site, own = items.member(leader)
    for each in known:
        name = each.names.get((site, own))
        if name is not None and name not in taken:
            return name
        if len(each.profiles):
            similarity_L = similarities(items.profiles.slice(leader, 1), each.profiles)[0]
            name = str(each.profiles["group_name"][int(similarity_L.argmax())].as_py())
            if similarity_L.max() >= min_similarity and name not in taken:
                return name
    name = own
    while name in taken:
        name = f"g{hashlib.sha256(f'{site} {name}'.encode()).hexdigest()[:10]}"
    return name


def _started(name: str, items: Items, leader: int, capture_date: date, home: str | None) -> Row:
    fields: Row = dict.fromkeys(NETWORK_GROUPS.names)
    return fields | {
        "group_name": name, "first_date": capture_date, "first_site": items.sites[leader], "split_from": home,
        "makers": [], "services": [],
    }  # fmt: skip


def _profiles(items: Items, names: Sequence[str], leading: pa.Table) -> pa.Table:
    """GROUPS of all groups: half the earlier profile (``leading``) and half the mean of the items by addresses; without
    items the earlier one. Devices are of a site, and left out."""
    row_of = {name: row for row, name in enumerate(leading["group_name"].to_pylist())}
    of_group: dict[str, list[int]] = defaultdict(list)
    for item, name in enumerate(names):
        if name != OTHERS:
            of_group[name].append(item)
    rows = []
    for name in sorted({*row_of, *of_group}):
        before = leading.slice(row_of[name], 1) if name in row_of else leading.slice(0, 0)
        own = items.profiles.take(pa.array(of_group.get(name, []), pa.int64()))
        weights = np.array([items.counts[item]["addresses"] for item in of_group.get(name, [])], np.float64)
        both = pa.concat_tables([before, own])
        shares = np.concatenate([np.full(len(before), weights.sum() or 1.0), weights])
        rows.append(
            {
                **both.slice(len(both) - 1, 1).to_pylist()[0],
                **_OF_SITES,
                **mean_profile(both, shares),
                "group_name": name,
            }
        )
    return pa.Table.from_pylist(rows, schema=GROUPS.arrow_schema())


def _merge(
    profiles: pa.Table, rows: dict[str, Row], min_similarity: float, present: Collection[tuple[str, str]]
) -> dict[str, str]:
    """Younger group -> older group, for groups whose profiles are as similar as half-way from the least to 1, and of
    which no site has both (``present``: group and site)."""
    sites: dict[str, set[str]] = defaultdict(set)
    for group, site in present:
        sites[group].add(site)
    least = (1 + min_similarity) / 2
    names = profiles["group_name"].to_pylist()
    order = sorted(range(len(names)), key=lambda n: (rows[names[n]]["first_date"], names[n]))
    merged: dict[str, str] = {}
    in_order = profiles.take(pa.array(order, pa.int64()))
    for start in range(0, len(order), _BLOCK):
        similar_BL = similarities(in_order.slice(start, _BLOCK), in_order) >= least
        for row, similar_L in enumerate(similar_BL):
            younger = names[order[start + row]]
            older = (names[order[n]] for n in np.flatnonzero(similar_L[: start + row]).tolist())
            survivor = next((name for name in older if name not in merged and not sites[name] & sites[younger]), None)
            if survivor is not None:
                merged[younger] = survivor
                sites[survivor] |= sites[younger]
    return merged


def _counted(items: Items, names: Sequence[str], rows: dict[str, Row], capture_date: date) -> pa.Table:
    """NETWORK_GROUPS: each group with its present items; a group without any keeps what describes it."""
    of_group: dict[str, list[int]] = defaultdict(list)
    for item, name in enumerate(names):
        of_group[name].append(item)
    described = items.profiles.select(["services", *_RHYTHM]).to_pylist()
    for name, row in rows.items():
        own = of_group.get(name, [])
        counts = [items.counts[item] for item in own]
        sites = sorted({items.sites[item] for item in own})
        row |= {
            "sites": sites[:_MOST_SITES],
            "num_sites": len(sites),
            "addresses": sum(count["addresses"] for count in counts),
            "new": sum(count["new"] for count in counts),
        }
        if own:
            profiles, weights = [described[item] for item in own], [count["addresses"] for count in counts]
            row |= {"last_date": capture_date, **_description(profiles, weights), "makers": _makers(counts)}
    return pa.Table.from_pylist([rows[name] for name in sorted(rows)], schema=NETWORK_GROUPS.arrow_schema())


def _description(profiles: Sequence[Row], weights: Sequence[int]) -> Row:
    services: Counter[str] = Counter()
    for profile, weight in zip(profiles, weights, strict=True):
        for rank, service in enumerate(profile["services"]):
            services[service] += weight * (_MOST_SERVICES - rank)
    ranked = sorted(services, key=lambda service: (-services[service], service))
    rhythm = {
        name: _median([(profile[name], weight) for profile, weight in zip(profiles, weights, strict=True)])
        for name in _RHYTHM
    }
    return {"services": ranked[:_MOST_SERVICES], **rhythm}


def _median(weighted: Sequence[tuple[float | None, int]]) -> float | None:
    """The lower weighted median of what is known."""
    known = sorted((value, weight) for value, weight in weighted if value is not None)
    half, passed = sum(weight for _, weight in known) / 2, 0
    for value, weight in known:
        passed += weight
        if passed >= half:
            return value
    return None


def _makers(counts: Sequence[Row]) -> list[str]:
    makers: Counter[str] = Counter()
    for count in counts:
        makers.update(dict(zip(count["makers"], count["maker_addresses"], strict=True)))
    return sorted(makers, key=lambda maker: (-makers[maker], maker))[:_MOST_MAKERS]


def _members(items: Items, names: Sequence[str], earlier: NetworkGroups, rows: dict[str, Row]) -> pa.Table:
    """MEMBERS of this date, and earlier ones of sites' groups that are absent while their group is remembered."""
    now = survivors({name: row["merged_into"] for name, row in rows.items() if row["merged_into"]})
    members = {member: now.get(name, name) for member, name in earlier.names.items() if name in rows}
    members |= {items.member(item): name for item, name in enumerate(names) if name != OTHERS}
    listed = [{"site": site, "site_group": own, "group_name": name} for (site, own), name in sorted(members.items())]
    return pa.Table.from_pylist(listed, schema=MEMBERS.arrow_schema())


def survivors(merged: Mapping[str, str]) -> dict[str, str]:
    """Merged group -> the group that it is now, after any number of mergers; ``merged``: that of each merger."""
    now = {}
    for group in merged:
        last, passed = group, {group}
        while last in merged and merged[last] not in passed:  # a damaged table may go round in a circle
            last = merged[last]
            passed.add(last)
        now[group] = last
    return now


def merged_groups(groups: pa.Table) -> dict[str, str]:
    """`survivors` of NETWORK_GROUPS."""
    pairs = zip(*(groups[name].to_pylist() for name in ("group_name", "merged_into")), strict=True)
    return survivors({group: into for group, into in pairs if into})
