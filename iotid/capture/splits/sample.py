"""Decodes the beginning of a few captures, to notice packets that were captured twice."""

from __future__ import annotations

from collections.abc import Sequence

from iotid import config
from iotid.capture.containers.scan import RecordScan
from iotid.capture.containers.streams import open_stream
from iotid.capture.counters import DUPLICATE
from iotid.capture.decode.decoder import Decoder
from iotid.capture.file_split import FileSplit
from iotid.errors import InputError, StaleError
from iotid.pages import percent

WINDOW_US = 10_000  # as conf/base.yaml suggests for mirror ports
_CAPTURES = 4  # the largest, because a mirror port's fault is in all of a night's captures
_PACKETS = 5_000  # of each; a chatty device repeats broadcasts, a mirror port everything
_LEAST_SHARE, _LEAST_PACKETS = 0.1, 50  # of duplicates that are reported


def duplicates_warning(captures: Sequence[FileSplit], settings: config.Capture) -> str | None:
    """A sentence if a tenth or more of the packets that the captures begin with are duplicates within 10 ms.

    None if ``settings.duplicate_window_us`` drops duplicates anyway. A capture that cannot be read is left out.
    """
    if settings.duplicate_window_us:
        return None
    short = settings.model_copy(update={"chunk_bytes": 1 << 18, "duplicate_window_us": WINDOW_US})
    for capture in sorted(captures, key=lambda capture: -capture.file_bytes)[:_CAPTURES]:
        try:
            packets, duplicates = _count(capture, short)
        except (InputError, StaleError):  # reported when the capture is planned or read
            continue
        if duplicates >= max(_LEAST_SHARE * packets, _LEAST_PACKETS):
            return (
                f"{capture.path}: {percent(duplicates / packets)} of its first {packets:,} packets are duplicates "
                f"within {WINDOW_US // 1000} ms, as mirror ports and Linux's device `any` record them; set "
                f"capture.duplicate_window_us={WINDOW_US} to drop them"
            )
    return None


def _count(capture: FileSplit, settings: config.Capture) -> tuple[int, int]:
    """Packets decoded, and how many of them are duplicates."""
    packets, duplicates, decoder = 0, 0, Decoder(settings)
    with open_stream(capture, settings) as stream:
        scan = RecordScan(stream, capture.container, capture.context, capture.start, capture.stop, settings)
        for step in scan:
            totals = decoder.decode(step.buffer, step.records, 0).totals
            packets += int(totals[:, 0].sum())
            duplicates += int(totals[DUPLICATE, 0])
            if packets >= _PACKETS:
                break
    return packets, duplicates
