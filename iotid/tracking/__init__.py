"""MLflow: runs, model versions, the champion and its lock, and models that serve outside of iotid.

The only user of MLflow. Without ``tracking.uri`` everything is below the storage root: SQLite for the records, a
folder for the artifacts. Runs are in `runs`, moving the champion in `champion`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from iotid.tracking.bundles import load
    from iotid.tracking.versions import CHALLENGER, CHAMPION, ModelVersion, Registry

__all__ = ["CHALLENGER", "CHAMPION", "ModelVersion", "Registry", "load"]

__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "bundles": ["load"],
        "versions": ["CHALLENGER", "CHAMPION", "ModelVersion", "Registry"],
    },
)
