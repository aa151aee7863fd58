"""Reads splits: scans, decodes and counts. `chunk_bytes` bounds the memory, whatever the size of the file."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from iotid import config
from iotid.capture.containers.detect import first_record, header_cut
from iotid.capture.containers.records import TRUNCATED_RECORD
from iotid.capture.containers.scan import TO_THE_END, RecordScan
from iotid.capture.containers.streams import open_stream
from iotid.capture.counters import (
    LATER_FRAGMENT,
    MALFORMED,
    OVERLAP,
    REASONS,
    UNKNOWN_ETHER_TYPE,
    UNKNOWN_INTERFACE,
    UNKNOWN_LINK_TYPE,
    Counters,
)
from iotid.capture.decode.decoder import Decoded, Decoder
from iotid.capture.file_split import FileSplit
from iotid.capture.packets import Packets, to_arrow
from iotid.capture.splits.byte_ranges import lookback_records
from iotid.capture.splits.discovery import find_captures
from iotid.capture.splits.overlaps import FirstPackets
from iotid.errors import DataError, InputError, StaleError
from iotid.inputs import check_type, locations_of

if TYPE_CHECKING:
    import pyarrow as pa

_WITH_NUMBER = {UNKNOWN_LINK_TYPE: "d", UNKNOWN_ETHER_TYPE: "#06x"}  # reasons that end in a number -> its format
_STRICT = (MALFORMED, UNKNOWN_INTERFACE, *_WITH_NUMBER)  # reasons that are errors if `strict`

_log = logging.getLogger(__name__)


def read_packets(paths: str | Path | Iterable[str | Path], *, settings: config.Capture | None = None) -> pa.Table:
    """Packets of all captures at the paths (files, folders or URIs), in capture order, as schemas.PACKETS.

    One row per packet of an IP flow; times in µs (UTC), lengths in bytes. `iotid.capture.counters` of the table returns
    how many packets were left out and why. ``settings`` defaults to conf/base.yaml.

    Raises:
        InputError: no path is given; one is missing, cannot be read, or holds no capture.
        StaleError: ``settings.unreadable`` is `fail`, and a capture changed while it was read.
        DataError: ``settings.strict``, and a record is broken, a packet malformed, or a link or Ethernet type not read.
    """
    import pyarrow as pa

    locations = locations_of(paths)
    settings = config.load_settings().capture if settings is None else settings
    check_type("settings", settings, config.Capture, "iotid.config.load_settings().capture")
    captures, _, quarantined, _ = find_captures(locations, settings.unreadable)
    names = [found.path for found in captures]
    counted = Counters()
    for path, why in quarantined.items():
        counted.quarantine(path, 0, 0, why)
    tables = [to_arrow(Packets.empty(), names)]
    firsts = FirstPackets((found.file_index, found.first_packet) for found in captures)
    read = read_splits(captures, settings, counted, before=[], firsts=firsts)
    tables += [to_arrow(packets, names) for packets in read]
    counted.log_overlaps()
    return counted.attach(pa.concat_tables(tables))


def read_splits(
    splits: Iterable[FileSplit],
    settings: config.Capture,
    counters: Counters,
    before: Sequence[FileSplit] | None = None,
    keep_bytes: int = 0,
    firsts: FirstPackets | None = None,
    window_bytes: int | None = None,
    *,
    header_fields: bool = False,
) -> Iterator[Packets]:
    """Yield the packets of splits, in file order, window by window; count all others in ``counters``.

    ``splits``: in the order of the plan. ``before`` (`iotid.capture.splits.plan.splits_before`): the captures before
    them, nearest first, if captures are one stream; None: each capture is a stream of its own. ``keep_bytes``: bytes of
    each packet, from its IP header on, that go into its ``first_words``. ``firsts``: the first packets of all captures,
    to count captures that overlap. ``window_bytes``: of a capture, read at a time; by default ``chunk_bytes``.
    ``header_fields``: whether header fields go into ``first_words``, too (`header_words`). Each item's arrays are
    overwritten by the next: use or copy them first.

    Raises:
        InputError: ``settings.unreadable`` is `fail`, and a capture cannot be read.
        StaleError: the same, and a capture changed since it was planned.
        DataError: ``settings.strict``, and a record is broken, a packet malformed, or a link or Ethernet type not read.
    """
    reading = _Reading(settings, before, keep_bytes, window_bytes, header_fields)
    for split in splits:
        try:
            yield from reading.packets(split, counters, firsts)
        except (InputError, StaleError) as fault:
            if settings.unreadable == "fail":
                raise
            size = (split.file_bytes if split.stop < 0 else split.stop) - split.start
            counters.quarantine(split.path, size, split.start, str(fault))
            _log.warning("%s; it is in quarantine", fault)
            # the state after an unread capture is unknown
            reading = _Reading(settings, None if before is None else [], keep_bytes, window_bytes, header_fields)


class _Reading:
    """Reads splits in sequence with one decoder, whose state then covers the records before each split."""

    def __init__(
        self,
        settings: config.Capture,
        before: Sequence[FileSplit] | None,
        keep_bytes: int,
        window_bytes: int | None,
        header_fields: bool,
    ) -> None:
        self._settings = settings
        self._window_bytes = window_bytes
        self._keep_bytes, self._header_fields = keep_bytes, header_fields
        self._is_one_stream = before is not None
        self._before = before or ()
        self._read: list[FileSplit] = []  # splits that the decoder has read
        self._num_records = 0  # in `_read`
        self._decoder = self._new_decoder()
        self._has_unread = False  # whether earlier records, not read by the decoder, may matter

    def packets(self, split: FileSplit, counters: Counters, firsts: FirstPackets | None) -> Iterator[Packets]:
        settings = self._settings
        begin = split.start if self._continues_with(split) else self._start(split)
        broken = _Broken(split, settings, counters)
        self._decoder.file_index = split.file_index
        with open_stream(split, settings) as stream:
            if split.split == 0:
                broken.header(header_cut(stream, split.container))
            scan = RecordScan(stream, split.container, split.context, begin, split.stop, settings, self._window_bytes)
            for step in scan:
                decoded = self._decoder.decode(step.buffer, step.records, split.start)
                is_near = self._has_unread and self._num_records + step.first_record < settings.fragment_records
                if (
                    is_near and decoded.totals[LATER_FRAGMENT, 0]
                ):  # rare: the first fragment may be in an earlier capture
                    self._read_back(replace(split, start=begin, stop=int(step.records.offset[0])))
                    decoded = self._decoder.decode(step.buffer, step.records, split.start)
                broken.byte_ranges(step.faults)
                broken.packets(decoded)
                _count(counters, split.path, decoded)
                if firsts:
                    own = int(np.searchsorted(step.records.offset, split.start))
                    for offset in firsts.among(step, own, split.file_index):
                        counters.add(split.path, OVERLAP, 0, 0, offset)
                if len(decoded.packets):
                    yield decoded.packets
            if split.stop >= 0 and scan.position != split.stop:
                raise StaleError(
                    f"{split.path}: no record starts at byte {split.stop}, where split {split.split} ends: the file "
                    "changed; plan it again (split-pcaps)"
                )
            broken.compression(stream.fault)
        broken.log()
        self._num_records += scan.records
        self._read.append(replace(split, start=begin))

    def _continues_with(self, split: FileSplit) -> bool:
        """Whether the split's first record is the next one of the stream."""
        if not self._read:
            return False
        last = self._read[-1]
        if last.file_index == split.file_index:
            return last.stop == split.start
        ended = last.stop in (-1, last.file_bytes)
        return self._is_one_stream and ended and last.file_index + 1 == split.file_index and split.split == 0

    def _start(self, split: FileSplit) -> int:
        """Reset the decoder; return the byte from which to read so that it has the records before the split."""
        drops_duplicates = self._settings.duplicate_window_us > 0
        before = () if self._read else self._before  # applies to the first split only
        self._read, self._num_records, self._decoder = [], 0, self._new_decoder()
        begin = split.warm_up if drops_duplicates or self._settings.fragment_records > 0 else split.start
        self._before = before
        self._has_unread = bool(before) and begin == first_record(split.container)
        if drops_duplicates and self._has_unread:
            self._read_back(replace(split, start=begin, stop=begin))
        return begin

    def _new_decoder(self) -> Decoder:
        return Decoder(self._settings, self._keep_bytes, header_fields=self._header_fields)

    def _read_back(self, own: FileSplit) -> None:
        """Replace the decoder by one that has read the captures before, the splits read so far, and ``own``."""
        chain = [*self._read, own]
        missing = lookback_records(self._settings)
        for split in self._before:
            earlier = replace(split, start=split.warm_up)
            try:
                missing -= self._scan(earlier)
            except (InputError, StaleError):
                if self._settings.unreadable == "fail":
                    raise
                break  # its own reader puts that capture in quarantine
            chain.insert(0, earlier)
            if missing <= 0:
                break
        self._decoder = self._new_decoder()
        for read in chain:
            self._scan(read, self._decoder)
        self._decoder.file_index = own.file_index
        self._has_unread = False

    def _scan(self, split: FileSplit, decoder: Decoder | None = None) -> int:
        """Scan a split, decode its records if there is a decoder, and return their number."""
        with open_stream(split, self._settings) as stream:
            scan = RecordScan(
                stream, split.container, split.context, split.start, split.stop, self._settings, self._window_bytes
            )
            for step in scan:
                if decoder is not None:
                    decoder.decode(step.buffer, step.records, TO_THE_END)
        return scan.records


