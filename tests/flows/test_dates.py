"""Flows by date, and the warning where these are not of the capture date."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime

import numpy as np
import pytest

from iotid.capture.by_date import OTHER, date_warning
from iotid.flows.dates import count_days, flows_by_date


def us_of(*days: str) -> np.ndarray:
    return np.array([int(datetime.fromisoformat(f"{day}+00:00").timestamp()) * 1_000_000 for day in days], np.int64)


def test_count_days__counts_by_utc_date_up_to_the_last_microsecond() -> None:
    times = us_of("2024-02-29T00:00:00", "2024-03-01T00:00:00")
    times = np.append(times, times[1] - 1)
    assert flows_by_date(count_days(times)) == {"2024-02-29": 2, "2024-03-01": 1}
    assert count_days(np.empty(0, np.int64)) == Counter()
    assert flows_by_date(Counter()) == {}


def test_count_days__times_that_no_pcap_file_can_hold_are_other() -> None:
    times = np.array([-(2**63), -1, 0, 2**32 * 1_000_000, 2**63 - 1], np.int64)
    assert flows_by_date(count_days(times)) == {"1970-01-01": 1, "2106-02-07": 1, OTHER: 3}


def test_count_days__parts_added_are_the_whole() -> None:
    times = np.random.default_rng(1).integers(0, 10**15, 500)
    parts: Counter[int] = Counter()
    for part in np.array_split(times, 7):
        parts.update(count_days(part))
    named = [datetime.fromtimestamp(us // 10**6, UTC).date().isoformat() for us in times.tolist()]
    assert parts == count_days(times)
    assert flows_by_date({**parts}) == flows_by_date(count_days(times))
    assert sum(flows_by_date(parts).values()) == len(named)
    assert all(named.count(day) == flows for day, flows in flows_by_date(parts).items() if day != OTHER)


def test_flows_by_date__keeps_the_32_dates_with_most_flows_in_order() -> None:
    found = flows_by_date({20_000 + day: 100 - day for day in range(40)})
    assert list(found)[:2] == ["2024-10-04", "2024-10-05"]
    assert list(found)[-1] == OTHER
    assert len(found) == 33
    assert found[OTHER] == sum(100 - day for day in range(32, 40))


@pytest.mark.parametrize(
    ("by_date", "expected"),
    [
        ({}, None),
        ({"2026-03-01": 10}, None),
        ({"2026-03-01": 50, "2026-03-02": 50}, None),  # goes on over midnight
        ({"2026-03-01": 90, "2020-01-01": 10}, None),  # some clocks are wrong
        ({"2025-11-02": 10}, "100.0 % of the flows began on other dates (2025-11-02)"),
        ({"2026-02-28": 10}, "100.0 % of the flows began on other dates (2026-02-28)"),
        ({"2026-03-01": 1, "2025-11-02": 1999}, ">99.9 % of the flows began on other dates (2025-11-02)"),
        (
            {"2026-03-01": 88, "2025-11-02": 5, "2025-11-03": 4, "2025-11-04": 2, "2025-11-05": 1},
            "12.0 % of the flows began on other dates (2025-11-02, 2025-11-03, 2025-11-04, …)",
        ),
        ({"2026-03-01": 8, OTHER: 2}, "20.0 % of the flows began on other dates"),
    ],
)
def test_date_warning__most_flows_elsewhere_or_a_tenth_far_away(by_date: dict[str, int], expected: str | None) -> None:
    assert date_warning(by_date, "2026-03-01", "flows") == expected
