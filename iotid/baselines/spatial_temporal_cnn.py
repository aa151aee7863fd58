"""A convolutional network on the traffic of an address in time windows; predicts the device kinds at the address.

After Ma, Qu, Li, Lui, Li and Guan, "Pinpointing Hidden IoT Devices via Spatial-Temporal Traffic Fingerprinting"
(INFOCOM 2020) and "Inferring Hidden IoT Devices and User Interactions via Spatial-Temporal Traffic Fingerprinting"
(ToN 2022). Only the abstracts of both were available, so this is a reconstruction of the idea and not of the recipe.
Known: traffic is fingerprinted over space and time, as seen by an Internet provider after network address translation;
the devices of each type at an address are counted; F1 is above 0.999 on the authors' captures, which are not public.

Chosen here: the axes of a fingerprint (space: direction and length of a packet, time:
its slot in the window), their bins, the length of a window, the layers and how they are trained. Epochs and learning
rate are those of four pairs that identify most single devices in one held-out fifth of aalto's captures. The network
is trained on synthetic households like those of the device model, in which all devices begin at the same time. It
predicts which kinds are present (one sigmoid each), but not the number of devices of a kind: that regression is left
out. Only the packets of a flow that FLOWS has are used (flow.max_packets).

Shape suffixes: N flows, P packets of all of them, B sets of flows or addresses, M members of households, W windows of
addresses, K kinds, X cells of the fingerprints of all windows of time, C cells of one window.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from iotid.arrow import one_chunk
from iotid.model.device.synthetic_households import Household, SamplingPool, flows_of_households

if TYPE_CHECKING:
    import torch
    from scipy.sparse import csr_matrix

WINDOW_S, SLOTS = 120, 24  # length of a window, and number of its slots
BIN_BYTES, BINS = 16, 96  # lengths up to 1,536 bytes; longer packets are in the last bin
_DIRECTIONS = 2
CELLS = _DIRECTIONS * BINS * SLOTS
_FILTERS, _HIDDEN, _DROPOUT = (16, 32), 128, 0.3
_SIZES, _UNKNOWN = range(1, 13), (0, 0, 0, 1, 2)  # numbers of kinds and of unknown devices in a synthetic household
_PER_KIND, _MOST = 100, 2000  # synthetic households
_LEARNED_WINDOWS, _READ_WINDOWS = 2, 32  # for each address, at most


def fingerprints(flows: pa.Table, start_us_N: NDArray[np.int64]) -> csr_matrix:
    """(N, X) number of packets of each flow by window, direction, length bin and slot.

    ``flows``: first_seen, packet_length, direction and inter_arrival_us of schemas.FLOWS; ``start_us_N``: µs since 1970
    UTC when the first window of the flow's device or address begins, not after ``first_seen``.
    """
    from scipy.sparse import coo_matrix

    lengths = one_chunk(flows["packet_length"])
    first_us_N: NDArray[np.int64] = pc.cast(flows["first_seen"], pa.int64()).to_numpy()
    packets_N = np.diff(lengths.offsets.to_numpy())
    flow_P = np.repeat(np.arange(len(packets_N)), packets_N)
    length_P, direction_P, gap_P = (
        one_chunk(flows[name]).flatten().to_numpy().astype(np.int64)
        for name in ("packet_length", "direction", "inter_arrival_us")
    )
    passed_P = np.cumsum(gap_P)
    begin_N = np.cumsum(packets_N) - packets_N
    time_P = (first_us_N - start_us_N)[flow_P] + passed_P - passed_P[begin_N[flow_P]]
    slot_P = np.maximum(time_P, 0) * SLOTS // (WINDOW_S * 1_000_000)
    bin_P = np.clip(length_P // BIN_BYTES, 0, BINS - 1)
    cell_P = ((direction_P < 0) * BINS + bin_P) * SLOTS + slot_P % SLOTS
    column_P = slot_P // SLOTS * CELLS + cell_P
    shape = (len(packets_N), (int(slot_P.max(initial=0)) // SLOTS + 1) * CELLS)
    return coo_matrix((np.ones(len(flow_P)), (flow_P, column_P)), shape=shape).tocsr()


class SpatialTemporalCnn:
    """Two convolutions on each window's fingerprint; the probability for an address is the greatest of its windows.

    The same seed gives the same results on the same machine with the same number of torch threads.
    """

    origin = (
        "convolutional network on spatial-temporal fingerprints of households (after Ma et al., INFOCOM 2020 and ToN "
        "2022; reconstruction)"
    )

    def __init__(
        self, kinds: int, seed: int, *, epochs: int = 40, batch_size: int = 64, learning_rate: float = 0.003
    ) -> None:
        self._kinds, self._seed, self._epochs = kinds, seed, epochs
        self._batch_size, self._learning_rate = batch_size, learning_rate

    def fit(
        self,
        flows_BN: csr_matrix,
        fingerprints_NX: csr_matrix,
        kind_B: NDArray[np.int64],
        recording_B: NDArray[np.int64],
    ) -> Self:
        """Fit to synthetic households of sets of flows.

        Args:
            flows_BN: which flows are in each set.
            fingerprints_NX: of the flows.
            kind_B: of each set, -1 for an unknown device.
            recording_B: of each set, as in `dataset.FlowSets`.
        """
        random = np.random.default_rng(self._seed)
        pool = SamplingPool(kind_B, recording_B, np.ones(len(kind_B), np.bool_))
        drawn = pool.draw(min(_PER_KIND * self._kinds, _MOST), _SIZES, _UNKNOWN, random) + pool.singles()
        members = [
            (number, Household([sets], [kind]))
            for number, household in enumerate(drawn)
            for sets, kind in zip(household.members, household.kinds, strict=True)
        ]
        flows_MN, _ = flows_of_households(flows_BN, [member for _, member in members], self._kinds, random)
        household_M = np.array([number for number, _ in members])
        kind_M = np.array([member.kinds[0] for _, member in members])
        windows_WC, _, present_WK = _windows(
            flows_MN @ fingerprints_NX, household_M, kind_M, self._kinds, _LEARNED_WINDOWS, random
        )
        self._train(windows_WC, present_WK, random)
        return self

    def probabilities(self, traffic_BX: csr_matrix) -> NDArray[np.float64]:
        """(B, K) probability of each kind at an address; ``traffic_BX``: sums of the fingerprints of all its flows."""
        import torch

        addresses = np.arange(traffic_BX.shape[0])
        no_kind = np.full(len(addresses), -1)
        windows_WC, address_W, _ = _windows(traffic_BX, addresses, no_kind, self._kinds, _READ_WINDOWS)
        found_BK = np.zeros((len(addresses), self._kinds))
        with torch.no_grad():
            for start in range(0, windows_WC.shape[0], 4 * self._batch_size):
                rows = slice(start, start + 4 * self._batch_size)
                predicted = self._network(_images(windows_WC[rows])).sigmoid().double().numpy()
                np.maximum.at(found_BK, address_W[rows], predicted)
        return found_BK

    def _train(self, windows_WC: csr_matrix, present_WK: NDArray[np.bool_], random: np.random.Generator) -> None:
        import torch
        from torch.nn.functional import binary_cross_entropy_with_logits

        target = torch.from_numpy(present_WK.astype(np.float32))
        with torch.random.fork_rng():  # weights and dropout do not change the state of the global generator
            torch.manual_seed(self._seed)
            self._network = _new_network(self._kinds).train()
            adam = torch.optim.Adam(self._network.parameters(), lr=self._learning_rate)
            for _ in range(self._epochs):
                order = random.permutation(len(present_WK))
                for start in range(0, len(order), self._batch_size):
                    rows = order[start : start + self._batch_size]
                    loss = binary_cross_entropy_with_logits(self._network(_images(windows_WC[rows])), target[rows])
                    adam.zero_grad()
                    loss.backward()
                    adam.step()
        self._network.eval()


def _windows(
    traffic_MX: csr_matrix,
    address_M: NDArray[np.int64],
    kind_M: NDArray[np.int64],
    kinds: int,
    most: int,
    random: np.random.Generator | None = None,
) -> tuple[csr_matrix, NDArray[np.int64], NDArray[np.bool_]]:
    """Non-empty windows (W, C) of addresses, their addresses (W,), and the kinds in them (W, K).

    At most ``most`` for each address: drawn by ``random``, or without it evenly spaced over time.
    """
    from scipy.sparse import coo_matrix

    entries = traffic_MX.tocoo()
    times = traffic_MX.shape[1] // CELLS
    key_E = address_M[entries.row] * times + entries.col // CELLS
    key_W, window_E = np.unique(key_E, return_inverse=True)
    shape = (len(key_W), CELLS)
    windows_WC = coo_matrix((entries.data, (window_E, entries.col % CELLS)), shape=shape).tocsr()
    present_WK = np.zeros((len(key_W), kinds), np.bool_)
    is_kind_E = kind_M[entries.row] >= 0
    present_WK[window_E[is_kind_E], kind_M[entries.row[is_kind_E]]] = True
    address_W = key_W // times
    order = np.arange(len(key_W)) if random is None else np.lexsort((random.random(len(key_W)), address_W))
    number_W = np.bincount(address_W)[address_W]
    rank_W = np.arange(len(key_W)) - np.searchsorted(address_W, address_W)
    # of n windows those where floor(rank * most / n) increases: ``most`` of them, evenly spaced
    is_used_W = (rank_W * most // number_W != (rank_W - 1) * most // number_W) | (number_W <= most)
    used = np.sort(order[is_used_W])
    return windows_WC[used], address_W[used], present_WK[used]


def _images(windows_WC: csr_matrix) -> torch.Tensor:
    """(W, direction, bin, slot) log(1 + number of packets)."""
    import torch

    return torch.from_numpy(np.log1p(windows_WC.toarray()).astype(np.float32)).reshape(-1, _DIRECTIONS, BINS, SLOTS)


def _new_network(kinds: int) -> torch.nn.Module:
    from torch import nn

    return nn.Sequential(
        nn.Conv2d(_DIRECTIONS, _FILTERS[0], (8, 3), stride=(4, 1), padding=(2, 1)), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(*_FILTERS, 3, padding=1), nn.ReLU(), nn.MaxPool2d((2, 3)),
        nn.Flatten(),
        nn.Linear(_FILTERS[1] * (BINS // 16) * (SLOTS // 6), _HIDDEN), nn.ReLU(), nn.Dropout(_DROPOUT),
        nn.Linear(_HIDDEN, kinds),
    )  # fmt: skip
