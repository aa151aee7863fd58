"""A capture's bytes as windows onto its uncompressed stream: mapped, fetched or decompressed, never whole."""

from __future__ import annotations

import bz2
import io
import lzma
import mmap
import os
import re
import stat
import zlib
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote, urlsplit

import numpy as np
from numpy.typing import NDArray

from iotid.capture.file_split import FileSplit
from iotid.errors import InputError, StaleError
from iotid.inputs import kind_of, open_without_waiting
from iotid.messages import NO_CREDENTIALS, holds_credentials, redacted_location
from iotid.storage import local_path

if TYPE_CHECKING:
    from pyarrow import fs

    from iotid import config

_COMPRESSIONS = {"gzip": b"\x1f\x8b", "zstd": b"\x28\xb5\x2f\xfd", "bz2": b"BZh", "xz": b"\xfd7zXZ\x00"}
_SAMPLE = 1 << 16  # bytes at either end of a capture that identify it
_BLOCK = 1 << 18  # bytes of one read of a compressed file
_FIRST_BLOCK = 1 << 9  # bytes given to a member's decompressor first: what follows a shorter member is copied
_ZSTD_BLOCK = 1 << 14  # bytes of one decompression: what a broken frame can cost at most
_XZ_MEMORY = 1 << 28  # bytes: an xz header may ask for 4 GiB of dictionary; its strongest preset takes 64 MiB
_ANY_EXPANSION = 1 << 26  # bytes that any compressed file may expand to: small ones of few distinct bytes do honestly
_PADDING = re.compile(rb"\0*")


class Stream(Protocol):
    """An uncompressed stream of bytes."""

    fault: str | None  # why the stream ended before its end, where a compressed file is broken

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
    """A local file, mapped window by window: no byte is copied, and what is mapped is never more than one window."""

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
    """A file of any filesystem that reads at an offset."""

    def __init__(self, file: Any, size: int) -> None:
        self._file = file
        self._size = size

    def window(self, position: int, size: int) -> NDArray[np.uint8]:
        length = max(min(size, self._size - position), 0)
        return _readonly(self._file.read_at(length, position))

    def close(self) -> None:
        self._file.close()


class _FileStart(io.RawIOBase):
    """The first ``size`` bytes of an open file. Faults are reported with its path: they are none of its content."""

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
    """A compressed file, read forward; what is before a fault is delivered, then ``fault`` says what it was."""

    def __init__(self, file: Any, read: Callable[[int], bytes], most: int | None, beyond: str) -> None:
        """``most``: bytes that may be delivered; ``beyond``: the error's text if there are more."""
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
            self._held = bytearray(self._more(min(position - self._start, _BLOCK)))
        skip = min(position - self._start, len(self._held))
        self._start += skip
        held = self._held[skip:]
        while len(held) < size and not self._ended:
            held += self._more(size - len(held))
        self._held = held
        return _readonly(held)[:size]

    def _more(self, size: int) -> bytes:
        """Up to ``size`` further bytes; none only at the end."""
        try:
            data = self._read(size)
        except InputError:
            raise
        except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError) as fault:
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
    """Open a capture at its first ``file_bytes`` bytes, so that one that still grows reads the same each time.

    Where the capture has a ``fingerprint``, it must be that of those bytes. Of a compressed capture no more is
    delivered than ``settings`` allow: a window beyond raises an InputError.

    Raises:
        InputError: the file cannot be opened.
        StaleError: it is no longer what it was: gone, shorter, or of other bytes.
    """
    path, file_bytes = capture.path, capture.file_bytes
    filesystem, inner = filesystem_of(path)
    try:
        file = open_file(path, filesystem, inner)
        size = file.seek(0, os.SEEK_END)
        if size < file_bytes:
            raise StaleError(f"{path}: has {size} bytes where its plan says {file_bytes}; plan it again (split-pcaps)")
        if capture.fingerprint and fingerprint_of(file, file_bytes) != capture.fingerprint:
            raise StaleError(
                f"{path}: its first {file_bytes} bytes are no longer those that were planned, so another capture was "
                "written over it; plan it again (split-pcaps)"
            )
        if capture.compression == "none":
            local = filesystem.type_name == "local"
            return _Mapped(file, file_bytes) if local else _Fetched(_FileStart(file, path, file_bytes), file_bytes)
        file.seek(0)
        most, beyond = _expansion(capture, settings)
        return decompressed(_FileStart(file, path, file_bytes), capture.compression, most, beyond)
    except FileNotFoundError:
        raise StaleError(
            f"{path}: was there when it was planned and is gone; bring it back, or plan again (split-pcaps)"
        ) from None
    except OSError as fault:
        raise unreadable(path, fault) from None


