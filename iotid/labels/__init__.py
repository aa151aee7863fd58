"""Device lists, and the rule which device owns a flow, for datasets, baselines and the census."""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from iotid.labels.device_list import DeviceList
    from iotid.labels.devices import Device

__all__ = [
    "Device",
    "DeviceList",
]

# loaded when first used: only readers of a list need it
__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "device_list": ["DeviceList"],
        "devices": ["Device"],
    },
)
