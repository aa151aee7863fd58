"""Groups of similar unknown devices, on payloads of simulated devices."""

from __future__ import annotations

import math
import random
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iotid.census import group_members
from iotid.census import groups as census_groups
from iotid.census.groups import (
    NO_GROUPS,
    OTHERS,
    PAYLOADS_AND_PORTS,
    check_groups,
    group_devices,
    mean_profile,
    similarities,
    with_new_groups,
)
from iotid.schemas import GROUPS
from iotid.simulate.devices import DEVICE_MODELS, conversation_turns, handshake

MIN_SIMILARITY = 0.6
SEGMENT = 1460
Sent = dict[tuple[int, int], int]  # flows that show a payload, by protocol and length


def shown_of(sent: dict[str, Sent], ports: dict[str, dict[tuple[int, int], int]] | None = None) -> pa.Table:
    rows = [
        {"device_id": device, "what": what, "protocol": protocol, "value": value, "flows": flows}
        for what, values in (("payload", sent), ("port", ports or {}))
        for device, counts in values.items()
        for (protocol, value), flows in counts.items()
    ]
    return pa.Table.from_pylist(rows, schema=PAYLOADS_AND_PORTS)


def groups_of(
    sent: dict[str, Sent], earlier: pa.Table = NO_GROUPS, min_similarity: float = MIN_SIMILARITY
) -> tuple[dict[str, str], pa.Table]:
    """The group of each device, and the groups."""
    devices = pa.array(sorted(sent), pa.string())
    group, groups = group_devices(devices, shown_of(sent), earlier, min_similarity)
    return dict(zip(devices.to_pylist(), group.to_pylist(), strict=True)), groups


def devices_of(units: dict[str, int], seed: int, prefix: str = "") -> dict[str, Sent]:
    """Payloads that so many units of each simulated kind send in a day, DNS and NTP included."""
    sent: dict[str, Sent] = {}
    for model, count in units.items():
        kind = DEVICE_MODELS[model]
        for unit in range(count):
            rng = random.Random(f"{seed} {model} {unit}")
            flows: Counter[tuple[int, int]] = Counter()
            for _ in range(rng.randint(*kind.flows)):
                pattern = rng.choices(kind.patterns, [pattern.share for pattern in kind.patterns])[0]
                turns = [
                    *(handshake(kind, rng) if pattern.transport == "tls" else ()),
                    *conversation_turns(pattern, rng),
                ]
                sizes = {size for turn in turns if turn > 0 for size in (min(turn, SEGMENT), turn % SEGMENT) if size}
                flows.update((6 if pattern.transport in ("tcp", "tls") else 17, size) for size in sizes)
                flows[17, 48 if rng.random() < 0.2 else 30 + len(kind.host)] += 1
            sent[f"{prefix}{model}-{unit}"] = flows
    return sent


def reference_groups(sent: dict[str, Sent], min_similarity: float) -> list[set[str]]:
    """Reference implementation: the rule device by device, without earlier groups."""

    def similarity(one: str, other: str) -> float:
        totals = [sum(sent[device].values()) for device in (one, other)]
        both = sent[one].keys() & sent[other].keys()
        return round(sum(math.sqrt(sent[one][t] / totals[0] * sent[other][t] / totals[1]) for t in both), 6)

    leaders: list[str] = []
    for device in sorted(sent, key=lambda device: (-sum(sent[device].values()), device)):
        if all(similarity(device, leader) < min_similarity for leader in leaders):
            leaders.append(device)
    members: dict[str, set[str]] = {leader: set() for leader in leaders}
    for device in sent:
        members[max(leaders, key=lambda leader: (similarity(device, leader), -leaders.index(leader)))].add(device)
    return list(members.values())


def together(group: dict[str, str]) -> list[set[str]]:
    return [{device for device in group if group[device] == name} for name in dict.fromkeys(group.values())]


def test_group_devices__units_of_one_kind_are_one_group_and_two_kinds_are_two() -> None:
    group, groups = groups_of(devices_of({"rovero-vacuum": 9}, seed=1))
    assert len(set(group.values())) == len(groups) == 1
    group, groups = groups_of(devices_of({"rovero-vacuum": 9, "frostine-fridge": 3}, seed=1))
    assert [len(found) for found in together(group)] == [3, 9]
    assert set(groups["group_name"].to_pylist()) == set(group.values())


def test_group_devices__every_simulated_kind_keeps_to_itself() -> None:
    similar = {"lumora-bell", "voltano-bulb"}
    group, _ = groups_of(devices_of(dict.fromkeys(DEVICE_MODELS.keys() - similar, 4), seed=2))
    assert len(together(group)) == len(DEVICE_MODELS) - len(similar)
    for units in together(group):
        assert len({unit.rsplit("-", 1)[0] for unit in units}) == 1


