"""Which captures there are, and how they are cut into splits and packed into tasks."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple, TypeAlias

import numpy as np

from iotid import config
from iotid.capture.containers.detect import Container, first_record, pcapng_context, tell
from iotid.capture.containers.pcapng import MAX_OPTION_BYTES
from iotid.capture.splits.byte_ranges import Guess, Piece, cut_pieces, lookback_records, nothing, prove, walk_piece
from iotid.capture.splits.files import File, Identity, list_files, natural, preferred
from iotid.capture.splits.overlaps import first_packet
from iotid.capture.threads import Item, Result, in_threads
from iotid.errors import InputError, StaleError
from iotid.storage import text_of

WalkAll: TypeAlias = Callable[[Callable[[Piece], Guess | str | None], Sequence[Piece]], Sequence[Guess | str | None]]

_PROBES = 32  # files that are told at once

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FileSplit:
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
    fingerprint: str = ""  # of the file; empty: whatever it holds is taken
    first_packet: str = ""  # of the file; empty: not known


@dataclass(frozen=True)
class Plan:
    """The splits of captures, by file and place, and what had to be read twice to prove them."""

    splits: list[FileSplit]
    splits_repaired: int = 0
    bytes_repaired: int = 0
    unreadable: dict[str, str] = field(default_factory=dict)  # captures in quarantine, and why


class Found(NamedTuple):
    """Captures as whole splits, how many other files there are, and files in quarantine, with the reason."""

    captures: list[FileSplit]
    ignored: int
    unreadable: dict[str, str]
    same: int  # further names of these captures


def list_captures(location: str) -> list[str]:
    """Every capture below a folder or URI, or the one file, sorted by path and the value of numbers in it; told
    by content, not by name.

    Raises:
        InputError: the location is missing, cannot be read, or holds no capture.
    """
    return [capture.path for capture in find_captures([location]).captures]


def find_captures(locations: Iterable[str], unreadable: str = "fail") -> Found:
    """The captures at all locations, each file opened once.

    They are numbered by path over all locations, whatever their order. A file is one, however many names lead to it:
    links, folders that are links, spellings of a path. ``unreadable``: as of the settings' section `capture`.

    Raises:
        InputError: a location is missing or holds no capture; or a file or folder cannot be read, and ``unreadable`` is
            `fail`.
    """
    listings = {location: list_files(location, unreadable) for location in locations}
    names: dict[Identity, list[File]] = {}
    for file in (file for listing in listings.values() for file in listing.files):
        names.setdefault(file.identity, []).append(file)
    files = {identity: preferred(of_file) for identity, of_file in names.items()}
    remote = any(file.filesystem.type_name != "local" for file in files.values())
    told = dict(zip(files, _probe(partial(_tell, unreadable), files.values(), remote=remote), strict=True))
    quarantined: dict[str, str] = {}
    for location, listing in listings.items():
        quarantined |= listing.unreadable
        if not listing.unreadable and all(told[file.identity] is None for file in listing.files):
            raise InputError(f"{location}: holds no capture (pcap or pcapng, also in gzip, zstd, bz2 or xz)")
        for name in listing.special:
            _log.warning("%s: is a pipe, a socket or a device, and is passed over", text_of(name))
    quarantined |= {files[identity].path: why for identity, why in told.items() if isinstance(why, str)}
    for why in quarantined.values():
        _log.warning("%s; it is in quarantine", why)
    captures = {files[identity].path: found for identity, found in told.items() if isinstance(found, Container)}
    others = sum(found is None for found in told.values()) + sum(len(listing.special) for listing in listings.values())
    if others:
        _log.info(
            "%s: %d of %d files are no captures and are ignored", ", ".join(listings), others, others + len(captures)
        )
    same = sum(len(of_file) - 1 for identity, of_file in names.items() if told[identity] is not None)
    if same:
        _log.info(
            "%s: %d names lead to captures that have another name here, too; each is read once",
            ", ".join(listings),
            same,
        )
    paths = sorted(captures, key=natural)
    whole = [_whole(path, index, captures[path]) for index, path in enumerate(paths)]
    if len(whole) > 1:
        firsts = _probe(first_packet, whole, remote=remote)
        whole = [replace(capture, first_packet=first) for capture, first in zip(whole, firsts, strict=True)]
    if alike := count_same_start(whole):
        _log.warning(
            "%d captures begin with the same packet as another one, so that it is counted twice; give it once", alike
        )
    return Found(whole, others, quarantined, same)


def _probe(look: Callable[[Item], Result], items: Iterable[Item], *, remote: bool) -> list[Result]:
    """``look`` at the start of each file: of remote ones at several, for it is mostly waiting.

    A look at a local file takes 0.1 ms, less than threads that wait for each other's lock of the interpreter.
    """
    if not remote:
        return [look(item) for item in items]
    with ThreadPoolExecutor(_PROBES) as pool:
        return list(pool.map(look, items))


def count_same_start(captures: Iterable[FileSplit]) -> int:
    """Captures that begin with the same packet as one before them, as copies do, packed or not."""
    firsts = [capture.first_packet for capture in captures if capture.first_packet]
    return len(firsts) - len(set(firsts))


def _tell(unreadable: str, file: File) -> Container | str | None:
    """What the file is, None where it is no capture; or, where it cannot be read, why."""
    try:
        return tell(file.path, file.filesystem, file.inner)
    except InputError as fault:
        if unreadable == "fail":
            raise
        return str(fault)


def whole_capture(path: str, file_index: int) -> FileSplit:
    """The capture as one split.

    Raises:
        InputError: the file is missing, cannot be read or is no capture.
    """
    container = tell(path)
    if container is None:
        raise InputError(f"{path}: is no capture (pcap or pcapng, also in gzip, zstd, bz2 or xz)")
    return _whole(path, file_index, container)


def split_capture(path: str, file_index: int, settings: config.Capture) -> list[FileSplit]:
    """`split_captures` of one capture.

    Raises:
        InputError: the file is missing, cannot be read or is no capture.
    """
    return split_captures([whole_capture(path, file_index)], settings).splits


def split_captures(captures: Sequence[FileSplit], settings: config.Capture, walk_all: WalkAll | None = None) -> Plan:
    """Cut captures at record boundaries about every ``split_bytes``; small and compressed ones stay whole.

    The splits tile each file exactly, from its first record to its end. A large file's pieces are walked side by side,
    each from a guess at its first record, then proved one after the other (`iotid.capture.splits.byte_ranges`), so that a capture
    inside a packet of the capture cannot mislead the plan. Each split also says from where its reader must start for
    repeats and fragments across its start to be known; a pcapng is not cut where sections or interfaces began so few
    records ago, so that what is known at ``warm_up`` and at ``start`` is the same.

    ``walk_all(walk, pieces)`` gives ``walk`` of each piece, in order; None: in threads of this process.

    Raises:
        InputError: a file cannot be read, and ``settings.unreadable`` is `fail`.
        StaleError: the same, and a file has become shorter.
    """
    large = [c for c in captures if c.compression == "none" and c.file_bytes > settings.split_bytes]
    pieces = [piece for capture in large for piece in cut_pieces(capture, settings.split_bytes)]
    walk = partial(_walk_or_why, settings=settings)
    guesses = (walk_all or _in_threads)(walk, pieces) if pieces else []
    of_file: dict[int, list[tuple[Piece, Guess | str | None]]] = {capture.file_index: [] for capture in large}
    for piece, guess in zip(pieces, guesses, strict=True):
        of_file[piece.capture.file_index].append((piece, guess))
    plans = [
        _proved_or_why(of_file[c.file_index], settings) if c.file_index in of_file else Plan([c]) for c in captures
    ]
    return Plan(
        [split for plan in plans for split in plan.splits],
        sum(plan.splits_repaired for plan in plans),
        sum(plan.bytes_repaired for plan in plans),
        {path: why for plan in plans for path, why in plan.unreadable.items()},
    )


def pack_tasks(splits: list[FileSplit], settings: config.Capture) -> list[int]:
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


def last_splits(plan: Iterable[FileSplit]) -> dict[int, FileSplit]:
    """By file index, the last split of each capture of a plan or of a stretch of it."""
    return {split.file_index: split for split in plan}


def splits_before(last_of: Mapping[int, FileSplit], first: FileSplit, settings: config.Capture) -> list[FileSplit]:
    """The last splits of the captures before that of ``first``, nearest first, as far back as its reader may look.

    Fragments and repeats are looked for among the `lookback_records` records before; a capture that was not walked is taken to
    hold no more records than its size makes sure.
    """
    found: list[FileSplit] = []
    missing = lookback_records(settings)
    while missing > 0 and (split := last_of.get(first.file_index - len(found) - 1)) is not None:
        found.append(split)
        if split.warm_up > first_record(split.container):  # a reader that starts there sees enough
            break
        missing -= max(split.records, split.file_bytes // (settings.max_packet_bytes + MAX_OPTION_BYTES))
    return found


def _whole(path: str, file_index: int, container: Container) -> FileSplit:
    return FileSplit(
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
        fingerprint=container.fingerprint,
    )


def _walk_or_why(piece: Piece, settings: config.Capture) -> Guess | str | None:
    """The piece's guess, or, where its capture cannot be read, why."""
    try:
        return walk_piece(piece, settings)
    except (InputError, StaleError) as fault:
        if settings.unreadable == "fail":
            raise
        return str(fault)


