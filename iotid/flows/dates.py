"""How many flows began on each date (UTC), and whether these are flows of the capture date."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import date, timedelta

import numpy as np

from iotid.flows.layout import Array
from iotid.pages import percent

OTHER = "other"
"""Key of the flows of rarer dates, and of times that no pcap file can hold."""

_DAY_US = 86_400_000_000
_LAST_DAY = 2**32 // 86_400  # pcap has 32 bits of seconds: 1970 to 2106
_MOST_DATES = 32
_EPOCH = date(1970, 1, 1)
_FEW = 0.1  # share of flows on distant dates that no warning names: some devices' clocks are wrong
_NAMED = 3  # dates that a warning names


def count_days(first_us: Array) -> Counter[int]:
    """Number of flows by day since 1970 of their first packets (int64 (n,), µs); -1: outside of pcap's range."""
    if not len(first_us):
        return Counter()
    day_N = first_us // _DAY_US
    day_N[(day_N < 0) | (day_N > _LAST_DAY)] = -1
    lowest = int(day_N.min())
    counts_D = np.bincount(day_N - lowest)  # linear, unlike a sort
    return Counter({lowest + day: int(counts_D[day]) for day in np.flatnonzero(counts_D).tolist()})


def flows_by_date(by_day: Mapping[int, int]) -> dict[str, int]:
    """The metadata field: flows by date, in order; at most 32 dates, those with most flows, the rest under `other`."""
    days = sorted((day for day in by_day if day >= 0), key=lambda day: (-by_day[day], day))
    kept = sorted(days[:_MOST_DATES])
    dates = {(_EPOCH + timedelta(days=day)).isoformat(): by_day[day] for day in kept}
    others = sum(by_day.values()) - sum(dates.values())
    return {**dates, OTHER: others} if others else dates


def date_warning(by_date: Mapping[str, int], capture_date: str) -> str | None:
    """A sentence if most flows are of other dates than ``capture_date``, or a tenth of dates not next to it.

    ``by_date``: `flows_by_date`. The dates next to it do not count as distant: captures may go on over midnight.
    """
    total = sum(by_date.values())
    if not total:
        return None
    day = date.fromisoformat(capture_date)
    near = {(day + timedelta(days=days)).isoformat() for days in (-1, 0, 1)}
    of_other = total - by_date.get(capture_date, 0)
    distant = total - sum(by_date.get(each, 0) for each in near)
    if 2 * of_other <= total and distant <= _FEW * total:
        return None
    others = sorted((each for each in by_date if each not in (capture_date, OTHER)), key=lambda each: -by_date[each])
    named = ", ".join(others[:_NAMED]) + (", …" if len(others) > _NAMED or OTHER in by_date else "")
    dates = f" ({named})" if others else ""
    return f"{percent(of_other / total)} of the flows began on other dates{dates}"
