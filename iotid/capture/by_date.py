"""Counts by date (UTC), and whether what is counted is of the capture date that it is filed under."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta

from iotid.pages import percent

OTHER = "other"
"""Key of what is of rarer dates, or of times that no pcap file can hold, in counts by date."""

LAST_US = 253_402_300_800_000_000  # the end of the year 9999, the last of Python's dates
_FEW = 0.1  # share on distant dates that no warning names: some devices' clocks are wrong
_NAMED = 3  # dates that a warning names


def date_warning(by_date: Mapping[str, int], capture_date: str, what: str) -> str | None:
    """A sentence if most are of other dates than ``capture_date``, or a tenth of dates not next to it.

    The dates next to it do not count as distant: captures may go on over midnight.

    Args:
        by_date: their number by date, as 2026-01-31; OTHER for the rest.
        what: what is counted, such as `flows`.
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
    return f"{percent(of_other / total)} of the {what} began on other dates{dates}"


def day_of(time_us: int) -> str:
    """The date (UTC, as 2026-01-31) of a time in µs since 1970."""
    return datetime.fromtimestamp(time_us // 1_000_000, UTC).date().isoformat()