def test_group_devices__a_kind_keeps_its_name_with_other_units() -> None:
    kinds = {"rovero-vacuum": 3, "frostine-fridge": 2}
    present, groups = groups_of(devices_of(kinds, seed=1))
    later, later_groups = groups_of(devices_of({**kinds, "aeris-sensor": 2}, seed=2, prefix="other-"), groups)
    for model in kinds:
        assert later[f"other-{model}-0"] == later[f"other-{model}-1"] == present[f"{model}-0"]
    new = later["other-aeris-sensor-0"]
    assert new not in set(present.values())
    assert set(later_groups["group_name"].to_pylist()) == {*present.values(), new}


def test_group_devices__a_group_that_is_away_comes_back_under_its_name() -> None:
    first, groups = groups_of(devices_of({"rovero-vacuum": 2, "frostine-fridge": 2}, seed=1))
    _, without = groups_of(devices_of({"rovero-vacuum": 2}, seed=2), groups)
    row = without.filter(pa.array([name == first["frostine-fridge-0"] for name in without["group_name"].to_pylist()]))
    assert row.equals(
        groups.filter(pa.array([name == row["group_name"][0].as_py() for name in groups["group_name"].to_pylist()]))
    )
    _, nobody = groups_of({}, without)
    assert nobody.equals(without)
    back, _ = groups_of(devices_of({"frostine-fridge": 1}, seed=3), nobody)
    assert back["frostine-fridge-0"] == first["frostine-fridge-0"]


def test_group_devices__a_group_follows_a_kind_that_changes_slowly() -> None:
    def devices(number: int) -> dict[str, Sent]:
        return {"a": {(6, length): 10 for length in range(number, number + 10)}}

    first, groups = groups_of(devices(0))
    for number in range(1, 20):
        group, groups = groups_of(devices(number), groups)
        assert group == first
    assert len(groups) == 1
    assert groups_of(devices(19))[0] != first
    assert groups_of(devices(100), groups)[0] != first


def test_group_devices__devices_without_payload_are_one_group() -> None:
    group, groups = groups_of({"a": {}, "b": {}, "c": {(17, 48): 5}, "d": {(6, 48): 5}})
    assert group["a"] == group["b"]
    assert len({*group.values()}) == 3
    assert groups_of({"e": {}}, groups)[0]["e"] == group["a"]


@given(
    st.dictionaries(
        st.text("abcdef", min_size=1, max_size=3),
        st.dictionaries(st.tuples(st.sampled_from((6, 17)), st.integers(1, 6)), st.integers(1, 9), min_size=1),
        min_size=1,
        max_size=12,
    ),
    st.floats(0.3, 1),
)
def test_group_devices__equals_the_reference_implementation(sent: dict[str, Sent], min_similarity: float) -> None:
    group, _ = groups_of(sent, min_similarity=min_similarity)
    assert sorted(map(sorted, together(group))) == sorted(map(sorted, reference_groups(sent, min_similarity)))


def test_group_devices__more_devices_than_one_block_equal_the_reference() -> None:
    random = np.random.default_rng(3)
    sent = {
        f"{number:04}": {(6, int(n)): int(random.integers(1, 5)) for n in random.integers(0, 12, 5)}
        for number in range(700)
    }
    group, _ = groups_of(sent, min_similarity=0.8)
    assert sorted(map(sorted, together(group))) == sorted(map(sorted, reference_groups(sent, 0.8)))


def test_group_devices__the_order_of_rows_changes_nothing() -> None:
    sent = devices_of({"rovero-vacuum": 5, "frostine-fridge": 5, "aeris-sensor": 5}, seed=1)
    devices, shown = pa.array(sorted(sent), pa.string()), shown_of(sent)
    _, earlier = groups_of(devices_of({"aeris-sensor": 2}, seed=2))
    group, groups = group_devices(devices, shown, earlier, MIN_SIMILARITY)
    shuffled = shown.take(np.random.default_rng(1).permutation(len(shown)))
    again, groups_again = group_devices(devices, shuffled, earlier, MIN_SIMILARITY)
    assert group.equals(again)
    assert groups.equals(groups_again)
    assert groups.schema.equals(GROUPS.arrow_schema())
    for row in groups.to_pylist():
        assert sum(row["share"]) == pytest.approx(1)
        assert 0 < len(row["protocol"]) == len(row["payload_length"]) == len(row["share"]) <= 64


