"""A convolutional network and a bi-LSTM on the raw bytes of a flow's first packets: the baseline that reads payload.

Shape suffixes: N flows, K packets, B bytes of each, D = K * B, R = N * K packets of all flows, C classes.
"""

from __future__ import annotations

from math import isqrt
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from iotid.errors import SettingError

if TYPE_CHECKING:
    import torch

Bytes = NDArray[np.uint8]

_FILTERS, _KERNEL, _POOL = (6, 16), 5, 2  # CBBI, Table 6
_STEP_FEATURES = 160  # CBBI, Table 6: 1600 features after the convolutions, 160 for each of 10 packets
_TCP, _UDP = 6, 17
_FRAGMENT, _AUTHENTICATION = 44, 51
_EXTENSIONS = (0, 43, _FRAGMENT, _AUTHENTICATION, 60, 135, 139, 140)  # IANA, IPv6 Extension Header Types


class Etei:
    """The bytes of K packets as a square grey image, two convolutions, then two bi-LSTMs over K steps of features.

    IoT ETEI (Yin, Yang, Wang, Dai; IEEE DSC 2021) reads 10 packets of 250 bytes without addresses. Its layer sizes are
    not public; these are Table 6 of the same group's CBBI (Security and Communication Networks 2021, 2713211), without
    the GAN that balances its classes. Assumed: both networks are equal; 512 units are those of each direction; the
    "Sigmoid" of its bi-LSTMs is that of the gates, so that cells keep tanh; the output layer reads the last states of
    both directions; weights are initialised as in Keras.

    As published, each flow is a sample: a row of ``num_flows`` flows occurs that many times in each epoch, and classes
    are weighted by their flows. There is no validation and no early stopping. As published, ports and checksums are
    input; ``ports=False`` zeroes them (`without_ports`), since a client's port identifies a flow, and a checksum
    depends on the addresses.

    The same seed gives the same results on the same machine with the same number of torch threads.
    """

    origin = (
        "IoT ETEI (Yin et al. 2021; layer sizes of CBBI, Sec. Comm. Netw. 2021, Table 6, without its GAN; "
        "reconstruction)"
    )

    def __init__(
        self,
        seed: int,
        *,
        packets: int = 10,
        packet_bytes: int = 250,
        ports: bool = True,
        hidden_size: int = 512,
        dense_dropout: float = 0.5,
        lstm_dropout: float = 0.3,
        epochs: int = 50,
        batch_size: int = 512,
        learning_rate: float = 0.001,
        device: str = "cpu",
    ) -> None:
        """``packets``, ``packet_bytes``: K and B: flow.keep_packets and flow.keep_bytes.

        Raises:
            SettingError: K * B is not a square, or too small for two convolutions.
        """
        self._side = isqrt(packets * packet_bytes)
        if self._side**2 != packets * packet_bytes or _pooled(self._side) < 1:
            raise SettingError(
                f"etei: packets * packet_bytes must be the square of 16 or more, got {packets} * {packet_bytes}; "
                "10 * 250 is the paper's"
            )
        self._seed = seed
        self._packets = packets
        self._ports = ports
        self._hidden_size = hidden_size
        self._dropouts = dense_dropout, lstm_dropout
        self._epochs = epochs
        self._batch_size = batch_size
        self._learning_rate = learning_rate
        self._device = device

    def fit(
        self, bytes_ND: Bytes, label_N: NDArray[np.int64], num_flows_N: NDArray[np.int64], num_classes: int
    ) -> Self:
        """Fit to rows that count as ``num_flows_N`` flows each; ``bytes_ND``: the packets concatenated, zero-padded."""
        import torch
        from torch.nn.functional import cross_entropy

        label = torch.tensor(label_N)
        draws = np.repeat(np.arange(len(label_N)), num_flows_N)
        random = np.random.default_rng(self._seed)
        with torch.random.fork_rng():  # weights and dropout do not change the state of the global generator
            torch.manual_seed(self._seed)
            self._network = self._new_network(num_classes).to(self._device).train()
            adam = torch.optim.Adam(self._network.parameters(), lr=self._learning_rate)
            for _ in range(self._epochs):
                for rows in _batches(random.permutation(draws), self._batch_size):
                    scores = self._network(self._images(bytes_ND[rows]))
                    loss = cross_entropy(scores, label[rows].to(self._device))
                    adam.zero_grad()
                    loss.backward()
                    adam.step()
        self._network.eval()
        return self

    def probabilities(self, bytes_ND: Bytes) -> NDArray[np.float64]:
        """(N, C); each row sums to 1."""
        import torch

        with torch.no_grad():
            scores = [
                self._network(self._images(bytes_ND[rows])).double().cpu()
                for rows in _batches(np.arange(len(bytes_ND)), self._batch_size)
            ]
        probabilities: NDArray[np.float64] = torch.cat(scores).softmax(dim=1).numpy()
        return probabilities

    def _images(self, bytes_ND: Bytes) -> torch.Tensor:
        """(N, 1, side, side) in [0, 1]."""
        import torch

        used_ND = bytes_ND if self._ports else without_ports(bytes_ND, self._packets)
        images = torch.from_numpy(np.ascontiguousarray(used_ND)).to(self._device)
        return images.float().div(255).reshape(-1, 1, self._side, self._side)

    def _new_network(self, num_classes: int) -> torch.nn.Module:
        from torch import nn

        dense_dropout, lstm_dropout = self._dropouts
        features = _FILTERS[1] * _pooled(self._side) ** 2
        network = nn.Sequential(
            nn.Conv2d(1, _FILTERS[0], _KERNEL), nn.ReLU(), nn.MaxPool2d(_POOL),
            nn.Conv2d(*_FILTERS, _KERNEL), nn.ReLU(), nn.MaxPool2d(_POOL),
            nn.Flatten(),
            nn.Linear(features, self._packets * _STEP_FEATURES), nn.ReLU(), nn.Dropout(dense_dropout),
            nn.Unflatten(1, (self._packets, _STEP_FEATURES)),
            nn.LSTM(
                _STEP_FEATURES, self._hidden_size, 2, batch_first=True, dropout=lstm_dropout, bidirectional=True
            ),
            _last_states(),
            nn.Dropout(lstm_dropout),
            nn.Linear(2 * self._hidden_size, num_classes),
        )  # fmt: skip
        for name, parameter in network.named_parameters():
            _initialize(name, parameter)
        return network


