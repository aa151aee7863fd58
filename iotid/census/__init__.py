"""One row per device of a capture date's network: what it is, what changed since the one before, a page to read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from iotid.census.take import champion_of, check_watchlist, take_census

__all__ = [
    "champion_of",
    "check_watchlist",
    "take_census",
]

# loaded when first asked for: torch and Spark come with them
__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "take": ["champion_of", "check_watchlist", "take_census"],
    },
)
