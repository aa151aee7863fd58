"""Reads the packets of a task's splits as partial flows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from iotid import config
from iotid.capture import read_splits
from iotid.capture.containers.scan import WINDOW_BYTES
from iotid.capture.splits.plan import num_bytes
from iotid.flows.partial import FlowTable, Partials, packets_of_intervals

if TYPE_CHECKING:
    from iotid.capture.counters import Counters
    from iotid.capture.file_split import FileSplit
    from iotid.capture.packets import Packets
    from iotid.capture.splits.overlaps import FirstPackets

_SINGLE_PACKETS = 1 << 17  # partial flows of one packet per chunk; each takes 400 bytes and its kept bytes


class TaskSplits(NamedTuple):
    """The splits of one task, and the captures before them if captures are one stream (see `capture.read_splits`)."""

    splits: Sequence[FileSplit]
    before: Sequence[FileSplit] | None
    firsts: FirstPackets | None = None


def read_partials(
    own: TaskSplits,
    task: int,
    capture: config.Capture,
    flow: config.Flow,
    counters: Counters,
    table_bytes: int | None = None,
    *,
    in_order: bool = True,
) -> Iterator[Partials]:
    """Yield the partial flows of one task's splits whenever they exceed ``table_bytes``, or ``capture.chunk_bytes``.

    ``in_order``: see `FlowTable.flush`.
    """
    table_bytes = capture.chunk_bytes if table_bytes is None else table_bytes
    table = FlowTable(flow, task, min(table_bytes, sum(map(num_bytes, own.splits))))
    for packets in _packets(own, own.firsts, capture, flow, counters):
        table.add(packets)
        if table.nbytes > table_bytes:
            yield table.flush(in_order=in_order)
    yield table.flush(in_order=in_order)


def read_intervals(
    own: TaskSplits, intervals: Partials, capture: config.Capture, flow: config.Flow, counters: Counters
) -> Iterator[Partials]:
    """The packets of unresolved intervals in one task's splits, each as a partial flow of its own."""
    for packets in _packets(own, None, capture, flow, counters):
        for start in range(0, len(packets), _SINGLE_PACKETS):
            yield packets_of_intervals(packets.take(slice(start, start + _SINGLE_PACKETS)), intervals, flow)


def _packets(
    own: TaskSplits, firsts: FirstPackets | None, capture: config.Capture, flow: config.Flow, counters: Counters
) -> Iterator[Packets]:
    return read_splits(
        own.splits, capture, counters, own.before, flow.keep_bytes, firsts, WINDOW_BYTES,
        header_fields=flow.header_fields,
    )  # fmt: skip
