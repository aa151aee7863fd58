"""The device model on synthetic sets: what it finds in unions of sets that it has not seen.

Shape suffixes: B sets, D distinct flows, K kinds, C classes.
"""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, vstack

from iotid import config
from iotid.dataset.sets import FlowSets
from iotid.errors import DataError
from iotid.model.device import Answer, DeviceModel, FlowTimes, decide

_KINDS = 14  # kinds that the world has; the model learns the first six of them
_LEARNED = 6
_OWN, _SHARED, _COMMON = 8, 2, 3  # flows of a kind alone, of it and the next, and of all
_FLOWS = _KINDS * (_OWN + _SHARED) + _COMMON


def _world() -> dict[str, NDArray[np.int32]]:
    random = np.random.default_rng(11)
    there = np.arange(5) < random.integers(2, 6, (_FLOWS, 1))
    return {
        name: (random.integers(2, high, (_FLOWS, 5)) * there).astype(np.int32)
        for name, high in (("packet_length", 200), ("tcp_window", 30))
    }


_WORLD = _world()


def _flows(kinds: list[int], random: np.random.Generator) -> NDArray[np.int64]:
    """(B, D): a set of each of these kinds, -1 of unknown devices of which each is another."""
    flows_BD = np.zeros((len(kinds), _FLOWS), np.int64)
    for row, kind in zip(flows_BD, kinds, strict=True):
        index = kind if kind >= 0 else int(random.integers(_LEARNED, 10))
        own = np.arange(_OWN) + index * (_OWN + _SHARED)
        beside = (index - 1) % _LEARNED if index < _LEARNED else index  # the first six share in a ring
        shared = [of * (_OWN + _SHARED) + _OWN + number for of in (index, beside) for number in range(_SHARED)]
        common = np.arange(_FLOWS - _COMMON, _FLOWS)
        for flows, chance in ((own, 0.8), (np.array(shared), 0.7), (common, 0.7)):
            row[flows] = (random.random(len(flows)) < chance) * (1 + random.poisson(1, len(flows)))
        row[own[0]] = max(row[own[0]], 1)
    return flows_BD


def _no_sessions(sets: int) -> csr_matrix:
    return csr_matrix((sets, _FLOWS), dtype=np.int64)


def _sets(kinds: list[int], seed: int) -> FlowSets:
    label = np.sort(np.array(kinds, np.int64))
    flows = csr_matrix(_flows(label.tolist(), np.random.default_rng(seed)))
    return FlowSets(_WORLD, flows, label, np.arange(len(label)), _no_sessions(len(label)))


@pytest.fixture(scope="module")
def model() -> DeviceModel:
    kinds = [kind for kind in range(_LEARNED) for _ in range(10)] + [-1] * 12
    return DeviceModel(np.arange(_LEARNED)).fit(_sets(kinds, 1))


@pytest.fixture(scope="module")
def census() -> config.Census:
    return config.load_settings().census


def _unions(groups: list[list[int]], seed: int) -> csr_matrix:
    random = np.random.default_rng(seed)
    return csr_matrix(np.array([_flows(kinds, random).sum(axis=0) for kinds in groups]))


def _named(
    model: DeviceModel, flows: csr_matrix, census: config.Census, share: float
) -> tuple[list[set[int]], list[str]]:
    decision = decide(model.answer(_WORLD, flows), share, np.asarray(flows.sum(axis=1)).ravel(), census)
    return [set(np.flatnonzero(found).tolist()) for found in decision.found], decision.status.tolist()


def test_answer__names_single_held_out_sets(model: DeviceModel, census: config.Census) -> None:
    groups = [[kind] for kind in range(_LEARNED)] * 5
    for share in (0.0, 1.0):
        found, statuses = _named(model, _unions(groups, 2), census, share)
        assert found == [set(group) for group in groups]
        assert set(statuses) == {"known"}


@pytest.mark.parametrize("size", [2, 3, 4, 6])
def test_answer__names_unions_of_held_out_sets_exactly(size: int, model: DeviceModel, census: config.Census) -> None:
    random = np.random.default_rng(size)
    groups = [random.choice(_LEARNED, size, replace=False).tolist() for _ in range(30)]
    found, statuses = _named(model, _unions(groups, 3), census, 1.0)
    assert sum(each == set(group) for each, group in zip(found, groups, strict=True)) >= 29
    assert statuses.count("several") >= 28


def test_answer__a_union_is_likelier_a_household_than_a_host(model: DeviceModel) -> None:
    hosts, households = [[kind] for kind in range(_LEARNED)], [[0, 1, 3], [2, 4], [1, 2, 3, 4, 5]]
    odds_of_hosts, odds_of_households = (
        model.answer(_WORLD, _unions(groups, 4)).log_odds for groups in (hosts, households)
    )
    assert odds_of_hosts.max() < 0 < odds_of_households.min()


