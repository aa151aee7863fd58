"""The network's answers by sequence: those of a bundle, and those used last."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from iotid.dataset import EncodedFlows
from iotid.model.network.kept_answers import KeptAnswers, RecentAnswers, keys_of, most_frequent


def _sequences(rows: int, seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {name: random.integers(0, 9, (rows, 3)).astype(np.int32) for name in ("b", "a")}


def _answers(rows: int, classes: int = 4) -> np.ndarray:
    found = np.random.default_rng(1).random((rows, classes)).astype(np.float32)
    return found / found.sum(axis=1, keepdims=True)


def _find(recent: RecentAnswers, keys: np.ndarray, classes: int = 4) -> list[int]:
    """The rows that are kept; each must be as it was added."""
    out = np.zeros((len(keys), classes), np.float32)
    found = np.flatnonzero(recent.find(keys, out))
    np.testing.assert_array_equal(out[found], _answers(len(keys), classes)[found])
    return found.tolist()


def test_keys_of__are_those_of_every_version_and_machine() -> None:
    ids = {"a": np.array([[1, 2, 0]], np.int32), "b": np.array([[3, 4, 0]], np.int32)}
    expected = [[12427915458240906956, 7660433487417582473]]  # BLAKE2b of the six ids as little-endian int32
    assert keys_of(ids).tolist() == expected
    other_order = {"b": np.asfortranarray(ids["b"]), "a": ids["a"]}
    assert keys_of(other_order).tolist() == expected


def test_keys_of__differ_wherever_rows_do() -> None:
    sequences = _sequences(3000)
    joined = np.concatenate([sequences["a"], sequences["b"]], axis=1)
    assert len(np.unique(keys_of(sequences), axis=0)) == len(np.unique(joined, axis=0))
    assert keys_of(_sequences(0)).shape == (0, 2)


def test_kept_answers__are_found_by_both_halves_of_the_key() -> None:
    keys, answers = keys_of(_sequences(50)), _answers(50)
    kept = KeptAnswers.of(keys, answers)
    np.testing.assert_array_equal(kept.probabilities[kept.find(keys)], answers)
    assert kept.find(keys ^ np.array([0, 1], np.uint64)).tolist() == [-1] * 50
    assert kept.find(keys ^ np.array([1, 0], np.uint64)).tolist() == [-1] * 50
    again = KeptAnswers.from_arrays(kept.to_arrays())
    np.testing.assert_array_equal(again.keys, kept.keys)
    np.testing.assert_array_equal(again.probabilities, kept.probabilities)


def test_kept_answers__of_two_keys_with_one_first_half_one_is_kept() -> None:
    keys = np.array([[7, 1], [5, 3], [7, 2]], np.uint64)
    assert KeptAnswers.of(keys, _answers(3)).find(keys).tolist() == [1, 0, -1]


def test_kept_answers__none_are_found_among_none() -> None:
    kept = KeptAnswers.of(np.zeros((0, 2), np.uint64), np.zeros((0, 4), np.float32))
    assert kept.find(keys_of(_sequences(3))).tolist() == [-1] * 3


@pytest.mark.parametrize(("max_bytes", "rows"), [(0, 0), (31, 0), (2 * 32, 2), (1000, 3)])
def test_most_frequent__counts_flows_over_labels_up_to_a_number_of_bytes(max_bytes: int, rows: int) -> None:
    ids = np.array([[1, 0], [2, 0], [3, 0], [1, 0]], np.int32)
    flows = EncodedFlows({"a": ids, "b": ids}, np.array([0, 0, 1, 1]), np.array([4, 6, 1, 3]))
    found = most_frequent(flows, 4, max_bytes)  # a key and four probabilities are 32 bytes
    assert found["a"][:, 0].tolist() == found["b"][:, 0].tolist() == [1, 2, 3][:rows]


def test_recent_answers__the_least_recently_used_go_first() -> None:
    keys, answers = keys_of(_sequences(5)), _answers(5)
    recent = RecentAnswers(4, 3 * (16 + 200))
    assert recent.capacity == 3
    recent.add(keys[:3], answers[:3])
    assert _find(recent, keys) == [0, 1, 2]
    assert recent.find(keys[:1], np.zeros((1, 4), np.float32)).all()
    recent.add(keys[3:], answers[3:])
    assert _find(recent, keys) == [0, 3, 4]
    recent.add(keys[:1], answers[:1])
    recent.add(keys, answers)
    assert _find(recent, keys) == [2, 3, 4]
    assert len(recent) == 3


def test_recent_answers__without_room_keep_nothing() -> None:
    recent = RecentAnswers(4, 0)
    recent.add(keys_of(_sequences(5)), _answers(5))
    assert _find(recent, keys_of(_sequences(5))) == []


def test_recent_answers__are_the_same_from_many_threads() -> None:
    keys, answers = keys_of(_sequences(300)), _answers(300)
    recent = RecentAnswers(4, 100 * (16 + 200))

    def use(seed: int) -> None:
        rows = np.random.default_rng(seed).permutation(300)[:40]
        out = np.zeros((40, 4), np.float32)
        found = recent.find(keys[rows], out)
        np.testing.assert_array_equal(out[found], answers[rows[found]])
        recent.add(keys[rows[~found]], answers[rows[~found]])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(use, range(200)))
    assert len(recent) == 100
    assert len(_find(recent, keys)) == 100


def test_recent_answers__a_pickle_has_the_bound_and_no_answers() -> None:
    recent = RecentAnswers(4, 1000)
    recent.add(keys_of(_sequences(2)), _answers(2))
    restored = pickle.loads(pickle.dumps(recent))
    assert (restored.capacity, len(restored)) == (recent.capacity, 0)
