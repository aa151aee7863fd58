"""What the benchmark of households counts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from iotid.dataset import Sets


@pytest.fixture
def bench(module_at: Callable[[Path], ModuleType]) -> ModuleType:
    return module_at(Path(__file__).parent / "bench" / "households.py")


def _said(bench: ModuleType, found: list[list[int]], unknown: list[int], undecided: list[int]) -> object:
    found_BK = np.array(found, np.bool_)
    return bench.Said(found_BK.astype(float), found_BK, np.array(unknown, np.bool_), np.array(undecided, np.bool_))


def test_of_merges__counts_kinds_over_all_merges(bench: ModuleType) -> None:
    there_BK = np.array([[1, 1, 0], [0, 0, 1], [0, 1, 0], [1, 0, 0]], np.bool_)
    said = _said(bench, [[1, 1, 0], [0, 1, 1], [0, 0, 0], [1, 0, 0]], [0, 1, 1, 0], [0, 0, 0, 0])
    scores = bench.of_merges(there_BK, np.array([False, False, True, True]), said)
    assert scores == {
        "exact": 2 / 4,
        "precision": 4 / 5,
        "recall": 4 / 5,
        "f1": 8 / 10,
        "false_unknown": 1 / 2,
        "missed_unknown": 1 / 2,
        "calibration": pytest.approx(1 / 5),  # five were said for sure, four of them are there
    }


def test_of_merges__what_cannot_be_counted_is_none(bench: ModuleType) -> None:
    scores = bench.of_merges(np.ones((2, 1), np.bool_), np.ones(2, np.bool_), _said(bench, [[0], [0]], [1, 1], [0, 0]))
    assert scores["precision"] is scores["false_unknown"] is scores["calibration"] is None
    assert (scores["recall"], scores["missed_unknown"]) == (0.0, 0.0)


def test_of_single__each_set_is_one_of_four(bench: ModuleType) -> None:
    kind_B = np.array([0, 0, 0, 1, -1, -1, -1, -1])
    found = [[1, 0], [1, 1], [0, 1], [0, 0], [1, 0], [0, 0], [0, 0], [0, 0]]
    said = _said(bench, found, [0, 0, 0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 0, 0, 0, 0])
    assert bench.of_single(kind_B, said) == {"right": 1 / 8, "wrong": 3 / 8, "undecided": 1 / 8, "unknown": 3 / 8}


def test_calibration_error__weighs_bins_by_their_numbers(bench: ModuleType) -> None:
    probability = np.array([0.1, 0.45, 0.45, 0.9, 0.9, 0.9, 1.0])  # the first is too low to be asked
    is_so = np.array([True, True, False, True, True, False, True])
    assert bench.calibration_error(probability, is_so) == pytest.approx((0.1 + 0.7) / 6)


def test_merged__holds_what_each_sort_asks_for(bench: ModuleType) -> None:
    sets = Sets.of({"length": np.arange(4, dtype=np.int32)[:, np.newaxis]}, np.arange(4), *np.array([[0] * 4, [5] * 4]))
    what = np.array([bench.HELD_BACK, bench.HELD_BACK, bench.ELSEWHERE, bench.HOST])
    asked = bench.Asked(sets, what, np.array([0, 2, -1, -1]), np.arange(4))
    random = np.random.default_rng(0)
    merged = asked.merged(bench.Sort(2, never=1), 3, 3, random)
    assert isinstance(merged.flows, csr_matrix)
    assert merged.flows.toarray().tolist() == [[5, 5, 5, 0]] * 3
    assert merged.there.tolist() == [[True, False, True]] * 3
    assert merged.unknown.all()
    assert asked.merged(bench.Sort(2, hosts=True), 1, 3, random).flows.toarray().tolist() == [[5, 5, 0, 5]]
    assert not asked.merged(bench.Sort(1), 1, 3, random).unknown.any()
    assert asked.merged(bench.Sort(3), 1, 3, random) is None
