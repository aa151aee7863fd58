"""Reference for decode.frames: aggregates of 802.11 cut into frames."""

from __future__ import annotations

from typing import Any

from .link import unwrapped
from .wire import RejectError
from .wireless import data_frame_body, later_subframe_offsets


def frames_of(record: dict[str, Any]) -> Any:
    """The record, or, where it is an 802.11 frame of several packets, one frame for each: they tile its bytes."""
    if record["reason"] is not None:
        yield record
        return
    frame, wire = record["frame"], record["frame_length"]
    starts, link = _later_subframes(frame, wire, record["link"])
    for start, end in zip([0, *starts], [*starts, wire], strict=True):
        offset = record["offset"] + min(start, len(frame))
        own = {"offset": offset, "frame": frame[start:end], "frame_length": end - start}
        yield record | own | ({"link": link} if start else {})


def _later_subframes(frame: bytes, wire: int, link: int | str) -> tuple[list[int], str]:
    """Where the second and further subframes start in a frame of so many bytes on the wire, and what they are."""
    try:
        link, start = unwrapped(frame, link)
        if link not in (105, "padded 802.11"):
            return [], ""
        body = data_frame_body(frame[start:], link != 105)
    except RejectError:
        return [], ""
    if not body.is_aggregate:
        return [], ""
    later = later_subframe_offsets(frame[start:], body, wire - start)
    return [start + at for at in later], "mesh subframe" if body.is_mesh else "subframe"
