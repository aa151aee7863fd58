"""Groups unknown devices by what they do, so that fifty devices of one new model are one line.

Pure functions on arrays, without the trained model, which has not learned these devices. Devices and groups have
profiles, with a similarity from 0 to 1 (`iotid.census.profiles`).

**New devices** are grouped by the leader algorithm (Hartigan 1975): in order of flows, a device that is similar to no
leader becomes one; then each device joins its most similar leader. So no device joins a group through a chain of
others. At most MAX_GROUPS devices become leaders, and as many groups are stored, so that a flood of forged devices
costs time in proportion to their number; devices similar to no leader then form one group, OTHERS.

**From census to census** the earlier groups are the first leaders, each represented by half the earlier profile and
half the mean of its current devices. A device that was in a group stays in it, recognised by its globally administered
MAC, because what a device does on one date may be little; it leaves only for a group that is similar, if its own is
hardly so. A device that is not known to be new (its MAC is random, or none is shown) joins the most similar group, even
if that is less similar than two new devices must be: most devices were there before.

**Mergers.** One date cannot show whether two devices are of one model or of two with the same firmware, since both
differ as much from date to date. So the least similarity of new devices is high, and groups are merged later: if the
devices of two groups are on one date at least as similar to each other as to the past of either, or if a single device
is more similar to the past of a larger group than to its own. One name survives and lists the other.

A name is a hash of what the first device does. It has no meaning at another site, nor after the census has removed the
group's last device.

Shape suffixes: N devices, L leaders (earlier groups or new), P present earlier groups, B a block of devices or groups,
T tokens, G groups, E entries of their lists.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from iotid.arrow import one_chunk
from iotid.census.behaviour import HOUR, MAX_VALUES, PAYLOAD, PAYLOADS_AND_PORTS, PORT
from iotid.census.group_columns import rhythm_of, services_of
from iotid.census.group_members import MAX_DEVICES, Members
from iotid.census.profiles import MOST_TOKENS, Profiles, counts, normalized, profiles_of, stacked, to_columns, tokens_of
from iotid.labels.grouped_devices import OTHERS
from iotid.schemas import GROUPS

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

__all__ = [
    "MAX_GROUPS", "MAX_VALUES", "NO_GROUPS", "OTHERS", "PAYLOAD", "PAYLOADS_AND_PORTS", "PORT",
    "check_groups", "group_devices", "mean_profile", "similarities", "with_new_groups",
]  # fmt: skip

MAX_GROUPS = 4096  # new and stored; a census of 20,000 devices has some 650 unknown ones
NO_GROUPS = GROUPS.arrow_schema().empty_table()
_MAX_MERGED = 64  # names of earlier groups that a group lists
_MIN_RETURNING = 0.5  # similarity to an earlier group, of devices that are not known to be new
_MIN_STAYING = 0.3  # a device that is less similar to its group leaves it, if another one is similar
_MIN_TYPICAL = 0.6  # groups less similar to their past than this did something else on this date, and are not merged
_LARGE = 3  # devices of a group whose mean has little noise
_LEAST_STEP = 1e-6  # of rounded similarities
_BLOCK = 256  # devices compared with all leaders in one product


def group_devices(
    devices: pa.Array,
    values: pa.Table,
    earlier: pa.Table,
    min_similarity: float,
    *,
    keep_apart: Collection[str] = (),
) -> tuple[pa.Array, pa.Table]:
    """The group of each of N devices, and the groups (GROUPS) without OTHERS.

    Args:
        devices: ids of the unknown devices, in order.
        values: rows of PAYLOADS_AND_PORTS of these devices, in any order; a device without payload may have none.
        earlier: the groups (GROUPS) of the earlier census; those without a current device are returned unchanged,
            but for devices that are now in another group.
        min_similarity: least similarity of two new devices, or of a new one and an earlier group.
        keep_apart: names of earlier groups that are never merged with each other, as a person distinguished them.
    """
    if not len(devices):
        return pa.array([], pa.string()), earlier
    token_T = tokens_of(devices, values, earlier)
    flows_NT = counts(devices, values, token_T)
    now, before = normalized(flows_NT, token_T), profiles_of(earlier, token_T)
    members = Members.of(devices, earlier)
    order_N = np.argsort(-np.asarray(flows_NT.sum(axis=1)).ravel(), kind="stable")
    leader_N, similarity_N = _earlier_leaders(now, before, members, min_similarity)
    leaders = _leaders(now, order_N[leader_N[order_N] < 0], min_similarity)
    new_N, is_better_N = _most_similar(now, now[leaders], np.maximum(similarity_N + _LEAST_STEP, min_similarity))
    leader_N = np.where(is_better_N, len(before) + new_N, leader_N)
    names = _names(earlier["group_name"].to_pylist(), [(token_T, flows_NT[row]) for row in leaders])
    groups = _Groups(names, now, before, leader_N, members).merged(keep_apart)
    index_N = pa.array(groups.leader, mask=groups.leader < 0)
    group_N = pc.fill_null(pa.array(names, pa.string()).take(index_N), OTHERS)
    ports = services_of(values.filter(pc.equal(values["what"], PORT)), devices, group_N)
    rhythm = rhythm_of(values.filter(pc.equal(values["what"], HOUR)), devices, group_N)
    present = [
        {"group_name": names[row], "services": ports.get(names[row], []), **rhythm.get(names[row], {}), **columns}
        for row, columns in groups.columns(earlier)
        if row < MAX_GROUPS
    ]
    gone = pa.array(list(groups.absorbed), pa.string())
    absent = earlier.filter(pc.invert(pc.is_in(earlier["group_name"], value_set=pa.concat_arrays([group_N, gone]))))
    absent = members.without_those_here(absent)
    found = pa.concat_tables([pa.Table.from_pylist(present, schema=GROUPS.arrow_schema()), absent])
    return group_N, found.sort_by("group_name")


def check_groups(groups: pa.Table) -> pa.Table:
    """Return the groups (GROUPS); raise a ValueError if `group_devices` cannot have made them."""
    if len(groups) > MAX_GROUPS or pc.count_distinct(groups["group_name"]).as_py() != len(groups):
        raise ValueError(f"there must be at most {MAX_GROUPS} groups, of different names")
    for lists in (("protocol", "payload_length", "share"), ("token", "token_share"), ("device", "absent")):
        sizes = [pc.fill_null(pc.list_value_length(one_chunk(groups[name])), -1) for name in lists]
        if not all(each.equals(sizes[0]) for each in sizes):
            raise ValueError(f"the lists {', '.join(lists)} of a group must be equal in length")
    for name, most in (("token", MOST_TOKENS), ("device", MAX_DEVICES), ("merged", _MAX_MERGED)):
        if (pc.max(pc.list_value_length(groups[name])).as_py() or 0) > most:
            raise ValueError(f"the list {name} of a group must have at most {most:,} entries")
    for name in ("share", "token_share"):
        share_E = one_chunk(groups[name]).flatten().to_numpy(zero_copy_only=False)
        if not (np.isfinite(share_E) & (share_E >= 0) & (share_E <= 1 + 1e-6)).all():
            raise ValueError("a share must be 0 to 1")
    for name in ("payload_length", "token", "absent"):
        if (one_chunk(groups[name]).flatten().to_numpy(zero_copy_only=False) < 0).any():
            raise ValueError(f"{name} must not be negative")
    return groups


def similarities(groups_a: pa.Table, groups_b: pa.Table) -> NDArray[np.float64]:
    """(A, B) similarities of the profiles of two tables of groups (GROUPS), 0 to 1, as of a device and a leader."""
    token_T = _tokens(groups_a, groups_b)
    return _similarities(profiles_of(groups_a, token_T), profiles_of(groups_b, token_T))


def mean_profile(groups: pa.Table, weight: NDArray[np.float64]) -> dict[str, list[Any] | None]:
    """The profile columns of GROUPS of one group that stands for several, with these weights (G,)."""
    return to_columns(profiles_of(groups, _tokens(groups)).mean(weight))


def with_new_groups(groups: pa.Table, others: pa.Table) -> pa.Table:
    """``groups``, and those of ``others`` with other names, up to MAX_GROUPS."""
    is_new = pc.invert(pc.is_in(others["group_name"], value_set=one_chunk(groups["group_name"])))
    more = others.filter(is_new).slice(0, max(MAX_GROUPS - len(groups), 0))
    return pa.concat_tables([groups, more]).sort_by("group_name")


def _tokens(*groups: pa.Table) -> NDArray[np.int64]:
    return tokens_of(pa.array([], pa.string()), PAYLOADS_AND_PORTS.empty_table(), *groups)


@dataclass(frozen=True)
class _Groups:
    """The groups of a census in the making.

    Attributes:
        names: of the L earlier and then of the new ones.
        leader: (N,) index in ``names`` of each device's group, -1: none.
        absorbed: names of earlier groups that were merged -> the surviving name.
    """

    names: list[str]
    now: Profiles
    before: Profiles
    leader: NDArray[np.int64]
    members: Members
    absorbed: Mapping[str, str] = field(default_factory=dict)

    def merged(self, keep_apart: Collection[str]) -> _Groups:
        """The groups, those merged that act alike on this date (`_partners`)."""
        stays_N = (self.members.home >= 0) & (self.members.home == self.leader)
        present = np.unique(self.leader[stays_N])  # of these L some devices are known, so that there is a past
        if len(present) < 2:
            return self
        sizes_P = np.array([self.members.size(row) for row in present.tolist()])
        partners = _partners(self._today(present), self.before[present], sizes_P, self._typical(present))
        rank = self._rank(keep_apart)
        pairs = [
            (-similarity, *sorted(present[[row, other]].tolist(), key=rank)) for row, other, similarity in partners
        ]
        root = np.arange(len(self.names))
        for _, older, younger in sorted(pairs):
            ends = sorted({int(root[older]), int(root[younger])}, key=rank)
            if len(ends) == 2 and not all(self.names[end] in keep_apart for end in ends):
                root[root == ends[1]] = ends[0]
        absorbed = {self.names[row]: self.names[root[row]] for row in present.tolist() if root[row] != row}
        leader_N = np.where(self.leader >= 0, root[self.leader], -1)
        return replace(self, leader=leader_N, absorbed=absorbed)

    def columns(self, earlier: pa.Table) -> Iterator[tuple[int, dict[str, Any]]]:
        """Index and columns (of GROUPS) of each group that has a device: profile, devices and names merged."""
        present, first = np.unique(self.leader[np.argsort(self.leader, kind="stable")], return_index=True)
        devices = np.split(np.argsort(self.leader, kind="stable"), first[1:])
        index, parts = {name: row for row, name in enumerate(self.names)}, defaultdict(list)
        for name, survivor in self.absorbed.items():
            parts[index[survivor]].append(index[name])
        today, merged_before = self._today(present[present >= 0]), earlier["merged"].to_pylist()
        for number, (row, own) in enumerate(
            (row, own) for row, own in zip(present.tolist(), devices, strict=True) if row >= 0
        ):
            before = [each for each in [row, *parts[row]] if each < len(self.before)]
            names = {name for each in before for name in [self.names[each], *(merged_before[each] or [])]}
            past = [self.before[before].mean()] if before else []
            profile = stacked([today[[number]], *past]).mean() if past else today[[number]]
            merged = sorted(names - {self.names[row]})[:_MAX_MERGED]
            yield row, {**to_columns(profile), **self.members.columns(own, before), "merged": merged}

    def _rank(self, keep_apart: Collection[str]) -> Callable[[int], tuple[bool, int, str]]:
        """Order in which groups survive: those named by a person, then those with most devices."""
        return lambda row: (self.names[row] not in keep_apart, -self.members.size(row), self.names[row])

    def _typical(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """The median similarity of the devices of each of these earlier groups to its past."""
        own_N = np.zeros(len(self.now))
        inside = np.flatnonzero(np.isin(self.leader, rows))
        for at in range(0, len(inside), _BLOCK):
            block = inside[at : at + _BLOCK]
            groups, column = np.unique(self.leader[block], return_inverse=True)
            similarity_BG = _similarities(self.now[block], self.before[groups])
            own_N[block] = similarity_BG[np.arange(len(block)), column]
        return np.array([np.median(own_N[self.leader == row]) for row in rows])

    def _today(self, rows: NDArray[np.int64]) -> Profiles:
        """The mean profile of the devices of each of these groups."""
        from scipy.sparse import csr_matrix

        position_N = np.searchsorted(rows, self.leader)
        inside_N = np.isin(self.leader, rows)
        entries = (position_N[inside_N], np.flatnonzero(inside_N))
        of_group = csr_matrix((np.ones(len(entries[0])), entries), shape=(len(rows), len(self.now)))
        return normalized(of_group @ self.now.share, self.now.token)


def _earlier_leaders(
    now: Profiles, before: Profiles, members: Members, min_similarity: float
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """(N,) the earlier group that each device stays in or joins, -1 if none; and the similarity, 2 if it stays."""
    leader_N, similarity_N = np.full(len(now), -1), np.zeros(len(now))
    for at in range(0, len(now) if len(before) else 0, _BLOCK):
        block = slice(at, at + _BLOCK)
        similarity_BL = _similarities(now[block], before)
        best_B, home_B = similarity_BL.max(axis=1), members.home[block]
        own_B = similarity_BL[np.arange(len(best_B)), np.maximum(home_B, 0)]
        stays_B = (home_B >= 0) & ~((own_B < _MIN_STAYING) & (best_B >= min_similarity))
        least_B = np.where(members.is_new[block], min_similarity, min(_MIN_RETURNING, min_similarity))
        joined_B = np.where(best_B >= least_B, similarity_BL.argmax(axis=1), -1)
        leader_N[block] = np.where(stays_B, home_B, joined_B)
        similarity_N[block] = np.where(stays_B, 2, np.where(joined_B >= 0, best_B, 0))
    return leader_N, similarity_N


def _leaders(now: Profiles, order: NDArray[np.int64], min_similarity: float) -> list[int]:
    """Devices that become leaders: in order, each that is similar to no leader so far, up to MAX_GROUPS."""
    leaders: list[int] = []
    for start in range(0, len(order), _BLOCK):
        block = order[start : start + _BLOCK]
        block = block[~_most_similar(now[block], now[leaders], np.full(len(block), min_similarity))[1]]
        similar_BB = _similarities(now[block], now[block]) >= min_similarity
        free_B = np.ones(len(block), np.bool_)
        for row in range(len(block)):
            if free_B[row]:
                leaders.append(int(block[row]))
                free_B &= ~similar_BB[row]
        if len(leaders) >= MAX_GROUPS:
            return leaders[:MAX_GROUPS]
    return leaders


def _most_similar(
    now: Profiles, leading: Profiles, least_N: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """(N,) the most similar leader of each device, the first of equal ones, and whether it is similar enough."""
    best_N, similarity_N = np.zeros(len(now), np.int64), np.full(len(now), -1.0)
    for at in range(0, len(now) if len(leading) else 0, _BLOCK):
        similarity_BL = _similarities(now[at : at + _BLOCK], leading)
        best_N[at : at + _BLOCK] = similarity_BL.argmax(axis=1)
        similarity_N[at : at + _BLOCK] = similarity_BL.max(axis=1)
    return best_N, similarity_N >= least_N


def _similarities(profiles: Profiles, others: Profiles) -> NDArray[np.float64]:
    return profiles.similarities(others)


def _partners(
    today: Profiles, past: Profiles, sizes_P: NDArray[np.int64], typical_P: NDArray[np.float64]
) -> Iterator[tuple[int, int, float]]:
    """Pairs of groups that act alike, and how similar they are; at most the best partner of each group.

    Either their devices are at least as similar to each other as to the past of either group. Or one has a single
    device, which is at least as similar to the past of a group of some size as to its own past, and as that group's
    devices typically are (``typical_P``).
    """
    blocks = [slice(at, at + _BLOCK) for at in range(0, len(today), _BLOCK)]
    own_P = np.concatenate([np.diagonal(_similarities(today[block], past[block])) for block in blocks])
    is_large_P = sizes_P >= _LARGE
    for block in blocks:
        to_today_BP, to_past_BP = _similarities(today[block], today), _similarities(today[block], past)
        own_B = own_P[block, np.newaxis]
        similar_BP = (to_today_BP >= np.maximum(own_B, own_P)) & (np.minimum(own_B, own_P) >= _MIN_TYPICAL)
        joins_BP = (sizes_P[block, np.newaxis] == 1) & is_large_P & (to_past_BP >= np.maximum(own_B, typical_P))
        similarity_BP = np.maximum(np.where(similar_BP, to_today_BP, 0), np.where(joins_BP, to_past_BP, 0))
        rows = np.arange(len(similarity_BP))
        similarity_BP[rows, block.start + rows] = 0
        best_B = similarity_BP.argmax(axis=1)
        for row in np.flatnonzero(similarity_BP[rows, best_B]).tolist():
            yield block.start + row, int(best_B[row]), float(similarity_BP[row, best_B[row]])


def _names(before: list[str], leading: Iterable[tuple[NDArray[np.int64], csr_matrix]]) -> list[str]:
    """Names ``before`` and one for each new leader: a hash of what it does, which reveals no address."""
    names = dict.fromkeys(before)
    for token_T, flows_1T in leading:
        content = np.stack([token_T[flows_1T.indices], flows_1T.data.astype(np.int64)]).astype("<i8").tobytes()
        while (name := f"g{hashlib.sha256(content).hexdigest()[:10]}") in names:
            content = name.encode()
        names[name] = None
    return list(names)
