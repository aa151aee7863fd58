"""A group that a person wants split becomes groups of other names, which later censuses keep."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from iotid.census.groups import NO_GROUPS, PAYLOADS_AND_PORTS, group_devices
from iotid.census.split_groups import EarlierGroups, group_with_splits

# by payload length: two kinds that share most of what they send, and one that does not
NEAR, LIKE_IT, FAR = {100: 70, 200: 30}, {100: 70, 300: 30}, {900: 50}
KINDS = {"a1": NEAR, "a2": NEAR, "b1": LIKE_IT, "b2": LIKE_IT, "c1": FAR}


def _values(kinds: dict[str, dict[int, int]]) -> pa.Table:
    rows = [
        {"device_id": device, "what": "payload", "protocol": 6, "value": length, "flows": flows}
        for device, lengths in kinds.items()
        for length, flows in lengths.items()
    ]
    return pa.Table.from_pylist(rows, schema=PAYLOADS_AND_PORTS)


def _grouped(earlier: pa.Table, *split: str, kinds: dict[str, dict[int, int]] = KINDS) -> tuple[list[str], pa.Table]:
    group, groups = group_with_splits(pa.array(sorted(kinds)), _values(kinds), EarlierGroups(earlier, split), 0.6)
    return group.to_pylist(), groups


def test_split__without_one_is_the_grouping_as_it_is() -> None:
    group, groups = _grouped(NO_GROUPS)
    assert len(set(group)) == 2
    plain, plain_groups = group_devices(pa.array(sorted(KINDS)), _values(KINDS), NO_GROUPS, 0.6)
    assert (group, groups) == (plain.to_pylist(), plain_groups)
    assert _grouped(NO_GROUPS, "gsomethingelse") == (group, groups)


def test_split__makes_groups_of_other_names_and_leaves_the_others() -> None:
    before, earlier = _grouped(NO_GROUPS)
    for known in (earlier, NO_GROUPS):  # on the next date, and on the same one again
        group, groups = _grouped(known, before[0])
        assert group[0] == group[1] != group[2] == group[3]
        assert before[0] not in group
        assert group[4] == before[4]
        assert set(groups["group_name"].to_pylist()) == set(group)
        assert (group, groups) == _grouped(known, before[0]), "deterministic"


def test_split__the_next_censuses_keep_the_new_groups() -> None:
    before, earlier = _grouped(NO_GROUPS)
    group, groups = _grouped(earlier, before[0])
    after, later = _grouped(groups, before[0])
    assert after == group
    assert _grouped(later, before[0])[0] == group


def test_split__goes_on_until_there_are_two_groups() -> None:
    kinds = {"a1": {100: 90, 200: 10}, "b1": {100: 90, 300: 10}}
    (name, other), earlier = _grouped(NO_GROUPS, kinds=kinds)
    assert name == other
    assert len(set(_grouped(earlier, name, kinds=kinds)[0])) == 2


def test_split__of_equal_devices_is_one_group_of_another_name() -> None:
    kinds = {"a1": NEAR, "a2": NEAR}
    (name, _), earlier = _grouped(NO_GROUPS, kinds=kinds)
    (group, other), groups = _grouped(earlier, name, kinds=kinds)
    assert group == other != name
    assert groups["group_name"].to_pylist() == [group]


def test_split__waits_for_a_device_of_the_group() -> None:
    before, earlier = _grouped(NO_GROUPS)
    group, groups = _grouped(earlier, before[0], kinds={"c1": FAR})
    assert group == [before[4]]
    assert pc.is_in(pa.scalar(before[0]), value_set=groups["group_name"].combine_chunks()).as_py()