def _last_states() -> torch.nn.Module:
    """A module that returns (N, 2 * hidden), the last states of both directions of nn.LSTM's last layer."""
    import torch

    class LastStates(torch.nn.Module):
        def forward(self, output: Any) -> torch.Tensor:
            _, (states, _) = output
            return torch.cat([states[-2], states[-1]], dim=1)

    return LastStates()


def _initialize(name: str, parameter: torch.Tensor) -> None:
    """Keras' defaults: Glorot-uniform weights, orthogonal recurrent weights, bias 1 of the forget gate, other biases 0.

    nn.LSTM adds two biases, of which the second stays 0. The order of its gates is input, forget, cell, output.
    """
    import torch

    with torch.no_grad():
        if "weight_hh" in name:
            torch.nn.init.orthogonal_(parameter)
        elif "weight" in name:
            torch.nn.init.xavier_uniform_(parameter)
        else:
            parameter.zero_()
        if "bias_ih" in name:
            parameter.chunk(4)[1].fill_(1)


def _pooled(side: int) -> int:
    """Side of the image after both convolutions and poolings, without padding."""
    for _ in _FILTERS:
        side = (side - _KERNEL + 1) // _POOL
    return side


def _batches(rows: NDArray[np.int64], size: int) -> list[NDArray[np.int64]]:
    return [rows[start : start + size] for start in range(0, max(len(rows), 1), size)]


def without_ports(bytes_ND: Bytes, packets: int) -> Bytes:
    """A copy with zeros for IPv4's header checksum, and for the ports and checksums of TCP and UDP.

    RFC 791, RFC 8200 (also after extension headers), RFC 9293, RFC 768. Only the first fragment of a packet has ports.
    Everything else is unchanged: sequence numbers, identifications, and the payload.
    """
    bytes_RB = bytes_ND.reshape(len(bytes_ND) * packets, -1).copy()
    zeros_R = np.zeros(len(bytes_RB), np.int64)
    is_ipv4_R, is_ipv6_R = (_at(bytes_RB, zeros_R) >> 4 == version for version in (4, 6))
    transport_R = np.where(is_ipv4_R, (_at(bytes_RB, zeros_R) & 15) * 4, 40)
    protocol_R = np.where(is_ipv4_R, _at(bytes_RB, zeros_R + 9), _at(bytes_RB, zeros_R + 6))
    first_R = is_ipv6_R | (is_ipv4_R & (_pair(bytes_RB, zeros_R + 6) & 0x1FFF == 0))
    while (extended_R := is_ipv6_R & np.isin(protocol_R, _EXTENSIONS) & (transport_R < bytes_RB.shape[1])).any():
        units_R = _at(bytes_RB, transport_R + 1)
        size_R = np.where(protocol_R == _AUTHENTICATION, (units_R + 2) * 4, (units_R + 1) * 8)
        is_fragment_R = extended_R & (protocol_R == _FRAGMENT)
        size_R[is_fragment_R] = 8
        first_R &= ~(is_fragment_R & (_pair(bytes_RB, transport_R + 2) >> 3 != 0))
        protocol_R = np.where(extended_R, _at(bytes_RB, transport_R), protocol_R)
        transport_R = np.where(extended_R, transport_R + size_R, transport_R)
    tcp_R, udp_R = (first_R & (protocol_R == protocol) for protocol in (_TCP, _UDP))
    _blank(bytes_RB, is_ipv4_R, zeros_R + 10, 2)
    _blank(bytes_RB, tcp_R | udp_R, transport_R, 4)
    _blank(bytes_RB, tcp_R, transport_R + 16, 2)
    _blank(bytes_RB, udp_R, transport_R + 6, 2)
    return bytes_RB.reshape(bytes_ND.shape)


def _at(bytes_RB: Bytes, offset_R: NDArray[np.int64]) -> NDArray[np.int64]:
    """Each row's byte at its offset; 0 if that was not kept."""
    width = bytes_RB.shape[1]
    value_R = bytes_RB[np.arange(len(bytes_RB)), np.minimum(offset_R, width - 1)]
    return np.where(offset_R < width, value_R, 0).astype(np.int64)


def _pair(bytes_RB: Bytes, offset_R: NDArray[np.int64]) -> NDArray[np.int64]:
    """Each row's big-endian 16-bit number at its offset."""
    return _at(bytes_RB, offset_R) << 8 | _at(bytes_RB, offset_R + 1)


def _blank(bytes_RB: Bytes, chosen_R: NDArray[np.bool_], offset_R: NDArray[np.int64], count: int) -> None:
    """Zero ``count`` bytes of the chosen rows, as far as they are kept."""
    for offset in (offset_R + i for i in range(count)):
        row = np.flatnonzero(chosen_R & (offset < bytes_RB.shape[1]))
        bytes_RB[row, offset[row]] = 0
