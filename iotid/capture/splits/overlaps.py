"""Captures that hold the same packets: `a.pcap` beside `a.pcap.gz`, copies, rotated files that overlap.

Comparing all packets with all others would cost more than reading them. But where two captures saw the same packets
for a time, one of them began within that time: its first packet is in the other, too. So that alone is looked for.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from iotid import config
from iotid.capture.containers.streams import open_stream
from iotid.capture.containers.walk import Step, Walk
from iotid.errors import InputError, StaleError

if TYPE_CHECKING:
    from iotid.capture.splits.plan import FileSplit

_GLANCE_BYTES = 1 << 26  # of a compressed capture in which its first packet is looked for


def first_packet(capture: FileSplit) -> str:
    """What tells a capture's first packet that has a time from all others; empty: it has none that a glance finds."""
    try:
        with open_stream(replace(capture, fingerprint=""), _glance()) as stream:
            walk = Walk(stream, capture.container, capture.context, capture.start, capture.end, _glance())
            for step in walk:
                known = np.flatnonzero(step.records.time > 0)
                return _packet(step, int(known[0])) if len(known) else ""
    except (InputError, StaleError):  # whoever reads it will say so
        pass
    return ""


class FirstPackets:
    """The first packets of captures, looked for among the packets of others."""

    def __init__(self, splits: Iterable[tuple[int, str]]) -> None:
        """``splits``: file index and first packet, of splits in any number."""
        found = sorted({(int(packet.partition(":")[0]), index, packet) for index, packet in splits if packet})
        self._times = np.array([time for time, _, _ in found], np.int64)
        self._indices = np.array([index for _, index, _ in found], np.int64)
        self._packets = [packet for _, _, packet in found]

    def among(self, step: Step, quiet: int, file_index: int) -> Iterator[int]:
        """Offsets of the packets after the first ``quiet`` of a capture that are another's first."""
        times = step.records.time[quiet:]
        if len(self._times) < 2 or len(times) == 0:
            return
        lowest, highest = np.searchsorted(self._times, (times.min(), times.max() + 1))
        others = np.arange(lowest, highest)[self._indices[lowest:highest] != file_index]
        for record in np.flatnonzero(np.isin(times, self._times[others])) + quiet if len(others) else ():
            at = int(record)
            if _packet(step, at) in {self._packets[other] for other in others}:
                yield int(step.records.offset[at])


def _packet(step: Step, at: int) -> str:
    records = step.records
    data, captured = int(records.data[at]), int(records.captured[at])
    return f"{records.time[at]}:{records.wire[at]}:{captured}:{zlib.crc32(step.buffer[data : data + captured])}"


@cache
def _glance() -> config.Capture:
    return config.load_settings().capture.model_copy(
        update={"chunk_bytes": 1 << 16, "max_expanded_bytes": _GLANCE_BYTES}
    )
