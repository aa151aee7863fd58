"""Windows onto a capture's uncompressed stream: read, fetched or decompressed; never the whole file."""

from __future__ import annotations

import io
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
        """Up to ``size`` bytes from ``position``, read-only; fewer only at the end. Positions never go back.

        The next window may overwrite the memory of this one.
        """

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


class _Local(_Closing):
    """A local file. Each window is read into the same memory, which stays in the processor's caches.

    Mapping the file instead would cost more page faults than the copy takes, and a file that is cut off while it is
    mapped ends the process (SIGBUS).
    """

    def __init__(self, file: Any, path: str, size: int) -> None:
        self._file = file
        self._path = path
        self._size = size
        self._memory = np.empty(0, np.uint8)

    def window(self, position: int, size: int) -> NDArray[np.uint8]:
        length = max(min(size, self._size - position), 0)
        if length > len(self._memory):
            self._memory = np.empty(length, np.uint8)
        memory, done = memoryview(self._memory), 0
        self._file.seek(position)
        while done < length:
            try:
                count = self._file.readinto(memory[done:length])
            except OSError as fault:
                raise unreadable(self._path, fault) from None
            if not count:
                raise StaleError(
                    f"{self._path}: ends at byte {position + done} and had {self._size} bytes when it was opened; plan "
                    "it again (split-pcaps)"
                )
            done += count
        return _readonly(memory[:length])

    def close(self) -> None:
        self._file.close()


class _Fetched(_Closing):
    """A file of a remote filesystem, fetched in blocks: a request takes long, whatever its size."""

    def __init__(self, file: Any, size: int, block: int) -> None:
        self._file = file
        self._size = size
        self._block = block
        self._held = _readonly(b"")
        self._start = 0  # of `_held`

    def window(self, position: int, size: int) -> NDArray[np.uint8]:
        end = min(position + size, self._size)
        if not self._start <= position <= end <= self._start + len(self._held):
            length = max(min(max(size, self._block), self._size - position), 0)
            self._held, self._start = _readonly(self._file.read_at(length, position)), position
        return self._held[position - self._start :][: max(end - position, 0)]

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
            if filesystem.type_name == "local":
                return _Local(file, path, file_bytes)
            return _Fetched(_FileStart(file, path, file_bytes), file_bytes, settings.chunk_bytes)
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