def test_answer__flows_of_no_learned_kind_are_unknown(model: DeviceModel, census: config.Census) -> None:
    groups = [[kind] for kind in range(10, _KINDS)]  # not even unknown devices showed those
    for share in (0.0, 1.0):
        found, statuses = _named(model, _unions(groups, 5), census, share)
        assert found == [set()] * 4
        assert set(statuses) == {"unknown"}
    assert model.answer(_WORLD, _unions(groups, 5)).unexplained.min() > 0.5


def test_answer__unexplained_counts_kinds_found_as_host_or_household(model: DeviceModel) -> None:
    flows, arrays = _unions([[kind] for kind in range(_LEARNED)], 2), model.to_arrays()
    household_finds_nothing = arrays | {"of_household.bias": np.array([-1e3])}
    answer = DeviceModel.from_arrays(household_finds_nothing, np.arange(_LEARNED), list(_WORLD)).answer(_WORLD, flows)
    assert answer.household.max() < 0.5 < np.diag(answer.host).min()
    assert answer.unexplained.max() < 0.5
    neither_does = household_finds_nothing | {"of_host.bias": np.array([-1e3])}
    answer = DeviceModel.from_arrays(neither_does, np.arange(_LEARNED), list(_WORLD)).answer(_WORLD, flows)
    assert answer.unexplained.min() == 1


def test_answer__sets_of_unknown_devices_are_not_named(model: DeviceModel, census: config.Census) -> None:
    found, _ = _named(model, _unions([[-1]] * 20, 6), census, 0.0)
    assert found == [set()] * 20


def test_answer__finds_something_unknown_beside_the_kinds(model: DeviceModel, census: config.Census) -> None:
    groups = [[0, 2, 10], [1, 11, 12], [3, 4, 5, 13], [2, 3, 10, 11]]
    found, statuses = _named(model, _unions(groups, 7), census, 1.0)
    assert found == [{0, 2}, {1}, {3, 4, 5}, {2, 3}]
    assert statuses == ["several_with_unknown"] * 4
    without = _named(model, _unions([[0, 2], [1, 4], [3, 4, 5], [2, 3]] * 5, 7), census, 1.0)[1]
    assert without.count("several_with_unknown") <= 2


def test_answer__counts_the_flows_of_one_kind_alone(model: DeviceModel) -> None:
    flows = np.zeros((1, _FLOWS))
    flows[0, [20, 21, 22, 28, 30]] = [1, 5, 1, 2, 1]  # kind 2: three of its own and one with the next; kind 3: one
    flows[0, [130, _FLOWS - 1]] = 1  # of a kind never learned, and of all
    answer = model.answer(_WORLD, csr_matrix(flows))
    assert answer.flows.tolist() == [[0, 0, 3, 1, 0, 0, 2]]
    assert answer.distinct.tolist() == [7]


def test_answer__more_concurrent_sessions_than_one_device_are_two_devices() -> None:
    """Flows 20 and 21 are of kind 2 alone, 28 of it and of kind 3, 130 of a kind never learned."""
    sets = _sets([0, 1, 2, 3] * 6, 1)
    of_kind_2 = np.flatnonzero((sets.label == 2) & (sets.flows[:, 20].toarray().ravel() > 0))
    concurrent = np.zeros((len(sets), _FLOWS), np.int64)
    concurrent[of_kind_2[:3], 20] = [1, 3, 2]
    model = DeviceModel(np.arange(4)).fit(
        FlowSets(_WORLD, sets.flows, sets.label, sets.recording, csr_matrix(concurrent))
    )
    held = np.zeros((7, _FLOWS), np.int64)
    for row, (flow, number) in enumerate([(20, 3), (20, 4), (21, 1), (21, 2), (28, 9), (130, 9)]):
        held[row, flow] = number
    flows = csr_matrix(np.maximum(held, _flows([2] * 7, np.random.default_rng(2))))
    assert model.answer(_WORLD, flows, csr_matrix(held)).min_devices.tolist() == [
        [1, 1, units, 1] for units in (1, 2, 1, 2, 1, 1, 1)
    ]
    again = DeviceModel.from_arrays(model.to_arrays(), model.kind_C, list(_WORLD))
    assert again.answer(_WORLD, flows, csr_matrix(held)).min_devices[:, 2].tolist() == [1, 2, 1, 2, 1, 1, 1]
    assert model.answer(_WORLD, flows).min_devices.tolist() == [[1] * 4] * 7  # without numbers of open sessions


