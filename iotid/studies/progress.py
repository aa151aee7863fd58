"""Says how much of a study is done, and how long the rest takes if it takes as long as what is done."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

_log = logging.getLogger(__name__)


class Progress:
    """Counts finished pieces of work of one sort, such as trainings."""

    def __init__(self, what: str, total: int, clock: Callable[[], float] = time.monotonic) -> None:
        """``what``: name of a piece, such as `training run`; ``total``: their number."""
        self._what, self._total, self._clock = what, total, clock
        self._seconds: list[float] = []
        self._since = clock()

    def done(self, name: str) -> None:
        """Log that piece ``name`` is finished. It began when the one before was finished."""
        now = self._clock()
        self._seconds.append(now - self._since)
        self._since = now
        _log.info("%s", self.line(name))

    def line(self, name: str) -> str:
        """Of the piece that was finished last. The rest is a range: from the shortest piece so far to the longest."""
        finished, left = len(self._seconds), self._total - len(self._seconds)
        line = f"{self._what} {finished} of {self._total} ({name}) took {duration(self._seconds[-1])}"
        if not left:
            return f"{line}; all done in {duration(sum(self._seconds))}"
        low, high = (duration(left * bound) for bound in (min(self._seconds), max(self._seconds)))
        rest = f"about {high}" if low == high else f"{low} to {high}"
        return f"{line}; {left} left, {rest} if {'it takes' if left == 1 else 'each takes'} as long as those so far"


def duration(seconds: float) -> str:
    """As `40 s`, `12 min` or `2 h 5 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
