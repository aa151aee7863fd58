"""Assembles packets into bidirectional flows, one row each; the rows do not depend on how the captures are split.

`from_captures` (one machine, no Spark), `write_flows` and `read_flows` (a partition, on Spark), `read_counters`
(packets by capture and reason), and for workers `partition_files` and `later_flows`.

A flow's packets share protocol, VLAN and both endpoints. A packet starts the next flow of its key

* after a gap above ``idle_timeout_s``; or later than the flow's start by more than ``active_timeout_s``;
* with ``tcp_close``, where it is a SYN without ACK, after both sides' FIN or any RST; or if its sender's first packet
  in the flow belongs to another connection: is a SYN with another number, or no SYN and not numbered one more;
* if it has another MAC at a private or link-local address than the flow's packets before, and the last of those that
  showed a MAC is more than a minute older: the address moved to another device. MACs that change faster are those of a
  router or a mirror port, and do not end a flow.

Order is capture time, then file, then offset. The result does not depend on how packets are distributed over tasks, nor
on the order in which partial flows arrive.
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

# loaded when first used: their kernels import Numba
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