def _proved_or_why(walked: list[tuple[Piece, Guess | str | None]], settings: config.Capture) -> Plan:
    """The splits of one capture, or that it cannot be read."""
    whole = [(piece, guess) for piece, guess in walked if not isinstance(guess, str)]
    why = next((guess for _, guess in walked if isinstance(guess, str)), "")
    if not why:
        try:
            return _proved(whole, settings)
        except (InputError, StaleError) as fault:
            if settings.unreadable == "fail":
                raise
            why = str(fault)
    _log.warning("%s; it is in quarantine", why)
    return Plan([], unreadable={walked[0][0].capture.path: why})


def _in_threads(walk: Callable[[Piece], Guess | str | None], pieces: Sequence[Piece]) -> list[Guess | str | None]:
    return in_threads(walk, pieces, len(pieces))  # the kernels let go of the interpreter's lock


def _proved(walked: list[tuple[Piece, Guess | None]], settings: config.Capture) -> Plan:
    """The splits of one capture: its pieces joined in order, those whose guess was wrong walked again."""
    capture = walked[0][0].capture
    reach = lookback_records(settings)
    known = nothing(capture)
    cuts: list[FileSplit] = []  # with the number of records before each in `records`
    repaired = []
    for piece, guess in walked:
        if known.end >= piece.limit:  # a record or a broken stretch goes across the whole piece
            continue
        warm_up = known.warm_up(reach) if cuts else capture.start
        if warm_up is not None:
            context = capture.context
            if capture.container == "pcapng":
                context = pcapng_context(known.big_endian, known.interfaces)
            cut = replace(capture, split=len(cuts), start=known.end, warm_up=warm_up, context=context)
            cuts.append(replace(cut, records=known.records))
        stretch, again = prove(known, guess, piece, settings)
        if again:
            repaired.append(again)
        known = known.then(stretch, reach)
    if repaired:
        told = (capture.path, len(repaired), len(walked), sum(repaired))
        _log.info("%s: the guessed start of %d of %d pieces was wrong; %d bytes were read again in sequence", *told)
    ends = [*(cut.start for cut in cuts[1:]), capture.file_bytes]
    records = np.diff([*(cut.records for cut in cuts), known.records]).tolist()
    splits = [replace(cut, end=end, records=count) for cut, end, count in zip(cuts, ends, records, strict=True)]
    return Plan(splits, len(repaired), sum(repaired))
