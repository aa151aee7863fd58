"""Windows onto a capture's uncompressed stream: memory-mapped, fetched or decompressed; never the whole file."""

from __future__ import annotations

import io
import mmap
import os
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from iotid.capture.containers.compression import BLOCK, FAULTS, decompressor
from iotid.capture.containers.files import filesystem_of, fingerprint_of, open_file, unreadable
from iotid.capture.file_split import FileSplit
from iotid.errors import InputError, StaleError

if TYPE_CHECKING:
    from iotid import config

_ANY_EXPANSION = 1 << 26  # bytes that any compressed file may expand to: small, repetitive captures compress very well


class Stream(Protocol):
    """An uncompressed stream of bytes."""

    fault: str | None  # why a broken compressed file ended early

    def window(self, position: int, size: int) -> NDArray[np.uint8]:
        """Up to ``size`` bytes from ``position``, read-only; fewer only at the end. Positions never go back."""

    def close(self) -> None: ...

    def __enter__(self) -> Stream: ...

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class _Closing:
    fault: str | None = None

    def close(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Mapped(_Closing):
    """A local file, memory-mapped one window at a time: no byte is copied."""

    def __init__(self, file: Any, size: int) -> None:
        self._file = file
        self._size = size

    def window(self, position: int, size: int) -> NDArray[np.uint8]:
        length = min(size, self._size - position)
        if length <= 0:
            return _readonly(b"")
        skip = position % mmap.ALLOCATIONGRANULARITY
        mapped = mmap.mmap(self._file.fileno(), length + skip, access=mmap.ACCESS_READ, offset=position - skip)
        return np.frombuffer(mapped, np.uint8)[skip:]

    def close(self) -> None:
        self._file.close()


class _Fetched(_Closing):
    """A file of a remote filesystem, read at offsets."""

    def __init__(self, file: Any, size: int) -> None:
        self._file = file
        self._size = size

    def window(self, position: int, size: int) -> NDArray[np.uint8]:
        length = max(min(size, self._size - position), 0)
        return _readonly(self._file.read_at(length, position))

    def close(self) -> None:
        self._file.close()


class _FileStart(io.RawIOBase):
    """The first ``size`` bytes of an open file. An OSError becomes an InputError with the file's path."""

    def __init__(self, file: Any, path: str, size: int) -> None:
        self._file = file
        self._path = path
        self._left = size

    def read(self, size: int | None = -1) -> bytes:
        wanted = self._left if size is None or size < 0 else min(size, self._left)
        data = self._try(self._file.read, wanted)
        self._left -= len(data)
        return data

    def read_at(self, size: int, position: int) -> bytes:
        return self._try(self._file.read_at, size, position)

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self._file.close()
        super().close()

    def _try(self, read: Callable[..., bytes], *where: int) -> bytes:
        try:
            return read(*where)
        except OSError as fault:
            raise unreadable(self._path, fault) from None


class _Decompressed(_Closing):
    """A compressed file, read forward. Data before a fault is delivered; then ``fault`` describes it."""

    def __init__(self, file: Any, read: Callable[[int], bytes], most: int | None, beyond: str) -> None:
        """``most``: maximum bytes to deliver; ``beyond``: the error's text if there are more."""
        self._file = file
        self._read = read
        self._left = most
        self._beyond = beyond
        self._held = bytearray()
        self._start = 0
        self._ended = False

    def window(self, position: int, size: int) -> NDArray[np.uint8]:
        assert position >= self._start, "a compressed stream is read forward only"
        while not self._ended and self._start + len(self._held) < position:
            self._start += len(self._held)
            self._held = bytearray(self._more(min(position - self._start, BLOCK)))
        skip = min(position - self._start, len(self._held))
        self._start += skip
        held = self._held[skip:]
        while len(held) < size and not self._ended:
            held += self._more(size - len(held))
        self._held = held
        return _readonly(held)[:size]

    def _more(self, size: int) -> bytes:
        """Up to ``size`` more bytes; empty only at the end."""
        try:
            data = self._read(size)
        except InputError:
            raise
        except FAULTS as fault:
            self.fault = str(fault)
            data = b""
        self._ended = not data
        if self._left is not None:
            self._left -= len(data)
            if self._left < 0:
                raise InputError(self._beyond)
        return data

    def close(self) -> None:
        self._file.close()


def open_stream(capture: FileSplit, settings: config.Capture) -> Stream:
    """Open the first ``file_bytes`` bytes of a capture, so that a file that still grows reads the same each time.

    The bytes must have the capture's ``fingerprint``, if it has one. A window beyond the expansion limit of
    ``settings`` raises an InputError.

    Raises:
        InputError: the file cannot be opened.
        StaleError: the file was deleted, truncated or overwritten since it was planned.
    """
    path, file_bytes = capture.path, capture.file_bytes
    filesystem, inner = filesystem_of(path)
    try:
        file = open_file(path, filesystem, inner)
        size = file.seek(0, os.SEEK_END)
        if size < file_bytes:
            raise StaleError(f"{path}: has {size} bytes, was planned with {file_bytes}; plan it again (split-pcaps)")
        if capture.fingerprint and fingerprint_of(file, file_bytes) != capture.fingerprint:
            raise StaleError(
                f"{path}: its first {file_bytes} bytes changed since it was planned: the file was overwritten; plan it "
                "again (split-pcaps)"
            )
        if capture.compression == "none":
            local = filesystem.type_name == "local"
            return _Mapped(file, file_bytes) if local else _Fetched(_FileStart(file, path, file_bytes), file_bytes)
        file.seek(0)
        most, beyond = _expansion(capture, settings)
        return decompressed(_FileStart(file, path, file_bytes), capture.compression, most, beyond)
    except FileNotFoundError:
        raise StaleError(f"{path}: was deleted since it was planned; restore it, or plan again (split-pcaps)") from None
    except OSError as fault:
        raise unreadable(path, fault) from None


def _expansion(capture: FileSplit, settings: config.Capture) -> tuple[int, str]:
    """(maximum expanded bytes of a compressed capture; the error's text if there are more)."""
    by_ratio = max(settings.max_expansion * capture.file_bytes, _ANY_EXPANSION)
    most, key = min((by_ratio, "max_expansion"), (settings.max_expanded_bytes, "max_expanded_bytes"))
    return most, (
        f"{capture.path}: its {capture.file_bytes:,} bytes expand to more than {most:,}, the most by capture.{key}; "
        "leave the file out if it is a decompression bomb, else raise the setting"
    )


def decompressed(file: Any, compression: str, most: int | None = None, beyond: str = "") -> Stream:
    """The uncompressed stream of an open file; closing it closes the file.

    ``most``: maximum bytes to deliver, None for no limit; more raises an InputError with the text ``beyond``.
    """
    return _Decompressed(file, decompressor(compression, file), most, beyond)


def _readonly(data: Any) -> NDArray[np.uint8]:
    array = np.frombuffer(data, np.uint8)
    array.flags.writeable = False  # the same type for all sources, so that each kernel is compiled once
    return array
