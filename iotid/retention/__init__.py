"""Deletes old partitions that no later step needs, and what runs that died left behind.

`plan` chooses partitions by table, site and date, and gives a reason for each old one that it keeps. `leftovers` finds
staged files, replaced partitions and versions of an object store. `step` deletes both, or says what it would delete.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from iotid.retention.plan import DATED, TABLES, Selection
    from iotid.retention.step import Pruned, datasets_of_models, prune

__all__ = ["DATED", "TABLES", "Pruned", "Selection", "datasets_of_models", "prune"]

__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={"plan": ["DATED", "TABLES", "Selection"], "step": ["Pruned", "datasets_of_models", "prune"]},
)
