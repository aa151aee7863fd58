"""Runs calls in threads. Kernels release the interpreter's lock, so they run in parallel."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def cores() -> int:
    """Number of cores that this process may use; on macOS, of all cores."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_threads(
    call: Callable[[Item], Result], items: Iterable[Item], count: int, threads: int | None = None
) -> list[Result]:
    """``call`` of each of ``count`` items, in order; each item is released when its call is done.

    ``threads``: maximum; None: the number of cores.

    Raises:
        Exception: that of the first item, in order, whose call raises.
    """
    threads = min(threads or cores(), count)
    if threads <= 1:
        return [call(item) for item in items]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(call, items))
