"""What HTML pages and messages share: Jinja's environment, and numbers as people read them."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Environment

NOTHING = "—"
# not from the locale: pages are in English
_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip


def page_environment(*packages: str) -> Environment:
    """Jinja's environment of pages whose templates are in ``packages``, searched in order: all text is escaped."""
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=ChoiceLoader([PackageLoader(package, ".") for package in packages]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def percent(share: float | None) -> str:
    """Per cent with one decimal; not `0.0 %` or `100.0 %` unless it is exactly that."""
    if share is None:
        return NOTHING
    if 0 < share < 0.0005:
        return "<0.1 %"
    return ">99.9 %" if 0.9995 <= share < 1 else f"{100 * share:.1f} %"


def span(low: float | None, high: float | None) -> str:
    """An interval of shares, in per cent; empty without one."""
    return "" if low is None or high is None else f"{100 * low:.1f} to {100 * high:.1f} %"


def in_words(day: str) -> str:
    """A date (YYYY-MM-DD) as in "Saturday, 31 January 2026"."""
    found = date.fromisoformat(day)
    return f"{_WEEKDAYS[found.weekday()]}, {found.day} {_MONTHS[found.month - 1]} {found.year}"
