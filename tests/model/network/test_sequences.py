"""Flows as batches, against reference implementations in NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from iotid.model.network.sequences import (
    batches_by_length,
    distinct_sequences,
    filled_batches,
    step_counts,
    tensors_of,
)


def _sequences(rows: int, seed: int = 0, values: int = 4) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    there = np.arange(6) < random.integers(1, 7, (rows, 1))
    return {name: (random.integers(1, values, (rows, 6)) * there).astype(np.int32) for name in ("a", "b")}


@pytest.mark.parametrize(("rows", "values"), [(0, 4), (1, 4), (500, 2), (500, 50)])
def test_distinct_sequences__gives_the_same_groups_as_np_unique(rows: int, values: int) -> None:
    sequences = _sequences(rows, values=values)
    distinct, which_N = distinct_sequences(sequences)
    joined = np.concatenate(list(sequences.values()), axis=1)
    assert len(distinct["a"]) == len(distinct["b"]) == len(np.unique(joined, axis=0))
    for name, ids_NM in sequences.items():
        np.testing.assert_array_equal(distinct[name][which_N], ids_NM)


@pytest.mark.parametrize("max_packets", [1, 7, 40, 10_000])
def test_batches_by_length__every_row_once_in_batches_that_fit(max_packets: int) -> None:
    counts_N = np.random.default_rng(1).integers(0, 33, 300)
    batches = list(batches_by_length(counts_N, max_packets))
    assert sorted(np.concatenate(batches).tolist()) == list(range(300))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * counts_N[batch].max() <= max_packets
    longest = [counts_N[batch].max() for batch in batches]
    assert longest == sorted(longest)


def test_batches_by_length__no_rows_no_batches() -> None:
    assert list(batches_by_length(np.zeros(0, np.int64), 100)) == []


@pytest.mark.parametrize("multiple", [1, 4, 16])
@pytest.mark.parametrize("max_packets", [1, 40, 300, 10_000])
@pytest.mark.parametrize("rows", [0, 1, 300])
def test_filled_batches__each_length_is_a_multiple_and_no_row_is_missing(
    rows: int, max_packets: int, multiple: int
) -> None:
    counts_N = np.random.default_rng(1).integers(0, 33, rows)
    batches = list(filled_batches(counts_N, max_packets, multiple))
    assert sorted({row for batch in batches for row in batch.tolist()}) == list(range(rows))
    for batch in batches:
        lengths = np.maximum(counts_N[batch], 1)  # no packet is read as one
        assert (np.bincount(lengths) % multiple == 0).all()
        assert len(batch) == multiple or len(batch) * lengths.max() <= max_packets
    filled = sum(map(len, batches)) - rows
    assert filled < multiple * len(np.unique(np.maximum(counts_N, 1))) + (rows == 0)


def test_tensors_of__cuts_after_the_longest_flow_of_the_batch() -> None:
    sequences = _sequences(50)
    counts_N = step_counts(sequences, "ignored")
    rows = np.flatnonzero(counts_N <= 3)
    tensors = tensors_of(sequences, rows, counts_N)
    for name, ids_NM in sequences.items():
        assert tensors[name].shape == (len(rows), 3)
        np.testing.assert_array_equal(tensors[name].numpy(), ids_NM[rows, :3])


def test_step_counts__zeros_are_read_as_far_as_they_go() -> None:
    sequences = _sequences(20)
    width = next(iter(sequences.values())).shape[1]
    assert set(step_counts(sequences, "zeros")) == {width}
    assert step_counts(sequences, "ignored").max() <= width
    assert len(set(step_counts(sequences, "ignored"))) > 1
