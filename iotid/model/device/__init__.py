"""The device model: predicts the device kinds at an address from the set of its flows."""

from __future__ import annotations

from iotid.model.device.answers import Answer, FlowTimes
from iotid.model.device.decide import STATUSES, Decision, decide, share_of_households
from iotid.model.device.device_model import DeviceModel
from iotid.model.device.kinds import NO_KIND, kinds_of

__all__ = [
    "NO_KIND", "STATUSES", "Answer", "Decision", "DeviceModel", "FlowTimes", "decide", "kinds_of",
    "share_of_households",
]  # fmt: skip
