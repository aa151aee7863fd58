"""The capture date of a folder of captures."""

from __future__ import annotations

import logging

from iotid import config
from iotid.capture.by_date import LAST_US, day_of
from iotid.capture.containers.scan import RecordScan
from iotid.capture.containers.streams import open_stream
from iotid.capture.file_split import FileSplit
from iotid.capture.splits.discovery import find_captures
from iotid.errors import InputError, StaleError

_CLOCK_SET_US = 365 * 86_400_000_000  # times in 1970 come from a clock that is not set
_CLOCK_WITHIN = 1 << 28  # bytes of a capture that are scanned for a time after the clock was set

_log = logging.getLogger(__name__)


def first_day(location: str, settings: config.Capture) -> str:
    """The day (UTC, as 2026-01-31) of the earliest first record of the captures.

    A clock that is not set starts in 1970; of such a capture the first record after the clock was set counts.

    Raises:
        InputError: the location is missing or has no capture, or no record has a time; or a capture cannot be read,
            and ``settings.unreadable`` is `fail`.
    """
    short_reads = settings.model_copy(update={"chunk_bytes": 1 << 16})
    firsts: list[tuple[bool, int, str]] = []  # whether the clock was not set, µs, path
    for capture in find_captures([location], settings.unreadable).captures:
        try:
            firsts += [(time < _CLOCK_SET_US, time, capture.path) for time in _first_times(capture, short_reads)]
        except (InputError, StaleError):
            if settings.unreadable == "fail":
                raise
    if not firsts:
        raise InputError(f"{location}: no capture there holds a record with a time; give captures that hold packets")
    _, first, _ = min(firsts)
    day = day_of(first)
    unset = [(time, path) for is_unset, time, path in firsts if is_unset]
    if unset:
        time, path = min(unset)
        _log.warning(
            "%s: begins on %s, so its clock was not set; %s is used as its capture date: give --date if that is wrong",
            path, day_of(time), day,
        )  # fmt: skip
    return day


def _first_times(capture: FileSplit, settings: config.Capture) -> list[int]:
    """The time of the first record that has one; if that is in 1970, also the first time that is not."""
    first: list[int] = []
    with open_stream(capture, settings) as stream:
        scan = RecordScan(stream, capture.container, capture.context, capture.start, capture.stop, settings)
        for step in scan:
            times = step.records.time
            known = times[(times > 0) & (times < LAST_US)]
            is_set = known[known >= _CLOCK_SET_US]
            first = first or known[:1].tolist()
            if len(is_set):
                return list(dict.fromkeys([*first, int(is_set[0])]))[: 1 + (first[0] < _CLOCK_SET_US)]
            if scan.position > _CLOCK_WITHIN:
                break
    return first
