"""Measures how well each method finds the kinds at an address.

Methods (`methods`) are trained on all folds of captures but one, on sets (the flows of one device in one capture).
Tested are held-out sets: alone, and merged from several kinds; with devices that are not in training, with unlisted
hosts, with a share of the flows, and with two devices of a kind. Not in training are devices of other laboratories,
unless a learned kind has their vendor and type, and kinds that further training runs leave out. All sets of a merge
begin at the same time.

Shape suffixes: N flows, B sets or merges of sets, U units, K kinds, C classes.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple, TypedDict

import numpy as np
from numpy.typing import NDArray

from iotid import config
from iotid.dataset import Encoding, LabelledFlows
from iotid.dataset.split_protocols import DATASET_SPLITS
from iotid.labels.devices import device_kind
from iotid.studies.households.addresses import Addresses, LabelledSets, Observed
from iotid.studies.households.laboratory import (
    ELSEWHERE,
    HELD_OUT,
    HOST,
    HOST_ELSEWHERE,
    LEFT_OUT,
    SIMILAR,
    Laboratory,
    Scenario,
    UnseenSets,
    sample_sets,
)
from iotid.studies.households.methods import (
    CNN,
    DEVICE_MODEL,
    FLOW_VOTE,
    METHODS,
    ORIGINS,
    Method,
    Training,
)
from iotid.studies.households.scores import Predictions, score_merges, score_single_sets
from iotid.studies.progress import Progress

log = logging.getLogger(__name__)
ALL = "all merges"
_KINDS, _NEVER, _THINNED = (1, 2, 3, 5, 8, 10), (1, 2, 3), 0.5
_KINDS_OF_TWO_UNITS = (1, 3, 8)
_COMPARED = (DEVICE_MODEL, FLOW_VOTE, CNN)  # by `compare_methods`; the regressions take as long as the device model
_BEHIND = ("hosts", "households", "auto")
_ALONE = {  # stored names
    HELD_OUT: "held-back captures",
    LEFT_OUT: "captures of kinds left out",
    ELSEWHERE: "other laboratories, kinds never learned",
    SIMILAR: "other laboratories, vendor and type of a learned kind",
    HOST: "hosts that no list names",
    HOST_ELSEWHERE: "other laboratories, hosts that no list names",
}


class HouseholdComparison(TypedDict):
    """``merges``: scenario, last ALL -> ``merges`` (their number) and method -> scores; ``alone``: group of single sets
    -> ``sets`` (their number) and method -> scores; metrics: `scores`."""

    folds: int
    kinds: list[str]
    origins: dict[str, str]
    merges: dict[str, dict[str, Any]]
    alone: dict[str, dict[str, Any]]


def compare_methods(flows: LabelledFlows, settings: config.Settings) -> HouseholdComparison | None:
    """Compare methods on households of these flows' captures; None if ``evaluation.household_merges`` is 0, or there
    are fewer than two captures.

    Trains each method ``evaluation.household_folds`` times with a fold of captures held out, and as many times with
    kinds left out as well.
    """
    evaluation, own = settings.evaluation, Laboratory.of(flows)
    folds = min(evaluation.household_folds, int(flows.capture.max()) + 1)
    if not evaluation.household_merges or folds < 2:
        return None
    kinds, kind_C = own.kinds()
    random = np.random.default_rng(evaluation.seed)
    rounds_to_run = list(
        rounds(kind_C, folds, folds, evaluation.household_merges, random, first_hour=own.has_long_captures)
    )
    study = HouseholdStudy(own, (), flows.folds(folds), settings.census, evaluation.seed, _COMPARED)
    results = study.run(rounds_to_run, random, Progress("round of households", len(rounds_to_run)))
    return {
        "folds": folds,
        "kinds": kinds,
        "origins": {name: ORIGINS[name] for name in _COMPARED},
        "merges": results.merges(),
        "alone": results.alone(),
    }


class Round(NamedTuple):
    """A training run and its tests. ``left_out`` (C,): classes that are left out of training."""

    name: str
    fold: int
    left_out: NDArray[np.bool_]
    scenarios: list[tuple[Scenario, int]]  # with the number of merges of each
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
    alone = (HELD_OUT, HOST, ELSEWHERE, SIMILAR, HOST_ELSEWHERE)
    for fold in range(folds):
        share = [(scenario, _share_of(times, folds, fold)) for scenario in scenarios]
        yield Round(f"fold {fold + 1}", fold, np.zeros(len(kind_C), np.bool_), share, alone)
    drawn = random.permutation(int(kind_C.max()) + 1)
    groups = min(groups, len(drawn))
    for group in range(groups if len(drawn) > 1 else 0):
        share = [
            (Scenario(kinds, never, LEFT_OUT), _share_of(times, groups, group)) for kinds in _KINDS for never in _NEVER
        ]
        left_out_C = np.isin(kind_C, drawn[group::groups])
        yield Round(f"left out {group + 1}", group % folds, left_out_C, share, (LEFT_OUT,))


def _share_of(times: int, parts: int, part: int) -> int:
    return (part + 1) * times // parts - part * times // parts


@dataclass(frozen=True)
class HouseholdStudy:
    """One laboratory, whose captures are used for training or held out, and others, which are only tested.

    ``seed``: of the models; ``fold`` (N,) of each flow of ``own``; ``methods``: of METHODS.
    """

    own: Laboratory
    others: Sequence[Laboratory]
    fold: NDArray[np.int64]
    census: config.Census
    seed: int
    methods: Sequence[str] = tuple(METHODS)

    def run(
        self, rounds_to_run: Iterable[Round], random: np.random.Generator, progress: Progress | None = None
    ) -> HouseholdResults:
        results, kinds = HouseholdResults(), self.own.kinds()[0]
        for of_round in rounds_to_run:
            encoding, methods = self._learn(of_round)
            results.add(self._unseen_sets(of_round, kinds, encoding), of_round, len(kinds), methods, random)
            if progress:
                progress.done(of_round.name)
            else:
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

        A kind without sets in the other folds was not learned, so its sets count as left out.
        """
        own, kind_C = self.own, self.own.kinds()[1]
        listed_N, left_out_N = own.is_listed, of_round.left_out[own.flows.label]
        kind_N = kind_C[own.flows.label]
        learned = np.unique(kind_N[listed_N & ~left_out_N & (self.fold != of_round.fold)])
        is_learned_N = listed_N & np.isin(kind_N, learned)
        what_N = np.select([is_learned_N, listed_N], [HELD_OUT, LEFT_OUT], HOST)
        tested_N = (self.fold == of_round.fold) | left_out_N
        parts = [(own, tested_N, what_N, np.where(is_learned_N, kind_N, -1))]
        for other in self.others:
            known = other.flows.devices.describe_all(other.flows.settings.label, other.flows.labels)
            names = [device_kind(label, known[label]) for label in other.flows.labels]
            kind_of_label = np.array([kinds.index(name) if name in kinds else -1 for name in names])
            index_N = np.where(other.is_listed, kind_of_label[other.flows.label], -1)
            what_N = np.select([~other.is_listed, index_N >= 0], [HOST_ELSEWHERE, SIMILAR], ELSEWHERE)
            parts.append((other, np.ones(len(index_N), np.bool_), what_N, index_N))
        observed, columns, offset = [], [], 0
        for lab, chosen_N, what_N, kind_N in parts:
            observed.append(lab.observed(encoding, chosen_N))
            columns.append(np.stack([lab.unit + offset, lab.device + offset, what_N, kind_N])[:, chosen_N])
            offset += len(what_N)
        unit_N, device_N, what_N, kind_N = np.concatenate(columns, axis=1)
        first = np.unique(unit_N, return_index=True)[1]
        addresses = Addresses.of_units(Observed.join(observed), unit_N)
        return UnseenSets(addresses, what_N[first], kind_N[first], device_N[first])


