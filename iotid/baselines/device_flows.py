"""The input of baselines that classify a device by all of its flows in a capture.

Shape suffixes: N flows, P packets, U captures of a device, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

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
    device is the flow's client.
    """

    flows: pa.Table
    unit: NDArray[np.int64]
    is_client: NDArray[np.bool_]
    units: int

    def column(self, name: str) -> NDArray[Any]:
        """(N,) a scalar column; times as µs since 1970."""
        import pyarrow as pa

        column = self.flows[name]
        return (column.cast(pa.int64()) if pa.types.is_timestamp(column.type) else column).to_numpy()

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