def _count(counters: Counters, path: str, decoded: Decoded) -> None:
    for code, (packets, num_bytes, offset) in enumerate(decoded.totals.tolist()):
        if packets and code not in _WITH_NUMBER:
            counters.add(path, REASONS[code], packets, num_bytes, offset)
    for code, form in _WITH_NUMBER.items():
        if decoded.totals[code, 0]:
            of_code = np.flatnonzero(decoded.reasons[decoded.num_warm_up :] == code) + decoded.num_warm_up
            for number in np.unique(decoded.unread[of_code]).tolist():
                unread = of_code[decoded.unread[of_code] == number]
                num_bytes = int(decoded.frames.wire[unread].sum(dtype=np.int64))
                offset = int(decoded.frames.offset[unread[0]])
                counters.add(path, f"{REASONS[code]}_{number:{form}}", len(unread), num_bytes, offset)


class _Broken:
    """Counts and logs what is broken in a split; if strict, raises with file, offset and reason."""

    def __init__(self, split: FileSplit, settings: config.Capture, counters: Counters) -> None:
        self._split = split
        self._strict = settings.strict
        self._counters = counters
        self._first = -1
        self._num_ranges = 0
        self._bytes = 0

    def header(self, cut: int) -> None:
        if cut:
            self._add(0, cut, 0, "skipped_bytes", "the file header is cut off")

    def byte_ranges(self, faults: NDArray[np.int64]) -> None:
        for start, num_bytes, kind in faults.tolist():
            if start < self._split.start:  # warm-up: the split before counts it
                continue
            if kind == TRUNCATED_RECORD:
                self._add(start, num_bytes, 1, "truncated_record", "the file ends inside the record")
            else:
                self._add(start, num_bytes, 0, "skipped_bytes", "no record can start here")

    def packets(self, decoded: Decoded) -> None:
        if self._strict:
            bad = np.flatnonzero(np.isin(decoded.reasons[decoded.num_warm_up :], _STRICT))
            if len(bad):
                at = decoded.num_warm_up + int(bad[0])
                code = int(decoded.reasons[at])
                number = f"_{decoded.unread[at]:{_WITH_NUMBER[code]}}" if code in _WITH_NUMBER else ""
                self._refuse(int(decoded.frames.offset[at]), REASONS[code] + number)

    def compression(self, fault: str | None) -> None:
        if fault is not None:
            self._add(self._split.file_bytes, 0, 0, "broken_compression", fault)

    def log(self) -> None:
        if self._num_ranges:
            _log.warning(
                "%s: %d broken byte ranges, %d bytes in all, the first at byte %d",
                self._split.path,
                self._num_ranges,
                self._bytes,
                self._first,
            )

    def _add(self, start: int, num_bytes: int, packets: int, reason: str, why: str) -> None:
        if self._strict:
            self._refuse(start, f"{reason} ({why})")
        self._counters.add(self._split.path, reason, packets, num_bytes, start)
        self._first = start if self._num_ranges == 0 else self._first
        self._num_ranges += 1
        self._bytes += num_bytes

    def _refuse(self, offset: int, reason: str) -> None:
        raise DataError(
            f"{self._split.path}: byte {offset}: {reason}; fix or drop the capture, or set capture.strict=false"
        )
