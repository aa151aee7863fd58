"""Checks before the first step what would otherwise stop a later one after hours."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from iotid.config import Census, Settings
from iotid.errors import InputError, SettingError, UserError

if TYPE_CHECKING:
    import pyarrow as pa

_log = logging.getLogger(__name__)


def check_settings(settings: Settings, labels: Sequence[str], captures: Sequence[str]) -> None:
    """Check the captures, the device list, if any, and the settings that name its labels, what the census reads, the
    server, the GPU.

    ``captures``: all that will be learned from.

    Raises:
        UserError: one of them is missing or invalid.
    """
    from iotid.dataset.characteristics import check_header_fields
    from iotid.labels import DeviceList
    from iotid.labels.names import check_names

    if labels:
        check_header_fields(settings.dataset.characteristics, settings.flow)
        devices = DeviceList.read(*labels, inside=settings.census.inside)
        check_names(devices, settings.dataset, settings.promotion, settings.watchlist)
    check_census(settings.census)
    check_machine(settings)
    if labels:
        check_captures(captures, settings)


def check_census(settings: Census) -> None:
    """Check what `take-census` reads beside tables: the key of pseudonyms, and the files of makers.

    Raises:
        SettingError: one of them is missing or invalid.
    """
    from iotid.census.makers import read_makers
    from iotid.census.pseudonyms import read_pseudonyms

    read_pseudonyms(settings)
    if settings.makers is not None:
        read_makers(settings.makers)


def warn_of_census(settings: Census) -> None:
    """Warn if `take-census` would refuse its settings on this machine, which may have no key on purpose."""
    try:
        check_census(settings)
    except UserError as fault:
        _log.warning("take-census would refuse these settings here: %s", fault)


def check_captures(captures: Sequence[str], settings: Settings) -> None:
    """Check that there are enough captures for ``dataset.protocol``.

    Raises:
        InputError: a location has none, or one cannot be read and ``capture.unreadable`` is `fail`.
        SettingError: whole captures are to be assigned to three dataset splits, and there are fewer.
    """
    from iotid.capture import find_captures
    from iotid.dataset.split_protocols import DATASET_SPLITS

    if settings.dataset.protocol != "by_capture":
        return
    found, least = len(find_captures(captures, settings.capture.unreadable).captures), len(DATASET_SPLITS)
    if found < least:
        raise SettingError(
            f"dataset.protocol: by_capture assigns whole captures to {', '.join(DATASET_SPLITS)}, and there are only "
            f"{found}; give {least} or more of a device, or choose another protocol"
        )


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