_Tested = tuple[NDArray[np.int64], NDArray[np.bool_], dict[str, Predictions]]


class HouseholdResults:
    """Tested sets and the predictions of each method, from all rounds."""

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
                self._merges[scenario].append((merged.devices, merged.unknown, found))
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
        """Scenario, last ALL -> number of merges, and method -> scores."""
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
        """Group of single sets -> number of sets, and method -> scores."""
        found: dict[str, dict[str, Any]] = {}
        for what in sorted(self._alone, key=list(_ALONE).index):
            kind, predictions = zip(*self._alone[what], strict=True)
            kind_B = np.concatenate(kind)
            found[_ALONE[what]] = {
                "sets": len(kind_B),
                **{name: score_single_sets(kind_B, _joined(predictions, name)) for name in predictions[0]},
            }
        return found


def _scored(own: Sequence[_Tested]) -> dict[str, Any]:
    there, unknown, predictions = zip(*own, strict=True)
    there_BK, unknown_B = np.concatenate(there), np.concatenate(unknown)
    scores = {name: score_merges(there_BK, unknown_B, _joined(predictions, name)) for name in predictions[0]}
    return {"merges": len(unknown_B), **scores}


def _joined(predictions: Sequence[Mapping[str, Predictions]], name: str) -> Predictions:
    parts = [each[name] for each in predictions]
    *columns, units = zip(*parts, strict=True)
    counted = None if units[0] is None else np.concatenate(units)
    probability, found, unknown, undecided = (np.concatenate(column) for column in columns)
    return Predictions(probability, found, unknown, undecided, counted)
