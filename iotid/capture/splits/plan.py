"""Divides captures into splits, and packs splits into tasks."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeAlias

import numpy as np

from iotid import config
from iotid.capture.containers.detect import first_record, pcapng_context
from iotid.capture.containers.pcapng import MAX_OPTION_BYTES
from iotid.capture.file_split import FileSplit
from iotid.capture.splits.byte_ranges import (
    ByteRange,
    ScanResult,
    UnverifiedScan,
    cut_ranges,
    lookback_records,
    scan_range,
    verify_range,
)
from iotid.capture.threads import in_threads
from iotid.errors import InputError, StaleError

# the scan of a range; a text: why its capture cannot be read; None: it has no candidate record boundary
ScanOutcome: TypeAlias = UnverifiedScan | str | None
ScanAll: TypeAlias = Callable[[Callable[[ByteRange], ScanOutcome], Sequence[ByteRange]], Sequence[ScanOutcome]]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """The splits of captures, by file and offset, and what was rescanned to verify them."""

    splits: list[FileSplit]
    splits_repaired: int = 0
    bytes_repaired: int = 0
    unreadable: dict[str, str] = field(default_factory=dict)  # captures in quarantine -> reason


def split_captures(
    captures: Sequence[FileSplit],
    settings: config.Capture,
    scan_all: ScanAll | None = None,
    *,
    walk_last: bool = True,
) -> Plan:
    """Divide captures at record boundaries about every ``split_bytes``; small and compressed ones stay whole.

    The splits of a file follow each other without gap or overlap, from its first record to its end. The byte ranges of
    a large file are scanned in parallel and then verified in order (`iotid.capture.splits.byte_ranges`), so that a
    capture inside a packet cannot mislead the plan. ``FileSplit.warm_up`` is where a reader must start to recognise
    duplicates and fragments across the split's start. A pcapng is not divided shortly after a section or interface
    began, so that ``warm_up`` and ``start`` have the same context.

    ``scan_all(scan, byte_ranges)`` returns ``scan`` of each range, in order; None: in threads of this process.
    ``walk_last``: whether the last range of a file is scanned, too, which only tells how many records it has.

    Raises:
        InputError: a file cannot be read, and ``settings.unreadable`` is `fail`.
        StaleError: the same, and a file has become shorter.
    """
    large = [found for found in captures if found.compression == "none" and found.file_bytes > settings.split_bytes]
    byte_ranges = [byte_range for capture in large for byte_range in cut_ranges(capture, settings.split_bytes)]
    scan = partial(_scan_or_reason, settings=settings)
    walked = [each for each in byte_ranges if walk_last or each.limit < each.capture.file_bytes]
    scanned = iter((scan_all or _in_threads)(scan, walked) if walked else [])
    of_file: dict[int, list[tuple[ByteRange, ScanOutcome]]] = {capture.file_index: [] for capture in large}
    for byte_range in byte_ranges:
        is_walked = walk_last or byte_range.limit < byte_range.capture.file_bytes
        of_file[byte_range.capture.file_index].append((byte_range, next(scanned) if is_walked else None))
    plans = [
        _join_or_reason(of_file[c.file_index], settings, walk_last) if c.file_index in of_file else Plan([c])
        for c in captures
    ]
    return Plan(
        [split for plan in plans for split in plan.splits],
        sum(plan.splits_repaired for plan in plans),
        sum(plan.bytes_repaired for plan in plans),
        {path: why for plan in plans for path, why in plan.unreadable.items()},
    )


def pack_tasks(splits: list[FileSplit], settings: config.Capture) -> list[int]:
    """Task number of each split. Consecutive splits, such as small files, share a task of up to ``task_bytes``."""
    tasks: list[int] = []
    task, task_bytes = 0, 0
    for split in splits:
        size = num_bytes(split)
        if task_bytes and task_bytes + size > settings.task_bytes:
            task, task_bytes = task + 1, 0
        task_bytes += size
        tasks.append(task)
    return tasks


def num_bytes(split: FileSplit) -> int:
    """Bytes of the split; of a compressed file, its compressed ones."""
    return split.file_bytes if split.stop < 0 else split.stop - split.start


def last_splits(plan: Iterable[FileSplit]) -> dict[int, FileSplit]:
    """File index -> the last split of that capture, in a plan or a part of one."""
    return {split.file_index: split for split in plan}


def splits_before(last_of: Mapping[int, FileSplit], first: FileSplit, settings: config.Capture) -> list[FileSplit]:
    """The last splits of the captures before ``first``, nearest first, as far back as its reader may need.

    First fragments and duplicates are searched in the last `lookback_records` records. A capture that was not scanned
    is assumed to have the fewest records that its size allows.
    """
    found: list[FileSplit] = []
    missing = lookback_records(settings)
    while missing > 0 and (split := last_of.get(first.file_index - len(found) - 1)) is not None:
        found.append(split)
        if split.warm_up > first_record(split.container):  # a reader that starts there sees enough
            break
        missing -= max(split.records, split.file_bytes // (settings.max_packet_bytes + MAX_OPTION_BYTES))
    return found


def _scan_or_reason(byte_range: ByteRange, settings: config.Capture) -> ScanOutcome:
    """The scan of the range; or, if its capture cannot be read, the reason."""
    try:
        return scan_range(byte_range, settings)
    except (InputError, StaleError) as fault:
        if settings.unreadable == "fail":
            raise
        return str(fault)


def _join_or_reason(scanned: list[tuple[ByteRange, ScanOutcome]], settings: config.Capture, walk_last: bool) -> Plan:
    """The splits of one capture, or the reason why it cannot be read."""
    readable = [(byte_range, found) for byte_range, found in scanned if not isinstance(found, str)]
    why = next((found for _, found in scanned if isinstance(found, str)), "")
    if not why:
        try:
            return _join(readable, settings, walk_last)
        except (InputError, StaleError) as fault:
            if settings.unreadable == "fail":
                raise
            why = str(fault)
    _log.warning("%s; it is in quarantine", why)
    return Plan([], unreadable={scanned[0][0].capture.path: why})


def _in_threads(scan: Callable[[ByteRange], ScanOutcome], byte_ranges: Sequence[ByteRange]) -> list[ScanOutcome]:
    return in_threads(scan, byte_ranges, len(byte_ranges))  # the kernels release the interpreter's lock


def _join(scanned: list[tuple[ByteRange, UnverifiedScan | None]], settings: config.Capture, walk_last: bool) -> Plan:
    """The splits of one capture: joins its ranges in order and rescans those whose candidate was wrong."""
    capture = scanned[0][0].capture
    lookback = lookback_records(settings)
    known = ScanResult.empty(capture.start)
    cuts: list[FileSplit] = []  # with the number of records before each in `records`
    repaired = []
    for byte_range, candidate in scanned:
        if known.end >= byte_range.limit:  # a record or a broken byte range covers this whole range
            continue
        warm_up = known.warm_up(lookback) if cuts else capture.start
        if warm_up is not None:
            context = capture.context
            if capture.container == "pcapng":
                context = pcapng_context(known.big_endian, known.interfaces)
            cut = replace(capture, split=len(cuts), start=known.end, warm_up=warm_up, context=context)
            cuts.append(replace(cut, records=known.records))
        if not walk_last and byte_range.limit == capture.file_bytes:
            break
        verified, bytes_repaired = verify_range(known, candidate, byte_range, settings)
        if bytes_repaired:
            repaired.append(bytes_repaired)
        known = known.join(verified, lookback)
    if repaired:
        _log.info(
            "%s: the candidate start of %d of %d byte ranges was wrong; %d bytes were rescanned",
            capture.path, len(repaired), len(scanned), sum(repaired),
        )  # fmt: skip
    ends = [*(cut.start for cut in cuts[1:]), capture.file_bytes]
    records = np.diff([*(cut.records for cut in cuts), known.records]).tolist()
    if known.end < capture.file_bytes and not walk_last:
        records[-1] = -1
    splits = [replace(cut, stop=end, records=count) for cut, end, count in zip(cuts, ends, records, strict=True)]
    return Plan(splits, len(repaired), sum(repaired))
