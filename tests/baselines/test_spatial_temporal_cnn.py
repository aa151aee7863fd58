"""The network on fingerprints of traffic in windows of time: where packets go, and that it learns."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from scipy.sparse import csr_matrix, vstack

from iotid.baselines.spatial_temporal_cnn import (
    BIN_BYTES,
    BINS,
    CELLS,
    SLOTS,
    WINDOW_S,
    SpatialTemporalCnn,
    fingerprints,
)  # fmt: skip

_SECOND = 1_000_000


def _flows(*rows: tuple[int, list[int], list[int], list[int]]) -> pa.Table:
    """First packet in seconds, lengths, directions, and seconds since the packet before."""
    first, lengths, directions, gaps = zip(*rows, strict=True)
    types: dict[str, Any] = {"first_seen": pa.timestamp("us", "UTC"), "inter_arrival_us": pa.list_(pa.int64())}
    columns = {
        "first_seen": [_SECOND * each for each in first],
        "packet_length": lengths,
        "direction": directions,
        "inter_arrival_us": [[_SECOND * gap for gap in each] for each in gaps],
    }
    return pa.table({name: pa.array(values, types.get(name, pa.list_(pa.int32()))) for name, values in columns.items()})


def _cell(window: int, direction: int, length_bin: int, slot: int) -> int:
    return window * CELLS + ((direction < 0) * BINS + length_bin) * SLOTS + slot


def test_fingerprints__each_packet_is_in_its_window_direction_bin_and_slot() -> None:
    flows = _flows(
        (1010, [40, 1500, 9000], [1, -1, -1], [0, 5, WINDOW_S]),
        (1000, [], [], []),
        (1000, [40, 47], [1, 1], [0, 4]),
    )
    found = fingerprints(flows, np.full(3, 1000 * _SECOND))
    assert found.shape == (3, 2 * CELLS)
    low, high = 40 // BIN_BYTES, 1500 // BIN_BYTES
    expected = {(0, _cell(0, 1, low, 2)): 1, (0, _cell(0, -1, high, 3)): 1, (0, _cell(1, -1, BINS - 1, 3)): 1}
    expected[2, _cell(0, 1, low, 0)] = 2
    entries = found.tocoo()
    assert dict(zip(zip(entries.row, entries.col, strict=True), entries.data, strict=True)) == expected


def test_fingerprints__a_slice_of_a_table_is_read_from_its_own_first_flow() -> None:
    flows = _flows((0, [40, 41], [1, 1], [0, 7]), (20, [600], [-1], [0]), (30, [40], [1], [0]))
    start = np.array([20, 20]) * _SECOND
    found, alone = fingerprints(flows.slice(1), start), fingerprints(flows.take([1, 2]), start)
    assert (found != alone).nnz == 0


def _set(kind: int, window: int = 0) -> csr_matrix:
    """The fingerprint of a flow: kinds differ in the length of their packets."""
    cells = np.zeros((1, 3 * CELLS))
    cells[0, [_cell(window, 1, 10 + 20 * kind, slot) for slot in (1, 2, 9)]] = 1
    return csr_matrix(cells)


def _learned(seed: int = 3) -> SpatialTemporalCnn:
    kind_B = np.repeat([0, 1, 2], 4)
    flows = vstack([_set(kind) for kind in kind_B.tolist()]).tocsr()
    identity = csr_matrix(np.eye(len(kind_B), dtype=np.int64))
    return SpatialTemporalCnn(3, seed, epochs=30).fit(identity, flows, kind_B, np.arange(len(kind_B)))


def test_fit__finds_the_kinds_of_households_in_any_of_their_windows() -> None:
    cnn = _learned()
    asked = vstack([_set(0), _set(0) + _set(2), _set(0) + _set(1, window=2), csr_matrix((1, 3 * CELLS))]).tocsr()
    found = cnn.probabilities(asked)
    assert (found >= 0.5).tolist() == [
        [True, False, False],
        [True, False, True],
        [True, True, False],
        [False, False, False],
    ]
    assert not found[3].any()  # nothing was sent


def test_fit__same_seed_gives_same_results_and_leaves_the_common_generator_unchanged() -> None:
    asked = vstack([_set(0), _set(1)]).tocsr()
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    one, other = _learned().probabilities(asked), _learned().probabilities(asked)
    assert torch.equal(torch.random.get_rng_state(), before)
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("windows", [1, 32, 33, 80])
def test_probabilities__of_many_windows_some_are_read_of_all_the_time(windows: int) -> None:
    from iotid.baselines.spatial_temporal_cnn import _READ_WINDOWS, _windows

    cells = csr_matrix((np.ones(windows), (np.zeros(windows, np.int64), np.arange(windows) * CELLS + 5)))
    cells.resize((1, windows * CELLS))
    kept, address, _ = _windows(cells, np.zeros(1, np.int64), np.array([-1]), 2, _READ_WINDOWS)
    assert kept.shape == (min(windows, _READ_WINDOWS), CELLS)
    assert (address == 0).all()
