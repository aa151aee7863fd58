"""The results of a scan: records, and the broken byte ranges that it skipped."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from iotid.capture.fields import Longs
from iotid.capture.jit import kernel

# indices into a scan's `state`, int64 each
POSITION = 0  # byte of the stream that the scan has reached
SKIP_FROM = 1  # start of the broken byte range whose end is not found yet; -1: none
CUT = 2  # 1: that range starts with a record whose header is complete and whose data is cut off at the stream's end
RECORDS = 3  # records so far
SECTION_BIG_ENDIAN = 4  # pcapng: byte order of the section
INTERFACES = 5  # pcapng: interfaces that the section has described so far
LAST_CONTEXT_CHANGE = 6  # pcapng: RECORDS when a section began or an interface was described; -1: never
SECTIONS = 7  # pcapng: sections that began
STATE_SIZE = 8

CHAIN = 3  # plausible records in a row that verify the first: one in 2**60 offsets of random bytes passes
# records in a row that end the search: a capture inside a TCP transfer is interrupted at each segment's end, and 32 of
# the shortest frames fill more than the usual segment of 1460 bytes
LONG_CHAIN = 32
MAX_WIRE_BYTES = 2**31 - 1  # columns of lengths are int32
FAR_END = 2**24  # bytes: no plausible record has a longer frame

# instead of a link type
NO_INTERFACE = -1  # the record names an interface that its section does not describe
BROKEN = -2  # the record's own fields contradict each other

SKIPPED_BYTES, TRUNCATED_RECORD = range(2)  # kinds of faults


class Records(NamedTuple):
    """Columns of records, one entry each, in stream order."""

    offset: NDArray[np.int64]  # byte of the stream where the record starts
    data: NDArray[np.int64]  # byte of the window where the frame starts
    captured: NDArray[np.int32]  # bytes of the frame that are in the window
    wire: NDArray[np.int32]  # bytes of the frame on the wire
    time: NDArray[np.int64]  # µs since 1970
    link: NDArray[np.int32]  # LINKTYPE_ number, NO_INTERFACE or BROKEN

    def first(self, count: int) -> Records:
        return Records._make(column[:count] for column in self)


def empty_records(capacity: int) -> Records:
    types = (np.int64, np.int64, np.int32, np.int32, np.int64, np.int32)
    return Records._make(np.empty(capacity, kind) for kind in types)


@kernel
def emit(records: Records, n: int, offset: int, data: int, captured: int, wire: int, time: int, link: int) -> None:
    """Write record ``n``. Its wire length is at least its captured length, whatever the header says."""
    records.offset[n] = offset
    records.data[n] = data
    records.captured[n] = captured
    records.wire[n] = max(wire, captured)
    records.time[n] = time
    records.link[n] = link


@kernel
def add_fault(faults: Longs, f: int, state: Longs, end: int, at_end: bool) -> int:
    """Close the broken byte range at ``end`` as fault ``f`` (start, bytes, kind); return the number of faults."""
    faults[f, 0] = state[SKIP_FROM]
    faults[f, 1] = end - state[SKIP_FROM]
    faults[f, 2] = TRUNCATED_RECORD if at_end and state[CUT] == 1 else SKIPPED_BYTES
    state[SKIP_FROM] = -1
    state[CUT] = 0
    return f + 1
