"""Which kinds are behind an address: held-back captures, merged as if behind one, and what each method finds there.

In each of several folds of captures, methods (`household_methods`) learn from the other folds' sets (a set: what one
device showed in one capture). Tested are sets that were held back: alone, and merged, of so many kinds each; beside
devices never learned, beside hosts that no list names, thinned out, and with two units of a kind. Never learned are
devices of other laboratories unless a learned kind has their vendor and type, and kinds that further trainings leave
out in turn. All sets of a merge begin at the same moment.

Shape suffixes: N flows, B sets or merges of sets, U units, K kinds, C classes.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from iotid import config
from iotid.baselines.spatial_temporal_cnn import fingerprints
from iotid.dataset import Encoding, LabelledFlows
from iotid.dataset.split_protocols import DATASET_SPLITS
from iotid.labels.device_list import UNLISTED
from iotid.labels.devices import device_kind
from iotid.model.device import kinds_of
from iotid.studies.households.addresses import Addresses, LabelledSets, Observed
from iotid.studies.households.methods import (
    CNN,
    DEVICE_MODEL,
    FLOW_VOTE,
    METHODS,
    ORIGINS,
    Method,
    Predictions,
    Training,
)
from iotid.studies.households.scores import of_merges, of_single

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

log = logging.getLogger(__name__)

ALL = "all merges"
_KINDS, _NEVER, _THINNED = (1, 2, 3, 5, 8, 10), (1, 2, 3), 0.5
_KINDS_OF_TWO_UNITS = (1, 3, 8)
_HOSTS = (1, 2)  # that no list names, in a merge that has any
_HOUR_US = 3_600_000_000
_COMPARED = (DEVICE_MODEL, FLOW_VOTE, CNN)  # by `compare`; the regressions take as long as the device model
_BEHIND = ("hosts", "households", "auto")
# what a set that is tested is of
HELD_BACK, HOST, LEFT_OUT, ELSEWHERE, SIMILAR, HOST_ELSEWHERE = range(6)
_ALONE = {
    HELD_BACK: "held-back captures",
    LEFT_OUT: "captures of kinds left out",
    ELSEWHERE: "other laboratories, kinds never learned",
    SIMILAR: "other laboratories, vendor and type of a learned kind",
    HOST: "hosts that no list names",
    HOST_ELSEWHERE: "other laboratories, hosts that no list names",
}


class HouseholdComparison(TypedDict):
    """``merges``: scenario, and last all of them -> ``merges`` (how many) and method -> scores; ``alone``: what is
    tested alone -> ``sets`` (how many) and method -> what became of them; metrics: `household_scores`."""

    folds: int
    kinds: list[str]
    origins: dict[str, str]
    merges: dict[str, dict[str, Any]]
    alone: dict[str, dict[str, Any]]


def compare(flows: LabelledFlows, settings: config.Settings) -> HouseholdComparison | None:
    """Methods on households of these flows' captures; None where ``evaluation.household_merges`` is 0, or there are
    no two captures to learn from one and test the other.

    Trains each method ``evaluation.household_folds`` times with a fold of captures held back, and as many times with
    kinds left out, whose devices are those never learned.
    """
    evaluation, own = settings.evaluation, Laboratory.of(flows)
    folds = min(evaluation.household_folds, int(flows.capture.max()) + 1)
    if not evaluation.household_merges or folds < 2:
        return None
    kinds, kind_C = own.kinds()
    random = np.random.default_rng(evaluation.seed)
    asked = rounds(kind_C, folds, folds, evaluation.household_merges, random, first_hour=own.has_long_captures)
    study = Study(own, (), flows.folds(folds), settings.census, evaluation.seed, _COMPARED)
    results = study.run(asked, random)
    return {
        "folds": folds,
        "kinds": kinds,
        "origins": {name: ORIGINS[name] for name in _COMPARED},
        "merges": results.merges(),
        "alone": results.alone(),
    }


class Scenario(NamedTuple):
    """What is merged: so many kinds; devices never learned (``source``: ELSEWHERE or LEFT_OUT); whether hosts that no
    list names are beside; the share of flows that is kept; whether one of the kinds has a second device; and whether
    only flows that begin in the first hour are kept."""

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
    """Flows of devices and of hosts that no list names (label ``unknown``).

    ``device`` (N,): a number for each entry of the list, and each host; ``unit`` (N,): for each of them and capture.
    """

    flows: LabelledFlows
    device: NDArray[np.int64]
    unit: NDArray[np.int64]

    @classmethod
    def of(cls, flows: LabelledFlows, device: NDArray[np.int64] | None = None) -> Self:
        """Without ``device``, all flows of a label are one device's, and all of unlisted hosts one host's."""
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
        """(N,) µs since 1970: the first packet of the flow's unit, of the flow, and its last one."""
        first_N, last_N = (
            pc.cast(self.flows.flows[name], pa.int64()).to_numpy() for name in ("first_seen", "last_seen")
        )
        start_U = np.full(int(self.unit.max()) + 1, np.iinfo(np.int64).max)
        np.minimum.at(start_U, self.unit, first_N)
        return start_U[self.unit], first_N, np.maximum(first_N, last_N)

    @property
    def has_long_captures(self) -> bool:
        """Whether flows of a unit begin more than an hour after its first one."""
        start_N, first_N, _ = self._times
        return bool((first_N - start_N > _HOUR_US).any())

    def observed(self, encoding: Encoding, chosen_N: NDArray[np.bool_]) -> Observed:
        table = self.flows.flows.filter(pa.array(chosen_N))
        start_N, first_N, last_N = (time_N[chosen_N] for time_N in self._times)
        return Observed.of(encoding.encode(table), fingerprints(table, start_N), first_N - start_N, last_N - start_N)


