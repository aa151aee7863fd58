"""Finds the captures at given locations by their content, each file once, numbered by path."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from typing import NamedTuple

from iotid.capture.containers.detect import CaptureFormat, detect_format
from iotid.capture.file_split import FileSplit
from iotid.capture.splits.files import File, Identity, list_files, natural, preferred
from iotid.capture.splits.overlaps import first_packet
from iotid.capture.threads import in_threads
from iotid.errors import InputError
from iotid.storage import text_of

# Threads wait for remote files in parallel. A local file takes 0.1 ms, less than a thread's wait for the GIL.
_REMOTE_THREADS, _LOCAL_THREADS = 32, 1

_log = logging.getLogger(__name__)


class Found(NamedTuple):
    """The captures, each as one split, and what else was found."""

    captures: list[FileSplit]
    ignored: int  # number of files that are no captures
    unreadable: dict[str, str]  # files and folders in quarantine -> reason
    same: int  # number of further names of these captures


def find_captures(locations: Iterable[str], unreadable: str = "fail") -> Found:
    """The captures at all locations (files, folders or URIs), recognised by content; each file is opened once.

    They are numbered by path over all locations, in natural order (file9 before file10). A file with several names
    (links, linked folders, spellings of a path) counts once. Each capture is a `FileSplit` of the whole file, from its
    first record to its end; if there are several captures, with its first packet.

    ``unreadable`` (setting `capture.unreadable`): `fail` raises if a file or folder cannot be read, `quarantine` puts
    it into ``Found.unreadable``.

    Raises:
        InputError: a location is missing or has no capture; or a file or folder cannot be read, and ``unreadable`` is
            `fail`.
    """
    listings = {location: list_files(location, unreadable) for location in locations}
    names: dict[Identity, list[File]] = {}
    for file in (file for listing in listings.values() for file in listing.files):
        names.setdefault(file.identity, []).append(file)
    files = {identity: preferred(of_file) for identity, of_file in names.items()}
    remote = any(file.filesystem.type_name != "local" for file in files.values())
    threads = _REMOTE_THREADS if remote else _LOCAL_THREADS
    detected = in_threads(partial(_detect, unreadable), files.values(), len(files), threads)
    formats = dict(zip(files, detected, strict=True))
    quarantined: dict[str, str] = {}
    for location, listing in listings.items():
        quarantined |= listing.unreadable
        if not listing.unreadable and all(formats[file.identity] is None for file in listing.files):
            raise InputError(f"{location}: holds no capture (pcap or pcapng, also in gzip, zstd, bz2 or xz)")
        for name in listing.special:
            _log.warning("%s: is a pipe, a socket or a device, and is skipped", text_of(name))
    quarantined |= {files[identity].path: why for identity, why in formats.items() if isinstance(why, str)}
    for why in quarantined.values():
        _log.warning("%s; it is in quarantine", why)
    captures = {files[identity].path: found for identity, found in formats.items() if isinstance(found, CaptureFormat)}
    others = sum(found is None for found in formats.values()) + sum(len(found.special) for found in listings.values())
    if others:
        _log.info(
            "%s: %d of %d files are no captures and are ignored", ", ".join(listings), others, others + len(captures)
        )
    same = sum(len(of_file) - 1 for identity, of_file in names.items() if formats[identity] is not None)
    if same:
        _log.info("%s: %d paths are further names of these captures; each is read once", ", ".join(listings), same)
    paths = sorted(captures, key=natural) if len(captures) > 1 else list(captures)
    whole = [_whole(path, index, captures[path]) for index, path in enumerate(paths)]
    if len(whole) > 1:
        firsts = in_threads(first_packet, whole, len(whole), threads)
        whole = [replace(capture, first_packet=first) for capture, first in zip(whole, firsts, strict=True)]
    if copies := count_same_start(whole):
        _log.warning(
            "%d captures begin with the same packet as an earlier one, so common packets are counted twice: such as %s "
            "and %s; remove copies: no setting drops packets that are in two files, except where rotated files overlap "
            "by at most capture.duplicate_records packets (capture.duplicate_window_us)",
            copies,
            *_same_start(whole),
        )
    return Found(whole, others, quarantined, same)


def count_same_start(captures: Iterable[FileSplit]) -> int:
    """Number of captures that begin with the same packet as an earlier one, as copies do, compressed or not."""
    firsts = [capture.first_packet for capture in captures if capture.first_packet]
    return len(firsts) - len(set(firsts))


def _same_start(captures: Iterable[FileSplit]) -> tuple[str, str]:
    """The paths of two captures that begin with the same packet, of which there must be two."""
    path_of: dict[str, str] = {}
    return next(
        (earlier, capture.path)
        for capture in captures
        if capture.first_packet and (earlier := path_of.setdefault(capture.first_packet, capture.path)) != capture.path
    )


def _detect(unreadable: str, file: File) -> CaptureFormat | str | None:
    """The file's format; None if it is no capture; if it cannot be read, the reason."""
    try:
        return detect_format(file.path, file.filesystem, file.inner)
    except InputError as fault:
        if unreadable == "fail":
            raise
        return str(fault)


def _whole(path: str, file_index: int, found: CaptureFormat) -> FileSplit:
    return FileSplit(
        file_index=file_index,
        path=path,
        file_bytes=found.file_bytes,
        container=found.container,
        compression=found.compression,
        split=0,
        start=found.start,
        stop=found.file_bytes if found.compression == "none" else -1,
        warm_up=found.start,
        context=found.context,
        records=-1,
        fingerprint=found.fingerprint,
    )
