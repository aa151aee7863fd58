"""Packets to partial flows and flows, without files or Spark, and hand-made packets: what tests of cutting share."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from iotid import config
from iotid.flows.merge import merge
from iotid.flows.partial import FlowTable, Partials, packet_width, packets_of_intervals, single_packets
from iotid.flows.table import FlowSelection, table_in_time_order

if TYPE_CHECKING:
    from iotid.capture.packets import Packets

PATHS = ["a.pcap", "b.pcap", "c.pcap"]
EPOCH = datetime(2024, 2, 29, 23, 59, 50, tzinfo=UTC)
FIN, SYN, RST, ACK = 1, 2, 4, 16

Row = dict[str, Any]
Build = Callable[..., Any]


def rule(**changes: Any) -> config.Flow:
    defaults = {"max_packets": 4, "idle_timeout_s": None, "active_timeout_s": None, "tcp_close": True, "length": "ip",
                "join_files": True, "keep_bytes": 0, "keep_packets": 4, "header_fields": False}  # fmt: skip
    settings = {**defaults, **changes}
    return config.Flow(**settings | {"keep_packets": min(settings["keep_packets"], settings["max_packets"])})


def row(number: int = 0, at_s: float = 0.0, flags: int = ACK, up: bool = True, **changes: Any) -> Row:
    """A packet between 10.0.0.1:1000 and 10.0.0.2:80; ``up`` from the first to the second."""
    ends = ("source", "destination") if up else ("destination", "source")
    packet: Row = {"capture_file": PATHS[0], "offset": 24 + 100 * number, "timestamp": EPOCH + timedelta(seconds=at_s)}
    for end, name in enumerate(ends):
        packet |= {
            f"{name}_ip": f"10.0.0.{end + 1}",
            f"{name}_port": [1000, 80][end],
            f"{name}_mac": f"02:00:00:00:00:0{end + 1}",
        }
    packet |= {"link_type": 1, "frame_length": 74 + number, "captured_length": 74, "vlan": None, "protocol": 6,
               "packet_length": 60 + number, "payload_length": 8, "tcp_flags": flags,
               "tcp_window": 512 + number, "tcp_sequence": None}  # fmt: skip
    return packet | changes


def cut_at_random(rows: list[Row], dice: random.Random) -> list[list[Row]]:
    """The rows of each file in runs, as splits would hold them; the runs in any order."""
    runs = []
    for path in PATHS:
        own = [packet for packet in rows if packet["capture_file"] == path]
        borders = sorted(dice.randint(0, len(own)) for _ in range(dice.randint(0, 6)))
        runs += [own[a:b] for a, b in zip([0, *borders], [*borders, len(own)], strict=True)]
    dice.shuffle(runs)
    return runs


def through_partials(runs: list[Any], settings: config.Flow) -> list[Row]:
    """Flows by way of partial flows, unresolved intervals read again; ordered by first packet."""
    partials = pa.Table.from_batches([partial_flows(run, settings, task) for task, run in enumerate(runs)])
    flows, unresolved = merge_flows(partials, settings, PATHS)
    tables = [flows]
    if len(unresolved):
        intervals = Partials.concat([Partials.from_arrow(batch) for batch in unresolved.to_batches()])
        tasks = unresolved["task"].to_pylist()
        again = [packets_of_intervals(runs[task], intervals, settings).to_arrow() for task in sorted(set(tasks))]
        flows, still = merge_flows(pa.Table.from_batches(again), settings, PATHS)
        assert len(still) == 0
        tables.append(flows)
    return sorted(pa.concat_tables(tables).to_pylist(), key=sort_key)


def sort_key(flow: Row) -> Any:
    """Every column: flows that start in one µs have no other order that the table shows."""
    return flow["first_seen"], str(sorted(flow.items(), key=lambda item: item[0]))


def flows_of(rows: list[Row], packets_of: Build, **changes: Any) -> list[Row]:
    return through_partials([packets_of([packet], PATHS) for packet in rows], rule(**changes))


def syn(number: int, at_s: float, sequence: int, flags: int = SYN, up: bool = True, **changes: Any) -> Row:
    return row(number, at_s, flags, up, tcp_sequence=sequence, **changes)


A, B, R = "02:00:00:00:00:0a", "02:00:00:00:00:0b", "02:00:00:00:00:0c"
HOUR = 3600


def ntp(number: int, at_s: float, mac: str | None, up: bool = True, remote: str = R, **changes: Any) -> Row:
    """Between 192.168.1.5, which ``mac`` has then, and a server of the Internet."""
    ends = ("source", "destination") if up else ("destination", "source")
    given: Row = {f"{ends[0]}_ip": "192.168.1.5", f"{ends[0]}_mac": mac, f"{ends[0]}_port": 123}
    given |= {f"{ends[1]}_ip": "52.1.2.3", f"{ends[1]}_mac": remote, f"{ends[1]}_port": 123}
    return row(number, at_s, 0, up, protocol=17, tcp_window=0, **given | changes)


def partial_flows(packets: Packets, settings: config.Flow, task: int = 0) -> pa.RecordBatch:
    """schemas.PARTIAL_FLOWS of one worker's packets."""
    table = FlowTable(settings, task)
    table.add(packets)
    return table.flush().to_arrow()


def merge_flows(partials: pa.Table, settings: config.Flow, paths: Sequence[str]) -> tuple[pa.Table, pa.Table]:
    """schemas.FLOWS as stored, and the unresolved intervals, as schemas.PARTIAL_FLOWS.

    ``paths``: captures by file index. Give the packets of an unresolved interval's key, between its first and its last
    packet, to ``cut_flows``.
    """
    width = packet_width(settings)
    merged = merge(Partials.concat([Partials.from_arrow(batch, width) for batch in partials.to_batches()]), settings)
    flows = flow_table(merged.flows, pa.array(paths, pa.string()), settings)
    return flows, pa.Table.from_batches([merged.unresolved.to_arrow()])


def cut_flows(packets: Packets, settings: config.Flow, paths: Sequence[str]) -> pa.Table:
    """schemas.FLOWS as stored of packets that are all there: exact whatever the settings and the order."""
    flows = merge(single_packets(packets, settings), settings).flows
    return flow_table(flows, pa.array(paths, pa.string()), settings)


def flow_table(flows: Partials, paths: pa.Array, settings: config.Flow, carried: int = 0) -> pa.Table:
    """schemas.FLOWS as stored of whole flows, in the order of time."""
    return table_in_time_order([FlowSelection(flows, np.arange(len(flows)))], paths, settings, carried)