@dataclass(frozen=True)
class UnseenSets:
    """Sets that training has not seen: ``what`` (B,), ``kind`` (B,) where it was learned, else -1, ``device`` (B,)."""

    addresses: Addresses
    what: NDArray[np.int64]
    kind: NDArray[np.int64]
    device: NDArray[np.int64]

    def alone(self, what: int) -> NDArray[np.intp]:
        return np.flatnonzero(self.what == what)

    def merged(self, scenario: Scenario, times: int, kinds: int, random: np.random.Generator) -> Merged | None:
        """So many merges at random; None where there are too few kinds or devices."""
        from scipy.sparse import csr_matrix, vstack

        held_back, never, hosts = (self.alone(what) for what in (HELD_BACK, scenario.source, HOST))
        learned, sets_of_learned = np.unique(self.kind[held_back], return_counts=True)
        doubled, unknowns = learned[sets_of_learned > 1], np.unique(self.device[never])
        too_few = len(learned) < scenario.kinds or len(unknowns) < scenario.never
        too_few |= (scenario.hosts and not len(hosts)) or (scenario.two_units and not len(doubled))
        if too_few or not times:
            return None
        flows, there_BK, unknown_B = [], np.zeros((times, kinds), np.int64), np.zeros(times, np.bool_)
        for merge in range(times):
            chosen = _some(learned, scenario.kinds, random)
            if scenario.two_units:
                twice = random.choice(doubled)
                chosen = np.append(twice, chosen[chosen != twice][: scenario.kinds - 1])
            rows = [random.choice(held_back[self.kind[held_back] == kind]) for kind in chosen]
            rows += [self._second(rows[0], held_back, random)] if scenario.two_units else []
            rows += [random.choice(never[self.device[never] == one]) for one in _some(unknowns, scenario.never, random)]
            if scenario.hosts:
                rows += _some(hosts, min(len(hosts), int(random.choice(_HOSTS))), random).tolist()
            shown = self._kept(rows, scenario, random)
            is_left = np.diff(shown.indptr) > 0
            kind = self.kind[rows]
            np.add.at(there_BK[merge], kind[is_left & (kind >= 0)], 1)
            unknown_B[merge] = bool((is_left & (kind < 0)).any())
            flows.append(csr_matrix(shown.sum(axis=0)))
        return Merged(self.addresses.with_flows(vstack(flows).tocsr()), there_BK, unknown_B)

    def _second(self, first: int, held_back: NDArray[np.intp], random: np.random.Generator) -> int:
        """Another set of the same kind: of another device if there is one, else another capture of the same."""
        others = held_back[(self.kind[held_back] == self.kind[first]) & (held_back != first)]
        of_other_devices = others[self.device[others] != self.device[first]]
        return int(random.choice(of_other_devices if len(of_other_devices) else others))

    def _kept(self, rows: Sequence[int], scenario: Scenario, random: np.random.Generator) -> csr_matrix:
        shown = self.addresses.flows[rows].astype(np.int64)
        if scenario.share < 1:
            shown.data = random.binomial(shown.data, scenario.share)
        if scenario.first_hour:
            shown.data[self.addresses.observed.first_us[shown.indices] > _HOUR_US] = 0
        shown.eliminate_zeros()
        return shown


class Merged(NamedTuple):
    """B merges; (B, K) devices of each kind that are there; (B,) whether something never learned is."""

    addresses: Addresses
    there: NDArray[np.int64]
    unknown: NDArray[np.bool_]


class Round(NamedTuple):
    """A training and what it is tested on: ``left_out`` (C,) classes that are not learned."""

    name: str
    fold: int
    left_out: NDArray[np.bool_]
    scenarios: list[tuple[Scenario, int]]  # and how many merges of each
    alone: tuple[int, ...]