def test_answer__does_not_depend_on_the_other_sets(model: DeviceModel) -> None:
    flows = _unions([[0], [1, 2], [10], [-1, 3]], 8)
    together = model.answer(_WORLD, flows, unlike_kind=True)
    used = np.flatnonzero(np.asarray(flows[1].sum(axis=0)).ravel())
    own = {name: ids[used] for name, ids in _WORLD.items()}
    alone = model.answer(own, flows[1][:, used], unlike_kind=True)
    for field in fields(Answer):
        np.testing.assert_allclose(
            getattr(alone, field.name)[0], getattr(together, field.name)[1], rtol=1e-4, atol=1e-6
        )


def test_answer__of_no_sets_is_empty(model: DeviceModel) -> None:
    answer = model.answer(_WORLD, csr_matrix((0, _FLOWS)))
    assert answer.host.shape == answer.household.shape == (0, _LEARNED)
    assert answer.flows.shape == (0, _LEARNED + 1)
    assert answer.log_odds.shape == answer.unknown.shape == (0,)


def test_to_arrays__the_same_bits_come_back(model: DeviceModel) -> None:
    arrays = {name: np.ascontiguousarray(array) for name, array in model.to_arrays().items()}
    again = DeviceModel.from_arrays(arrays, model.kind_C, list(_WORLD))
    flows = _unions([[0], [1, 2], [10], [-1, 3], [5, 4, 11]], 8)
    expected, answer = model.answer(_WORLD, flows), again.answer(_WORLD, flows)
    for field in fields(Answer):
        if field.name == "unlike_kind":  # stored beside these arrays
            continue
        assert getattr(answer, field.name).tobytes() == getattr(expected, field.name).tobytes(), field.name
    assert {name: array.tobytes() for name, array in again.to_arrays().items()} == {
        name: array.tobytes() for name, array in arrays.items()
    }


def test_answer__has_p_values_of_kinds_only_if_asked(model: DeviceModel) -> None:
    flows = _unions([[0], [1], [10]], 8)
    assert model.answer(_WORLD, flows).unlike_kind is None
    p_BK = model.answer(_WORLD, flows, unlike_kind=True).unlike_kind
    assert p_BK is not None
    assert p_BK.shape == (3, _LEARNED)
    foreign = max(p_BK[0, 1], p_BK[1, 0], p_BK[2].max())
    assert foreign <= 0.05
    assert foreign < min(p_BK[0, 0], p_BK[1, 1])


def test_answer__without_held_out_scores_there_are_no_p_values(model: DeviceModel) -> None:
    again = DeviceModel.from_arrays(model.to_arrays(), model.kind_C, list(_WORLD))  # as of an earlier version
    with pytest.raises(DataError, match=r"census.unlike_kind: must be false .* train again, or set"):
        again.answer(_WORLD, _unions([[0]], 8), unlike_kind=True)


@pytest.mark.parametrize("missing", ["sets.class", "tokens.pairs", "of_host.bias", "factors", "most_at_once"])
def test_from_arrays__a_missing_part_is_an_error(missing: str, model: DeviceModel) -> None:
    arrays = {name: array for name, array in model.to_arrays().items() if name != missing}
    with pytest.raises(KeyError, match=missing.rpartition(".")[2]):
        DeviceModel.from_arrays(arrays, model.kind_C, list(_WORLD))


def test_fit__the_same_seed_learns_the_same_bits() -> None:
    sets = _sets([0, 1, 2] * 4 + [-1] * 3, 1)
    one, same, other = (DeviceModel(np.arange(3)).fit(sets, seed=seed).to_arrays() for seed in (1, 1, 2))
    assert {name: array.tobytes() for name, array in one.items()} == {
        name: array.tobytes() for name, array in same.items()
    }
    assert any(one[name].tobytes() != other[name].tobytes() for name in one)


@pytest.mark.parametrize("unknowns", [0, 6])
@pytest.mark.parametrize("sets", [1, 8])
def test_fit__one_kind_alone(sets: int, unknowns: int, census: config.Census) -> None:
    model = DeviceModel(np.array([0])).fit(_sets([0] * sets + [-1] * unknowns, 1))
    answer = model.answer(_WORLD, _unions([[0], [10]], 2))
    assert answer.household.shape == (2, 1)
    assert np.isfinite(answer.household).all()
    assert answer.similarity[0, 0] > answer.similarity[1, 0]
    if not (sets == 1 and unknowns):  # of one set among unknown devices there is nothing to hold out
        assert _named(model, _unions([[0], [10]], 2), census, 0.0)[0] == [{0}, set()]


def test_fit__a_kind_with_a_single_set_is_named_like_the_others(census: config.Census) -> None:
    """No set of it can be held out; the classifiers are learned on other kinds."""
    kinds = [kind for kind in range(1, _LEARNED) for _ in range(8)] + [0] + [-1] * 8
    model = DeviceModel(np.arange(_LEARNED)).fit(_sets(kinds, 1))
    found, _ = _named(model, _unions([[0], [0, 2], [3], [0, 1, 4]], 2), census, 1.0)
    assert found == [{0}, {0, 2}, {3}, {0, 1, 4}]


