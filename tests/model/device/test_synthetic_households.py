"""Synthetic households: what is drawn into them, and that the flows of their members add up.

Shape suffixes: B sets, D distinct flows, H households, K kinds.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from iotid.model.device import synthetic_households
from iotid.model.device.synthetic_households import Household, SamplingPool, flows_of_households

# kinds 0 to 3, three sets each, of two recordings; three unknown devices
_KIND = np.array([*np.repeat(np.arange(4), 3), -1, -1, -1])
_RECORDING = np.array([10, 10, 11, 20, 20, 21, 30, 30, 31, 40, 40, 41, 50, 50, 51])


def _pool(*, without: list[int] | None = None) -> SamplingPool:
    usable = np.ones(len(_KIND), np.bool_)
    usable[without or []] = False
    return SamplingPool(_KIND, _RECORDING, usable)


def test_draw__has_the_given_sizes_and_unknown_devices() -> None:
    drawn = _pool().draw(400, (1, 3), (0, 2), np.random.default_rng(1))
    assert len(drawn) == 400
    distinct = [len({kind for kind in household.kinds if kind >= 0}) for household in drawn]
    unknowns = [household.kinds.count(-1) for household in drawn]
    assert set(zip(distinct, unknowns, strict=True)) == {(1, 0), (1, 2), (3, 0), (3, 2)}
    assert 160 < distinct.count(3) < 240
    assert 160 < unknowns.count(2) < 240
    assert {kind for household in drawn for kind in household.kinds} == {-1, 0, 1, 2, 3}


def test_draw__sometimes_has_two_devices_of_a_kind() -> None:
    drawn = _pool().draw(1000, (2,), (0,), np.random.default_rng(1))
    seconds = [len(household.kinds) - len(set(household.kinds)) for household in drawn]
    assert set(seconds) == {0, 1}
    assert 60 < sum(seconds) < 140  # one in ten


def test_draw__takes_all_kinds_if_there_are_fewer() -> None:
    drawn = _pool(without=[0, 1, 2]).draw(50, (12,), (0,), np.random.default_rng(1))
    assert all(set(household.kinds) == {1, 2, 3} for household in drawn)


def test_draw__never_takes_a_set_that_is_not_usable() -> None:
    pool = _pool(without=[1, 5, 6, 7, 8, 12])
    assert pool.kinds().tolist() == [0, 1, 3]
    drawn = pool.draw(400, range(1, 5), (0, 1, 2), np.random.default_rng(1)) + pool.singles()
    taken = {int(row) for household in drawn for member in household.members for row in member}
    assert taken == {0, 2, 3, 4, 9, 10, 11, 13, 14}


def test_draw__of_a_pool_without_unknown_devices_has_none() -> None:
    drawn = _pool(without=[12, 13, 14]).draw(100, (1, 2), (1, 2), np.random.default_rng(1))
    assert all(min(household.kinds) >= 0 for household in drawn)


def test_draw__of_unknown_devices_alone_has_no_kinds() -> None:
    only_unknowns = _pool(without=[*range(12)]).draw(50, (1, 2), (0, 1), np.random.default_rng(1))
    assert {tuple(household.kinds) for household in only_unknowns} == {(-1,)}
    assert _pool(without=[*range(15)]).draw(50, (1, 2), (0, 1), np.random.default_rng(1)) == []


def test_draw__a_member_has_distinct_sets_of_one_recording() -> None:
    drawn = _pool().draw(400, (1, 2), (0, 1), np.random.default_rng(1))
    sizes = set()
    for household in drawn:
        for member, kind in zip(household.members, household.kinds, strict=True):
            sizes.add(len(member))
            assert len(set(member.tolist())) == len(member)
            assert len(set(_RECORDING[member].tolist())) == 1
            assert set(_KIND[member].tolist()) == {kind}
    assert sizes == {1, 2}


def test_singles__are_all_usable_sets_and_those_of_a_recording_together() -> None:
    singles = _pool(without=[0, 13]).singles()
    rows = [household.members[0].tolist() for household in singles]
    alone = [row for row in range(15) if row not in (0, 13)]
    assert rows[: len(alone)] == [[row] for row in alone]
    assert sorted(rows[len(alone) :]) == [[3, 4], [6, 7], [9, 10]]
    assert all(household.kinds == [int(_KIND[household.members[0][0]])] for household in singles)


def test_unite__sums_the_flows_of_all_members(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthetic_households, "_THINNED", 0)
    flows_BD = csr_matrix(np.array([[1, 0, 2], [0, 3, 1], [5, 0, 0], [0, 7, 0]]))
    drawn = [
        Household([np.array([0, 1]), np.array([2])], [1, 0]),
        Household([np.array([3])], [-1]),
        Household([np.array([2]), np.array([2]), np.array([3])], [2, 2, -1]),
    ]
    flows_HD, there_HK = flows_of_households(flows_BD, drawn, 3, np.random.default_rng(1))
    assert flows_HD.toarray().tolist() == [[6, 3, 3], [0, 7, 0], [10, 7, 0]]
    assert there_HK.tolist() == [[True, True, False], [False, False, False], [False, False, True]]


def test_unite__thins_all_members_of_a_household_by_one_share(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(synthetic_households, "_THINNED", 1)
    monkeypatch.setattr(synthetic_households, "_LEAST_SHARE", 0.4)
    flows_BD = csr_matrix(np.array([[20_000, 20_000, 0, 0], [0, 0, 20_000, 20_000]]))
    drawn = [Household([np.array([0]), np.array([1])], [0, 1])] * 300
    flows_HD, there_HK = flows_of_households(flows_BD, drawn, 2, np.random.default_rng(1))
    kept_HD = flows_HD.toarray() / 20_000
    share_H = kept_HD.mean(axis=1)
    assert 0.39 < share_H.min() < share_H.max() < 1
    assert share_H.mean() == pytest.approx(0.7, abs=0.04)
    # of a binomial count: p (1 - p) / n
    spread_H1 = np.sqrt(share_H * (1 - share_H) / 20_000)[:, np.newaxis]
    assert np.abs(kept_HD - share_H[:, np.newaxis]).max() < 5 * spread_H1.max()
    assert ((kept_HD - share_H[:, np.newaxis]) / np.maximum(spread_H1, 1e-4)).std() > 0.5
    assert there_HK.all()


def test_unite__a_member_without_flows_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthetic_households, "_THINNED", 1)
    flows_BD = csr_matrix(np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1]]))
    drawn = [Household([np.array([0]), np.array([1]), np.array([2])], [0, 1, -1])] * 400
    flows_HD, there_HK = flows_of_households(flows_BD, drawn, 2, np.random.default_rng(1))
    left_HD = flows_HD.toarray()
    assert set(left_HD.ravel().tolist()) == {0, 1}
    assert there_HK.tolist() == (left_HD[:, :2] > 0).tolist()
    assert left_HD.mean() == pytest.approx(0.65, abs=0.05)


def test_unite__thins_three_households_in_ten_unless_changed() -> None:
    drawn = [Household([np.array([0])], [0])] * 1000
    flows_HD, _ = flows_of_households(csr_matrix(np.array([[100_000]])), drawn, 1, np.random.default_rng(1))
    assert 240 < (flows_HD.toarray() < 100_000).sum() < 360
