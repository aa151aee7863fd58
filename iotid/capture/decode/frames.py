"""Divides records into frames: an 802.11 frame that aggregates several packets (A-MSDU) becomes one frame for each.

The frames of a record cover its bytes without gap or overlap, on the wire and as captured: the first includes all
headers, the last all that follows the last subframe. The offset of a later frame is the record's plus the bytes
captured before the frame, so that offsets are unique in a capture. All later steps, counters included, count frames.
"""

from __future__ import annotations

from iotid.capture.containers.records import Records, emit, empty_records
from iotid.capture.decode.link import PKTAP, PKTAP_DARWIN, unwrapped
from iotid.capture.decode.wireless import (
    IEEE_802_11,
    IEEE_802_11_PADDED,
    MESH_SUBFRAME,
    PPI,
    PRISM,
    PRISM_AVS,
    RADIOTAP,
    SUBFRAME,
    SUBFRAME_HEADER,
    body_of_frame,
    next_subframe,
)
from iotid.capture.fields import Bytes
from iotid.capture.jit import kernel

_NONE = empty_records(0)


def frames_of(buffer: Bytes, records: Records) -> Records:
    """The frames of a window's records, in order; the records themselves if each is one frame."""
    count = _cut(buffer, records, _NONE)
    if count == len(records.offset):
        return records
    frames = empty_records(count)
    _cut(buffer, records, frames)
    return frames


@kernel
def _cut(buffer: Bytes, records: Records, frames: Records) -> int:
    """Write the frames, unless ``frames`` is empty; return their number."""
    n = 0
    writes = len(frames.offset) > 0
    for r in range(len(records.offset)):
        link = records.link[r]
        may_aggregate = link in (IEEE_802_11, RADIOTAP, PPI, PRISM, PRISM_AVS, PKTAP, PKTAP_DARWIN)
        if not may_aggregate and not writes:  # nearly all records
            n += 1
            continue
        start = records.data[r]
        base = records.offset[r] - start
        time = records.time[r]
        end = min(start + records.captured[r], len(buffer))
        wire_end = start + records.wire[r]
        marked = link
        if may_aggregate:
            inner, at = unwrapped(buffer, start, end, link)
            is_aggregate = False
            if inner in (IEEE_802_11, IEEE_802_11_PADDED):
                at, is_aggregate, is_mesh = body_of_frame(buffer, at, end, inner)
            while is_aggregate and end - at > SUBFRAME_HEADER:
                at = next_subframe(buffer, at, is_mesh)
                if wire_end - at <= SUBFRAME_HEADER:  # a frame check sequence, or nothing
                    break
                if writes:
                    emit(frames, n, base + start, start, min(at, end) - start, at - start, time, marked)
                n += 1
                marked = link | (MESH_SUBFRAME if is_mesh else SUBFRAME)
                wire_end -= at - min(at, end)
                start = min(at, end)
        if writes:
            emit(frames, n, base + start, start, max(end - start, 0), wire_end - start, time, marked)
        n += 1
    return n
