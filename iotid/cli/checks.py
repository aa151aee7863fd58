"""Checks before the first step what would otherwise stop a later one after hours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from iotid.config import Settings
from iotid.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa


def check_settings(settings: Settings, labels: Sequence[str]) -> None:
    """Check the device list, if any, and the settings that name its labels, the census key, the server, the GPU.

    Raises:
        UserError: one of them is missing or invalid.
    """
    from iotid.census.pseudonyms import read_pseudonyms
    from iotid.labels import DeviceList
    from iotid.labels.names import check_names

    if labels:
        check_names(DeviceList.read(*labels), settings.dataset, settings.promotion, settings.watchlist)
    read_pseudonyms(settings.census)
    check_machine(settings)


def check_machine(settings: Settings) -> None:
    """Check that the tracking server answers, and that there is a GPU if ``training.device`` is cuda.

    Raises:
        UserError: one of them is missing.
    """
    from iotid.spark.session import runs_here
    from iotid.tracking import CHAMPION, Registry

    registry = Registry(settings.tracking, settings.storage.root)
    if registry.uri == settings.tracking.uri:
        registry.find_version(CHAMPION)
    if settings.training.device == "cuda" and runs_here(settings.spark):
        from iotid.training.fit import find_device

        find_device(settings.training)


def check_packets(flows: pa.Table, captures: Sequence[str]) -> None:
    """Raise an InputError if the captures, of which these are the flows, hold no packet."""
    from iotid.capture.counters import counters

    if not sum(counters(flows)["packets"].to_pylist()):
        raise InputError(f"{', '.join(captures)}: no packet is in it; give a capture that has packets")
