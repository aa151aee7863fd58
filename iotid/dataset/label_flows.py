"""Reads, filters and labels flows of stored partitions, and counts every flow that is left out.

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
from iotid.labels.device_list import DeviceList
from iotid.labels.devices import UNLISTED
from iotid.labels.hosts import READ
from iotid.labels.owner import is_shown

# outcomes of flows, counted by label if the flow has one
CONTINUED, OTHER_PROTOCOL, ON_NO_LIST, CONFLICT, LABELLED = (
    "continued", "other_protocol", "unlisted", "conflict", "labelled",
)  # fmt: skip
# counted in addition: labelled flows by device name, unlisted ones by host, and those of devices for which the list has
# one label and a person said another, by "index in entries, index of what was said"
DEVICE, HOST, OVERRULED = "device", "host", "overruled"

_IDENTIFIERS = ("capture_file", "first_seen", *READ)


class FlowFile(routers.FlowFile, Protocol):
    """A file that can also determine which of its flows a later partition continues, such as `flows.FlowFile`."""

    @property
    def capture_date(self) -> str: ...

    def superseded(self, flows: pa.RecordBatch, later: pa.Table) -> pa.BooleanArray: ...


class LabelledBatch(NamedTuple):
    """N flows; the index of each into ``Source.labels``, and of its device in the list, or -1.

    ``unlisted``: flows without a label, because no entry of the list matches.
    """

    flows: pa.RecordBatch
    label: NDArray[np.int32]
    device: NDArray[np.int32]
    unlisted: pa.RecordBatch


@dataclass(frozen=True)
class Source:
    """Files of flows, and the device list and settings that label and filter them."""

    files: Sequence[FlowFile]
    later: pa.Table | tuple[()]  # of `flows.later_flows`
    devices: DeviceList
    settings: config.Dataset
    max_packets: int

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """All possible labels, sorted."""
        return tuple(sorted({*self.devices.labels(self.settings.label), UNLISTED}))

    def read(
        self,
        number: int,
        columns: Iterable[str],
        outcomes: Counter[tuple[str, str]],
        hosts: Counter[str] | None = None,
    ) -> Iterator[LabelledBatch]:
        """Yield labelled flows of file ``number`` in batches; count all in ``outcomes``, unlisted ones by client in
        ``hosts``."""
        file, keep_unlisted = self.files[number], self.settings.unlisted == "unknown"
        names = self.devices.labels(self.settings.label)
        label_of = np.array([self.labels.index(name) for name in (*names, UNLISTED)], np.int32)
        protocols = pa.array(self.settings.protocols, pa.int32())
        identity = IDENTITY_COLUMNS if len(self.later) else ()
        for read in file.read(dict.fromkeys(["protocol", *_IDENTIFIERS, *identity, *columns])):
            flows = read
            if identity:
                flows = flows.filter(pc.invert(file.superseded(flows, self.later)))
                outcomes[CONTINUED, ""] += read.num_rows - flows.num_rows
            before = flows.num_rows
            flows = flows.filter(pc.is_in(flows["protocol"], value_set=protocols))
            outcomes[OTHER_PROTOCOL, ""] += before - flows.num_rows
            device_N, conflict_N, overruled_N = self.devices.resolve_named(flows, file.site, file.capture_date)
            self._count_overruled(device_N, overruled_N, outcomes)
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

    def _count_overruled(
        self, device_N: NDArray[np.int32], overruled_N: NDArray[np.int32], outcomes: Counter[tuple[str, str]]
    ) -> None:
        """Count flows whose device has another label in the list than a person said."""
        of_type = "type" if self.settings.label == "type" else "model"  # each device has a name of its own
        is_any_N = overruled_N >= 0
        pairs, counts = np.unique(np.stack([device_N, overruled_N])[:, is_any_N], axis=1, return_counts=True)
        for (listed, said), flows in zip(pairs.T.tolist(), counts.tolist(), strict=True):
            if getattr(self.devices.entries[listed], of_type) != getattr(self.devices.entries[said], of_type):
                outcomes[OVERRULED, f"{listed} {said}"] += flows

    def packed(self, flows: pa.RecordBatch) -> pa.BinaryArray:
        """(N,) all sequences of each flow, see `pack_sequences`."""
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
    """Count flows by client: its MAC if shown, else its address."""
    mac = flows["client_mac"]
    for host in pc.value_counts(pc.if_else(pa.array(is_shown(mac)), mac, flows["client_ip"])).to_pylist():
        hosts[host["values"]] += host["counts"]


def busiest(hosts: Counter[str], most: int) -> dict[str, int]:
    """The ``most`` hosts with most flows; ties are sorted by name."""
    return dict(sorted(hosts.items(), key=lambda item: (-item[1], item[0]))[:most])
