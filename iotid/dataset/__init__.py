"""Labelled, encoded flows in three parts: what a model learns from, is chosen by and is tested on.

`write_dataset` makes a dataset of flows and a device list; `read_split` and `read_encoding` read it back.
`read_device_traffic` counts devices' packets, for baselines that read no flows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from iotid.dataset.characteristics import Encoding, Vocabulary, out_of_vocabulary_rate
    from iotid.dataset.count import count_flows
    from iotid.dataset.in_memory import LabelledFlows
    from iotid.dataset.sets import FlowSets
    from iotid.dataset.store import EncodedFlows, read_encoding, read_sets, read_split
    from iotid.dataset.traffic import DeviceTraffic, read_device_traffic
    from iotid.dataset.write import dataset_hash, write_dataset

__all__ = [
    "DeviceTraffic",
    "EncodedFlows",
    "Encoding",
    "FlowSets",
    "LabelledFlows",
    "Vocabulary",
    "count_flows",
    "dataset_hash",
    "read_device_traffic",
    "read_encoding",
    "read_sets",
    "read_split",
    "unseen_share",
    "write_dataset",
]

# loaded when first asked for: a model that is served needs the encoding, not Spark or Petastorm
__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "characteristics": ["Encoding", "Vocabulary", "unseen_share"],
        "count": ["count_flows"],
        "in_memory": ["LabelledFlows"],
        "sets": ["FlowSets"],
        "store": ["EncodedFlows", "read_encoding", "read_split", "read_sets"],
        "traffic": ["DeviceTraffic", "read_device_traffic"],
        "write": ["dataset_hash", "write_dataset"],
    },
)
