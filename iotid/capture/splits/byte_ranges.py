"""Scans the byte ranges of a large capture in parallel, and checks that they equal one sequential scan.

What a scan finds depends only on where it starts and, in a pcapng, on the byte order there. So each range is scanned
from a candidate record boundary. The candidate was right if the verified scan before it ends exactly there. If not, the
bytes between are rescanned: up to the candidate and, if that scan passes it, to the range's end.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from iotid import config
from iotid.capture.containers.detect import pcapng_context
from iotid.capture.containers.pcapng import ANY_ORDER, MAX_INTERFACES
from iotid.capture.containers.scan import WINDOW_BYTES, RecordScan
from iotid.capture.containers.streams import Stream, open_stream
from iotid.capture.file_split import FileSplit


@dataclass(frozen=True)
class ByteRange:
    """Bytes ``begin`` to ``limit`` of a capture; a record belongs to the range in which it starts."""

    capture: FileSplit  # as a whole
    begin: int
    limit: int


@dataclass(frozen=True)
class ScanResult:
    """The result of a scan from byte ``start`` to byte ``end``. Records are numbered from 0 at ``start``."""

    start: int
    end: int
    records: int
    checkpoints: tuple[tuple[int, int], ...]  # (record, offset), ascending, from which a reader can rebuild its state
    big_endian: bool  # pcapng: byte order at the end
    sections: int  # pcapng: section headers found
    interfaces: NDArray[np.int64]  # (I, F) pcapng: described since the last section header, or since the start
    last_context_change: int  # pcapng: record after the last section header or interface description; -1: none

    @staticmethod
    def empty(start: int) -> ScanResult:
        """An empty range before a capture's first record."""
        return ScanResult(start, start, 0, (), False, 0, np.empty((0, 0), np.int64), -1)

    def join(self, after: ScanResult, lookback: int) -> ScanResult:
        """Concatenate two adjacent ranges. Keeps the checkpoints that `warm_up` may need."""
        assert self.end == after.start
        records = self.records + after.records
        checkpoints = [*self.checkpoints, *((self.records + number, offset) for number, offset in after.checkpoints)]
        enough = [index for index, (number, _) in enumerate(checkpoints) if number + lookback <= records]
        last_change = self.last_context_change
        if after.last_context_change >= 0:
            last_change = self.records + after.last_context_change
        interfaces = after.interfaces
        if after.sections == 0 and len(self.interfaces):
            interfaces = np.concatenate([self.interfaces, interfaces])[:MAX_INTERFACES]
        return ScanResult(
            start=self.start,
            end=after.end,
            records=records,
            checkpoints=tuple(checkpoints[enough[-1] if enough else 0 :]),
            big_endian=after.big_endian,
            sections=self.sections + after.sections,
            interfaces=interfaces,
            last_context_change=last_change,
        )

    def warm_up(self, lookback: int) -> int | None:
        """Offset from which a reader has seen the last ``lookback`` records before ``end``; None if impossible.

        The reader starts with the context (byte order, interfaces) of ``end``. So the context must not change in
        between, except that the capture's first block starts a section, which resets it.
        """
        for number, offset in reversed(self.checkpoints):
            if number + lookback <= self.records:
                return offset if number >= self.last_context_change else None
            if offset == self.start:
                return offset
        return None


@dataclass(frozen=True)
class UnverifiedScan:
    """A scan from a candidate boundary. ``order``: the byte order that it assumes, or ANY_ORDER."""

    scanned: ScanResult
    order: int

    def follows(self, before: ScanResult) -> bool:
        """Whether the candidate is right if every earlier range is verified."""
        return self.scanned.start == before.end and self.order in (ANY_ORDER, before.big_endian)


def lookback_records(settings: config.Capture) -> int:
    """Records before a split that its reader may need: for duplicates and fragments across its start.

    Counts both even if they are turned off, so that a plan stays valid when they are turned on.
    """
    return max(settings.duplicate_records, settings.fragment_records)


