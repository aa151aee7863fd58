"""Files below a storage root that belong to no partition: of runs that died, and of partitions that were replaced.

A running step must not lose its files, so only what nobody has written to for `partitions.ABANDONED` is a leftover.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from iotid.partitions import ABANDONED, MARKER, VERSION
from iotid.storage import is_object_store, open_filesystem, read_small, remove_folder, using_root

if TYPE_CHECKING:
    from pyarrow import fs

    from iotid.partitions import Store

_STAGING, _TRASH = "_staging", "_trash"
_PARTITION = "[^/=]+(?:/[^/=]+=[^/]*)+"  # table and key


class Leftover(NamedTuple):
    """A folder, relative to the storage root, and the bytes of its files."""

    folder: str
    num_bytes: int


def find_leftovers(store: Store) -> list[Leftover]:
    """Folders below the storage root that were abandoned, sorted."""
    filesystem, base = open_filesystem(store.root)
    find = _old_versions if is_object_store(filesystem) else _old_staging
    with using_root(store.root):
        return sorted(find(filesystem, base, datetime.now(UTC) - ABANDONED))


def delete_leftovers(store: Store, leftovers: Iterable[Leftover]) -> None:
    """Delete the folders, but not those above, in which a step may be about to write."""
    filesystem, base = open_filesystem(store.root)
    with using_root(store.root):
        for each in leftovers:
            remove_folder(filesystem, f"{base}/{each.folder}")


def _old_staging(filesystem: fs.FileSystem, base: str, before: datetime) -> Iterator[Leftover]:
    """Staged folders without a marker (with it, the next reader completes them), and replaced partitions."""
    staged = _infos(filesystem, f"{base}/{_STAGING}")
    for folder, within in _grouped(staged, base, rf"{_STAGING}/{_PARTITION}/[^/=]+"):
        is_complete = any(info.path == f"{base}/{folder}/{MARKER}" for info in within)
        if max(map(_time, within)) < before and not is_complete:
            yield _leftover(folder, within)
    replaced = _infos(filesystem, f"{base}/{_TRASH}")
    renamed = {info.path: _time(info) for info in replaced}  # a rename changes the time of the folder above alone
    for folder, within in _grouped(replaced, base, rf"{_TRASH}/{_PARTITION}"):
        is_folder_above = not any(info.is_file for info in within)
        if not is_folder_above and max(renamed[f"{base}/{folder}".rpartition("/")[0]], *map(_time, within)) < before:
            yield _leftover(folder, within)


def _old_versions(filesystem: fs.FileSystem, base: str, before: datetime) -> Iterator[Leftover]:
    """Versions that are not the current one of their partition, by the time in their name."""
    abandoned = f"{VERSION}{before:%Y%m%dT%H%M%S}"
    infos = _infos(filesystem, base)
    markers = {info.path for info in infos if info.base_name == MARKER}
    for folder, within in _grouped(infos, base, rf"(?!_){_PARTITION}/{VERSION}[^/]+"):
        partition, _, version = folder.rpartition("/")
        if version < abandoned:
            marker = f"{base}/{partition}/{MARKER}"
            current = read_small(filesystem, marker, marker).decode(errors="replace") if marker in markers else ""
            if version != current:
                yield _leftover(folder, within)


def _leftover(folder: str, within: Iterable[fs.FileInfo]) -> Leftover:
    return Leftover(folder, sum(info.size or 0 for info in within))


def _infos(filesystem: fs.FileSystem, folder: str) -> list[fs.FileInfo]:
    from pyarrow import fs

    found: list[fs.FileInfo] = filesystem.get_file_info(fs.FileSelector(folder, recursive=True, allow_not_found=True))
    return found


def _grouped(infos: Iterable[fs.FileInfo], base: str, pattern: str) -> Iterator[tuple[str, list[fs.FileInfo]]]:
    """Each folder whose path below ``base`` fits the pattern, with itself and all that is in it."""
    groups = defaultdict(list)
    for info in infos:
        match = re.match(rf"(?:{pattern})(?=/|$)", info.path.removeprefix(f"{base}/"))
        if match:
            groups[match[0]].append(info)
    yield from sorted(groups.items())


def _time(info: fs.FileInfo) -> datetime:
    return datetime.fromtimestamp((info.mtime_ns or 0) / 1e9, UTC)