def _expansion(capture: FileSplit, settings: config.Capture) -> tuple[int, str]:
    """Bytes that a compressed capture may expand to, and the error's text if there are more."""
    by_ratio = max(settings.max_expansion * capture.file_bytes, _ANY_EXPANSION)
    most, key = min((by_ratio, "max_expansion"), (settings.max_expanded_bytes, "max_expanded_bytes"))
    return most, (
        f"{capture.path}: its {capture.file_bytes:,} bytes expand to more than {most:,}, the most by capture.{key}; "
        "leave the file out if it was made to fill memory and time, else raise the setting"
    )


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

    They distinguish a file that grew from one that was overwritten, by two reads, whatever the file's size.
    """
    sums = []
    for start in dict.fromkeys((0, max(size - _SAMPLE, 0))):
        file.seek(start)
        sums.append(zlib.crc32(file.read(min(size, _SAMPLE)), size & 0xFFFFFFFF))
    return "".join(f"{value:08x}" for value in sums)


def unreadable(path: str, fault: OSError) -> InputError:
    return InputError(f"{path}: cannot be read ({fault.strerror or fault}); check that it is there and may be read")


def not_regular(path: str, mode: int) -> InputError:
    return InputError(f"{path}: is {kind_of(mode)} and no file, which captures must be; write it to a file first")


def decompressed(file: Any, compression: str, most: int | None = None, beyond: str = "") -> Stream:
    """The uncompressed stream of an open file; closing it closes the file.

    ``most``: bytes that it may deliver, None: any number; more raises an InputError with the text ``beyond``.
    """
    return _Decompressed(file, _reader(compression, file), most, beyond)


def compression_of(head: bytes) -> str:
    """The compression by a file's first bytes: none, gzip, zstd, bz2 or xz."""
    return next((name for name, magic in _COMPRESSIONS.items() if head.startswith(magic)), "none")


def filesystem_of(path: str) -> tuple[fs.FileSystem, str]:
    """The pyarrow filesystem of a path or URI, and the path within it."""
    from pyarrow import ArrowException, fs

    local = local_path(path)
    if local is not None:
        if re.search("[\0\ud800-\udc7f\udd00-\udfff]", local):
            raise InputError(f"{local!r}: no file can have this name; give a capture or a folder of captures")
        return fs.LocalFileSystem(), local
    if holds_credentials(path):
        raise InputError(f"{redacted_location(path)}: {NO_CREDENTIALS}")
    try:
        return fs.FileSystem.from_uri(path)
    except (ArrowException, OSError, ValueError) as fault:
        raise InputError(f"{path}: is not a path or URI that can be opened ({fault})") from None


def uri_of(location: str, inner: str) -> str:
    """The path or URI of ``inner``, found on the filesystem of ``location``."""
    if local_path(location) is not None:
        return inner
    parts = urlsplit(location)
    user, _, host = parts.netloc.rpartition("@")
    bucket = inner.partition("/")[0] == host  # object stores: the first part of the path is the bucket
    target = f"{user}@" * bool(user) + quote(inner if bucket else host + inner, safe="/:[]")
    return f"{parts.scheme}://{target}" + f"?{parts.query}" * bool(parts.query)


def _readonly(data: Any) -> NDArray[np.uint8]:
    array = np.frombuffer(data, np.uint8)
    array.flags.writeable = False  # one type for all sources, so that each kernel is compiled once
    return array


def _reader(compression: str, file: Any) -> Callable[[int], bytes]:
    if compression == "zstd":
        import pyarrow as pa

        stream = pa.CompressedInputStream(file, "zstd")
        return lambda size: stream.read(min(size, _ZSTD_BLOCK))
    makers: dict[str, Callable[[], Any]] = {
        "gzip": _Inflate,
        "bz2": bz2.BZ2Decompressor,
        "xz": lambda: lzma.LZMADecompressor(memlimit=_XZ_MEMORY),
    }
    return _Members(file, makers[compression]).read


class _Members:
    """The members of a gzip, bz2 or xz file one after another, as their command-line tools read them."""

    def __init__(self, file: Any, maker: Callable[[], Any]) -> None:
        self._file = file
        self._maker = maker
        self._decompressor = maker()
        self._block, self._at = b"", 0  # read from the file, and how much of it was given to the decompressor
        self._step = _FIRST_BLOCK

    def read(self, size: int) -> bytes:
        while True:
            if self._decompressor.eof and not self._next_member():
                return b""
            given = self._next_block() if self._decompressor.needs_input else b""
            data: bytes = self._decompressor.decompress(given, size)
            if data:
                return data
            if not given and not self._decompressor.eof:
                raise EOFError("the compressed file is cut off")

    def _next_block(self) -> bytes:
        """What the decompressor gets next; none at the end of the file."""
        if self._at == len(self._block):
            self._block, self._at = self._file.read(_BLOCK), 0
        given = self._block[self._at : self._at + self._step]
        self._at += len(given)
        self._step = min(2 * self._step, _BLOCK)
        return given

    def _next_member(self) -> bool:
        """Skip the zeros that may pad a member; False at the end of the file."""
        self._at -= len(self._decompressor.unused_data)
        while (at := _PADDING.match(self._block, self._at).end()) == len(self._block):  # type: ignore[union-attr]
            self._block, self._at = self._file.read(_BLOCK), 0
            if not self._block:
                return False
        self._at, self._step = at, _FIRST_BLOCK
        self._decompressor = self._maker()
        return True


class _Inflate:
    """``zlib``'s gzip reader with the interface that ``bz2`` and ``lzma`` share."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(wbits=31)

    def decompress(self, data: bytes, size: int) -> bytes:
        return self._inner.decompress(self._inner.unconsumed_tail + data, size)

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    @property
    def needs_input(self) -> bool:
        return not self._inner.unconsumed_tail
