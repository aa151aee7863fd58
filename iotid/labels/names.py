"""Checks device names in settings against the device list or the model."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from iotid.errors import SettingError, short_repr, shorten
from iotid.labels.devices import UNLISTED

if TYPE_CHECKING:
    from iotid import config
    from iotid.labels.device_list import DeviceList

log = logging.getLogger(__name__)


def check_names(
    devices: DeviceList, dataset: config.Dataset, promotion: config.Promotion, watchlist: config.Watchlist
) -> None:
    """Check the labels of ``promotion.min_recall``; warn of watched names that are not in the device list.

    A model without a label of ``promotion.min_recall`` is never promoted, but a watch list may be for several models.

    Raises:
        LabelError: a device lacks the attribute that ``dataset.label`` names.
        SettingError: ``promotion.min_recall`` names a label that the list does not have.
    """
    labels = [*devices.labels(dataset.label), *[UNLISTED] * (dataset.unlisted == "unknown")]
    for label in promotion.min_recall:
        if label not in labels:
            raise SettingError(
                f"promotion.min_recall: {short_repr(label)} is no {dataset.label} of {devices.source}"
                f"{_hint(label, labels)}; correct the name, or list the device"
            )
    warn_of_unmet(watchlist, devices.describe_all(dataset.label, labels), devices.source)


def warn_of_unmet(watchlist: config.Watchlist, known: Mapping[str, Mapping[str, str | None]], where: str) -> None:
    """Warn of watched names that do not exist; ``known``: label -> vendor and type."""
    there: dict[str, Collection[str]] = {"labels": known}
    for key in ("vendor", "type"):
        there[f"{key}s"] = {described.get(key) or "" for described in known.values()}
    for kind, names in there.items():
        for entry in getattr(watchlist, kind):
            if entry.name not in names:
                hint = _hint(entry.name, names)
                log.warning("watchlist.%s: %s is not among those of %s%s", kind, short_repr(entry.name), where, hint)


def _hint(name: str, names: Collection[str]) -> str:
    close = difflib.get_close_matches(shorten(name), sorted(names), n=1)
    return f"; did you mean {shorten(close[0])}?" if close else ""
