"""One row per device of a night's network: what it is, what changed since the night before, and a page to read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from iotid.census.take import take_census

__all__ = ["take_census"]


def __getattr__(name: str) -> Any:  # torch and Spark are loaded only by those who take a census
    if name == "take_census":
        from iotid.census import take

        return take.take_census
    raise AttributeError(name)
