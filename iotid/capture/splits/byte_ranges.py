"""Segments of a large capture, walked in parallel, and the check that together they are one walk from its start.

A walk is a function of where it starts and, in a pcapng, of the byte order known there. So each segment may be walked
from a guess: the guess was right if the walk before it, which is verified, ends exactly there. If not, the byte range
between is read again in sequence: up to the guessed start, and if the walk goes past that, to the segment's end.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from iotid import config
from iotid.capture.containers.detect import pcapng_context
from iotid.capture.containers.pcapng import ANY_ORDER, MAX_INTERFACES
from iotid.capture.containers.streams import Stream, open_stream
from iotid.capture.containers.walk import Walk
from iotid.capture.file_split import FileSplit


@dataclass(frozen=True)
class Segment:
    """Bytes ``begin`` to ``limit`` of a capture: its records are those that start there."""

    capture: FileSplit  # as a whole
    begin: int
    limit: int


@dataclass(frozen=True)
class ByteRange:
    """What a walk from byte ``start`` to byte ``end`` found. Records are numbered from 0 at ``start``."""

    start: int
    end: int
    records: int
    marks: tuple[tuple[int, int], ...]  # (number, offset) of some records, ascending: where a reader may warm up
    big_endian: bool  # pcapng: byte order at the end
    sections: int  # pcapng: sections that began
    interfaces: NDArray[np.int64]  # (I, F) pcapng: described since the last section that began, or since the start
    changed_at: int  # pcapng: record before which a section last began or an interface was described; -1: none

    @staticmethod
    def empty(start: int) -> ByteRange:
        """The range without a byte before a capture's first record."""
        return ByteRange(start, start, 0, (), False, 0, np.empty((0, 0), np.int64), -1)

    def join(self, after: ByteRange, lookback: int) -> ByteRange:
        """Both, one after the other. Marks are kept as far back as `warm_up` may need them."""
        assert self.end == after.start
        records = self.records + after.records
        marks = [*self.marks, *((self.records + number, offset) for number, offset in after.marks)]
        enough = [index for index, (number, _) in enumerate(marks) if number + lookback <= records]
        interfaces = after.interfaces
        if after.sections == 0 and len(self.interfaces):
            interfaces = np.concatenate([self.interfaces, interfaces])[:MAX_INTERFACES]
        return ByteRange(
            start=self.start,
            end=after.end,
            records=records,
            marks=tuple(marks[enough[-1] if enough else 0 :]),
            big_endian=after.big_endian,
            sections=self.sections + after.sections,
            interfaces=interfaces,
            changed_at=self.records + after.changed_at if after.changed_at >= 0 else self.changed_at,
        )

    def warm_up(self, lookback: int) -> int | None:
        """Where a reader must start that has to know the ``lookback`` records before ``end``; None: nowhere.

        It knows at the start what is known at ``end``. So nothing must have changed between, except that the capture's
        first block begins a section, which discards all that was known.
        """
        for number, offset in reversed(self.marks):
            if number + lookback <= self.records:
                return offset if number >= self.changed_at else None
            if offset == self.start:
                return offset
        return None


@dataclass(frozen=True)
class SpeculativeRange:
    """A range walked from a guessed start. ``order``: the byte order that the guess depends on, or ANY_ORDER."""

    walked: ByteRange
    order: int

    def follows(self, before: ByteRange) -> bool:
        """Whether the guess is right, given that all before it is."""
        return self.walked.start == before.end and self.order in (ANY_ORDER, before.big_endian)


def lookback_records(settings: config.Capture) -> int:
    """Records before a split that its reader may have to know: for duplicates and for fragments across its start.

    Both count, also while they are turned off: a plan stays valid when the settings that read it turn them on.
    """
    return max(settings.duplicate_records, settings.fragment_records)


def cut_segments(capture: FileSplit, split_bytes: int) -> list[Segment]:
    """A capture cut at the multiples of ``split_bytes``."""
    begins = [capture.start, *range(split_bytes, capture.file_bytes, split_bytes)]
    return [
        Segment(capture, begin, limit) for begin, limit in zip(begins, [*begins[1:], capture.file_bytes], strict=True)
    ]


def walk_segment(segment: Segment, settings: config.Capture) -> SpeculativeRange | None:
    """Walk a segment from the first record that a guess finds in it; None: it finds none.

    Raises:
        InputError: the file cannot be opened.
        StaleError: it is no longer what it was.
    """
    capture, lookback = segment.capture, lookback_records(settings)
    with open_stream(capture, settings) as stream:
        if segment.begin == capture.start:
            first = _walk_on(stream, segment, ByteRange.empty(capture.start), segment.begin + 1, settings)
            if capture.container == "pcap" or first.sections:
                first = replace(first, marks=((0, segment.begin), *first.marks))
            rest = _walk_on(stream, segment, first, segment.limit, settings)
            return SpeculativeRange(first.join(rest, lookback), ANY_ORDER)
        walk = _walk_from(stream, segment, segment.begin, False, segment.limit, settings)
        order = walk.guess()
        return None if order is None else SpeculativeRange(_finish(walk, walk.position, lookback), order)


def verify_segment(
    known: ByteRange, guess: SpeculativeRange | None, segment: Segment, settings: config.Capture
) -> tuple[ByteRange, int]:
    """The segment's range that follows ``known``, and how many bytes were read again in sequence to know it."""
    if guess is not None and guess.follows(known):
        return guess.walked, 0
    capture, lookback = segment.capture, lookback_records(settings)
    with open_stream(capture, settings) as stream:
        until = segment.limit if guess is None else guess.walked.start
        again = _walk_on(stream, segment, known, until, settings)
        if guess is not None and guess.follows(again):
            return again.join(guess.walked, lookback), again.end - known.end
        if again.end < segment.limit:
            again = again.join(_walk_on(stream, segment, again, segment.limit, settings), lookback)
    return again, again.end - known.end


def _walk_on(stream: Stream, segment: Segment, before: ByteRange, end: int, settings: config.Capture) -> ByteRange:
    """What a walk that goes on from the end of ``before`` finds until ``end``."""
    walk = _walk_from(stream, segment, before.end, before.big_endian, end, settings)
    return _finish(walk, before.end, lookback_records(settings))


def _walk_from(
    stream: Stream, segment: Segment, start: int, big_endian: bool, end: int, settings: config.Capture
) -> Walk:
    context = segment.capture.context
    if segment.capture.container == "pcapng":  # where blocks start does not depend on the interfaces
        context = pcapng_context(big_endian, np.empty((0, 0), np.int64))
    return Walk(stream, segment.capture.container, context, start, end, settings)


def _finish(walk: Walk, start: int, lookback: int) -> ByteRange:
    first = -1
    last = np.empty(0, np.int64)  # offsets of the last records, `lookback` of them where there are so many
    for step in walk:
        if len(step.records.offset):
            first = first if first >= 0 else int(step.records.offset[0])
            last = np.concatenate([last, step.records.offset[-lookback:]])[-lookback:]
    marks = [(0, first)] if first >= 0 else []
    if walk.records > lookback:
        marks.append((walk.records - lookback, int(last[0])))
    return ByteRange(
        start=start,
        end=walk.position,
        records=walk.records,
        marks=tuple(marks),
        big_endian=walk.big_endian,
        sections=walk.sections,
        interfaces=walk.interfaces.copy(),
        changed_at=walk.changed_at,
    )
