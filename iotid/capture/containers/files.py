"""Opens files of any filesystem, computes their fingerprints, and names them in errors."""

from __future__ import annotations

import re
import stat
import zlib
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from iotid import storage
from iotid.errors import InputError
from iotid.inputs import file_type, open_without_waiting
from iotid.storage import local_path

if TYPE_CHECKING:
    from pyarrow import fs

_SAMPLE = 1 << 16  # bytes at either end of a capture for its fingerprint


def filesystem_of(path: str) -> tuple[fs.FileSystem, str]:
    """The pyarrow filesystem of a path or URI, and the path within it."""
    local = local_path(path)
    if local is not None and re.search("[\0\ud800-\udc7f\udd00-\udfff]", local):
        raise InputError(f"{local!r}: no file can have this name; give a capture or a folder of captures")
    try:
        return storage.filesystem_of(path)
    except ValueError as fault:
        raise InputError(str(fault)) from None


def uri_of(location: str, inner: str) -> str:
    """The path or URI of ``inner``, found on the filesystem of ``location``."""
    if local_path(location) is not None:
        return inner
    parts = urlsplit(location)
    user, _, host = parts.netloc.rpartition("@")
    bucket = inner.partition("/")[0] == host  # object stores: the first part of the path is the bucket
    target = f"{user}@" * bool(user) + quote(inner if bucket else host + inner, safe="/:[]")
    return f"{parts.scheme}://{target}" + f"?{parts.query}" * bool(parts.query)


def open_file(path: str, filesystem: fs.FileSystem, inner: str) -> Any:
    """The file at ``inner``, open for reading at any offset; ``path``: its name in errors.

    Raises:
        InputError: it is no file but a pipe, a socket or a device, which would block.
        OSError: it cannot be opened.
    """
    if filesystem.type_name != "local":
        return filesystem.open_input_file(inner)
    file, mode = open_without_waiting(inner)
    if not stat.S_ISREG(mode):
        file.close()
        raise not_regular(path, mode)
    return file


def fingerprint_of(file: Any, size: int) -> str:
    """Checksums of both ends of the file's first ``size`` bytes.

    Two reads, whatever the file's size, distinguish a file that grew from one that was overwritten.
    """
    sums = []
    for start in dict.fromkeys((0, max(size - _SAMPLE, 0))):
        file.seek(start)
        sums.append(zlib.crc32(file.read(min(size, _SAMPLE)), size & 0xFFFFFFFF))
    return "".join(f"{value:08x}" for value in sums)


def unreadable(path: str, fault: OSError) -> InputError:
    return InputError(f"{path}: cannot be read ({fault.strerror or fault}); check that it is there and may be read")


def not_regular(path: str, mode: int) -> InputError:
    return InputError(f"{path}: is {file_type(mode)} and no file, which captures must be; write it to a file first")
