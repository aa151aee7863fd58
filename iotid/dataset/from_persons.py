"""Counts the labels that a dataset has from persons (`iotid name`), and where a device list overrules them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from iotid.dataset.label_flows import DEVICE, OVERRULED

if TYPE_CHECKING:
    from iotid.labels.device_list import DeviceList

_SHOWN = 20  # contradictions, a line each; the metadata has the number of all


def labels_from_persons(
    outcomes: Mapping[tuple[str, str], int], devices: DeviceList
) -> tuple[dict[str, int], list[str]]:
    """Numbers for the metadata, and sentences. ``outcomes``: of the first pass.

    ``devices`` and ``flows`` that have their label from persons, and those that the list overrules; ``pseudonyms``:
    censuses whose groups label no flows.
    """
    named = devices.named
    flows_of = {name: flows for (outcome, name), flows in outcomes.items() if outcome == DEVICE}
    listed = {device.name for device in devices.devices}
    used = {device.name: flows_of[device.name] for device in named.devices if device.name in flows_of.keys() - listed}
    overruled = sorted(
        (*map(int, pair.split()), flows) for (outcome, pair), flows in outcomes.items() if outcome == OVERRULED
    )
    counts = {
        "devices": len(used),
        "flows": sum(used.values()),
        "overruled_devices": len({said for _, said, _ in overruled}),
        "overruled_flows": sum(flows for *_, flows in overruled),
        "pseudonyms": len(named.pseudonyms),
    }
    return counts, list(_sentences(counts, overruled, devices))


def _sentences(counts: Mapping[str, int], overruled: list[tuple[Any, ...]], devices: DeviceList) -> Iterator[str]:
    named = devices.named
    if counts["devices"]:
        yield f"devices that persons named (iotid name): {counts['devices']:,}, with {counts['flows']:,} flows"
    for listed, said, flows in overruled[:_SHOWN]:
        own = named.named[said - len(devices.devices)]
        yield (
            f"contradiction: {own.identifier} of {own.site}: {devices.entries[listed].model} by the device list, which "
            f"is used; {own.statement.stated_by} said {own.statement.model} of {own.statement.group} ({flows:,} flows)"
        )
    if len(overruled) > _SHOWN:
        yield f"contradictions: {len(overruled) - _SHOWN:,} more of device list and persons; the list is used"
    if counts["pseudonyms"]:
        yield (
            f"censuses with pseudonyms: {counts['pseudonyms']:,}; what persons said of their groups labels no flows, "
            "because a pseudonym is in no flow"
        )
