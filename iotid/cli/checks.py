"""Checks before the first step what would otherwise stop a later one after hours."""

from __future__ import annotations

from collections.abc import Sequence

from iotid.config import Settings


def check_settings(settings: Settings, labels: Sequence[str]) -> None:
    """Check the device list and the settings that name its labels, the census key, the server, the GPU.

    Raises:
        UserError: one of them is missing or invalid.
    """
    from iotid.census.pseudonyms import read_pseudonyms
    from iotid.labels import DeviceList
    from iotid.labels.names import check_names

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
