"""Decompresses gzip, zstd, bz2 and xz in bounded blocks; data before a fault is still delivered."""

from __future__ import annotations

import bz2
import lzma
import re
import zlib
from collections.abc import Callable
from typing import Any

_COMPRESSIONS = {"gzip": b"\x1f\x8b", "zstd": b"\x28\xb5\x2f\xfd", "bz2": b"BZh", "xz": b"\xfd7zXZ\x00"}
BLOCK = 1 << 18  # bytes per read of a compressed file
_FIRST_BLOCK = 1 << 9  # first bytes for a member's decompressor: it copies what follows a shorter member
_ZSTD_BLOCK = 1 << 14  # bytes per decompression: the most that a broken frame loses
_XZ_MEMORY = 1 << 28  # bytes: an xz header may request a 4 GiB dictionary; the strongest preset takes 64 MiB
_PADDING = re.compile(rb"\0*")

# what a decompressor raises on a broken file
FAULTS = (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError)


def compression_of(first_bytes: bytes) -> str:
    """The compression by a file's first bytes: none, gzip, zstd, bz2 or xz."""
    return next((name for name, magic in _COMPRESSIONS.items() if first_bytes.startswith(magic)), "none")


def decompressor(compression: str, file: Any) -> Callable[[int], bytes]:
    """``read(size)`` of an open file: returns up to ``size`` more bytes, none at the end; raises FAULTS."""
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
    """Reads the members of a gzip, bz2 or xz file in sequence, as the command-line tools do."""

    def __init__(self, file: Any, maker: Callable[[], Any]) -> None:
        self._file = file
        self._maker = maker
        self._decompressor = maker()
        self._block, self._at = b"", 0  # read from the file; bytes of it already decompressed
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
        """The next input of the decompressor; empty at the end of the file."""
        if self._at == len(self._block):
            self._block, self._at = self._file.read(BLOCK), 0
        given = self._block[self._at : self._at + self._step]
        self._at += len(given)
        self._step = min(2 * self._step, BLOCK)
        return given

    def _next_member(self) -> bool:
        """Skip the zeros that may pad a member; False at the end of the file."""
        self._at -= len(self._decompressor.unused_data)
        while (at := _PADDING.match(self._block, self._at).end()) == len(self._block):  # type: ignore[union-attr]
            self._block, self._at = self._file.read(BLOCK), 0
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