def cut_ranges(capture: FileSplit, split_bytes: int) -> list[ByteRange]:
    """Divide a capture at the multiples of ``split_bytes``."""
    begins = [capture.start, *range(split_bytes, capture.file_bytes, split_bytes)]
    return [
        ByteRange(capture, begin, limit) for begin, limit in zip(begins, [*begins[1:], capture.file_bytes], strict=True)
    ]


def scan_range(byte_range: ByteRange, settings: config.Capture) -> UnverifiedScan | None:
    """Scan a range from its first candidate record boundary; None if it has none.

    Raises:
        InputError: the file cannot be opened.
        StaleError: the file changed since it was planned.
    """
    capture, lookback = byte_range.capture, lookback_records(settings)
    with open_stream(capture, settings) as stream:
        if byte_range.begin == capture.start:
            first = _scan_after(stream, byte_range, ScanResult.empty(capture.start), byte_range.begin + 1, settings)
            if capture.container == "pcap" or first.sections:
                first = replace(first, checkpoints=((0, byte_range.begin), *first.checkpoints))
            rest = _scan_after(stream, byte_range, first, byte_range.limit, settings)
            return UnverifiedScan(first.join(rest, lookback), ANY_ORDER)
        scan = _new_scan(stream, byte_range, byte_range.begin, False, byte_range.limit, settings)
        order = scan.find_record()
        return None if order is None else UnverifiedScan(_collect(scan, scan.position, lookback), order)


def verify_range(
    known: ScanResult, candidate: UnverifiedScan | None, byte_range: ByteRange, settings: config.Capture
) -> tuple[ScanResult, int]:
    """(verified scan of the range, after ``known``; bytes rescanned)."""
    if candidate is not None and candidate.follows(known):
        return candidate.scanned, 0
    capture, lookback = byte_range.capture, lookback_records(settings)
    with open_stream(capture, settings) as stream:
        until = byte_range.limit if candidate is None else candidate.scanned.start
        rescanned = _scan_after(stream, byte_range, known, until, settings)
        if candidate is not None and candidate.follows(rescanned):
            return rescanned.join(candidate.scanned, lookback), rescanned.end - known.end
        if rescanned.end < byte_range.limit:
            rescanned = rescanned.join(_scan_after(stream, byte_range, rescanned, byte_range.limit, settings), lookback)
    return rescanned, rescanned.end - known.end


def _scan_after(
    stream: Stream, byte_range: ByteRange, before: ScanResult, end: int, settings: config.Capture
) -> ScanResult:
    """Scan from the end of ``before`` to ``end``."""
    scan = _new_scan(stream, byte_range, before.end, before.big_endian, end, settings)
    return _collect(scan, before.end, lookback_records(settings))


def _new_scan(
    stream: Stream, byte_range: ByteRange, start: int, big_endian: bool, end: int, settings: config.Capture
) -> RecordScan:
    context = byte_range.capture.context
    if byte_range.capture.container == "pcapng":  # block boundaries do not depend on the interfaces
        context = pcapng_context(big_endian, np.empty((0, 0), np.int64))
    return RecordScan(stream, byte_range.capture.container, context, start, end, settings, WINDOW_BYTES)


def _collect(scan: RecordScan, start: int, lookback: int) -> ScanResult:
    first = -1
    last = np.empty(0, np.int64)  # offsets of the last records, at most `lookback`
    for step in scan:
        if len(step.records.offset):
            first = first if first >= 0 else int(step.records.offset[0])
            last = np.concatenate([last, step.records.offset[-lookback:]])[-lookback:]
    checkpoints = [(0, first)] if first >= 0 else []
    if scan.records > lookback:
        checkpoints.append((scan.records - lookback, int(last[0])))
    return ScanResult(
        start=start,
        end=scan.position,
        records=scan.records,
        checkpoints=tuple(checkpoints),
        big_endian=scan.big_endian,
        sections=scan.sections,
        interfaces=scan.interfaces.copy(),
        last_context_change=scan.last_context_change,
    )
