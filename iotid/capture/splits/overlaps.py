"""Finds captures with common packets: `a.pcap` beside `a.pcap.gz`, copies, rotated files that overlap.

Comparing all packets would cost more than reading them. But if two captures share a period, one of them began within
it, so the other has its first packet, too. So only first packets are searched.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cache

import numpy as np

from iotid import config
from iotid.capture.containers.scan import RecordScan, Step
from iotid.capture.containers.streams import open_stream
from iotid.capture.file_split import FileSplit
from iotid.errors import InputError, StaleError

_FIRST_PACKET_WITHIN = 1 << 26  # bytes of a compressed capture in which its first packet is searched


def first_packet(capture: FileSplit) -> str:
    """Identifies a capture's first packet that has a time (column of schemas.SPLITS); empty if it is not found."""
    try:
        with open_stream(replace(capture, fingerprint=""), _short_read()) as stream:
            scan = RecordScan(stream, capture.container, capture.context, capture.start, capture.stop, _short_read())
            for step in scan:
                known = np.flatnonzero(step.records.time > 0)
                return _packet(step, int(known[0])) if len(known) else ""
    except (InputError, StaleError):  # reported when the capture is read
        pass
    return ""


def time_of(packet: str) -> int:
    """The time, in µs since 1970, of what `first_packet` returned; 0 if it found none."""
    return int(packet.partition(":")[0]) if packet else 0


class FirstPackets:
    """The first packets of all captures, to be searched in other captures."""

    def __init__(self, splits: Iterable[tuple[int, str]]) -> None:
        """``splits``: (file index, first packet) of each split, with duplicates."""
        found = sorted({(time_of(packet), index, packet) for index, packet in splits if packet})
        self._times = np.array([time for time, _, _ in found], np.int64)
        self._indices = np.array([index for _, index, _ in found], np.int64)
        self._packets = [packet for _, _, packet in found]

    def among(self, step: Step, num_warm_up: int, file_index: int) -> Iterator[int]:
        """Offsets of the packets, after the first ``num_warm_up``, that are another capture's first packet."""
        times = step.records.time[num_warm_up:]
        if len(self._times) < 2 or len(times) == 0:
            return
        lowest, highest = np.searchsorted(self._times, (times.min(), times.max() + 1))
        others = np.arange(lowest, highest)[self._indices[lowest:highest] != file_index]
        for record in np.flatnonzero(np.isin(times, self._times[others])) + num_warm_up if len(others) else ():
            at = int(record)
            if _packet(step, at) in {self._packets[other] for other in others}:
                yield int(step.records.offset[at])


def _packet(step: Step, at: int) -> str:
    records = step.records
    data, captured = int(records.data[at]), int(records.captured[at])
    return f"{records.time[at]}:{records.wire[at]}:{captured}:{zlib.crc32(step.buffer[data : data + captured])}"


@cache
def _short_read() -> config.Capture:
    return config.load_settings().capture.model_copy(
        update={"chunk_bytes": 1 << 16, "max_expanded_bytes": _FIRST_PACKET_WITHIN}
    )
