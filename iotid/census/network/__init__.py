"""The census of a network: all sites of a date together, unknown groups over sites, and trends."""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from iotid.census.network.take import Window, take_network_census

__all__ = [
    "Window",
    "take_network_census",
]

# imported on first use: they import Spark
__getattr__, __dir__, _ = lazy_loader.attach(__name__, submod_attrs={"take": ["Window", "take_network_census"]})
