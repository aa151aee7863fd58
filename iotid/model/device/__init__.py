"""From a set of flows to the devices behind it."""

from __future__ import annotations

from iotid.model.device.decide import STATUSES, Decision, decide, share_of_households
from iotid.model.device.kinds import NO_KIND, kinds_of
from iotid.model.device.presence import Answer, DeviceModel, Seen

__all__ = [
    "NO_KIND", "STATUSES", "Answer", "Decision", "DeviceModel", "Seen", "decide", "kinds_of", "share_of_households",
]  # fmt: skip
