"""The pure core on Arrow: packets to partial flows, partial flows to flows, and packets straight to flows.

A flow's packets share protocol, VLAN and both endpoints. A packet starts the next flow of its key

* after a gap above ``idle_timeout_s``; or later than the flow's start by more than ``active_timeout_s``;
* with ``tcp_close``, where it is a SYN without ACK, after both sides' FIN or any RST; or if its sender's first packet
  in the flow belongs to another connection: is a SYN with another number, or no SYN and not numbered one more;
* where it shows, at a private or link-local address, another MAC than the flow's packets before, of which the last
  that showed one is more than a minute older: the address has gone to another device. A flow whose MACs at an address
  change faster has a router or a mirror port in between, and is never cut for them.

Order is capture time, then file, then offset. How the packets were dealt out, and in which
order the parts arrive, changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pyarrow as pa

from iotid import config
from iotid.flows.merge import merge
from iotid.flows.partial import FlowTable, Partials, head_width, packets_alone
from iotid.flows.table import flow_table

if TYPE_CHECKING:
    from iotid.capture.packets import Packets


def partial_flows(packets: Packets, settings: config.Flow, task: int = 0) -> pa.RecordBatch:
    """schemas.PARTIAL_FLOWS of one worker's packets."""
    table = FlowTable(settings, task)
    table.add(packets)
    return table.flush().to_arrow()


def merge_flows(partials: pa.Table, settings: config.Flow, paths: Sequence[str]) -> tuple[pa.Table, pa.Table]:
    """schemas.FLOWS as stored, and the stretches that only their packets can decide, as schemas.PARTIAL_FLOWS.

    ``paths``: captures by file index. Give the packets of an unresolved stretch's key, between its first and its last
    packet, to ``cut_flows``.
    """
    width = head_width(settings)
    merged = merge(Partials.concat([Partials.from_arrow(batch, width) for batch in partials.to_batches()]), settings)
    flows = flow_table(merged.flows, pa.array(paths, pa.string()), settings)
    return flows, pa.Table.from_batches([merged.unresolved.to_arrow()])


def cut_flows(packets: Packets, settings: config.Flow, paths: Sequence[str]) -> pa.Table:
    """schemas.FLOWS as stored of packets that are all there: exact whatever the settings and the order."""
    flows = merge(packets_alone(packets, settings), settings).flows
    return flow_table(flows, pa.array(paths, pa.string()), settings)
