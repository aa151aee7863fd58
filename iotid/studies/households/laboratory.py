"""Test sets of flows of a laboratory that are not in training: single, and merged as if behind one address.

Shape suffixes: N flows, B sets or merges of sets, U units, K kinds, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from iotid.baselines.spatial_temporal_cnn import fingerprints
from iotid.dataset import Encoding, LabelledFlows
from iotid.labels.devices import UNLISTED
from iotid.model.device import kinds_of
from iotid.studies.households.addresses import Addresses, Observed

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix


_HOSTS = (1, 2)  # number of unlisted hosts in a merge
_HOUR_US = 3_600_000_000
# origin of a tested set
HELD_OUT, HOST, LEFT_OUT, ELSEWHERE, SIMILAR, HOST_ELSEWHERE = range(6)


class Scenario(NamedTuple):
    """Contents of a merge: number of kinds; number of devices not in training (``never``), and their ``source``
    (ELSEWHERE or LEFT_OUT); whether there are unlisted hosts; share of flows that remains; whether one kind has a
    second device; and whether only flows of the first hour remain."""

    kinds: int
    never: int = 0
    source: int = ELSEWHERE
    hosts: bool = False
    share: float = 1.0
    two_units: bool = False
    first_hour: bool = False

    def __str__(self) -> str:
        parts = [f"{self.kinds} kind{'s' * (self.kinds > 1)}"]
        parts += [f"{self.never} {'elsewhere' if self.source == ELSEWHERE else 'left out'}"] * bool(self.never)
        parts += ["unlisted hosts"] * self.hosts + ["a second device of one"] * self.two_units
        text = " + ".join(parts) + (f", {100 * self.share:.0f} % of flows" if self.share < 1 else "")
        return text + ", first hour" * self.first_hour


@dataclass(frozen=True)
class Laboratory:
    """Flows of listed devices and of unlisted hosts (label ``unknown``).

    ``device`` (N,): a number for each entry of the list and each host; ``unit`` (N,): for each device and capture.
    """

    flows: LabelledFlows
    device: NDArray[np.int64]
    unit: NDArray[np.int64]

    @classmethod
    def of(cls, flows: LabelledFlows, device: NDArray[np.int64] | None = None) -> Self:
        """Without ``device``, all flows of a label count as one device, and those of unlisted hosts as one host."""
        device = flows.label if device is None else device
        unit = np.unique(flows.capture * (int(device.max()) + 1) + device, return_inverse=True)[1]
        return cls(flows, device, unit.astype(np.int64))

    @property
    def is_listed(self) -> NDArray[np.bool_]:
        """(N,)"""
        return np.array([label != UNLISTED for label in self.flows.labels])[self.flows.label]

    def kinds(self) -> tuple[list[str], NDArray[np.int64]]:
        """Names of the kinds, and (C,) the kind of each class."""
        labels, dataset = self.flows.labels, self.flows.settings
        return kinds_of(labels, self.flows.devices.describe_all(dataset.label, labels))

    @cached_property
    def _times(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """(N,) µs since 1970: first packet of the flow's unit, first packet of the flow, and its last packet."""
        first_N, last_N = (
            pc.cast(self.flows.flows[name], pa.int64()).to_numpy() for name in ("first_seen", "last_seen")
        )
        start_U = np.full(int(self.unit.max()) + 1, np.iinfo(np.int64).max)
        np.minimum.at(start_U, self.unit, first_N)
        return start_U[self.unit], first_N, np.maximum(first_N, last_N)

    @property
    def has_long_captures(self) -> bool:
        """Whether a unit has flows that begin more than an hour after its first."""
        start_N, first_N, _ = self._times
        return bool((first_N - start_N > _HOUR_US).any())

    def observed(self, encoding: Encoding, chosen_N: NDArray[np.bool_]) -> Observed:
        table = self.flows.flows.filter(pa.array(chosen_N))
        start_N, first_N, last_N = (time_N[chosen_N] for time_N in self._times)
        return Observed.of(encoding.encode(table), fingerprints(table, start_N), first_N - start_N, last_N - start_N)


