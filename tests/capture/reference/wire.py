"""Integers in bytes, and the reason why a frame gives no packet."""

from __future__ import annotations

# what a link layer is followed by: an EtherType, where its data start, source and destination MAC
Below = tuple[int | str, int, bytes | None, bytes | None]


class RejectError(Exception):
    """Carries the reason why a frame gives no packet; `short`: a header runs over what was captured."""


def be(data: bytes, at: int, size: int) -> int:
    if at + size > len(data):
        raise RejectError("short")
    return int.from_bytes(data[at : at + size], "big")


def le(data: bytes, at: int, size: int) -> int:
    be(data, at, size)
    return int.from_bytes(data[at : at + size], "little")
