"""The census of a site and date: a row per device with its kinds and changes since the previous census, and a page.

`devices` does the same for a table of flows, in Python alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from iotid.census.champion import champion_of, find_champion
    from iotid.census.inventory import devices
    from iotid.census.take import check_watchlist, take_census

__all__ = [
    "champion_of",
    "check_watchlist",
    "devices",
    "find_champion",
    "take_census",
]

# imported on first use: they import torch and Spark
__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "champion": ["champion_of", "find_champion"],
        "inventory": ["devices"],
        "take": ["check_watchlist", "take_census"],
    },
)
