"""How many flows began on each date (UTC)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import date, timedelta

import numpy as np

from iotid.capture.by_date import OTHER
from iotid.flows.layout import Array

DAY_US = 86_400_000_000
_LAST_DAY = 2**32 // 86_400  # pcap has 32 bits of seconds: 1970 to 2106
_MOST_DATES = 32
_EPOCH = date(1970, 1, 1)


def count_days(first_us: Array) -> Counter[int]:
    """Number of flows by day since 1970 of their first packets (int64 (n,), µs); -1: outside of pcap's range."""
    if not len(first_us):
        return Counter()
    day_N = first_us // DAY_US
    day_N[(day_N < 0) | (day_N > _LAST_DAY)] = -1
    lowest = int(day_N.min())
    counts_D = np.bincount(day_N - lowest)  # linear, unlike a sort
    return Counter({lowest + day: int(counts_D[day]) for day in np.flatnonzero(counts_D).tolist()})


def flows_by_date(by_day: Mapping[int, int]) -> dict[str, int]:
    """The metadata field: flows by date, in order; at most 32 dates, those with most flows, the rest under OTHER."""
    days = sorted((day for day in by_day if day >= 0), key=lambda day: (-by_day[day], day))
    kept = sorted(days[:_MOST_DATES])
    dates = {(_EPOCH + timedelta(days=day)).isoformat(): by_day[day] for day in kept}
    others = sum(by_day.values()) - sum(dates.values())
    return {**dates, OTHER: others} if others else dates
