"""MLflow: runs, model versions, the champion and its lock, and the code that serves models outside of iotid.

The only package that imports MLflow. Without ``tracking.uri`` everything is below the storage root: records in SQLite,
artifacts in a folder. `runs` logs runs; `champion` promotes and rolls back.
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
