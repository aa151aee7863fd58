"""Captures in, packets out: any pcap or pcapng, split anywhere, every packet accounted for.

Doors: `read_packets` (captures to a table), `counters` (what became of the other packets), and for workers
`list_captures`, `split_capture`, `read_splits`; `first_day` names the night that captures belong to.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from iotid.capture.counters import counters

if TYPE_CHECKING:
    from iotid.capture.reader import first_day, read_packets, read_splits
    from iotid.capture.splits import list_captures, split_capture

__all__ = ["counters", "first_day", "list_captures", "read_packets", "read_splits", "split_capture"]

_HOMES = {
    "first_day": "reader",
    "list_captures": "splits",
    "read_packets": "reader",
    "read_splits": "reader",
    "split_capture": "splits",
}


def __getattr__(name: str) -> Any:
    """Load a door when it is first asked for: the kernels behind it bring Numba in."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