def test_group_devices__names_reveal_no_address() -> None:
    sent = devices_of({"rovero-vacuum": 2}, seed=1)
    names = set(groups_of(sent)[0].values())
    assert names == set(groups_of({f"x{device}": counts for device, counts in sent.items()})[0].values())


def test_group_devices__services_are_the_busiest_ports_and_common_ports_come_last() -> None:
    devices = pa.array(["a", "b"])
    ports = {"a": {(17, 53): 90, (6, 8883): 3, (17, 5353): 4}, "b": {(6, 8883): 3, (6, 443): 1, (47, 0): 1}}
    _, groups = group_devices(devices, shown_of({"a": {(6, 9): 1}, "b": {(6, 9): 1}}, ports), NO_GROUPS, MIN_SIMILARITY)
    assert groups["services"].to_pylist() == [["TCP 8883", "UDP 5353", "IP 47 0"]]
    _, groups = group_devices(devices, shown_of({}, {"a": {(17, 53): 1}}), NO_GROUPS, MIN_SIMILARITY)
    assert groups["services"].to_pylist() == [["UDP 53"]]


def unlike(numbers: range, flows: int = 1) -> dict[str, Sent]:
    """Devices that have no payload in common."""
    return {f"{number:06}": {(17, number): flows} for number in numbers}


def test_group_devices__more_than_the_most_groups_leave_the_least_busy_as_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(census_groups, "MAX_GROUPS", 4)
    busy = {"a": {(6, 1): 90}, "b": {(6, 1): 2}, "c": {(6, 2): 80}}
    group, groups = groups_of({**unlike(range(50)), **busy})
    assert group["a"] == group["b"] != group["c"]
    assert Counter(group.values())[OTHERS] == 48
    assert set(groups["group_name"].to_pylist()) == set(group.values()) - {OTHERS}
    assert OTHERS not in {group["a"], group["c"]}
    again, kept = groups_of({**unlike(range(100, 150)), **busy, "d": {(6, 3): 70}}, groups)
    assert {name: again[name] for name in busy} == {name: group[name] for name in busy}
    assert again["d"] not in {OTHERS, *group.values()}, "earlier groups leave capacity for new ones"
    assert Counter(again.values())[OTHERS] == 47
    assert kept["group_name"].to_pylist() == groups["group_name"].to_pylist(), "no more are stored than allowed"
    _, new = groups_of(unlike(range(200, 204)))
    assert with_new_groups(groups.slice(0, 3), new)["group_name"].to_pylist() == sorted(
        [*groups["group_name"].to_pylist()[:3], new["group_name"].to_pylist()[0]]
    )


