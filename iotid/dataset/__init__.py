"""Datasets: labelled, encoded flows in three splits: training, validation and test.

`write_dataset` writes one from flows and a device list; `read_encoding`, `read_split`, `read_sets` and
`read_test_sets` read it.

`read_device_traffic` counts devices' packets, for baselines that do not use flows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from iotid.dataset.characteristics import Encoding, Vocabulary, out_of_vocabulary_rate
    from iotid.dataset.count import count_flows
    from iotid.dataset.device_traffic import DeviceTraffic, read_device_traffic
    from iotid.dataset.in_memory import LabelledFlows
    from iotid.dataset.sets import FlowSets
    from iotid.dataset.store import EncodedFlows, read_encoding, read_sets, read_split, read_test_sets
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
    "out_of_vocabulary_rate",
    "read_device_traffic",
    "read_encoding",
    "read_sets",
    "read_split",
    "read_test_sets",
    "write_dataset",
]

# loaded when first used: a served model needs the encoding, but not Spark or Petastorm
__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "characteristics": ["Encoding", "Vocabulary", "out_of_vocabulary_rate"],
        "count": ["count_flows"],
        "in_memory": ["LabelledFlows"],
        "sets": ["FlowSets"],
        "store": ["EncodedFlows", "read_encoding", "read_split", "read_sets", "read_test_sets"],
        "device_traffic": ["DeviceTraffic", "read_device_traffic"],
        "write": ["dataset_hash", "write_dataset"],
    },
)
