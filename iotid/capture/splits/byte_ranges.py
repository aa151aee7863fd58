"""Pieces of a large capture, walked side by side, and the proof that together they are one walk from its start.

A walk is a function of where it starts and, in a pcapng, of the byte order known there. So each piece may be walked
from a guess: the guess was right if the walk before it, which is proved, ends just there. Where it does not, the
stretch between is read again in sequence: up to the guessed start, and if the walk goes past that, to the piece's end.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from iotid import config
from iotid.capture.containers.detect import pcapng_context
from iotid.capture.containers.pcapng import ANY_ORDER, MAX_INTERFACES
from iotid.capture.containers.streams import Stream, open_stream
from iotid.capture.containers.walk import Walk

if TYPE_CHECKING:
    from iotid.capture.splits.plan import FileSplit


@dataclass(frozen=True)
class Piece:
    """Bytes ``begin`` to ``limit`` of a capture: its records are those that start there."""

    capture: FileSplit  # as a whole
    begin: int
    limit: int


@dataclass(frozen=True)
class Stretch:
    """What a walk from ``start`` to ``end`` met. Records are numbered from 0 at ``start``."""

    start: int
    end: int
    records: int
    marks: tuple[tuple[int, int], ...]  # (number, offset) of some records, ascending: where a reader may warm up
    big_endian: bool  # pcapng: byte order at the end
    sections: int  # pcapng: sections that began
    interfaces: NDArray[np.int64]  # (I, F) pcapng: described since the last section that began, or since the start
    changed_at: int  # pcapng: record before which a section last began or an interface was described; -1: none

    def then(self, after: Stretch, reach: int) -> Stretch:
        """Both, one after the other. Marks are kept as far as `warm_up` may ask for them."""
        assert self.end == after.start
        records = self.records + after.records
        marks = [*self.marks, *((self.records + number, offset) for number, offset in after.marks)]
        enough = [index for index, (number, _) in enumerate(marks) if number + reach <= records]
        interfaces = after.interfaces
        if after.sections == 0 and len(self.interfaces):
            interfaces = np.concatenate([self.interfaces, interfaces])[:MAX_INTERFACES]
        return Stretch(
            start=self.start,
            end=after.end,
            records=records,
            marks=tuple(marks[enough[-1] if enough else 0 :]),
            big_endian=after.big_endian,
            sections=self.sections + after.sections,
            interfaces=interfaces,
            changed_at=self.records + after.changed_at if after.changed_at >= 0 else self.changed_at,
        )

    def warm_up(self, reach: int) -> int | None:
        """Where a reader must start that has to know the ``reach`` records before ``end``; None: nowhere.

        It knows at the start what is known at ``end``. So nothing must have changed between, but that the capture's
        first block begins a section, which does away with all that was known.
        """
        for number, offset in reversed(self.marks):
            if number + reach <= self.records:
                return offset if number >= self.changed_at else None
            if offset == self.start:
                return offset
        return None


@dataclass(frozen=True)
class Guess:
    """A stretch walked from a guessed start. ``order``: byte order that the guess rests on, or ANY_ORDER."""

    stretch: Stretch
    order: int

    def follows(self, before: Stretch) -> bool:
        """Whether the guess is right, given that all before it is."""
        return self.stretch.start == before.end and self.order in (ANY_ORDER, before.big_endian)


def lookback_records(settings: config.Capture) -> int:
    """Records before a split that its reader may have to know: for repeats and for fragments across its start.

    Both count, also while they are turned off: a plan stays good when the settings that read it turn them on.
    """
    return max(settings.duplicate_records, settings.fragment_records)


def cut_pieces(capture: FileSplit, split_bytes: int) -> list[Piece]:
    """A capture cut at the multiples of ``split_bytes``."""
    begins = [capture.start, *range(split_bytes, capture.file_bytes, split_bytes)]
    return [
        Piece(capture, begin, limit) for begin, limit in zip(begins, [*begins[1:], capture.file_bytes], strict=True)
    ]


def nothing(capture: FileSplit) -> Stretch:
    """The empty stretch before a capture's first record."""
    return Stretch(capture.start, capture.start, 0, (), False, 0, np.empty((0, 0), np.int64), -1)


def walk_piece(piece: Piece, settings: config.Capture) -> Guess | None:
    """Walk a piece from the first record that a guess finds in it; None: it finds none.

    Raises:
        InputError: the file cannot be opened.
        StaleError: it is no longer what it was.
    """
    capture = piece.capture
    with open_stream(capture, settings) as stream:
        if piece.begin == capture.start:
            first = _walk(stream, piece, nothing(capture), piece.begin + 1, settings)
            if capture.container == "pcap" or first.sections:
                first = replace(first, marks=((0, piece.begin), *first.marks))
            return Guess(
                first.then(_walk(stream, piece, first, piece.limit, settings), lookback_records(settings)), ANY_ORDER
            )
        guessing = _at(stream, piece, piece.begin, False, piece.limit, settings)
        order = guessing.guess()
        return None if order is None else Guess(_finish(guessing, guessing.position, lookback_records(settings)), order)


def prove(known: Stretch, guess: Guess | None, piece: Piece, settings: config.Capture) -> tuple[Stretch, int]:
    """The piece's stretch that follows ``known``, and how many bytes were read again in sequence to know it."""
    if guess is not None and guess.follows(known):
        return guess.stretch, 0
    capture, reach = piece.capture, lookback_records(settings)
    with open_stream(capture, settings) as stream:
        until = piece.limit if guess is None else guess.stretch.start
        again = _walk(stream, piece, known, until, settings)
        if guess is not None and guess.follows(again):
            return again.then(guess.stretch, reach), again.end - known.end
        if again.end < piece.limit:
            again = again.then(_walk(stream, piece, again, piece.limit, settings), reach)
    return again, again.end - known.end


def _walk(stream: Stream, piece: Piece, before: Stretch, end: int, settings: config.Capture) -> Stretch:
    """What a walk that goes on where ``before`` ends meets until ``end``."""
    walk = _at(stream, piece, before.end, before.big_endian, end, settings)
    return _finish(walk, before.end, lookback_records(settings))


def _at(stream: Stream, piece: Piece, start: int, big_endian: bool, end: int, settings: config.Capture) -> Walk:
    context = piece.capture.context
    if piece.capture.container == "pcapng":  # where blocks start does not depend on the interfaces
        context = pcapng_context(big_endian, np.empty((0, 0), np.int64))
    return Walk(stream, piece.capture.container, context, start, end, settings)


def _finish(walk: Walk, start: int, reach: int) -> Stretch:
    first = -1
    last = np.empty(0, np.int64)  # offsets of the last records, `reach` of them where there are so many
    for step in walk:
        if len(step.records.offset):
            first = first if first >= 0 else int(step.records.offset[0])
            last = np.concatenate([last, step.records.offset[-reach:]])[-reach:]
    marks = [(0, first)] if first >= 0 else []
    if walk.records > reach:
        marks.append((walk.records - reach, int(last[0])))
    return Stretch(
        start=start,
        end=walk.position,
        records=walk.records,
        marks=tuple(marks),
        big_endian=walk.big_endian,
        sections=walk.sections,
        interfaces=walk.interfaces.copy(),
        changed_at=walk.changed_at,
    )
