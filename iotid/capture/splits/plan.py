"""How captures are cut into splits, and splits packed into tasks."""

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
    Segment,
    SpeculativeRange,
    cut_segments,
    lookback_records,
    verify_segment,
    walk_segment,
)
from iotid.capture.threads import in_threads
from iotid.errors import InputError, StaleError

# what a walk of a segment gives: None where no record seems to start in it, or why its capture cannot be read
Walked: TypeAlias = SpeculativeRange | str | None
WalkAll: TypeAlias = Callable[[Callable[[Segment], Walked], Sequence[Segment]], Sequence[Walked]]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """The splits of captures, by file and offset, and what had to be read twice to verify them."""

    splits: list[FileSplit]
    splits_repaired: int = 0
    bytes_repaired: int = 0
    unreadable: dict[str, str] = field(default_factory=dict)  # captures in quarantine, and why


def split_captures(captures: Sequence[FileSplit], settings: config.Capture, walk_all: WalkAll | None = None) -> Plan:
    """Cut captures at record boundaries about every ``split_bytes``; small and compressed ones stay whole.

    The splits tile each file exactly, from its first record to its end. A large file's segments are walked in parallel,
    each from a guess at its first record, then verified in order (`iotid.capture.splits.byte_ranges`), so that a
    capture inside a packet of the capture cannot mislead the plan. Each split also says from where its reader must
    start for duplicates and fragments across its start to be known; a pcapng is not cut where sections or interfaces
    began so few records ago, so that what is known at ``warm_up`` and at ``start`` is the same.

    ``walk_all(walk, segments)`` gives ``walk`` of each segment, in order; None: in threads of this process.

    Raises:
        InputError: a file cannot be read, and ``settings.unreadable`` is `fail`.
        StaleError: the same, and a file has become shorter.
    """
    large = [c for c in captures if c.compression == "none" and c.file_bytes > settings.split_bytes]
    segments = [segment for capture in large for segment in cut_segments(capture, settings.split_bytes)]
    walk = partial(_walk_or_why, settings=settings)
    walked = (walk_all or _in_threads)(walk, segments) if segments else []
    of_file: dict[int, list[tuple[Segment, Walked]]] = {capture.file_index: [] for capture in large}
    for segment, found in zip(segments, walked, strict=True):
        of_file[segment.capture.file_index].append((segment, found))
    plans = [_join_or_why(of_file[c.file_index], settings) if c.file_index in of_file else Plan([c]) for c in captures]
    return Plan(
        [split for plan in plans for split in plan.splits],
        sum(plan.splits_repaired for plan in plans),
        sum(plan.bytes_repaired for plan in plans),
        {path: why for plan in plans for path, why in plan.unreadable.items()},
    )


def pack_tasks(splits: list[FileSplit], settings: config.Capture) -> list[int]:
    """Task number of each split: neighbours share a task until it holds ``task_bytes``, as small files do."""
    tasks: list[int] = []
    task, task_bytes = 0, 0
    for split in splits:
        size = split.file_bytes if split.end < 0 else split.end - split.start
        if task_bytes and task_bytes + size > settings.task_bytes:
            task, task_bytes = task + 1, 0
        task_bytes += size
        tasks.append(task)
    return tasks


def last_splits(plan: Iterable[FileSplit]) -> dict[int, FileSplit]:
    """By file index, the last split of each capture of a plan or of a part of it."""
    return {split.file_index: split for split in plan}


def splits_before(last_of: Mapping[int, FileSplit], first: FileSplit, settings: config.Capture) -> list[FileSplit]:
    """The last splits of the captures before that of ``first``, nearest first, as far back as its reader may read.

    First fragments and duplicates are searched among the `lookback_records` records before; a capture that was not
    walked is assumed to hold the fewest records that its size allows.
    """
    found: list[FileSplit] = []
    missing = lookback_records(settings)
    while missing > 0 and (split := last_of.get(first.file_index - len(found) - 1)) is not None:
        found.append(split)
        if split.warm_up > first_record(split.container):  # a reader that starts there sees enough
            break
        missing -= max(split.records, split.file_bytes // (settings.max_packet_bytes + MAX_OPTION_BYTES))
    return found


def _walk_or_why(segment: Segment, settings: config.Capture) -> Walked:
    """The segment walked, or, where its capture cannot be read, why."""
    try:
        return walk_segment(segment, settings)
    except (InputError, StaleError) as fault:
        if settings.unreadable == "fail":
            raise
        return str(fault)


def _join_or_why(walked: list[tuple[Segment, Walked]], settings: config.Capture) -> Plan:
    """The splits of one capture, or that it cannot be read."""
    readable = [(segment, found) for segment, found in walked if not isinstance(found, str)]
    why = next((found for _, found in walked if isinstance(found, str)), "")
    if not why:
        try:
            return _join(readable, settings)
        except (InputError, StaleError) as fault:
            if settings.unreadable == "fail":
                raise
            why = str(fault)
    _log.warning("%s; it is in quarantine", why)
    return Plan([], unreadable={walked[0][0].capture.path: why})


def _in_threads(walk: Callable[[Segment], Walked], segments: Sequence[Segment]) -> list[Walked]:
    return in_threads(walk, segments, len(segments))  # the kernels release the interpreter's lock


def _join(walked: list[tuple[Segment, SpeculativeRange | None]], settings: config.Capture) -> Plan:
    """The splits of one capture: its segments joined in order, those whose guess was wrong walked again."""
    capture = walked[0][0].capture
    lookback = lookback_records(settings)
    known = ByteRange.empty(capture.start)
    cuts: list[FileSplit] = []  # with the number of records before each in `records`
    repaired = []
    for segment, guess in walked:
        if known.end >= segment.limit:  # a record or a broken byte range covers the whole segment
            continue
        warm_up = known.warm_up(lookback) if cuts else capture.start
        if warm_up is not None:
            context = capture.context
            if capture.container == "pcapng":
                context = pcapng_context(known.big_endian, known.interfaces)
            cut = replace(capture, split=len(cuts), start=known.end, warm_up=warm_up, context=context)
            cuts.append(replace(cut, records=known.records))
        verified, bytes_repaired = verify_segment(known, guess, segment, settings)
        if bytes_repaired:
            repaired.append(bytes_repaired)
        known = known.join(verified, lookback)
    if repaired:
        _log.info(
            "%s: the guessed start of %d of %d segments was wrong; %d bytes were read again in sequence",
            capture.path, len(repaired), len(walked), sum(repaired),
        )  # fmt: skip
    ends = [*(cut.start for cut in cuts[1:]), capture.file_bytes]
    records = np.diff([*(cut.records for cut in cuts), known.records]).tolist()
    splits = [replace(cut, end=end, records=count) for cut, end, count in zip(cuts, ends, records, strict=True)]
    return Plan(splits, len(repaired), sum(repaired))
