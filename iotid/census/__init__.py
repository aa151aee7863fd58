"""One row per device of a night's network: what it is, what changed since the night before, and a page to read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from iotid.census.take import champion_of, check_watchlist, take_census

__all__ = ["champion_of", "check_watchlist", "take_census"]


def __getattr__(name: str) -> Any:  # torch and Spark are loaded only by those who take a census
    if name in __all__:
        from iotid.census import take

        return getattr(take, name)
    raise AttributeError(name)
