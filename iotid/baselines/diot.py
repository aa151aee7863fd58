"""DIoT (Nguyen et al., ICDCS 2019): a recurrent network for each kind predicts a device's next packet.

Shape suffixes: N flows, P packets, U captures of a device, C classes, V symbols, W windows, T packets of a window,
M members (a kind at a site), B windows of a batch, H hidden units.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from iotid.baselines.device_flows import DeviceFlows, shares
from iotid.dataset.arrays import list_positions

if TYPE_CHECKING:
    import torch


WINDOW = 20  # packets, as published
LAYERS, HIDDEN = 1, 64  # published: 3 layers of 128 units
STEPS, ROUNDS, BATCH, LEARNING_RATE = 400, 5, 16, 0.01
"""Steps of training in total and rounds of averaging; windows of each kind and site in a step."""
LENGTHS = 8
"""Most frequent packet lengths of each kind that are distinguished, as published."""
SYMBOLS = 256
READ_WINDOWS = 50
"""Windows of a capture that are scored, at most."""

_WAITS_US = (1, 50)  # bounds of the three bins of inter-arrival times: 0.001 and 0.05 ms, as published
_FIRST_USER_PORT, _FIRST_DYNAMIC_PORT = 1024, 49_152  # IANA: system, user and dynamic ports
_OTHER, _START = 0, 1  # symbols: not in training; before a capture's first packet
_SCORED = 32  # windows at a time: all kinds' probabilities of 32 windows take 35 MB for 27 kinds
_READ = 1024  # windows at a time, of one kind
_COLUMNS = ("packet_length", "tcp_flags")
_SPAN = 1 << 24  # above all features of a symbol

Weights = dict[str, "torch.Tensor"]


class Diot:
    """Each kind's network learns to predict the next symbol; the kind with the highest mean probability is the answer.

    As published: a packet is a symbol of seven features (direction, types of the local and of the remote port, packet
    length, TCP flags, protocol, inter-arrival time); a GRU for each kind, given up to 20 packets before; the mean
    probability of the packets that came; learning at each site, and federated averaging of the sites' weights.

    Changed: 1 layer of 64 units for 3 of 128, and all kinds trained as one batch (training takes a second of CPU
    for each kind); a window is predicted from its first packet on, given the packet before it; the alphabet is one for
    all kinds (the eight lengths that are most frequent in each, and at most 254 symbols), so that probabilities of
    kinds compare.
    Reconstructed: the paper detects intrusions with these networks, and identifies kinds by another system (AuDI);
    here the highest mean probability identifies. Only the first packets of each flow are there.

    The same seed gives the same results on the same machine with the same number of torch threads.
    """

    origin = (
        "DIoT, one GRU for each kind, highest mean probability of the next packet (Nguyen et al., ICDCS 2019; smaller "
        "networks, identification is a reconstruction)"
    )

    def __init__(self, seed: int, *, steps: int = STEPS) -> None:
        self._seed, self._steps = seed, steps

    def fit(self, captures: DeviceFlows, label_U: NDArray[np.int64], num_classes: int) -> Self:
        self._prior_C = shares(label_U, num_classes)
        feature_P, unit_P = _features(captures)
        self._lengths = _frequent_lengths(feature_P[:, 0], label_U[unit_P], num_classes)
        keys, counts = np.unique(self._keys(feature_P), return_counts=True)
        self._known = np.sort(keys[np.lexsort((keys, -counts))[: SYMBOLS - 2]])
        windows_WT, unit_W = _windows(self._symbols(feature_P), unit_P)
        site_U = _sites(captures)
        member_W = label_U[unit_W] * (int(site_U.max(initial=0)) + 1) + site_U[unit_W]
        members, member_W = np.unique(member_W, return_inverse=True)
        kind_M = members // (int(site_U.max(initial=0)) + 1)
        self._weights, self._kinds = _train(windows_WT, member_W, kind_M, len(self._known) + 2, self._seed, self._steps)
        return self

    def probabilities(self, captures: DeviceFlows) -> NDArray[np.float64]:
        import torch

        feature_P, unit_P = _features(captures)
        windows_WT, unit_W = _windows(self._symbols(feature_P), unit_P)
        read_W = _evenly(unit_W, READ_WINDOWS)
        windows_WT, unit_W = windows_WT[read_W], unit_W[read_W]
        sum_UC, packets_U = np.zeros((captures.units, len(self._prior_C))), np.zeros(captures.units)
        with torch.no_grad():
            for start in range(0, len(windows_WT), _SCORED):
                some = slice(start, start + _SCORED)
                same_MBT = torch.from_numpy(windows_WT[some]).expand(len(self._kinds), -1, -1)
                found_MBT, shown_MBT = _log_likelihood(self._weights, same_MBT)
                sum_BM = (found_MBT.exp() * shown_MBT).sum(dim=2).double().numpy().T
                scores_BC = np.zeros((len(sum_BM), len(self._prior_C)))
                scores_BC[:, self._kinds] = sum_BM
                np.add.at(sum_UC, unit_W[some], scores_BC)
                np.add.at(packets_U, unit_W[some], shown_MBT[0].sum(dim=1).numpy())
        whole_U1 = sum_UC.sum(axis=1, keepdims=True)
        return np.where(whole_U1 > 0, sum_UC / np.where(whole_U1 > 0, whole_U1, 1), self._prior_C)

    def own_probabilities(
        self, captures: DeviceFlows, label_U: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """((P,) probability of each packet by the network of its capture's kind, ``label_U``, by capture and time; (P,)
        capture). By these the paper detects intrusions. Captures of kinds that are not in training are left out."""
        import torch

        feature_P, unit_P = _features(captures)
        windows_WT, unit_W = _windows(self._symbols(feature_P), unit_P)
        found_WT = np.zeros(windows_WT[:, 1:].shape)
        shown_WT = (windows_WT[:, 1:] >= 0) & np.isin(label_U[unit_W], self._kinds)[:, np.newaxis]
        with torch.no_grad():
            for number, kind in enumerate(self._kinds.tolist()):
                weights = {name: weight[number : number + 1] for name, weight in self._weights.items()}
                of_kind = np.flatnonzero(label_U[unit_W] == kind)
                for start in range(0, len(of_kind), _READ):
                    some = of_kind[start : start + _READ]
                    log_1BT, _ = _log_likelihood(weights, torch.from_numpy(windows_WT[some][np.newaxis]))
                    found_WT[some] = log_1BT[0].exp().numpy()
        unit_WT = np.broadcast_to(unit_W[:, np.newaxis], shown_WT.shape)
        return found_WT[shown_WT], unit_WT[shown_WT]

    def _keys(self, feature_P: NDArray[np.int64]) -> NDArray[np.int64]:
        """(P,) a number for each combination of features."""
        index_P = np.minimum(np.searchsorted(self._lengths, feature_P[:, 0]), len(self._lengths) - 1)
        length_P = np.where(self._lengths[index_P] == feature_P[:, 0], index_P + 1, 0)
        return length_P * _SPAN + feature_P[:, 1]

    def _symbols(self, feature_P: NDArray[np.int64]) -> NDArray[np.int64]:
        key_P = self._keys(feature_P)
        index_P = np.minimum(np.searchsorted(self._known, key_P), len(self._known) - 1)
        return np.where(self._known[index_P] == key_P, index_P + _START + 1, _OTHER)


def _features(captures: DeviceFlows) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """((P, 2) packet length, and the other six features as one number; (P,) capture), in the order of time."""
    packets = captures.packets(_COLUMNS)
    flow_P = packets["flow"]
    client_N, server_N = (_port_type(captures.column(f"{end}_port")) for end in ("client", "server"))
    local_N, remote_N = (
        np.where(captures.is_client, mine, other) for mine, other in ((client_N, server_N), (server_N, client_N))
    )
    protocol_N = np.clip(captures.column("protocol").astype(np.int64), 0, 255)
    unit_P = captures.unit[flow_P]
    wait_P = np.diff(packets["time_us"], prepend=0)
    wait_P[np.flatnonzero(np.diff(unit_P, prepend=-1))] = _WAITS_US[-1]  # nothing came before
    rest_P = packets["sent"]
    for value_P, size in (
        (local_N[flow_P], 3),
        (remote_N[flow_P], 3),
        (np.searchsorted(_WAITS_US, wait_P, side="right"), 3),
        (packets["tcp_flags"] & 255, 256),
        (protocol_N[flow_P], 256),
    ):
        rest_P = rest_P * size + value_P
    return np.stack([packets["packet_length"], rest_P], axis=1), unit_P


def _port_type(port_N: NDArray[np.int32]) -> NDArray[np.int64]:
    return np.searchsorted((_FIRST_USER_PORT, _FIRST_DYNAMIC_PORT), port_N, side="right")


def _frequent_lengths(length_P: NDArray[np.int64], label_P: NDArray[np.int64], num_classes: int) -> NDArray[np.int64]:
    """The LENGTHS most frequent lengths of each kind, together and sorted."""
    found = [np.zeros(1, np.int64)]
    for label in range(num_classes):
        lengths, counts = np.unique(length_P[label_P == label], return_counts=True)
        found.append(lengths[np.lexsort((lengths, -counts))[:LENGTHS]])
    return np.unique(np.concatenate(found))


def _windows(symbol_P: NDArray[np.int64], unit_P: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """((W, WINDOW + 1) the packets of each window after the one before it, -1 after a capture's end; (W,) capture)."""
    begins = np.flatnonzero(np.diff(unit_P, prepend=-1))
    lengths = np.diff(begins, append=len(unit_P))
    position_P = list_positions(lengths)
    window_P = np.cumsum(position_P % WINDOW == 0) - 1
    windows_WT = np.full((int(window_P[-1]) + 1 if len(window_P) else 0, WINDOW + 1), -1)
    windows_WT[window_P, position_P % WINDOW + 1] = symbol_P
    first = np.flatnonzero(position_P % WINDOW == 0)
    windows_WT[:, 0] = np.where(position_P[first] == 0, _START, symbol_P[first - 1])
    return windows_WT, unit_P[first]


def _evenly(unit_W: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """At most ``most`` windows of each capture, evenly spaced; ``unit_W`` is sorted."""
    number_W = np.bincount(unit_W)[unit_W] if len(unit_W) else unit_W
    rank_W = np.arange(len(unit_W)) - np.searchsorted(unit_W, unit_W)
    return np.flatnonzero((number_W <= most) | (rank_W * most // number_W != (rank_W - 1) * most // number_W))


def _sites(captures: DeviceFlows) -> NDArray[np.int64]:
    """(U,) number of the site of each capture; all 0 if flows have no column ``site``."""
    site_U = np.zeros(captures.units, np.int64)
    if "site" in captures.flows.column_names:
        names = np.asarray(captures.flows["site"].to_pylist())
        site_U[captures.unit] = np.unique(names, return_inverse=True)[1]
    return site_U


def _train(
    windows_WT: NDArray[np.int64],
    member_W: NDArray[np.int64],
    kind_M: NDArray[np.int64],
    symbols: int,
    seed: int,
    steps: int,
) -> tuple[Weights, NDArray[np.int64]]:
    """Weights of each kind, and the kinds, sorted; members of a kind are averaged after each round, by packets."""
    import torch

    random = np.random.default_rng(seed)
    kinds, kind_M = np.unique(kind_M, return_inverse=True)
    packets_M = np.bincount(member_W, (windows_WT[:, 1:] >= 0).sum(axis=1), len(kind_M))
    share_M = torch.from_numpy(packets_M / np.bincount(kind_M, packets_M)[kind_M]).float()
    own = [np.flatnonzero(member_W == member) for member in range(len(kind_M))]
    weights = {
        name: start.repeat(len(kind_M), 1, 1).requires_grad_() for name, start in _new_weights(symbols, seed).items()
    }
    adam = torch.optim.Adam(weights.values(), lr=LEARNING_RATE, fused=True)
    per_round = max(steps // ROUNDS, 1)
    averaged: Weights = {}
    for step in range(1, steps + 1):
        drawn_MB = np.stack([random.choice(each, BATCH) for each in own])
        found_MBT, shown_MBT = _log_likelihood(weights, torch.from_numpy(windows_WT[drawn_MB]))
        loss = -((found_MBT * shown_MBT).sum(dim=(1, 2)) / shown_MBT.sum(dim=(1, 2))).sum()  # members are independent
        adam.zero_grad()
        loss.backward()
        adam.step()
        if step % per_round == 0 or step == steps:
            with torch.no_grad():
                for name, weight in weights.items():
                    sums = torch.zeros(len(kinds), *weight.shape[1:])
                    sums.index_add_(0, torch.from_numpy(kind_M), weight * share_M[:, None, None])
                    averaged[name] = sums
                    weight.copy_(sums[torch.from_numpy(kind_M)])
    return averaged, kinds


def _new_weights(symbols: int, seed: int) -> Weights:
    """Of one GRU and its output layer, uniform in ± 1 / sqrt(H) as torch's own; all members begin with the same."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    shapes = {"output": (HIDDEN, symbols), "output_bias": (1, symbols)}
    for layer in range(LAYERS):
        shapes[f"input_{layer}"] = (HIDDEN if layer else symbols, 3 * HIDDEN)
        shapes[f"recurrent_{layer}"] = (HIDDEN, 3 * HIDDEN)
        shapes[f"bias_{layer}"] = (2, 3 * HIDDEN)
    bound = HIDDEN**-0.5
    return {name: (torch.rand(shape, generator=generator) * 2 - 1) * bound for name, shape in shapes.items()}


def _log_likelihood(weights: Weights, windows_MBT: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """((M, B, T) log probability of each packet after the first, given those before; (M, B, T) 1 where one is)."""
    import torch

    given_MBT, next_MBT = windows_MBT[..., :-1].clamp(min=0), windows_MBT[..., 1:]
    M, B, T = given_MBT.shape
    table_MVG = weights["input_0"]
    offset_M11 = torch.arange(M).reshape(-1, 1, 1) * table_MVG.shape[1]
    gates_MBTG = table_MVG.flatten(0, 1)[given_MBT + offset_M11]  # a one-hot vector times a matrix is one of its rows
    hidden_MBTH = _gru(gates_MBTG, weights["recurrent_0"], weights["bias_0"])
    for layer in range(1, LAYERS):
        gates_MBTG = torch.bmm(hidden_MBTH.flatten(1, 2), weights[f"input_{layer}"]).unflatten(1, (B, T))
        hidden_MBTH = _gru(gates_MBTG, weights[f"recurrent_{layer}"], weights[f"bias_{layer}"])
    logits_MPV = torch.baddbmm(weights["output_bias"], hidden_MBTH.flatten(1, 2), weights["output"])
    chosen_MP1 = logits_MPV.gather(2, next_MBT.clamp(min=0).reshape(M, B * T, 1))
    found_MBT = (chosen_MP1 - logits_MPV.logsumexp(dim=2, keepdim=True)).reshape(M, B, T)
    return found_MBT, (next_MBT >= 0).float()


def _gru(gates_MBTG: torch.Tensor, recurrent_MHG: torch.Tensor, bias_M2G: torch.Tensor) -> torch.Tensor:
    """(M, B, T, H) hidden states of a gated recurrent unit (Cho et al. 2014, in torch's form) that begins with 0."""
    import torch

    state_MBH = torch.zeros(*gates_MBTG.shape[:2], HIDDEN)
    gates_MBTG = gates_MBTG + bias_M2G[:, :1, None]
    states = []
    for gates_MBG in gates_MBTG.unbind(dim=2):
        reset_MBH, update_MBH, new_MBH = gates_MBG.chunk(3, dim=2)
        r_MBH, u_MBH, n_MBH = torch.baddbmm(bias_M2G[:, 1:], state_MBH, recurrent_MHG).chunk(3, dim=2)
        update_MBH = torch.sigmoid(update_MBH + u_MBH)
        new_MBH = torch.tanh(new_MBH + torch.sigmoid(reset_MBH + r_MBH) * n_MBH)
        state_MBH = new_MBH + update_MBH * (state_MBH - new_MBH)
        states.append(state_MBH)
    return torch.stack(states, dim=2)
