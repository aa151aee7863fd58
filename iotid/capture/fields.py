"""Reads unaligned integers from a byte buffer. The caller checks the bounds."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from iotid.capture.jit import kernel

Bytes = NDArray[np.uint8]
Longs = NDArray[np.int64]


@kernel
def byte(buffer: Bytes, at: int) -> int:
    return np.int64(buffer[np.uint64(at)])  # type: ignore[return-value] # signed: Numba turns mixed signed and unsigned integers into floats


@kernel
def be16(buffer: Bytes, at: int) -> int:
    return (byte(buffer, at) << 8) | byte(buffer, at + 1)


@kernel
def be32(buffer: Bytes, at: int) -> int:
    return (be16(buffer, at) << 16) | be16(buffer, at + 2)


@kernel
def be48(buffer: Bytes, at: int) -> int:
    return (be16(buffer, at) << 32) | be32(buffer, at + 2)


@kernel
def be64(buffer: Bytes, at: int) -> np.uint64:
    return (np.uint64(be32(buffer, at)) << np.uint64(32)) | np.uint64(be32(buffer, at + 4))


@kernel
def u16(buffer: Bytes, at: int, big: bool) -> int:
    if big:
        return be16(buffer, at)
    return byte(buffer, at) | (byte(buffer, at + 1) << 8)


@kernel
def u32(buffer: Bytes, at: int, big: bool) -> int:
    if big:
        return be32(buffer, at)
    return u16(buffer, at, False) | (u16(buffer, at + 2, False) << 16)