@dataclass(frozen=True)
class UnseenSets:
    """Sets not used in training: ``origin`` (B,), HELD_OUT …; ``kind`` (B,), -1 if not in training; ``device`` (B,)."""

    addresses: Addresses
    origin: NDArray[np.int64]
    kind: NDArray[np.int64]
    device: NDArray[np.int64]

    def alone(self, origin: int) -> NDArray[np.intp]:
        return np.flatnonzero(self.origin == origin)

    def merged(self, scenario: Scenario, times: int, kinds: int, random: np.random.Generator) -> Merged | None:
        """``times`` random merges; None if there are too few kinds or devices."""
        from scipy.sparse import csr_matrix, vstack

        held_out, never, hosts = (self.alone(origin) for origin in (HELD_OUT, scenario.source, HOST))
        learned, sets_of_learned = np.unique(self.kind[held_out], return_counts=True)
        doubled, unknowns = learned[sets_of_learned > 1], np.unique(self.device[never])
        too_few = len(learned) < scenario.kinds or len(unknowns) < scenario.never
        too_few |= (scenario.hosts and not len(hosts)) or (scenario.two_units and not len(doubled))
        if too_few or not times:
            return None
        flows, devices_BK, unknown_B = [], np.zeros((times, kinds), np.int64), np.zeros(times, np.bool_)
        for merge in range(times):
            chosen = _some(learned, scenario.kinds, random)
            if scenario.two_units:
                twice = random.choice(doubled)
                chosen = np.append(twice, chosen[chosen != twice][: scenario.kinds - 1])
            rows = [random.choice(held_out[self.kind[held_out] == kind]) for kind in chosen]
            rows += [self._second(rows[0], held_out, random)] if scenario.two_units else []
            rows += [random.choice(never[self.device[never] == one]) for one in _some(unknowns, scenario.never, random)]
            if scenario.hosts:
                rows += _some(hosts, min(len(hosts), int(random.choice(_HOSTS))), random).tolist()
            flows_MN = self._sample(rows, scenario, random)
            is_left = np.diff(flows_MN.indptr) > 0
            kind = self.kind[rows]
            np.add.at(devices_BK[merge], kind[is_left & (kind >= 0)], 1)
            unknown_B[merge] = bool((is_left & (kind < 0)).any())
            flows.append(csr_matrix(flows_MN.sum(axis=0)))
        return Merged(self.addresses.with_flows(vstack(flows).tocsr()), devices_BK, unknown_B)

    def _second(self, first: int, held_out: NDArray[np.intp], random: np.random.Generator) -> int:
        """Another set of the same kind: of another device if there is one, else another capture of the same."""
        others = held_out[(self.kind[held_out] == self.kind[first]) & (held_out != first)]
        of_other_devices = others[self.device[others] != self.device[first]]
        return int(random.choice(of_other_devices if len(of_other_devices) else others))

    def _sample(self, rows: Sequence[int], scenario: Scenario, random: np.random.Generator) -> csr_matrix:
        flows_MN = self.addresses.flows[rows].astype(np.int64)
        if scenario.share < 1:
            flows_MN.data = random.binomial(flows_MN.data, scenario.share)
        if scenario.first_hour:
            flows_MN.data[self.addresses.observed.first_us[flows_MN.indices] > _HOUR_US] = 0
        flows_MN.eliminate_zeros()
        return flows_MN


class Merged(NamedTuple):
    """B merges; ``devices`` (B, K): number of devices of each kind; ``unknown`` (B,): whether there is a device that is
    not in training."""

    addresses: Addresses
    devices: NDArray[np.int64]
    unknown: NDArray[np.bool_]


def sample_sets(own: Laboratory, chosen_N: NDArray[np.bool_], most: int, seed: int) -> NDArray[np.bool_]:
    """(N,) flows of the sets that a dataset would store: at most ``most`` of a label."""
    random, sampled_N = np.random.default_rng(seed), np.zeros_like(chosen_N)
    for label in np.unique(own.flows.label[chosen_N]):
        of_label_N = chosen_N & (own.flows.label == label)
        units = np.unique(own.unit[of_label_N])
        sampled_N |= of_label_N & np.isin(own.unit, _some(units, min(len(units), most), random))
    return sampled_N


def _some(values: NDArray[Any], number: int, random: np.random.Generator) -> NDArray[Any]:
    return random.choice(values, number, replace=False) if number else values[:0]
