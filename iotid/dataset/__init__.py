"""Labelled, encoded flows in three parts: what a model learns from, is chosen by and is tested on.

``write_dataset`` makes a dataset of flows and a device list; ``read_part`` and ``read_encoding`` read it back.
``read_traffic`` counts devices' packets, for rivals that read no flows.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from iotid.dataset.characteristics import Encoding, Vocabulary, unseen_share
    from iotid.dataset.count import count_flows
    from iotid.dataset.devices import Device
    from iotid.dataset.labels import DeviceList
    from iotid.dataset.memory import LabelledFlows
    from iotid.dataset.sets import Sets
    from iotid.dataset.store import Rows, read_encoding, read_part, read_sets
    from iotid.dataset.traffic import Traffic, read_traffic
    from iotid.dataset.write import dataset_hash, write_dataset

__all__ = [
    "Device",
    "DeviceList",
    "Encoding",
    "LabelledFlows",
    "Rows",
    "Sets",
    "Traffic",
    "Vocabulary",
    "count_flows",
    "dataset_hash",
    "read_encoding",
    "read_part",
    "read_sets",
    "read_traffic",
    "unseen_share",
    "write_dataset",
]

_HOMES = {
    "characteristics": ("Encoding", "Vocabulary", "unseen_share"),
    "count": ("count_flows",),
    "devices": ("Device",),
    "labels": ("DeviceList",),
    "memory": ("LabelledFlows",),
    "sets": ("Sets",),
    "store": ("Rows", "read_encoding", "read_part", "read_sets"),
    "traffic": ("Traffic", "read_traffic"),
    "write": ("dataset_hash", "write_dataset"),
}


def __getattr__(name: str) -> Any:
    """Load the door's room on first use: a model that is served needs the encoding, not Spark or Petastorm."""
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"iotid.dataset.{home}"), name)
    raise AttributeError(f"module 'iotid.dataset' has no attribute {name!r}")