def test_fit__a_kind_without_sets_is_never_found(census: config.Census) -> None:
    kinds = [kind for kind in (0, 1, 3, 4, 5) for _ in range(8)] + [-1] * 8
    model = DeviceModel(np.arange(_LEARNED)).fit(_sets(kinds, 1))
    groups = [[0], [2], [1, 4], [3, 5, 0]]
    found, statuses = _named(model, _unions(groups, 2), census, 1.0)
    assert found == [{0}, set(), {1, 4}, {0, 3, 5}]
    assert statuses[1] == "unknown"
    answer = model.answer(_WORLD, _unions(groups, 2))
    assert answer.household[:, 2].max() < 0.1
    assert answer.class_share.tolist() == np.ones((4, _LEARNED)).tolist()


def test_fit__the_class_of_unlisted_devices_is_an_unknown_device(census: config.Census) -> None:
    """Class 3 has no kind: its sets are learned from as unknown devices."""
    sets = _sets([0, 1, 2] * 8 + [7] * 8, 1)
    label = np.where(sets.label == 7, 3, sets.label)
    model = DeviceModel(np.array([0, 1, 2, -1])).fit(
        FlowSets(_WORLD, sets.flows, label, sets.recording, sets.concurrent)
    )
    found, _ = _named(model, _unions([[7], [1], [0, 2]], 2), census, 0.0)
    assert found == [set(), {1}, {0, 2}]
    assert model.answer(_WORLD, _unions([[7]], 2)).class_share.shape == (1, 4)


def test_answer__distinguishes_the_classes_of_a_kind() -> None:
    """Classes 0 and 1 are one kind: all flows of kind 0, and two more each, of kind 8 or 9."""
    random = np.random.default_rng(1)

    def sets_of(labels: list[int]) -> NDArray[np.int64]:
        flows_BD = _flows([0 if label < 2 else label for label in labels], random)
        for row, label in zip(flows_BD, labels, strict=True):
            if label < 2:
                row[[80 + 10 * label, 81 + 10 * label]] = 1
        return flows_BD

    labels = sorted([0, 1, 2, 3] * 8)
    number = len(labels)
    sets = FlowSets(_WORLD, csr_matrix(sets_of(labels)), np.array(labels), np.arange(number), _no_sessions(number))
    model = DeviceModel(np.array([0, 0, 1, 2])).fit(sets)
    answer = model.answer(_WORLD, csr_matrix(sets_of([0, 1, 2, 0, 1])))
    assert answer.class_share[[0, 1, 3, 4], :2].argmax(axis=1).tolist() == [0, 1, 0, 1]
    assert answer.class_share[[0, 1, 3, 4], :2].max(axis=1).min() > 0.8
    np.testing.assert_allclose(answer.class_share[:, :2].sum(axis=1), 1)
    np.testing.assert_allclose(answer.class_share[:, 2:], 1)  # the only class of its kind
    assert answer.household.shape == (5, 3)


def test_logits__counts_above_those_of_training_change_nothing(model: DeviceModel) -> None:
    flows = _unions([[0, 1]], 3)
    often = model.answer(_WORLD, vstack([flows * 10_000, flows * 1_000_000]).tocsr())
    assert often.household[0].tolist() == often.household[1].tolist()


def test_spans__are_of_the_flows_of_one_kind_alone() -> None:
    of_kind = np.array([[True, False], [False, True], [False, False], [True, False]])
    seen = FlowTimes(*(np.array(column) for column in zip(
        (0, 0, 5, 7), (0, 3, 2, 9), (0, 1, 4, 4), (0, 2, 1, 99), (2, 1, 8, 8), strict=True
    )))  # fmt: skip
    begins, ends = seen.spans(3, of_kind)
    assert begins.tolist() == [[2, 4], [0, 0], [0, 8]]
    assert ends.tolist() == [[9, 4], [-1, -1], [-1, 8]]


def test_answer__has_the_times_of_flows_of_one_kind_alone(model: DeviceModel) -> None:
    flows = _unions([[0], [1, 2], [10]], 8)
    set_N, flow_N = flows.nonzero()
    times = np.arange(len(set_N))
    answer = model.answer(_WORLD, flows, times=FlowTimes(set_N, flow_N, times, times + 100))
    assert ((answer.ends >= answer.begins) == (answer.flows[:, :-1] > 0)).all()
    for row in range(3):
        own, is_seen = times[set_N == row], answer.flows[row, :-1] > 0
        assert ((answer.begins[row] >= own.min()) & (answer.ends[row] <= own.max() + 100))[is_seen].all()
    without = model.answer(_WORLD, flows)
    assert (without.ends < without.begins).all()
