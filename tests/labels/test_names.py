"""Names that settings call devices by: refused, or spoken of, where no device has them."""

from __future__ import annotations

import logging

import pytest

from iotid.config import load_settings
from iotid.errors import LabelError, SettingError
from iotid.labels import Device, DeviceList
from iotid.labels.names import check_names, warn_of_unmet

DEVICES = DeviceList(
    (
        Device(name="hall-cam", model="Cam 2", vendor="Acme", type="camera", mac="02:00:00:00:00:01"),
        Device(name="K\u00fcche", vendor="Volt", mac="02:00:00:00:00:02"),
    ),
    "list.yaml",
)


def _check(*overrides: str) -> None:
    settings = load_settings([], overrides)
    check_names(DEVICES, settings.dataset, settings.promotion, settings.watchlist)


def test_check_names__a_floor_for_a_class_that_cannot_be_is_refused() -> None:
    _check("promotion.min_recall={Cam 2: 0.5, Ku\u0308che: 0.5}")
    _check("promotion.min_recall={hall-cam: 0.5}", "dataset.label=name")
    _check("promotion.min_recall={unknown: 0.5}", "dataset.unlisted=unknown")
    with pytest.raises(
        SettingError, match=r"promotion.min_recall: 'Cam2' is no model of list.yaml; did you mean Cam 2"
    ):
        _check("promotion.min_recall={Cam2: 0.5}")
    for wrong in ("promotion.min_recall={hall-cam: 0.5}", "promotion.min_recall={unknown: 0.5}"):
        with pytest.raises(SettingError, match="is no model of"):
            _check(wrong)
    with pytest.raises(LabelError, match="has no type"):
        _check("dataset.label=type")


def test_check_names__watched_names_of_no_device_are_spoken_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        _check("watchlist.labels=[Cam 2]", "watchlist.vendors=[Acme, Volt]", "watchlist.types=[camera]")
        assert not caplog.messages
        _check("watchlist.labels=[Cam2]", "watchlist.types=[camera, toaster]")
    assert caplog.messages == [
        "watchlist.labels: 'Cam2' is not among those of list.yaml; did you mean Cam 2?",
        "watchlist.types: 'toaster' is not among those of list.yaml",
    ]


def test_warn_of_unmet__vendors_and_types_may_be_absent(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        warn_of_unmet(load_settings([], ["watchlist.vendors=[Acme]"]).watchlist, {"cam": {"vendor": None}}, "the model")
    assert caplog.messages == ["watchlist.vendors: 'Acme' is not among those of the model"]