@pytest.mark.parametrize("devices", [600, 2400])
def test_group_devices__a_flood_of_unlike_devices_costs_as_much_as_its_size(
    devices: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(census_groups, "MAX_GROUPS", 32)
    monkeypatch.setattr(census_groups, "_BLOCK", 32)
    compared, compare = [], census_groups._similarities
    monkeypatch.setattr(census_groups, "_similarities", lambda a, b: compared.append(len(a) * len(b)) or compare(a, b))
    group, groups = groups_of(unlike(range(devices)))
    assert Counter(group.values())[OTHERS] == devices - 32
    groups_of(unlike(range(10_000, 10_000 + devices)), groups)
    assert sum(compared) < devices * 32 * 6


def test_with_new__keeps_the_first_and_adds_what_it_lacks() -> None:
    _, vacuums = groups_of(devices_of({"rovero-vacuum": 1}, seed=1))
    _, both = groups_of(devices_of({"rovero-vacuum": 1, "frostine-fridge": 1}, seed=2), vacuums)
    joined = with_new_groups(vacuums, both)
    assert joined["group_name"].to_pylist() == both["group_name"].to_pylist()
    assert vacuums.to_pylist()[0] in joined.to_pylist()


def test_similarities__a_group_is_like_itself_and_less_like_others() -> None:
    _, groups = groups_of({"a": {(6, 1): 3, (6, 2): 1}, "b": {(6, 3): 1}, "c": {(17, 1): 1}})
    _, others = groups_of({"d": {(6, 1): 1}, "e": {(17, 1): 2}})
    assert np.array_equal(np.diag(similarities(groups, groups)), np.ones(3))
    found = similarities(groups, others)
    assert found.shape == (3, 2)
    assert sorted(found.ravel().tolist()) == [0, 0, 0, 0, round(math.sqrt(0.75), 6), 1]
    assert similarities(groups, NO_GROUPS).shape == (3, 0)


MAC = "00:11:22:33:44:{:02x}"


def acting(units: dict[int, Sent], prefix: str = "00") -> dict[str, Sent]:
    """Devices with globally administered MACs that end in a number; with the prefix 02 they are random."""
    return {MAC.format(unit).replace("00", prefix, 1): sent for unit, sent in units.items()}


CAMERA, PLUG = {(6, 1): 8, (6, 2): 8, (6, 3): 4}, {(17, 5): 8, (17, 6): 8}


def test_group_devices__a_mac_keeps_its_group_though_it_does_little_one_night() -> None:
    first, groups = groups_of(acting({1: CAMERA, 2: PLUG}), min_similarity=0.9)
    sparse = {1: {(6, 3): 1}, 2: PLUG}
    later, groups = groups_of(acting(sparse), groups, 0.9)
    assert later == first
    random, _ = groups_of(acting({1: CAMERA}, prefix="02"), min_similarity=0.9)
    (name,) = random.values()
    _, known = groups_of(acting({1: CAMERA}, prefix="02"), min_similarity=0.9)
    assert groups_of(acting({1: {(6, 3): 1}}, prefix="02"), known, 0.9)[0] != {"02:11:22:33:44:01": name}


def test_group_devices__a_mac_that_acts_as_another_group_joins_that_group() -> None:
    first, groups = groups_of(acting({1: CAMERA, 2: PLUG}), min_similarity=0.9)
    later, groups = groups_of(acting({1: PLUG, 2: PLUG}), groups, 0.9)
    assert set(later.values()) == {first[MAC.format(2)]}
    hashes = {row["group_name"]: row["device"] for row in groups.to_pylist()}
    assert len(hashes[first[MAC.format(2)]]) == 2
    back, _ = groups_of(acting({1: {}}), groups, 0.9)
    assert back[MAC.format(1)] == first[MAC.format(2)], "a device is in one group, that which it joined last"


def test_group_devices__a_new_mac_must_be_more_similar_than_a_random_one() -> None:
    _, groups = groups_of(acting({1: CAMERA}), min_similarity=0.9)
    alike = {(6, 1): 8, (6, 2): 8, (6, 9): 8}
    new, _ = groups_of(acting({2: alike}), groups, 0.9)
    random, _ = groups_of(acting({2: alike}, prefix="02"), groups, 0.9)
    assert set(new.values()) != set(groups["group_name"].to_pylist()) == set(random.values())


def drifting(night: int, odd: bool) -> Sent:
    """What a unit does on a night: most of it depends on the night, a little on the unit."""
    own: Sent = {(17, 70 + odd): 5} if night == 0 else {}
    return {(6, 1): 20, (6, 10 + night): 4, **own}


def test_group_devices__groups_that_act_alike_tonight_are_merged_and_say_so() -> None:
    first, groups = groups_of(acting({1: drifting(0, False), 2: drifting(0, True)}), min_similarity=0.9)
    assert len(set(first.values())) == 2
    units = acting({1: drifting(1, False), 2: drifting(1, True)})
    apart, kept = group_devices(pa.array(sorted(units)), shown_of(units), groups, 0.9, keep_apart=set(first.values()))
    assert len(set(apart.to_pylist())) == len(kept) == 2, "a person distinguished them"
    later, merged = groups_of(units, groups, 0.9)
    (name,) = set(later.values())
    (row,) = merged.to_pylist()
    assert row["group_name"] == name
    assert {name, *row["merged"]} == set(first.values())
    assert len(row["device"]) == 2
    again, same = groups_of(acting({2: {}}), merged, 0.9)
    assert set(again.values()) == {name}
    assert same["merged"].to_pylist() == [row["merged"]]
    named = (set(first.values()) - {name}).pop()
    reversed_, _ = group_devices(pa.array(sorted(units)), shown_of(units), groups, 0.9, keep_apart={named})
    assert set(reversed_.to_pylist()) == {named}, "the name that a person gave survives"


def test_group_devices__groups_that_act_as_before_are_not_merged() -> None:
    units = {1: {(6, 1): 10, (6, 2): 2}, 2: {(6, 1): 10, (6, 3): 2}}
    first, groups = groups_of(acting(units), min_similarity=0.9)
    assert len(set(first.values())) == 2
    assert groups_of(acting(units), groups, 0.9)[0] == first


def test_group_devices__devices_are_stored_as_bounded_hashes_and_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(group_members, "MAX_DEVICES", 3)
    monkeypatch.setattr(group_members, "MAX_ABSENT", 2)
    _, groups = groups_of(acting(dict.fromkeys(range(9), CAMERA)))
    (row,) = groups.to_pylist()
    assert len(row["device"]) == len(row["absent"]) == 3
    assert row["absent"] == [0, 0, 0]
    assert not any(MAC.format(unit) in str(row) for unit in range(9))
    ages = []
    for _ in range(3):
        _, groups = groups_of(acting({99: CAMERA}), check_groups(groups))
        ages.append(sorted(groups.to_pylist()[0]["absent"]))
    assert ages == [[0, 1, 1], [0, 2, 2], [0]]
    assert groups_of(acting({1: CAMERA}, prefix="02"))[1]["device"].to_pylist() == [[]]


def test_group_devices__rhythm_is_the_median_of_the_devices() -> None:
    sent = {"a": CAMERA, "b": CAMERA, "c": CAMERA, "d": PLUG}
    hours = {"a": {0: 2, 1: 4, 24: 6}, "b": {5: 10}, "c": {5: 1, 29: 1}}
    rows = [
        {"device_id": device, "what": "hour", "protocol": 0, "value": hour, "flows": flows}
        for device, counted in hours.items()
        for hour, flows in counted.items()
    ]
    shown = pa.concat_tables([shown_of(sent), pa.Table.from_pylist(rows, schema=PAYLOADS_AND_PORTS)])
    group, groups = group_devices(pa.array(sorted(sent)), shown, NO_GROUPS, MIN_SIMILARITY)
    rhythm = {row["group_name"]: (row["flows_per_hour"], row["active_hours"]) for row in groups.to_pylist()}
    assert rhythm == {group[0].as_py(): (4.0, 1.0), group[3].as_py(): (None, None)}


def with_views(sent: dict[str, dict[str, Sent]]) -> pa.Table:
    """Rows of PAYLOADS_AND_PORTS by device and type of value."""
    rows = [
        {"device_id": device, "what": what, "protocol": protocol, "value": value, "flows": flows}
        for device, whats in sent.items()
        for what, counts in whats.items()
        for (protocol, value), flows in counts.items()
    ]
    return pa.Table.from_pylist(rows, schema=PAYLOADS_AND_PORTS)


def test_similarities__are_the_mean_over_the_views_that_either_has() -> None:
    sent = {
        "a": {"payload": {(6, 1): 1}, "role": {(6, 887): 1}},
        "b": {"payload": {(6, 1): 1}, "role": {(6, 106): 1}},
        "c": {"payload": {(6, 1): 1}, "role": {(6, 887): 1}, "pair": {(6, 9): 1}},
    }
    tables = [group_devices(pa.array([one]), with_views({one: sent[one]}), NO_GROUPS, 0.9)[1] for one in sent]
    found = np.concatenate([similarities(one, pa.concat_tables(tables)) for one in tables])
    assert np.allclose(found, [[1, 1 / 2, 2 / 3], [1 / 2, 1, 1 / 3], [2 / 3, 1 / 3, 1]], atol=1e-6)


def test_similarities__groups_of_earlier_versions_are_compared_by_payloads() -> None:
    sent = {"a": {"payload": {(6, 1): 1}, "role": {(6, 887): 1}}}
    _, groups = group_devices(pa.array(["a"]), with_views(sent), NO_GROUPS, 0.9)
    old = pa.Table.from_pylist(
        [{"group_name": "old", "services": [], "protocol": [6], "payload_length": [1], "share": [1.0]}],
        schema=GROUPS.arrow_schema(),
    )
    assert similarities(groups, old).tolist() == similarities(old, groups).tolist() == [[1.0]]
    group, later = group_devices(pa.array(["a"]), with_views(sent), old, 0.9)
    assert group.to_pylist() == ["old"]
    assert later["token"].to_pylist() == groups["token"].to_pylist()


def test_mean_profile__weighs_the_groups_and_is_one_of_them_for_one() -> None:
    _, groups = groups_of({"a": {(6, 1): 1}, "b": {(6, 2): 1}})
    assert mean_profile(groups, np.array([3.0, 1.0]))["share"] in ([0.75, 0.25], [0.25, 0.75])
    one = {name: groups[name].to_pylist()[0] for name in mean_profile(groups, np.ones(2))}
    assert mean_profile(groups.slice(0, 1), np.ones(1)) == one


def test_check_groups__refuses_lists_that_do_not_match() -> None:
    _, groups = groups_of(acting({1: CAMERA}))
    (row,) = check_groups(groups).to_pylist()
    wrong = {"token": [1], "device": [], "absent": [-1], "merged": ["x"] * 65, "token_share": [0.5]}
    for name, value in wrong.items():
        with pytest.raises(ValueError, match="must"):
            check_groups(pa.Table.from_pylist([{**row, name: value}], schema=GROUPS.arrow_schema()))
