"""Packets in, flows out: one row per bidirectional flow, the same rows however the captures were split.

`from_captures` (one machine, no Spark), `write_flows` and `read_flows` (a partition, on Spark), `read_counters` (what
became of every packet), and for workers `partition_files` and `later_flows`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from iotid.flows.assemble import write_flows
    from iotid.flows.local import from_captures
    from iotid.flows.partitions import (
        IDENTITY_COLUMNS,
        QUARANTINE_FILE,
        FlowFile,
        later_flows,
        partition_files,
        read_counters,
        read_flows,
    )

__all__ = [
    "IDENTITY_COLUMNS",
    "QUARANTINE_FILE",
    "FlowFile",
    "from_captures",
    "later_flows",
    "partition_files",
    "read_counters",
    "read_flows",
    "write_flows",
]

# loaded when first asked for: the kernels behind them bring Numba in
__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "assemble": ["write_flows"],
        "local": ["from_captures"],
        "partitions": [
            "FlowFile",
            "QUARANTINE_FILE",
            "IDENTITY_COLUMNS",
            "later_flows",
            "partition_files",
            "read_counters",
            "read_flows",
        ],
    },
)
