"""Which captures there are, and how they are cut into splits and packed into tasks."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from iotid import config
from iotid.capture.containers import Container, tell
from iotid.capture.streams import filesystem_of, open_stream, uri_of
from iotid.errors import InputError

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Split:
    """A stretch of one capture that one reader reads: the columns of schemas.SPLITS that say what and where."""

    file_index: int
    path: str
    file_bytes: int
    container: str
    compression: str
    split: int
    start: int
    end: int
    warm_up: int
    context: str
    records: int
    previous: str = ""  # the capture that goes before this one where files are one stream: fragments may start there


def list_captures(location: str) -> list[str]:
    """Every capture below a folder or URI, or the one file, sorted by path; told by content, not by name.

    Raises:
        InputError: the location is missing, cannot be read, or holds no capture.
    """
    from pyarrow import fs

    filesystem, inner = filesystem_of(location)
    try:
        info = filesystem.get_file_info(inner)
        if info.type == fs.FileType.NotFound:
            raise InputError(f"{location}: there is no such file or folder; give a capture or a folder of captures")
        if info.type == fs.FileType.Directory:
            entries = filesystem.get_file_info(fs.FileSelector(inner, recursive=True))
            paths = sorted(uri_of(location, entry.path) for entry in entries if entry.type == fs.FileType.File)
        else:
            paths = [location]
    except OSError as fault:
        raise InputError(f"{location}: cannot be read ({fault}); check that it is there and may be read") from None
    captures = [path for path in paths if tell(path) is not None]
    if not captures:
        raise InputError(f"{location}: holds no capture (pcap or pcapng, also in gzip, zstd, bz2 or xz)")
    if len(captures) < len(paths):
        _log.info(
            "%s: %d of %d files are no captures and are ignored", location, len(paths) - len(captures), len(paths)
        )
    return captures


def whole_capture(path: str, file_index: int) -> Split:
    """The capture as one split.

    Raises:
        InputError: the file is missing, cannot be read or is no capture.
    """
    container = tell(path)
    if container is None:
        raise InputError(f"{path}: is no capture (pcap or pcapng, also in gzip, zstd, bz2 or xz)")
    return _whole(path, file_index, container)


def split_capture(path: str, file_index: int, settings: config.Capture) -> list[Split]:
    """Cut a capture at record boundaries about every ``split_bytes``; small and compressed ones stay whole.

    The splits tile the file exactly, from its first record to its end. Their boundaries come from a walk over every
    record from the first on, so that a capture inside a packet of the capture cannot mislead it. Each split also says
    from where its reader must start for repeats across its start to be known; a pcapng is not cut where sections or
    interfaces began so few records ago, so that what is known at ``warm_up`` and at ``start`` is the same.

    Raises:
        InputError: the file is missing, cannot be read or is no capture.
    """
    whole = whole_capture(path, file_index)
    if whole.compression != "none" or whole.file_bytes <= settings.split_bytes:
        return [whole]
    *cuts, total = _walk(whole, settings)
    ends = [cut.start for cut in cuts[1:]] + [whole.file_bytes]
    records = np.diff([cut.records for cut in cuts] + [total.records]).tolist()
    return [
        replace(cut, split=number, end=end, records=count)
        for number, (cut, end, count) in enumerate(zip(cuts, ends, records, strict=True))
    ]


def pack_tasks(splits: list[Split], settings: config.Capture) -> list[int]:
    """Task number of each split: neighbours share a task until it holds ``task_bytes``, as small files do."""
    tasks: list[int] = []
    task, held = 0, 0
    for split in splits:
        size = split.file_bytes if split.end < 0 else split.end - split.start
        if held and held + size > settings.task_bytes:
            task, held = task + 1, 0
        held += size
        tasks.append(task)
    return tasks


def _whole(path: str, file_index: int, container: Container) -> Split:
    return Split(
        file_index=file_index,
        path=path,
        file_bytes=container.file_bytes,
        container=container.name,
        compression=container.compression,
        split=0,
        start=container.start,
        end=container.file_bytes if container.compression == "none" else -1,
        warm_up=container.start,
        context=container.context,
        records=-1,
    )


def _walk(whole: Split, settings: config.Capture) -> Iterator[Split]:
    """The starts of the splits, with the number of records before each in ``records``; last, the end of the file."""
    from iotid.capture.walk import Walk

    yield replace(whole, records=0)
    reach = settings.duplicate_records
    target = settings.split_bytes
    offsets = np.empty(0, np.int64)  # of the last records, at least `reach` of them where there are so many
    with open_stream(whole.path, whole.compression, whole.file_bytes) as stream:
        walk = Walk(stream, whole.container, whole.context, whole.start, whole.end, settings)
        for step in walk:
            first = step.first_record - len(offsets)
            fresh = len(offsets)
            offsets = np.concatenate([offsets, step.records.offset])
            settled = walk.changed_at + reach - first if whole.container == "pcapng" else 0
            while True:
                at = max(int(np.searchsorted(offsets, target)), settled, fresh)
                if at >= len(offsets):
                    break
                start = int(offsets[at])
                warm_up = int(offsets[at - reach]) if at >= reach else whole.start
                context = walk.context if whole.container == "pcapng" else whole.context
                yield replace(whole, start=start, warm_up=warm_up, context=context, records=first + at)
                target = (start // settings.split_bytes + 1) * settings.split_bytes
            offsets = offsets[-reach:]
        yield replace(whole, start=whole.file_bytes, records=walk.records)