def rounds(
    kind_C: NDArray[np.int64], folds: int, groups: int, times: int, random: np.random.Generator, *, first_hour: bool
) -> Iterator[Round]:
    """A round for each fold, and one for each of ``groups`` groups of kinds left out; ``times``: merges of each
    scenario, over all rounds."""
    scenarios = [
        *(Scenario(kinds) for kinds in _KINDS),
        *(Scenario(kinds, never) for kinds in _KINDS for never in _NEVER),
        *(Scenario(kinds, hosts=True) for kinds in _KINDS),
        *(Scenario(kinds, share=_THINNED) for kinds in _KINDS),
        *(Scenario(kinds, two_units=True) for kinds in _KINDS_OF_TWO_UNITS),
        *(Scenario(kinds, first_hour=True) for kinds in _KINDS if first_hour),
    ]
    alone = (HELD_BACK, HOST, ELSEWHERE, SIMILAR, HOST_ELSEWHERE)
    for fold in range(folds):
        share = [(scenario, _dealt(times, folds, fold)) for scenario in scenarios]
        yield Round(f"fold {fold + 1}", fold, np.zeros(len(kind_C), np.bool_), share, alone)
    drawn = random.permutation(int(kind_C.max()) + 1)
    groups = min(groups, len(drawn))
    for group in range(groups if len(drawn) > 1 else 0):
        share = [
            (Scenario(kinds, never, LEFT_OUT), _dealt(times, groups, group)) for kinds in _KINDS for never in _NEVER
        ]
        left_out_C = np.isin(kind_C, drawn[group::groups])
        yield Round(f"left out {group + 1}", group % folds, left_out_C, share, (LEFT_OUT,))


def _dealt(times: int, parts: int, part: int) -> int:
    return (part + 1) * times // parts - part * times // parts


@dataclass(frozen=True)
class Study:
    """One laboratory, whose captures are learned from and held back, and others, from which nothing is learned.

    ``seed``: of the models; ``fold`` (N,) of each flow of ``own``; ``methods``: of METHODS.
    """

    own: Laboratory
    others: Sequence[Laboratory]
    fold: NDArray[np.int64]
    census: config.Census
    seed: int
    methods: Sequence[str] = tuple(METHODS)

    def run(self, asked: Iterable[Round], random: np.random.Generator) -> Results:
        results, kinds = Results(), self.own.kinds()[0]
        for of_round in asked:
            encoding, methods = self._learn(of_round)
            results.add(self._unseen_sets(of_round, kinds, encoding), of_round, len(kinds), methods, random)
            log.info("households, %s: tested", of_round.name)
        return results

    def _learn(self, of_round: Round) -> tuple[Encoding, dict[str, Method]]:
        own, flows, listed_N = self.own, self.own.flows, self.own.is_listed
        learned_N = (self.fold != of_round.fold) & ~of_round.left_out[flows.label]
        part_N = np.where(learned_N & listed_N, DATASET_SPLITS.index("train"), -1)
        encoding, parts = flows.dataset(part_N)
        chosen_N = sample_sets(own, learned_N, flows.settings.sets, self.seed)
        label_N = np.where(listed_N, flows.label, -1)[chosen_N]
        observed = own.observed(encoding, chosen_N)
        sets = LabelledSets.of(observed, own.unit[chosen_N], label_N, own.device[chosen_N])
        training = Training(encoding, parts["train"].rows, sets, own.kinds()[1], self.census, self.seed)
        methods = {}
        for name in self.methods:
            start = time.perf_counter()
            methods[name] = METHODS[name](training)
            log.info("households, %s: %s learned in %.0f s", of_round.name, name, time.perf_counter() - start)
        return encoding, methods

    def _unseen_sets(self, of_round: Round, kinds: Sequence[str], encoding: Encoding) -> UnseenSets:
        """Sets of the fold and of classes left out, and all of other laboratories.

        A kind of which the other folds hold nothing was not learned, so its sets count as left out.
        """
        own, kind_C = self.own, self.own.kinds()[1]
        listed_N, left_out_N = own.is_listed, of_round.left_out[own.flows.label]
        kind_N = kind_C[own.flows.label]
        learned = np.unique(kind_N[listed_N & ~left_out_N & (self.fold != of_round.fold)])
        is_learned_N = listed_N & np.isin(kind_N, learned)
        what_N = np.select([is_learned_N, listed_N], [HELD_BACK, LEFT_OUT], HOST)
        tested_N = (self.fold == of_round.fold) | left_out_N
        parts = [(own, tested_N, what_N, np.where(is_learned_N, kind_N, -1))]
        for other in self.others:
            known = other.flows.devices.describe_all(other.flows.settings.label, other.flows.labels)
            names = [device_kind(label, known[label]) for label in other.flows.labels]
            place_C = np.array([kinds.index(name) if name in kinds else -1 for name in names])
            place_N = np.where(other.is_listed, place_C[other.flows.label], -1)
            what_N = np.select([~other.is_listed, place_N >= 0], [HOST_ELSEWHERE, SIMILAR], ELSEWHERE)
            parts.append((other, np.ones(len(place_N), np.bool_), what_N, place_N))
        observed, columns, offset = [], [], 0
        for lab, chosen_N, what_N, kind_N in parts:
            observed.append(lab.observed(encoding, chosen_N))
            columns.append(np.stack([lab.unit + offset, lab.device + offset, what_N, kind_N])[:, chosen_N])
            offset += len(what_N)
        unit_N, device_N, what_N, kind_N = np.concatenate(columns, axis=1)
        first = np.unique(unit_N, return_index=True)[1]
        addresses = Addresses.of_units(Observed.join(observed), unit_N)
        return UnseenSets(addresses, what_N[first], kind_N[first], device_N[first])


