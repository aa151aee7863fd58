"""The packets of a worker's splits, decoded once, as partial flows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from iotid import config
from iotid.capture import read_splits
from iotid.flows.partial import FlowTable, Partials, packets_of_intervals

if TYPE_CHECKING:
    from iotid.capture.counters import Counters
    from iotid.capture.file_split import FileSplit
    from iotid.capture.splits.overlaps import FirstPackets

_SINGLE_PACKETS = 1 << 17  # of a chunk of rows of their own; each takes 400 bytes and those that are kept


class TaskSplits(NamedTuple):
    """What one task reads, and, where captures are one stream, those before (see `iotid.capture.read_splits`)."""

    splits: Sequence[FileSplit]
    before: Sequence[FileSplit] | None
    firsts: FirstPackets | None = None


def read_partials(
    own: TaskSplits, task: int, capture: config.Capture, flow: config.Flow, counters: Counters
) -> Iterator[Partials]:
    """Partial flows of one task's splits; returned whenever they fill ``capture.chunk_bytes``."""
    table = FlowTable(flow, task)
    for packets in read_splits(own.splits, capture, counters, own.before, flow.keep_bytes, own.firsts):
        table.add(packets)
        if table.nbytes > capture.chunk_bytes:
            yield table.flush()
    yield table.flush()


def read_intervals(
    own: TaskSplits, intervals: Partials, capture: config.Capture, flow: config.Flow, counters: Counters
) -> Iterator[Partials]:
    """The packets of unresolved intervals in one task's splits, each as a partial flow of its own."""
    for packets in read_splits(own.splits, capture, counters, own.before, flow.keep_bytes):
        for start in range(0, len(packets), _SINGLE_PACKETS):
            yield packets_of_intervals(packets.take(slice(start, start + _SINGLE_PACKETS)), intervals, flow)
