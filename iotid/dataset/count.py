"""Counts the flows of each label without writing a dataset."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from iotid import config
from iotid.dataset.label_flows import Source
from iotid.labels.device_list import DeviceList

if TYPE_CHECKING:
    from iotid.dataset.label_flows import FlowFile

_PROTOCOLS = 256  # IANA numbers are octets


def count_flows(files: Sequence[FlowFile], devices: DeviceList, settings: config.Dataset) -> dict[tuple[str, int], int]:
    """(label, IANA number of the protocol) -> flows of the ``files``, labelled as by ``write_dataset``.

    Includes rare labels. Reads only the columns that labels depend on, in batches.
    """
    source = Source(files, (), devices.at(files), settings, max_packets=1)
    counted: Counter[int] = Counter()
    for number in range(len(files)):
        for flows, label_N, _, _ in source.read(number, ["protocol"], Counter()):
            pair_N = label_N.astype(np.int64) * _PROTOCOLS + flows["protocol"].to_numpy(zero_copy_only=False)
            pairs, times = np.unique(pair_N, return_counts=True)
            counted.update(dict(zip(pairs.tolist(), times.tolist(), strict=True)))
    return {(source.labels[pair // _PROTOCOLS], pair % _PROTOCOLS): flows for pair, flows in sorted(counted.items())}
