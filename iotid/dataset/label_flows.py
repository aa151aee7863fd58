"""Flows of stored partitions with their labels: read file by file, filtered, and every flow left out counted.

Shape suffixes: N flows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from iotid import config
from iotid.dataset.characteristics import quantise_column, select_characteristics
from iotid.dataset.hashes import hash_rows
from iotid.dataset.packed_sequences import pack_sequences
from iotid.dataset.split_protocols import positions
from iotid.flows import IDENTITY_COLUMNS
from iotid.labels import routers
from iotid.labels.device_list import UNLISTED, DeviceList
from iotid.labels.hosts import READ
from iotid.labels.owner import is_shown

# what becomes of a flow, counted under a label where it has one
CONTINUED, OTHER_PROTOCOL, ON_NO_LIST, CONFLICT, LABELLED = (
    "continued", "other_protocol", "unlisted", "conflict", "labelled",
)  # fmt: skip
DEVICE, HOST = "device", "host"  # besides: labelled flows by device name, unlisted ones by host

_EVIDENCE = ("capture_file", "first_seen", *READ)


class FlowFile(routers.FlowFile, Protocol):
    """One that also knows which of its flows a later partition continues, such as `flows.FlowFile`."""

    def superseded(self, flows: pa.RecordBatch, later: pa.Table) -> pa.BooleanArray: ...


class LabelledBatch(NamedTuple):
    """N flows; the index of each into ``Source.labels``, and of its device in the list, or -1.

    ``unlisted``: flows that get no label, because no entry of the list fits.
    """

    flows: pa.RecordBatch
    label: NDArray[np.int32]
    device: NDArray[np.int32]
    unlisted: pa.RecordBatch


@dataclass(frozen=True)
class Source:
    """The flows of some partitions, and the settings that label and filter them."""

    files: Sequence[FlowFile]
    later: pa.Table | tuple[()]  # of `flows.later_flows`
    devices: DeviceList
    settings: config.Dataset
    max_packets: int

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """All labels that a flow may get, sorted."""
        return tuple(sorted({*self.devices.labels(self.settings.label), UNLISTED}))

    def read(
        self,
        number: int,
        columns: Iterable[str],
        outcomes: Counter[tuple[str, str]],
        hosts: Counter[str] | None = None,
    ) -> Iterator[LabelledBatch]:
        """Flows of file ``number`` with a label, by batch; others are counted, in ``hosts`` by who opened them."""
        file, keep_unlisted = self.files[number], self.settings.unlisted == "unknown"
        names = self.devices.labels(self.settings.label)
        label_of = np.array([self.labels.index(name) for name in (*names, UNLISTED)], np.int32)
        protocols = pa.array(self.settings.protocols, pa.int32())
        identity = IDENTITY_COLUMNS if len(self.later) else ()
        for read in file.read(dict.fromkeys(["protocol", *_EVIDENCE, *identity, *columns])):
            flows = read
            if identity:
                flows = flows.filter(pc.invert(file.superseded(flows, self.later)))
                outcomes[CONTINUED, ""] += read.num_rows - flows.num_rows
            before = flows.num_rows
            flows = flows.filter(pc.is_in(flows["protocol"], value_set=protocols))
            outcomes[OTHER_PROTOCOL, ""] += before - flows.num_rows
            device_N, conflict_N = self.devices.resolve(flows, file.site)
            kept_N = (device_N >= 0) | (~conflict_N & keep_unlisted)
            conflicts = int(conflict_N.sum())
            outcomes[CONFLICT, ""] += conflicts
            outcomes[ON_NO_LIST, ""] += flows.num_rows - int(kept_N.sum()) - conflicts
            if hosts is not None:
                _count_hosts(flows.filter(pa.array((device_N < 0) & ~conflict_N)), hosts)
            unlisted = flows.filter(pa.array(~kept_N & ~conflict_N))
            device_N = device_N[kept_N]
            labelled = flows.filter(pa.array(kept_N))
            yield LabelledBatch(labelled, label_of[device_N], device_N, unlisted)  # -1 is the last of label_of

    def packed(self, flows: pa.RecordBatch) -> pa.BinaryArray:
        """(N,) all sequences of each flow."""
        chosen = select_characteristics(self.settings.characteristics).values()
        return pack_sequences([quantise_column(flows, each, self.max_packets) for each in chosen])

    @property
    def sequence_columns(self) -> list[str]:
        return [each.column for each in select_characteristics(self.settings.characteristics).values()]

    def positions(self, flows: pa.RecordBatch, label_N: NDArray[np.int32], packed: pa.BinaryArray) -> Any:
        """(N,) as `split_protocols.positions`."""
        label_hash = hash_rows([pa.array(self.labels)])
        return positions(flows, self.settings, label_hash[label_N], packed)


def _count_hosts(flows: pa.RecordBatch, hosts: Counter[str]) -> None:
    """Count the clients of flows, by MAC where one is shown, else by address."""
    mac = flows["client_mac"]
    for host in pc.value_counts(pc.if_else(pa.array(is_shown(mac)), mac, flows["client_ip"])).to_pylist():
        hosts[host["values"]] += host["counts"]


def busiest(hosts: Counter[str], most: int) -> dict[str, int]:
    """The hosts with most flows; of equal ones the first by name, whatever the order in which they were counted."""
    return dict(sorted(hosts.items(), key=lambda item: (-item[1], item[0]))[:most])
