"""MACs and helpers for tests of device lists."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from iotid.labels import DeviceList

HUE = "00:17:88:24:76:ff"
CAM = "aa:bb:cc:dd:ee:01"
PLUG = "aa:bb:cc:dd:ee:02"
PHONE = "aa:bb:cc:dd:ee:09"


def write_list(folder: Path, text: str, name: str = "devices.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def matched_names(devices: DeviceList, flows: pa.Table) -> list[str | None]:
    """The name of the device that each flow belongs to, None if there is none."""
    return [devices.devices[number].name if number >= 0 else None for number in devices.match(flows)]