def sample_sets(own: Laboratory, chosen_N: NDArray[np.bool_], most: int, seed: int) -> NDArray[np.bool_]:
    """(N,) flows of the sets that a dataset would keep: at most so many of a label."""
    random, kept_N = np.random.default_rng(seed), np.zeros_like(chosen_N)
    for label in np.unique(own.flows.label[chosen_N]):
        of_label_N = chosen_N & (own.flows.label == label)
        units = np.unique(own.unit[of_label_N])
        kept_N |= of_label_N & np.isin(own.unit, _some(units, min(len(units), most), random))
    return kept_N


def _some(values: NDArray[Any], number: int, random: np.random.Generator) -> NDArray[Any]:
    return random.choice(values, number, replace=False) if number else values[:0]


_Tested = tuple[NDArray[np.int64], NDArray[np.bool_], dict[str, Predictions]]


class Results:
    """What was tested, and what each method predicted, of all rounds."""

    def __init__(self) -> None:
        self._merges: dict[Scenario, list[_Tested]] = defaultdict(list)
        self._alone: dict[int, list[tuple[NDArray[np.int64], dict[str, Predictions]]]] = defaultdict(list)

    def add(
        self,
        tested: UnseenSets,
        of_round: Round,
        kinds: int,
        methods: Mapping[str, Method],
        random: np.random.Generator,
    ) -> None:
        for scenario, times in of_round.scenarios:
            merged = tested.merged(scenario, times, kinds, random)
            if merged:
                found = {name: method(merged.addresses, "households") for name, method in methods.items()}
                self._merges[scenario].append((merged.there, merged.unknown, found))
        for what in of_round.alone:
            rows = tested.alone(what)
            if len(rows):
                single = tested.addresses.with_flows(tested.addresses.flows[rows])
                found = {
                    f"{name}, {behind}" if behind else name: method(single, behind)
                    for name, method in methods.items()
                    for behind in (_BEHIND if name == DEVICE_MODEL else ("",))
                }
                self._alone[what].append((tested.kind[rows], found))

    def merges(self) -> dict[str, dict[str, Any]]:
        """Scenario, and last all of them -> how many merges, and method -> scores."""
        order = sorted(
            self._merges,
            key=lambda each: (
                each.source == LEFT_OUT, each.first_hour, each.two_units, each.hosts, -each.share, each.never,
                each.kinds,
            ),
        )  # fmt: skip
        found = {str(scenario): self._merges[scenario] for scenario in order}
        found |= {ALL: list(chain.from_iterable(found.values()))} if found else {}
        return {name: _scored(own) for name, own in found.items()}

    def alone(self) -> dict[str, dict[str, Any]]:
        """What is tested alone -> how many sets, and method -> what became of them."""
        found: dict[str, dict[str, Any]] = {}
        for what in sorted(self._alone, key=list(_ALONE).index):
            kind, predictions = zip(*self._alone[what], strict=True)
            kind_B = np.concatenate(kind)
            found[_ALONE[what]] = {
                "sets": len(kind_B),
                **{name: of_single(kind_B, _joined(predictions, name)) for name in predictions[0]},
            }
        return found


def _scored(own: Sequence[_Tested]) -> dict[str, Any]:
    there, unknown, predictions = zip(*own, strict=True)
    there_BK, unknown_B = np.concatenate(there), np.concatenate(unknown)
    scores = {name: of_merges(there_BK, unknown_B, _joined(predictions, name)) for name in predictions[0]}
    return {"merges": len(unknown_B), **scores}


def _joined(predictions: Sequence[Mapping[str, Predictions]], name: str) -> Predictions:
    parts = [each[name] for each in predictions]
    *columns, units = zip(*parts, strict=True)
    counted = None if units[0] is None else np.concatenate(units)
    probability, found, unknown, undecided = (np.concatenate(column) for column in columns)
    return Predictions(probability, found, unknown, undecided, counted)
