"""Detects the format of a file by its first bytes: pcap or pcapng, compressed or not."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from iotid.capture.containers.compression import compression_of
from iotid.capture.containers.files import filesystem_of, fingerprint_of, open_file, unreadable
from iotid.capture.containers.streams import Stream, decompressed

if TYPE_CHECKING:
    from pyarrow import fs

_PCAPNG_MAGIC = b"\x0a\x0d\x0d\x0a"
_BYTE_ORDER_MAGICS = (b"\x1a\x2b\x3c\x4d", b"\x4d\x3c\x2b\x1a")
# magic, as a big-endian number, to (ticks per microsecond, bytes of a record's header)
_PCAP_MAGICS = {0xA1B2C3D4: (1, 16), 0xA1B23C4D: (1000, 16), 0xA1B2CD34: (1, 24)}
PCAP_HEADER_BYTES = 24
_DETECT_BYTES = 1 << 16  # read from each file to detect its format
_ENOUGH = 64  # lead of records in the range of microseconds that settles the unit
_LINK_TYPE_BITS = 0x03FFFFFF  # the higher bits are the length of the frame check sequence


@dataclass(frozen=True)
class CaptureFormat:
    """The format of a file. ``context`` (JSON): the reader's initial state at the first record, byte ``start``."""

    container: str  # pcap or pcapng
    compression: str
    file_bytes: int
    start: int
    context: str
    fingerprint: str


def detect_format(path: str, filesystem: fs.FileSystem | None = None, inner: str = "") -> CaptureFormat | None:
    """The format of the file at a path or URI; None if it is no capture. The file is opened once.

    ``filesystem`` and ``inner``: the path's filesystem and the path within it, if already known.

    Raises:
        InputError: the file is missing or cannot be read.
    """
    if filesystem is None:
        filesystem, inner = filesystem_of(path)
    try:
        with open_file(path, filesystem, inner) as file:
            first_bytes = file.read(_DETECT_BYTES)
            file_bytes = file.seek(0, os.SEEK_END)
            fingerprint = fingerprint_of(file, file_bytes)
            compression = compression_of(first_bytes)
            if compression != "none":
                file.seek(0)
                first_bytes = decompressed(file, compression).window(0, _DETECT_BYTES).tobytes()
    except OSError as fault:
        raise unreadable(path, fault) from None
    if first_bytes.startswith(_PCAPNG_MAGIC) and (len(first_bytes) < 12 or first_bytes[8:12] in _BYTE_ORDER_MAGICS):
        context = pcapng_context(False, np.empty((0, 0), np.int64))
        return CaptureFormat("pcapng", compression, file_bytes, 0, context, fingerprint)
    orders: tuple[Literal["big", "little"], ...] = ("big", "little")
    for order in orders:
        magic = int.from_bytes(first_bytes[:4], order)
        if magic in _PCAP_MAGICS and len(first_bytes) >= 4:
            ticks, record_header = _PCAP_MAGICS[magic]
            if ticks == 1 and _counts_nanoseconds(first_bytes, order, record_header):
                ticks = 1000
            link = int.from_bytes(first_bytes[20:24], order) & _LINK_TYPE_BITS
            layout = {
                "big_endian": order == "big",
                "record_header": record_header,
                "ticks_per_us": ticks,
                "link_type": link,
            }
            start = PCAP_HEADER_BYTES if compression != "none" else min(PCAP_HEADER_BYTES, file_bytes)
            return CaptureFormat("pcap", compression, file_bytes, start, json.dumps(layout), fingerprint)
    return None


def _counts_nanoseconds(first_bytes: bytes, order: Literal["big", "little"], record_header: int) -> bool:
    """Whether a file with the magic of microseconds has nanoseconds: some writers use the wrong magic.

    Decided by the file's first records, so all splits agree: every fraction of a second is below 10**9, and more are
    beyond the range of microseconds than within (of true nanoseconds 999 in 1,000; zeros do not count).
    """
    at, beyond, within = PCAP_HEADER_BYTES, 0, 0
    while at + record_header <= len(first_bytes):
        fraction, captured = (int.from_bytes(first_bytes[at + i : at + i + 4], order) for i in (4, 8))
        if fraction >= 10**9:
            return False
        beyond += fraction >= 10**6
        within += 0 < fraction < 10**6
        if within > beyond + _ENOUGH:
            return False
        at += record_header + captured
    return beyond > within


def pcapng_context(big_endian: bool, interfaces_IF: Any) -> str:
    return json.dumps({"big_endian": bool(big_endian), "interfaces": interfaces_IF.tolist()})


def first_record(container: str) -> int:
    """Offset of a capture's first record (pcapng: first block) in the uncompressed stream."""
    return PCAP_HEADER_BYTES if container == "pcap" else 0


def header_cut(stream: Stream, container: str) -> int:
    """Size of an incomplete pcap file header; 0 if the header is complete."""
    if container == "pcapng":
        return 0
    size = len(stream.window(0, PCAP_HEADER_BYTES))
    return size if size < PCAP_HEADER_BYTES else 0
