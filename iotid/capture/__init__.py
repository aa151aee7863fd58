"""Reads packets from captures: any pcap or pcapng, divided at any record, every packet accounted for.

`read_packets` reads captures into a table; `counters` reports how many packets were left out and why. Workers use its
three steps: `find_captures`, `split_captures` and `read_splits`. `first_day` returns the capture date of a folder.

Sub-packages and modules, each of which imports only those before it: containers (file formats), decode (frames to
packets), splits (plans for workers), reader and dates, source (Spark).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from iotid.capture.counters import counters
    from iotid.capture.dates import first_day
    from iotid.capture.reader import read_packets, read_splits
    from iotid.capture.splits.discovery import find_captures
    from iotid.capture.splits.plan import split_captures

__all__ = [
    "counters",
    "find_captures",
    "first_day",
    "read_packets",
    "read_splits",
    "split_captures",
]

# loaded on first use: the kernels behind them import Numba
__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "counters": ["counters"],
        "dates": ["first_day"],
        "reader": ["read_packets", "read_splits"],
        "splits.discovery": ["find_captures"],
        "splits.plan": ["split_captures"],
    },
)
