"""Reads untrusted files with size limits and without blocking, parses JSON strictly, checks arguments of callers."""

from __future__ import annotations

import errno
import json
import os
import re
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any, Never

from iotid.errors import InputError, short_repr, shorten

MOST_BYTES = 1 << 26  # of a file that is read into memory: settings, device lists, keys, JSON
_CHUNK = 1 << 20  # bytes per read
_MOST_VALUES = 1 << 21  # of a JSON document; each takes about 60 bytes
_DEEPEST = 64  # levels of nesting
_HALF_CHARACTER = re.compile(rb"\\u[dD][89a-fA-F]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_FILE_TYPES = {stat.S_IFIFO: "a named pipe (FIFO)", stat.S_IFSOCK: "a socket", stat.S_IFDIR: "a folder"}


def locations_of(paths: object) -> list[str]:
    """The paths or URIs that a caller passes, as text: one of them (str or os.PathLike), or any iterable of them.

    Raises:
        InputError: there is none, or something else is passed.
    """
    if isinstance(paths, str | os.PathLike):
        given: list[Any] = [paths]
    elif isinstance(paths, bytes | Mapping) or hasattr(paths, "columns") or not isinstance(paths, Iterable):
        raise _no_location(type(paths).__name__)
    else:
        given = [each.as_py() if hasattr(each, "as_py") else each for each in paths]  # as_py: of a pyarrow.Array
    if not given:
        raise _no_location("none")
    for each in given:
        if not isinstance(each, str | os.PathLike):
            raise _no_location(type(each).__name__)
        if not os.fspath(each):
            raise _no_location("an empty one")
        if "*" in str(each) and "://" not in str(each) and not Path(each).exists():
            raise InputError(
                f"paths: {short_repr(str(each))} is a pattern; pass the result of glob.glob, or the folder"
            )
    return [str(each.path) if isinstance(each, os.DirEntry) else str(each) for each in given]


def _no_location(got: str) -> InputError:
    return InputError(
        f"paths: must be a path or URI of a capture or folder, or a list of them, got {got}; pass 'a.pcap', a "
        "pathlib.Path, or a list of these"
    )


def check_type(name: str, value: object, kind: type | tuple[type, ...], remedy: str) -> None:
    """Raise an InputError unless an argument of a public function is of its type; ``remedy``: what to pass."""
    if not isinstance(value, kind):
        kinds = " or ".join(each.__name__ for each in (kind if isinstance(kind, tuple) else (kind,)))
        raise InputError(f"{name}: must be of type {kinds}, got {type(value).__name__}; pass {remedy}")


def open_without_waiting(path: str | Path) -> tuple[IO[bytes], int]:
    """(local file open for reading, its mode). Does not block, even on a pipe without a writer.

    Raises:
        OSError: it cannot be opened, like folders and sockets.
    """
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))  # noqa: SIM115
    return file, os.fstat(file.fileno()).st_mode


def file_type(mode: int) -> str:
    """Describe the type of a path that is not a regular file."""
    return _FILE_TYPES.get(stat.S_IFMT(mode), "a device")


def read_file(path: str | Path, most: int = MOST_BYTES) -> bytes:
    """The content of a local file.

    Raises:
        OSError: it cannot be read, is a pipe, a socket or a device, or has more than ``most`` bytes.
    """
    file, mode = open_without_waiting(path)
    with file:
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, f"it is {file_type(mode)} and no file", str(path))
        content = bytearray()
        while len(content) <= most and (
            chunk := file.read(_CHUNK)
        ):  # one read of ``most`` bytes would allocate them all
            content += chunk
    if len(content) > most:
        raise OSError(errno.EFBIG, f"it has more than {most:,} bytes", str(path))
    return bytes(content)


def parse_json(content: bytes | str) -> Any:
    """The value of a JSON document.

    Raises:
        ValueError: it is not JSON, is nested too deeply, has too many values, half a surrogate pair, or a number that
            is not finite.
    """
    if isinstance(content, str):
        content = content.encode(errors="surrogatepass")
    if content.count(b",") + content.count(b"[") + content.count(b"{") > _MOST_VALUES:
        raise ValueError(f"it holds more than {_MOST_VALUES:,} values")
    try:
        found = json.loads(content.decode(), parse_constant=_no_number, parse_float=_finite)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8 text") from None
    _check_values(found, may_be_half=_HALF_CHARACTER.search(content) is not None)
    return found


def _check_values(found: Any, *, may_be_half: bool) -> None:
    """Raise a ValueError if values are nested too deeply to be printed, hashed or copied, or text has half a pair."""
    level = [found]
    for _ in range(_DEEPEST):
        if may_be_half and any(isinstance(each, str) and _SURROGATE.search(each) for each in level):
            raise ValueError("it holds half of a character")
        keys = (key for each in level if isinstance(each, dict) for key in each) if may_be_half else ()
        if any(_SURROGATE.search(key) for key in keys):
            raise ValueError("it holds half of a character")
        level = [
            inner
            for each in level
            if isinstance(each, dict | list)
            for inner in (each.values() if isinstance(each, dict) else each)
        ]
        if not level:
            return
    raise ValueError(f"values are nested more than {_DEEPEST} deep")


def parse_object(content: bytes | str) -> dict[str, Any]:
    """The object of a JSON document; raises what ``parse_json`` raises, and a ValueError for any other value."""
    found = parse_json(content)
    if not isinstance(found, dict):
        raise ValueError(f"it holds a {type(found).__name__} instead of an object")
    return found


def _no_number(name: str) -> Never:
    raise ValueError(f"{name} is no number of JSON")


def _finite(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise ValueError(f"{shorten(text, 20)} is too large a number")
    return number
