"""Which devices there are (the device lists), and whose flow a flow is: decided once for everybody."""

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

# loaded when first asked for: only those who read a list need it
__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "device_list": ["DeviceList"],
        "devices": ["Device"],
    },
)
