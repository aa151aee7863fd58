"""Lists the files at a location, each once, however many names it has."""

from __future__ import annotations

import functools
import logging
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from iotid.capture.containers.files import filesystem_of, not_regular, unreadable, uri_of
from iotid.errors import InputError
from iotid.storage import local_path, text_of

if TYPE_CHECKING:
    from pyarrow import fs

Identity = tuple[object, ...]

_log = logging.getLogger(__name__)


class File(NamedTuple):
    """A name of a file."""

    path: str  # or URI, as stored in tables
    filesystem: fs.FileSystem
    inner: str  # its path within the filesystem
    identity: Identity  # the same for all names of one file


class Listing(NamedTuple):
    """The files at a location."""

    files: list[File]
    special: list[str]  # pipes, sockets and devices, which are skipped
    unreadable: dict[str, str]  # folders in quarantine -> reason


def list_files(location: str, on_unreadable: str) -> Listing:
    """The files below a folder or URI, links followed, or the one file.

    Raises:
        InputError: the location is missing, cannot be read or is no file; or a folder below it cannot be read, and
            ``on_unreadable`` is `fail`.
    """
    filesystem, inner = filesystem_of(location)
    local = local_path(location)
    if local is None:
        return Listing(_remote_files(location, filesystem, inner), [], {})
    listing = Listing([], [], {})
    top = str(Path(local))
    try:
        status = Path(top).stat()
        names = _names_below(top, on_unreadable, listing.unreadable) if stat.S_ISDIR(status.st_mode) else iter([top])
        for name in names:
            _add(name, filesystem, listing)
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(
            f"{location}: there is no such file or folder; give a capture or a folder of captures"
        ) from None
    except OSError as fault:
        raise unreadable(text_of(top), fault) from None
    if listing.special == [top]:
        raise not_regular(text_of(top), status.st_mode)
    return listing


def preferred(names: Sequence[File]) -> File:
    """Of the names of one file, one without a link in its path, and of those the first in natural order."""

    def rank(file: File) -> tuple[bool, object]:
        linked = os.path.realpath(file.inner) != str(Path(file.inner).absolute())
        return linked, natural(file.path)

    return min(names, key=rank) if len(names) > 1 else names[0]


def natural(path: str) -> tuple[object, str]:
    """Sorts numbers in names by value: tcpdump's rotation writes night.pcap9 before night.pcap10."""
    return _natural_key()(path), path


@functools.cache
def _natural_key() -> Callable[[str], object]:
    from natsort import natsort_keygen, ns  # 20 ms, for its regular expressions

    key: Callable[[str], object] = natsort_keygen(alg=ns.INT)
    return key


def _remote_files(location: str, filesystem: fs.FileSystem, inner: str) -> list[File]:
    from pyarrow import fs

    try:
        info = filesystem.get_file_info(inner)
        if info.type == fs.FileType.NotFound:
            raise InputError(f"{location}: there is no such file or folder; give a capture or a folder of captures")
        if info.type != fs.FileType.Directory:
            return [File(location, filesystem, inner, _remote_identity(filesystem, inner))]
        entries = filesystem.get_file_info(fs.FileSelector(inner, recursive=True))
    except OSError as fault:
        raise unreadable(location, fault) from None
    files = [entry.path for entry in entries if entry.type == fs.FileType.File]
    return [File(uri_of(location, path), filesystem, path, _remote_identity(filesystem, path)) for path in files]


_known: list[fs.FileSystem] = []  # filesystems that differ


def _remote_identity(filesystem: fs.FileSystem, path: str) -> Identity:
    if filesystem not in _known:
        _known.append(filesystem)
    return _known.index(filesystem), path


def _add(name: str, filesystem: fs.FileSystem, listing: Listing) -> None:
    identity: Identity
    try:
        status = Path(name).stat()
    except OSError:  # a broken link: reported when the file is opened
        identity = ("", name)
    else:
        if not stat.S_ISREG(status.st_mode):
            listing.special.append(name)
            return
        identity = (status.st_dev, status.st_ino or os.path.realpath(name))
    listing.files.append(File(text_of(name), filesystem, name, identity))


def _names_below(top: str, on_unreadable: str, faults: dict[str, str]) -> Iterator[str]:
    """All paths except folders; those below linked folders come last. Links to a parent folder are not followed."""
    seen: set[tuple[int, int]] = set()
    starts = [top]
    for start in starts:  # grows while links are found
        if start != top and _is_loop(start, seen):
            continue
        folders = [start]
        for folder in folders:
            try:
                status = Path(folder).stat()
                with os.scandir(folder) as found:
                    entries = sorted(found, key=lambda entry: entry.name)
            except OSError as fault:
                error = unreadable(text_of(folder), fault)
                if folder == top or on_unreadable == "fail":
                    raise error from None
                faults[text_of(folder)] = str(error)
                continue
            is_new = (status.st_dev, status.st_ino) not in seen
            seen.add((status.st_dev, status.st_ino))
            for entry in entries:
                path = str(Path(folder, entry.name))
                if entry.is_dir(follow_symlinks=False):
                    folders.append(path)
                elif not _is_folder(path):
                    yield path
                elif is_new:
                    starts.append(path)


def _is_folder(path: str) -> bool:
    """Also False for links that are broken or circular, or whose target this user may not read."""
    return Path(path).is_dir()


def _is_loop(link: str, seen: set[tuple[int, int]]) -> bool:
    """Whether a link points to a folder that contains it and is already listed."""
    try:
        status = Path(link).stat()
    except OSError:
        return False
    target, own = (Path(os.path.realpath(path)) for path in (link, Path(link).parent))
    return (status.st_dev, status.st_ino) in seen and own.is_relative_to(target)
