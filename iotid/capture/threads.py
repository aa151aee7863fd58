"""Several cores for one call: kernels release the interpreter's lock, so threads run them in parallel."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def cores() -> int:
    """Cores that this process may use; macOS reports only how many there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_threads(
    call: Callable[[Item], Result], items: Iterable[Item], count: int, threads: int | None = None
) -> list[Result]:
    """``call`` of each of ``count`` items, in their order; an item is released as soon as its call is done.

    ``threads``: at most so many; None: as many as there are cores.

    Raises:
        Exception: what a call raises, the first in the items' order.
    """
    threads = min(threads or cores(), count)
    if threads <= 1:
        return [call(item) for item in items]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(call, items))
