"""A permuted characteristic has no relation to its flow; everything else is unchanged."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from iotid.config import load_settings
from iotid.evaluation.ablation import permute_characteristic
from iotid.evaluation.scoring import score


def test_permute__exchanges_one_characteristic_between_flows_of_equal_length() -> None:
    random = np.random.default_rng(3)
    there = np.arange(6) < random.integers(1, 7, (4000, 1))
    sequences = {name: (random.integers(2, 9, (4000, 6)) * there).astype(np.int32) for name in ("a", "b")}
    before = {name: ids.copy() for name, ids in sequences.items()}
    flows = np.where(sequences["a"][:, 0] == 5, 9, 1)  # rows that begin with 5 stand for nine flows each
    hidden = permute_characteristic(sequences, "a", flows, seed=1)
    assert list(hidden) == ["a", "b"]
    np.testing.assert_array_equal(hidden["b"], before["b"])
    np.testing.assert_array_equal(sequences["a"], before["a"])
    np.testing.assert_array_equal(hidden["a"] != 0, there)
    assert (hidden["a"] != before["a"]).any(axis=1).mean() > 0.5
    share = (hidden["a"][:, 0] == 5).mean()
    assert share == pytest.approx((flows == 9) @ flows / flows.sum(), abs=0.03), "as often as there are flows"
    np.testing.assert_array_equal(permute_characteristic(sequences, "a", flows, seed=1)["a"], hidden["a"])
    assert (permute_characteristic(sequences, "a", flows, seed=2)["a"] != hidden["a"]).any()


def test_permute__only_flow_of_its_length_is_unchanged() -> None:
    sequences = {"a": np.array([[2, 0], [3, 4]], np.int32)}
    np.testing.assert_array_equal(permute_characteristic(sequences, "a", np.array([1, 1]), 1)["a"], sequences["a"])


def test_score__permuting_an_unused_characteristic_changes_nothing(small: Any, oracle: Any) -> None:
    settings = load_settings(
        overrides=["evaluation.baselines=[majority_sequence]", "evaluation.bootstrap=0"]
    ).evaluation
    report, _ = score(small.identity, small.encoding, small.train, small.test, {"ensemble": oracle}, settings)
    system = report["systems"]["ensemble"]
    whole = system["metrics"]["macro_f1"]["value"]
    assert system["hidden"]["tcp_window"] == {"macro_f1": whole, "f1": [row["f1"] for row in system["per_class"]]}
    assert system["hidden"]["packet_length"]["macro_f1"] < whole - 0.2
    assert report["systems"]["majority_sequence"]["hidden"] == {}
