"""Captures in, packets out: any pcap or pcapng, split anywhere, every packet accounted for.

`read_packets` reads captures into a table, `counters` says what became of the other packets. For workers:
`list_captures`, `split_capture`, `read_splits`. `first_day` gives the capture date of a folder.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from iotid.capture.counters import counters
    from iotid.capture.reader import first_day, read_packets, read_splits
    from iotid.capture.splits.plan import list_captures, split_capture

__all__ = [
    "counters",
    "first_day",
    "list_captures",
    "read_packets",
    "read_splits",
    "split_capture",
]

# loaded when first asked for: the kernels behind them bring Numba in
__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "counters": ["counters"],
        "reader": ["first_day", "read_packets", "read_splits"],
        "splits.plan": ["list_captures", "split_capture"],
    },
)
