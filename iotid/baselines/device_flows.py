"""The input of baselines that classify a device by all of its flows in a capture, and what they share.

Shape suffixes: N flows, P packets, U captures of a device, I instances (parts of a capture), D features, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from iotid.arrow import one_chunk
from iotid.dataset.arrays import first_values, list_positions

if TYPE_CHECKING:
    import pyarrow as pa

COLUMNS = (
    "protocol", "client_ip", "client_port", "server_ip", "server_port", "first_seen", "last_seen", "client_packets",
    "server_packets", "client_bytes", "server_bytes", "packet_length", "payload_length", "tcp_window", "tcp_flags",
    "direction", "inter_arrival_us",
)  # fmt: skip
"""Columns of FLOWS that these baselines read, besides those that `iotid.labels.owner` reads."""


@dataclass(frozen=True)
class DeviceFlows:
    """Flows (FLOWS, at least `COLUMNS`; with ``first_bytes`` if bytes are kept), by capture of a device and time.

    ``unit`` (N,): index of each flow's capture of a device, 0 to ``units`` - 1, sorted; ``is_client`` (N,): whether the
    device is the flow's client; ``keep_packets``: packets of a flow in ``first_bytes``, 0 without that column.
    """

    flows: pa.Table
    unit: NDArray[np.int64]
    is_client: NDArray[np.bool_]
    units: int
    keep_packets: int = 0

    def column(self, name: str) -> NDArray[Any]:
        """(N,) a scalar column; times as µs since 1970."""
        import pyarrow as pa

        column = self.flows[name]
        return (column.cast(pa.int64()) if pa.types.is_timestamp(column.type) else column).to_numpy()

    @property
    def local_port(self) -> NDArray[np.int64]:
        """(N,) the device's port."""
        return np.where(self.is_client, self.column("client_port"), self.column("server_port")).astype(np.int64)

    @property
    def remote_port(self) -> NDArray[np.int64]:
        """(N,) the other end's port."""
        return np.where(self.is_client, self.column("server_port"), self.column("client_port")).astype(np.int64)

    @property
    def remote(self) -> NDArray[np.int64]:
        """(N,) a number for each address of other ends, in order of appearance."""
        import pyarrow as pa
        import pyarrow.compute as pc

        server, client = (one_chunk(self.flows[f"{end}_ip"].cast(pa.string())) for end in ("server", "client"))
        return number_values(pc.if_else(pa.array(self.is_client), server, client))

    def bytes_of(self, flow_P: NDArray[np.int64], number_P: NDArray[np.int64]) -> list[bytes]:
        """The first bytes of packets (P,) by flow and number in the flow, from the IP header on; empty if not kept."""
        import pyarrow as pa

        if not self.keep_packets:
            return [b""] * len(flow_P)
        flows, which_P = np.unique(flow_P, return_inverse=True)
        kept = [row or b"" for row in self.flows["first_bytes"].take(pa.array(flows)).to_pylist()]
        size = max(map(len, kept), default=0) // self.keep_packets
        places = zip(which_P.tolist(), number_P.tolist(), strict=True)
        return [kept[which][number * size : (number + 1) * size] for which, number in places]

    def packets(self, names: Sequence[str], most: int | None = None) -> dict[str, NDArray[np.int64]]:
        """The first packets of all flows (P,), at most ``most`` of each flow, by unit and time.

        ``names``: list columns of FLOWS. Added: ``flow``, the index of the packet's flow; ``number``, from 0 within the
        flow; ``sent``, 1 if the device sent it; ``time_us``, since 1970. Packets of one microsecond are in flow order.
        """
        limit = most if most is not None else np.iinfo(np.int32).max
        found = {}
        for name in dict.fromkeys([*names, "direction", "inter_arrival_us"]):
            found[name], lengths_N = first_values(self.flows[name], limit)
        flow_P = np.repeat(np.arange(len(self.unit)), lengths_N)
        since_P = found["inter_arrival_us"].cumsum()
        starts_N = np.cumsum(lengths_N) - lengths_N
        begins_N = np.append(since_P, 0)[starts_N]
        time_P = self.column("first_seen")[flow_P] + since_P - begins_N[flow_P]
        found |= {
            "flow": flow_P,
            "number": list_positions(lengths_N),
            "sent": ((found["direction"] == 1) == self.is_client[flow_P]).astype(np.int64),
            "time_us": time_P,
        }
        order = np.lexsort((flow_P, time_P, self.unit[flow_P]))
        return {name: values[order].astype(np.int64) for name, values in found.items()}


class CaptureClassifier(Protocol):
    """A baseline that classifies captures of a device. ``origin``: its paper, and which parts are a reconstruction."""

    origin: str

    def fit(self, captures: DeviceFlows, label_U: NDArray[np.int64], num_classes: int) -> Self:
        """Fit to captures of a device and their labels."""

    def probabilities(self, captures: DeviceFlows) -> NDArray[np.float64]:
        """(U, num_classes) probabilities, or shares of votes; each row sums to 1."""


def number_values(column: pa.Array) -> NDArray[np.int64]:
    """(N,) a number for each distinct value, from 0 in order of appearance."""
    indices = column.dictionary_encode().indices
    return np.asarray(indices.to_numpy(zero_copy_only=False).astype(np.int64))


def shares(label_U: NDArray[np.int64], num_classes: int) -> NDArray[np.float64]:
    """(C,) each class's share of the captures."""
    return np.asarray(np.bincount(label_U, minlength=num_classes) / len(label_U))


def elbow(value_K: NDArray[np.float64]) -> int:
    """The index at which a convex curve is furthest below the line between its ends."""
    return int((np.linspace(value_K[0], value_K[-1], len(value_K)) - value_K).argmax())


def most_frequent(group_I: NDArray[np.int64], unit_I: NDArray[np.int64], units: int) -> NDArray[np.int64]:
    """(U,) the group (0 or more) of most instances of each capture, the first of equals; -1 without instances."""
    votes_UK = np.zeros((units, int(group_I.max(initial=0)) + 1))
    np.add.at(votes_UK, (unit_I, group_I), 1)
    return np.where(votes_UK.any(axis=1), votes_UK.argmax(axis=1), -1)


def mean_vote(
    model: Any, features_ID: Any, unit_I: NDArray[np.int64], units: int, prior_C: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(U, C) the mean of a scikit-learn classifier's probabilities over the instances of each capture.

    A capture without instances has ``prior_C``.
    """
    sum_UC = np.zeros((units, len(prior_C)))
    count_U = np.bincount(unit_I, minlength=units)
    if len(unit_I):
        each_IC = np.zeros((len(unit_I), len(prior_C)))
        each_IC[:, model.classes_] = model.predict_proba(features_ID)
        np.add.at(sum_UC, unit_I, each_IC)
    return np.where(count_U[:, np.newaxis] > 0, sum_UC / np.maximum(count_U, 1)[:, np.newaxis], prior_C)
