"""Unknown groups over sites: one name everywhere, which lasts; mergers and splits are recorded."""

from __future__ import annotations

from datetime import date
from typing import Any

import numpy as np
import pyarrow as pa

from iotid.census.groups import MAX_GROUPS, OTHERS
from iotid.census.network.groups import Items, NetworkGroups, Rules, join_groups
from iotid.census.network.read import GROUP_COUNTS
from iotid.census.network.stored import renamed_groups, site_names
from iotid.schemas import GROUPS, MEMBERS, NETWORK_GROUPS

from .network_store import Payloads, groups_of

RULES = Rules(0.6, 90)
A, B, C = {100: 0.5, 200: 0.5}, {300: 1.0}, {400: 0.5, 500: 0.5}
LIKE_A = {100: 0.45, 200: 0.45, 900: 0.1}
Sites = dict[str, dict[str, Payloads]]


def _items(sites: Sites, addresses: dict[str, int] | None = None) -> Items:
    def counts(groups: dict[str, Payloads]) -> pa.Table:
        rows = [
            {"group_name": name, "addresses": (addresses or {}).get(name, 1), "new": 0, "makers": ["Nova"],
             "maker_addresses": [1]}
            for name in sorted(groups)
        ]  # fmt: skip
        return pa.Table.from_pylist(rows, schema=GROUP_COUNTS)

    return Items.of((site, groups_of(groups), counts(groups)) for site, groups in sites.items())


def _join(
    sites: Sites, day: int, before: NetworkGroups | None = None, known: NetworkGroups | None = None, **addresses: int
) -> NetworkGroups:
    none = NetworkGroups()
    return join_groups(_items(sites, addresses), before or none, [known or none], date(2026, 1, day), RULES)


def _rows(groups: NetworkGroups) -> dict[str, dict[str, Any]]:
    return {row["group_name"]: row for row in groups.groups.to_pylist()}


def test_join__similar_groups_of_several_sites_have_one_name() -> None:
    found = _join({"x": {"g1": A, "g2": B}, "y": {"g3": LIKE_A}, "z": {"g4": C}}, 1, g1=5)
    assert found.groups.schema.equals(NETWORK_GROUPS.arrow_schema())
    assert found.profiles.schema.equals(GROUPS.arrow_schema())
    assert found.members.schema.equals(MEMBERS.arrow_schema())
    assert found.names == {("x", "g1"): "g1", ("y", "g3"): "g1", ("x", "g2"): "g2", ("z", "g4"): "g4"}
    row = _rows(found)["g1"]
    assert (row["sites"], row["num_sites"], row["addresses"]) == (["x", "y"], 2, 6)
    assert (row["first_site"], row["first_date"], row["last_date"]) == ("x", date(2026, 1, 1), date(2026, 1, 1))
    assert (row["makers"], row["services"], row["flows_per_hour"]) == (["Nova"], ["TCP 8883"], 4.0)


def test_join__names_last_though_the_sites_use_others_and_lead_no_more() -> None:
    first = _join({"x": {"g1": A}, "y": {"g3": LIKE_A}}, 1, g1=5)
    second = _join({"y": {"g3": LIKE_A}, "w": {"g9": A}}, 2, first, g3=9)
    assert second.names == {("x", "g1"): "g1", ("y", "g3"): "g1", ("w", "g9"): "g1"}
    row = _rows(second)["g1"]
    assert (row["first_date"], row["first_site"], row["sites"]) == (date(2026, 1, 1), "x", ["w", "y"])


def test_join__a_profile_may_drift_far_while_its_name_lasts() -> None:
    groups = _join({"x": {"g1": {100: 1.0}}}, 1)
    for day in range(2, 22):
        drifted = {100: 1 - day / 22, 600: day / 22}
        groups = _join({"x": {"g1": drifted}}, day, groups)
        assert set(_rows(groups)) == {"g1"}


def test_join__a_group_that_resembles_its_own_no_more_is_split_off() -> None:
    first = _join({"x": {"g1": A}, "y": {"g3": A}}, 1, g1=5)
    second = _join({"x": {"g1": A}, "y": {"g1": C}}, 2, first)
    rows = _rows(second)
    (other,) = set(rows) - {"g1"}
    assert second.names["y", "g1"] == other
    assert rows[other]["split_from"] == "g1"
    third = _join({"x": {"g1": A}, "y": {other: C}}, 3, second)
    assert third.names["y", other] == other
    assert _rows(third)[other]["split_from"] == "g1"


