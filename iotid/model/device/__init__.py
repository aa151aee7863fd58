"""The device model: predicts the device kinds at an address from the set of its flows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader

from iotid.model.device.answers import Answer, FlowTimes
from iotid.model.device.decide import STATUSES, Decision, decide, share_of_households
from iotid.model.device.kinds import NO_KIND, kinds_of

if TYPE_CHECKING:
    from iotid.model.device.device_model import DeviceModel

__all__ = [
    "NO_KIND", "STATUSES", "Answer", "Decision", "DeviceModel", "FlowTimes", "decide", "kinds_of",
    "share_of_households",
]  # fmt: skip

# imported on first use: it imports torch
__getattr__, __dir__, _ = lazy_loader.attach(__name__, submod_attrs={"device_model": ["DeviceModel"]})
