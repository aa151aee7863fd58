"""Reads the numbers that the paper prints for its four datasets (conf/paper_tables.yaml)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

from pydantic import BaseModel, ConfigDict

from iotid import yaml12
from iotid.config import conf_dir
from iotid.labels import DeviceList

TABLES = "paper_tables.yaml"
DATASETS = ("tmc18", "sosr19", "iot23", "cic_iot_2022")

Metric = Literal["A", "P", "R", "F1"]


class _Fact(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DeviceFlows(_Fact):
    """A device by its name in the device list and in the paper, and its number of flows."""

    device: str
    printed: str
    flows: int


class Counts(_Fact):
    """Printed numbers of flows; ``of_devices`` adds up to ``flows``, or is empty if the paper does not print it."""

    where: str
    devices: int
    flows: int
    of_devices: tuple[DeviceFlows, ...] = ()
    left_out: tuple[str, ...] = ()

    def select(self, devices: DeviceList) -> DeviceList:
        """The devices of the list that the paper counts; all that it does not exclude if it does not list them."""
        counted = {row.device for row in self.of_devices}
        unknown = (counted | set(self.left_out)) - {device.name for device in devices.devices}
        assert not unknown, f"{TABLES} and {devices.source} differ: {unknown}"
        kept = [
            device
            for device in devices.devices
            if (device.name in counted if counted else device.name not in self.left_out)
        ]
        return replace(devices, devices=tuple(kept))


class Remark(_Fact):
    """A note on printed scores, by system and metric; a score that is a ``misprint`` is impossible."""

    cells: dict[str, tuple[Metric, ...]]
    misprint: bool
    text: str


class Scores(_Fact):
    """One printed table: accuracy, macro precision, recall and F1 of each system in per cent; a class is a
    ``label``."""

    where: str
    label: Literal["name", "model"]
    classes: int
    systems: dict[str, dict[Metric, float]]
    ours: Mapping[str, str]  # system of the table -> system of a report
    remarks: tuple[Remark, ...] = ()


class PaperNumbers(_Fact):
    """All numbers that the paper prints for one dataset, and notes on them."""

    title: str
    captures: str
    counts: Counts
    scores: tuple[Scores, ...]
    notes: tuple[str, ...] = ()


def read(dataset: str) -> PaperNumbers:
    """The printed numbers of one of ``DATASETS``."""
    tables = yaml12.load((conf_dir() / TABLES).read_text(encoding="utf-8"))
    return PaperNumbers.model_validate(tables[dataset])


def device_list(dataset: str) -> DeviceList:
    """The published device list of one of ``DATASETS``."""
    return DeviceList.read(conf_dir() / "datasets" / f"{dataset}.yaml")