def test_join__a_group_that_a_person_wants_split_leads_no_more() -> None:
    near, like_it = {100: 0.7, 200: 0.3}, {100: 0.7, 300: 0.3}
    parts = {"x": {"g1": near, "g5": B}, "y": {"g2": near}, "z": {"g3": like_it}}
    whole = _join(parts, 1, g1=5)
    assert set(whole.names.values()) == {"g1", "g5"}
    rules = Rules(0.6, 90, frozenset({"g1"}))
    named = {"x": {"ga": near, "g5": B}, "y": {"gb": near}, "z": {"gc": like_it}}
    split = join_groups(_items(named, {"ga": 5}), whole, [], date(2026, 1, 2), rules)
    assert split.names["x", "ga"] == split.names["y", "gb"] == "ga"
    assert (split.names["z", "gc"], split.names["x", "g5"]) == ("gc", "g5")
    rows = _rows(split)
    assert (rows["ga"]["split_from"], rows["gc"]["split_from"], rows["g5"]["split_from"]) == ("g1", "g1", None)
    later = join_groups(_items(named, {"ga": 5}), split, [], date(2026, 1, 3), rules)
    assert {name for (site, own), name in later.names.items() if own != "g1"} - {"g1"} == {"ga", "gc", "g5"}


def test_join__groups_that_have_become_similar_merge_under_the_older_name() -> None:
    first = _join({"x": {"g2": B}}, 1)
    second = _join({"x": {"g2": B}, "y": {"g1": C}}, 2, first)
    third = second
    for day in range(3, 9):  # y's group becomes what x's is, while it stays similar enough to itself
        share = min((day - 2) / 5, 1.0)
        changed = {400: 0.5 * (1 - share), 500: 0.5 * (1 - share), 300: share}
        third = _join({"x": {"g2": B}, "y": {"g1": changed}}, day, third)
    rows = _rows(third)
    assert rows["g1"]["merged_into"] == "g2"
    assert (rows["g1"]["addresses"], rows["g2"]["addresses"], rows["g2"]["sites"]) == (0, 2, ["x", "y"])
    assert third.names["y", "g1"] == "g2"
    assert third.profiles["group_name"].to_pylist() == ["g2"]


def test_join__an_absent_group_is_remembered_and_then_forgotten() -> None:
    first = _join({"x": {"g1": A}}, 1)
    later = join_groups(_items({}), first, [], date(2026, 3, 1), RULES)
    assert (_rows(later)["g1"]["addresses"], _rows(later)["g1"]["last_date"]) == (0, date(2026, 1, 1))
    assert later.names == {("x", "g1"): "g1"}
    forgotten = join_groups(_items({}), later, [], date(2026, 4, 2), RULES)
    assert [len(each) for each in (forgotten.groups, forgotten.members, forgotten.profiles)] == [0, 0, 0]


def test_join__a_repeated_date_gives_the_same_groups() -> None:
    first = _join({"x": {"g1": A}}, 1)
    sites: Sites = {"x": {"g1": A, "g5": C}, "y": {"g6": B}}
    second = _join(sites, 2, first)
    again = _join(sites, 2, first, second)
    for name in ("groups", "profiles", "members"):
        assert getattr(again, name).equals(getattr(second, name)), name


def test_join__a_late_site_takes_the_name_that_a_later_date_gave() -> None:
    later = _join({"x": {"g1": A}}, 2)
    late = _join({"y": {"g7": LIKE_A}}, 1, known=later)
    assert late.names == {("y", "g7"): "g1"}
    again = _join({"x": {"g1": A}}, 2, late, later)
    assert _rows(again)["g1"]["first_date"] == date(2026, 1, 1)
    assert _rows(again)["g1"]["first_site"] == "y"


def test_join__different_things_of_one_name_at_two_sites_get_two_names() -> None:
    found = _join({"x": {"g1": A}, "y": {"g1": C}}, 1, g1=2)
    assert len(set(found.names.values())) == 2
    assert "g1" in found.names.values()


def test_join__does_not_depend_on_the_order_of_sites() -> None:
    random = np.random.default_rng(6)
    sites: Sites = {
        f"s{n}": {f"g{n}{m}": {int(length): 0.25 for length in random.choice(40, 4, replace=False)} for m in range(4)}
        for n in range(12)
    }
    found, again = _join(sites, 1), _join(dict(reversed(sites.items())), 1)
    assert found.groups.equals(again.groups)
    assert found.members.equals(again.members)


def test_join__has_at_most_so_many_groups() -> None:
    many = {f"g{n:05}": {n: 1.0} for n in range(MAX_GROUPS + 5)}
    found = _join({"x": many}, 1)
    assert len(found.groups) == MAX_GROUPS
    assert OTHERS not in found.names.values()


def test_site_names__translate_a_sites_groups_where_that_is_clear() -> None:
    members = [("x", "g1", "n1"), ("x", "g2", "n1"), ("x", "g3", "n3"), ("x", "n4", "n4"), ("y", "g5", "n5")]
    rows = [dict(zip(MEMBERS.names, each, strict=True)) for each in members]
    network = NetworkGroups(members=pa.Table.from_pylist(rows, schema=MEMBERS.arrow_schema()))
    own = groups_of({"g1": A, "g2": C, "g3": B, "n4": {7: 1.0}, "g5": {8: 1.0}})
    assert site_names(network, "x", own, 0.6) == {"g1": "n1", "g3": "n3"}, "g2 is not similar to g1"
    similar = groups_of({"g1": A, "g2": LIKE_A})
    names = site_names(network, "x", similar, 0.6)
    assert names == {"g1": "n1", "g2": "n1"}
    assert renamed_groups(similar, names)["group_name"].to_pylist() == ["n1"]
