"""Leakage, ceiling and majority baseline on rows counted manually."""

from __future__ import annotations

import numpy as np
import pytest

from iotid.dataset import EncodedFlows
from iotid.evaluation import leakage


def _rows(*rows: tuple[int, int, int, int]) -> EncodedFlows:
    """Each row: length id, window id, label, flows."""
    length, window, label, num_flows = (np.array(column) for column in zip(*rows, strict=True))
    sequences = {"packet_length": length[:, None].astype(np.int32), "tcp_window": window[:, None].astype(np.int32)}
    return EncodedFlows(sequences, label.astype(np.int64), num_flows.astype(np.int64))


_TRAIN = _rows((2, 2, 0, 1), (3, 3, 1, 100))
_TEST = _rows(
    (2, 2, 0, 4),  # in training with its label
    (3, 3, 0, 3),  # in training under another label
    (3, 2, 1, 2),  # each value known, the pair not
    (2, 2, 1, 1),  # the sequence of the first row with another label
)


def test_leakage__counts_test_flows_with_a_duplicate_of_the_same_label() -> None:
    assert leakage.leakage(_TRAIN, _TEST) == pytest.approx(4 / 10)


def test_seen_in_training__counts_test_flows_with_a_duplicate_of_any_label() -> None:
    assert leakage.seen_in_training(_TRAIN, _TEST) == pytest.approx(8 / 10)


def test_ceiling__gives_each_sequence_the_label_of_most_of_its_test_flows() -> None:
    assert leakage.ceiling(_TEST) == pytest.approx((4 + 3 + 2) / 10)
    assert leakage.ceiling(_TRAIN) == 1


def test_ceiling__several_rows_of_one_sequence_and_label_are_added_before_the_vote() -> None:
    assert leakage.ceiling(_rows((2, 2, 0, 3), (2, 2, 0, 3), (2, 2, 1, 5))) == pytest.approx(6 / 11)


def test_ceiling__bounds_a_lookup_table_of_the_test_split() -> None:
    random = np.random.default_rng(1)
    rows = _rows(
        *zip(
            *(random.integers(2, 5, 300) for _ in range(2)),
            random.integers(0, 4, 300),
            random.integers(1, 9, 300),
            strict=True,
        )
    )
    best = 0
    for length in range(2, 5):
        for window in range(2, 5):
            here = (rows.sequences["packet_length"][:, 0] == length) & (rows.sequences["tcp_window"][:, 0] == window)
            best += max(rows.num_flows[here & (rows.label == label)].sum() for label in range(4))
    assert leakage.ceiling(rows) == pytest.approx(best / rows.num_flows.sum())


def test_majority_baseline__is_the_share_of_the_most_common_class() -> None:
    assert leakage.majority_baseline(_TEST) == pytest.approx(7 / 10)
