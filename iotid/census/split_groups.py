"""Groups unknown devices, and splits the groups that a person wants split (`iotid name --split`)."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from iotid.arrow import one_chunk
from iotid.census.groups import NO_GROUPS, OTHERS, group_devices, with_new_groups

_MOST_SIMILAR = 0.999  # devices that are more similar are not distinguished


class EarlierGroups(NamedTuple):
    """``groups`` (GROUPS) of earlier censuses; the names of those that a person wants split, and that one named."""

    groups: pa.Table
    split: Collection[str] = ()
    named: Collection[str] = ()


def group_with_splits(
    devices: pa.Array, values: pa.Table, earlier: EarlierGroups, min_similarity: float
) -> tuple[pa.Array, pa.Table]:
    """As `group_devices`; the devices of a group to be split are grouped anew, and the group is gone. Groups that
    persons named are never merged with each other.

    Its devices are those that would be in it. They form new groups with a similarity half way from ``min_similarity``
    to 1, or half way further, until they are two groups or more. The names depend on the former name, so that none of
    them has it. From the next census on, they are groups like all others.
    """
    group, groups = group_devices(devices, values, earlier.groups, min_similarity, keep_apart=earlier.named)
    group = one_chunk(group)
    for parent in sorted(set(earlier.split) & set(groups["group_name"].to_pylist())):
        members = devices.filter(pc.equal(group, parent))
        if not len(members):
            continue  # split when one of them is there again
        own, made = _split(members, values.filter(pc.is_in(values["device_id"], value_set=members)), min_similarity)
        names = {name: OTHERS if name == OTHERS else _name(parent, name) for name in own.unique().to_pylist()}
        renamed = pa.array([names[name] for name in own.to_pylist()], pa.string())
        group = pc.coalesce(renamed.take(pc.index_in(devices, value_set=members)), group)
        at = made.schema.get_field_index("group_name")
        of_made = pa.array([names[name] for name in made["group_name"].to_pylist()], pa.string())
        others = groups.filter(pc.not_equal(groups["group_name"], parent))
        groups = with_new_groups(others, made.set_column(at, made.schema.field(at), of_made))
    return group, groups


def _split(members: pa.Array, values: pa.Table, min_similarity: float) -> tuple[pa.Array, pa.Table]:
    """The members in two groups or more, with the least similarity that does so; else in one."""
    while True:
        min_similarity = (1 + min_similarity) / 2
        own, made = group_devices(members, values, NO_GROUPS, min_similarity)
        if len(made) > 1 or min_similarity > _MOST_SIMILAR:
            return one_chunk(own), made


def _name(parent: str, name: str) -> str:
    return f"g{hashlib.sha256(f'{parent} {name}'.encode()).hexdigest()[:10]}"
