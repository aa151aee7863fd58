"""Numbers and dates as people read them, and the values that an error lists."""

from __future__ import annotations

import pytest

from iotid.errors import list_nearest
from iotid.pages import in_words, percent, span


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (None, "—"), (0, "0.0 %"), (0.0004, "<0.1 %"), (0.0005, "0.1 %"), (0.5, "50.0 %"), (0.9994, "99.9 %"),
        (0.9996, ">99.9 %"), (1, "100.0 %"),
    ],
)  # fmt: skip
def test_percent__has_one_decimal_and_rounds_to_neither_end(share: float | None, text: str) -> None:
    assert percent(share) == text


def test_span__is_empty_without_an_interval() -> None:
    assert (span(0.25, 0.5), span(None, 0.5), span(0.25, None)) == ("25.0 to 50.0 %", "", "")


def test_in_words__does_not_depend_on_the_locale() -> None:
    assert (in_words("2026-01-31"), in_words("2024-02-29")) == (
        "Saturday, 31 January 2026",
        "Thursday, 29 February 2024",
    )


def test_list_nearest__lists_five_and_counts_the_rest() -> None:
    dates = [f"2026-01-{day:02}" for day in range(1, 21)]
    assert list_nearest("2026-01-30", dates) == "2026-01-16, 2026-01-17, 2026-01-18, 2026-01-19, 2026-01-20 and 15 more"
    assert list_nearest("hme", ["office", "home", "lab"]).startswith("home, ")
    assert list_nearest("2026-01-30", ["home"]) == "home"
    assert list_nearest("x", []) == ""
