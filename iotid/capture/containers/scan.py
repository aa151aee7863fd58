"""Scans the records of a capture window by window, for planner and reader."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iotid import config
from iotid.capture.containers import pcap, pcapng
from iotid.capture.containers.records import (
    CHAIN,
    INTERFACES,
    LAST_CONTEXT_CHANGE,
    POSITION,
    RECORDS,
    SECTION_BIG_ENDIAN,
    SECTIONS,
    SKIP_FROM,
    STATE_SIZE,
    Records,
    empty_records,
)
from iotid.capture.containers.streams import Stream

TO_THE_END = 2**62
WINDOW_BYTES = 1 << 21  # what is computed from a window of this size stays in a core's cache until it is used

_RECORD_BYTES = 64  # a window yields at most one record per so many bytes, which bounds its columns
_MAX_FAULTS = 4096


@dataclass(frozen=True)
class Step:
    """The records of one window, and the broken byte ranges between them."""

    buffer: NDArray[np.uint8]
    records: Records
    first_record: int  # number of the first record since the scan's start
    faults: NDArray[np.int64]  # (F, 3): start, bytes, kind (records.SKIPPED_BYTES or TRUNCATED_RECORD)


class RecordScan:
    """Iterates over the windows of ``stream`` from ``start`` to ``end`` (-1: to the stream's end).

    A window has ``window_bytes``, by default ``settings.chunk_bytes``, or more if a record needs more. Each step
    overwrites the arrays of the step before. Afterwards ``position`` is ``end`` if a record starts there,
    else the end of the record or broken byte range that spans ``end``.
    """

    def __init__(
        self,
        stream: Stream,
        container: str,
        context: str,
        start: int,
        end: int,
        settings: config.Capture,
        window_bytes: int | None = None,
    ) -> None:
        known = json.loads(context)
        self._stream = stream
        self._settings = settings
        self._window_bytes = min(window_bytes or settings.chunk_bytes, settings.chunk_bytes)
        self._limit = TO_THE_END if end < 0 else end
        self._state = np.zeros(STATE_SIZE, np.int64)
        self._state[POSITION] = start
        self._state[SKIP_FROM] = -1
        self._state[LAST_CONTEXT_CHANGE] = -1
        self._is_pcapng = container == "pcapng"
        if self._is_pcapng:
            interfaces = known["interfaces"]
            self._state[SECTION_BIG_ENDIAN] = known["big_endian"]
            self._state[INTERFACES] = len(interfaces)
            self._interfaces_IF = np.zeros((max(len(interfaces), 16), pcapng.INTERFACE_SIZE), np.int64)
            self._interfaces_IF[: len(interfaces)] = np.array(interfaces, np.int64).reshape(-1, pcapng.INTERFACE_SIZE)
        else:
            self._layout = np.zeros(pcap.LAYOUT_SIZE, np.int64)
            self._layout[pcap.BIG_ENDIAN] = known["big_endian"]
            self._layout[pcap.HEADER_BYTES] = known["record_header"]
            self._layout[pcap.TICKS_PER_US] = known["ticks_per_us"]
            self._layout[pcap.LINK_TYPE] = known["link_type"]
            self._layout[pcap.MAX_PACKET_BYTES] = settings.max_packet_bytes

    @property
    def position(self) -> int:
        return int(self._state[POSITION])

    @property
    def records(self) -> int:
        """Records scanned so far."""
        return int(self._state[RECORDS])

    @property
    def last_context_change(self) -> int:
        """pcapng: number of the record after the last section header or interface description; -1: none."""
        return int(self._state[LAST_CONTEXT_CHANGE])

    @property
    def sections(self) -> int:
        """pcapng: section headers so far."""
        return int(self._state[SECTIONS])

    @property
    def big_endian(self) -> bool:
        """pcapng: byte order of the current section."""
        return bool(self._state[SECTION_BIG_ENDIAN])

    @property
    def interfaces(self) -> NDArray[np.int64]:
        """pcapng: interfaces of the current section, those of the context first."""
        return self._interfaces_IF[: self._state[INTERFACES]] if self._is_pcapng else np.empty((0, 0), np.int64)

    def find_record(self) -> int | None:
        """Move to the next candidate record boundary before the scan's end.

        Returns the byte order of the pcapng that the candidate assumes, ANY_ORDER if any will do; None if there is no
        candidate.
        """
        packet = self._settings.max_packet_bytes + pcapng.MAX_OPTION_BYTES  # more than any record's header too
        reach = CHAIN * packet
        while self.position < self._limit:
            base = self.position
            buffer = self._stream.window(base, 2 * reach)
            final = len(buffer) < 2 * reach
            stop = min(self._limit - base, len(buffer) if final else reach)
            if self._is_pcapng:
                at, order = pcapng.find_pcapng_block(buffer, stop, final, self._settings.max_packet_bytes)
            else:
                at, order = pcap.find_pcap_record(buffer, stop, final, self._layout), pcapng.ANY_ORDER
            if at >= 0:
                self._state[POSITION] = base + at
                self._state[SECTION_BIG_ENDIAN] = order == 1
                return order
            self._state[POSITION] = base + stop
            if final and stop == len(buffer):
                break
        return None

    def __iter__(self) -> Iterator[Step]:
        chunk = self._window_bytes
        need = 0
        # reused: new memory for each window would take longer than the scan itself
        records = empty_records(chunk // _RECORD_BYTES)
        faults_F3 = np.empty((_MAX_FAULTS, 3), np.int64)
        while self.position < self._limit or self._state[SKIP_FROM] >= 0:
            base = self.position
            first_record = self.records
            within = self._limit - base
            wanted = max(min(chunk, within) if within > 0 else chunk, need)
            buffer = self._stream.window(base, wanted)
            final = len(buffer) < wanted
            n, f, need = self._kernel(buffer, base, final, records, faults_F3)
            if n or f:
                yield Step(buffer, records.first(n), first_record, faults_F3[:f])
            if final and self.position >= base + len(buffer) and self._state[SKIP_FROM] < 0:
                break

    def _kernel(
        self, buffer: NDArray[np.uint8], base: int, final: bool, records: Records, faults_F3: Any
    ) -> tuple[int, int, int]:
        if not self._is_pcapng:
            return pcap.scan_pcap(buffer, base, final, self._limit, self._layout, self._state, records, faults_F3)
        n, f, need = pcapng.scan_pcapng(
            buffer,
            base,
            final,
            self._limit,
            self._settings.max_packet_bytes,
            self._state,
            self._interfaces_IF,
            records,
            faults_F3,
        )
        if need == pcapng.TABLE_FULL:
            self._interfaces_IF = np.concatenate([self._interfaces_IF, np.zeros_like(self._interfaces_IF)])
        return n, f, need
