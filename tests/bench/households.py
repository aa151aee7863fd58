"""households.py --captures DIR --labels FILE [--others DIR FILE [SETTING …]] …: what is found behind an address.

In each of --folds folds of captures, a device model learns from the other folds' sets (a set: what one device showed in
one capture). Asked are sets that were held back: alone, and merged as if behind one address, of so many kinds each;
beside devices never learned, beside hosts that no list names, and thinned out. Never learned are devices of other
laboratories (--others) unless a learned kind has their vendor and type, and kinds that four further trainings leave
out in turn. Two baselines, fitted on the same folds (the flow vote on all their flows), answer the same:

  flow vote    a random forest on flows; a kind is found where its mean probability over the flows is above a threshold,
               chosen on merged training sets
  regressions  a logistic regression for each kind (liblinear, C=1) on made-up households: what is there, and 0.3 times
               1 + log of how often; a kind is found from a probability of 0.5 on

These two say that something unknown is there where they find nothing. Calibration is the expected calibration error
over kinds said with 0.3 or more; for the flow vote, of the mean probability, which is none of a kind being there.
Prints tables, in per cent, and ends with one line of JSON.

Shape suffixes: N flows, B sets or merges of sets, D distinct flows, K kinds, C classes.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, vstack

from iotid import config
from iotid.baselines.random_forest import RandomForest
from iotid.dataset import DeviceList, Encoding, LabelledFlows, Rows, Sets
from iotid.dataset.devices import merged_name
from iotid.dataset.labels import UNKNOWN as UNLISTED
from iotid.dataset.memory import HeldFlows
from iotid.dataset.partition import PARTS
from iotid.evaluation.metrics import expected_calibration_error, reliability
from iotid.flows import from_captures
from iotid.labels.hosts import UNANSWERED, name_devices
from iotid.model.device import DeviceModel, decide, kinds_of, share_of_households
from iotid.model.device.decide import UNDECIDED, UNKNOWN, WITH_UNKNOWN
from iotid.model.device.evidence import Vocabulary
from iotid.model.device.households import Pool, unite

_SETTINGS = config.load_settings(overrides=["flow.join_files=false"])
_KINDS, _NEVER, _THINNED, _GROUPS = (1, 2, 3, 5, 8, 10), (1, 2, 3), 0.5, 4
_HOSTS = (1, 2)  # that no list names, in a merge that has any
_LEAST = 0.3  # probability from which calibration is asked for
ALL = "all merges"
_BEHIND = ("hosts", "households", "auto")
_OURS, _VOTE, _REGRESSIONS = _METHODS = ("iotid", "flow vote", "regressions")
# what a set that is asked is of
HELD_BACK, HOST, LEFT_OUT, ELSEWHERE, ALIKE, HOST_ELSEWHERE = range(6)
_ALONE = {
    HELD_BACK: "held-back captures",
    LEFT_OUT: "captures of kinds left out",
    ELSEWHERE: "other laboratories, kinds never learned",
    ALIKE: "other laboratories, vendor and type of a learned kind",
    HOST: "hosts that no list names",
    HOST_ELSEWHERE: "other laboratories, hosts that no list names",
}


class Sort(NamedTuple):
    """What is merged: so many kinds; devices never learned (``source``: ELSEWHERE or LEFT_OUT); whether hosts that no
    list names are beside; and the share of flows that is kept."""

    kinds: int
    never: int = 0
    source: int = ELSEWHERE
    hosts: bool = False
    share: float = 1.0

    def __str__(self) -> str:
        parts = [f"{self.kinds} kind{'s' * (self.kinds > 1)}"]
        parts += [f"{self.never} {'elsewhere' if self.source == ELSEWHERE else 'left out'}"] * bool(self.never)
        parts += ["unlisted hosts"] * self.hosts
        return " + ".join(parts) + (f", {100 * self.share:.0f} % of flows" if self.share < 1 else "")


@dataclass(frozen=True)
class Laboratory:
    """Flows of devices and of hosts that no list names (label ``unknown``); those that went unanswered are left out.

    ``device`` (N,): a number for each entry of the list, and each host; ``unit`` (N,): for each of them and capture.
    """

    flows: LabelledFlows
    device: NDArray[np.int64]
    unit: NDArray[np.int64]

    @classmethod
    def read(cls, captures: str, labels: str, overrides: Sequence[str]) -> Self:
        flow, dataset = _SETTINGS.flow, _SETTINGS.dataset
        capture, devices = config.load_settings(overrides=list(overrides)).capture, DeviceList.read(labels)
        table = from_captures([captures], join_files=False, length=flow.length, capture=capture)
        table = table.filter(pc.is_in(table["protocol"], pa.array(dataset.protocols, pa.int32())))
        devices = devices.at([HeldFlows(table)])
        device_N, conflict_N = devices.resolve(table)
        host, _, reason = name_devices(table, devices.site)
        answered_N = pc.fill_null(pc.not_equal(reason, UNANSWERED), True).to_numpy(zero_copy_only=False)
        host_N = np.asarray(pc.fill_null(host, "").to_pylist(), object)
        kept_N = answered_N & ~conflict_N & ((device_N >= 0) | (host_N != ""))
        names = np.array([*devices.labels(dataset.label), UNLISTED], object)[device_N]  # -1 takes the last
        labels_there, flows_of = np.unique(names[kept_N & (device_N >= 0)].astype(str), return_counts=True)
        listed = labels_there[flows_of >= dataset.min_flows].tolist()
        kept_N &= np.isin(names.astype(str), [*listed, UNLISTED])
        all_labels = sorted({*listed, UNLISTED})
        label_N = np.searchsorted(all_labels, names[kept_N].astype(str))
        flows = LabelledFlows(table.filter(pa.array(kept_N)), label_N, tuple(all_labels), devices, dataset, flow)
        owner = np.where(device_N < 0, host_N, device_N.astype(str))[kept_N].astype(str)
        device = np.unique(owner, return_inverse=True)[1].astype(np.int64)
        return cls(flows, device, np.unique(flows.capture * (len(device) + 1) + device, return_inverse=True)[1])

    @property
    def is_listed(self) -> NDArray[np.bool_]:
        """(N,)"""
        return np.array([label != UNLISTED for label in self.flows.labels])[self.flows.label]

    def encode(self, encoding: Encoding, chosen_N: NDArray[np.bool_]) -> dict[str, NDArray[np.int32]]:
        return encoding.encode(self.flows.flows.filter(pa.array(chosen_N)))


@dataclass(frozen=True)
class Asked:
    """Sets that training has not seen: ``what`` (B,), ``kind`` (B,) where it was learned, else -1, ``device`` (B,)."""

    sets: Sets
    what: NDArray[np.int64]
    kind: NDArray[np.int64]
    device: NDArray[np.int64]

    def alone(self, what: int) -> NDArray[np.intp]:
        return np.flatnonzero(self.what == what)

    def merged(self, sort: Sort, times: int, kinds: int, random: np.random.Generator) -> Merged | None:
        """So many merges at random; None where there are too few kinds or devices."""
        held_back, never, hosts = (self.alone(what) for what in (HELD_BACK, sort.source, HOST))
        learned, unknowns = np.unique(self.kind[held_back]), np.unique(self.device[never])
        too_few = len(learned) < sort.kinds or len(unknowns) < sort.never or (sort.hosts and not len(hosts))
        if too_few or not times:
            return None
        flows, there_BK, unknown_B = [], np.zeros((times, kinds), np.bool_), np.zeros(times, np.bool_)
        for merge in range(times):
            rows = [
                random.choice(held_back[self.kind[held_back] == kind]) for kind in _some(learned, sort.kinds, random)
            ]
            rows += [random.choice(never[self.device[never] == one]) for one in _some(unknowns, sort.never, random)]
            if sort.hosts:
                rows += _some(hosts, min(len(hosts), int(random.choice(_HOSTS))), random).tolist()
            shown = self.sets.flows[rows].astype(np.int64)
            if sort.share < 1:
                shown.data = random.binomial(shown.data, sort.share)
                shown.eliminate_zeros()
            is_left = np.diff(shown.indptr) > 0
            kind = self.kind[rows]
            there_BK[merge, kind[is_left & (kind >= 0)]] = True
            unknown_B[merge] = bool((is_left & (kind < 0)).any())
            flows.append(csr_matrix(shown.sum(axis=0)))
        return Merged(vstack(flows).tocsr(), there_BK, unknown_B)


class Merged(NamedTuple):
    """(B, D) flows; (B, K) kinds that are there; (B,) whether something never learned is."""

    flows: csr_matrix
    there: NDArray[np.bool_]
    unknown: NDArray[np.bool_]


class Said(NamedTuple):
    """(B, K) probabilities, and kinds found; (B,) whether something unknown is said to be there, and undecided ones."""

    probability: NDArray[np.float64]
    found: NDArray[np.bool_]
    unknown: NDArray[np.bool_]
    undecided: NDArray[np.bool_]


_Ids = Mapping[str, NDArray[np.int32]]
_Method = Callable[[_Ids, csr_matrix, str], Said]  # ids (D, M), flows (B, D), behind


def device_model(kind_C: NDArray[np.int64], learned: Sets, seed: int) -> _Method:
    model = DeviceModel(kind_C).fit(learned, seed=seed)

    def say(ids: _Ids, flows_BD: csr_matrix, behind: str) -> Said:
        answer = model.answer(ids, flows_BD)
        counted_B = answer.evidence.max(axis=1, initial=0) >= _SETTINGS.census.min_evidence
        share = share_of_households(answer.log_odds[counted_B], behind)
        decision = decide(answer, share, np.asarray(flows_BD.sum(axis=1)).ravel(), _SETTINGS.census)
        is_unknown = np.isin(decision.status, [UNKNOWN, WITH_UNKNOWN])
        return Said(decision.probability, decision.found, is_unknown, decision.status == UNDECIDED)

    return say


def flow_vote(encoding: Encoding, rows: Rows, kind_C: NDArray[np.int64], learned: Sets, seed: int) -> _Method:
    forest = RandomForest(encoding, seed).fit(rows, len(kind_C))
    kinds = int(kind_C.max()) + 1
    of_kind_CK = np.eye(kinds + 1)[kind_C][:, :kinds]  # the class without kind has no column

    def mean(ids: _Ids, flows_BD: csr_matrix) -> NDArray[np.float64]:
        votes_BK = flows_BD @ (forest.probabilities(ids) @ of_kind_CK)
        return np.asarray(votes_BK) / np.maximum(np.asarray(flows_BD.sum(axis=1)), 1)

    random = np.random.default_rng(seed)
    flows_HD, there_HK = _made_up(learned, kind_C, 400, range(1, 11), random)
    mean_HK = mean(learned.sequences, flows_HD)
    limits = np.unique(np.quantile(mean_HK[mean_HK > 0], np.linspace(0, 1, 201)))
    limit = max(limits.tolist(), key=lambda limit: _scores(there_HK, mean_HK >= limit)["f1"] or 0)

    def say(ids: _Ids, flows_BD: csr_matrix, behind: str) -> Said:
        mean_BK = mean(ids, flows_BD)
        return _where_nothing_is_unknown(mean_BK, mean_BK >= limit)

    return say


def regressions(kind_C: NDArray[np.int64], learned: Sets, seed: int) -> _Method:
    from sklearn.linear_model import LogisticRegression

    vocabulary, random = Vocabulary.of(learned.sequences), np.random.default_rng(seed)

    def points(ids: _Ids, flows_BD: csr_matrix) -> csr_matrix:
        counts = vocabulary.read(ids, flows_BD).counts
        counts.data = 1 + 0.3 * counts.data
        return counts

    kinds = int(kind_C.max()) + 1
    flows_HD, there_HK = _made_up(learned, kind_C, min(100 * kinds, 2000), range(1, 13), random)
    points_HT = points(learned.sequences, flows_HD)
    models = {
        kind: LogisticRegression(C=1.0, solver="liblinear").fit(points_HT, there_HK[:, kind])
        for kind in np.flatnonzero(there_HK.any(axis=0) & ~there_HK.all(axis=0)).tolist()
    }

    def say(ids: _Ids, flows_BD: csr_matrix, behind: str) -> Said:
        points_BT, probability_BK = points(ids, flows_BD), np.zeros((flows_BD.shape[0], kinds))
        for kind, model in models.items():
            probability_BK[:, kind] = model.predict_proba(points_BT)[:, 1]
        return _where_nothing_is_unknown(probability_BK, probability_BK >= 0.5)

    return say


def _where_nothing_is_unknown(probability_BK: NDArray[np.float64], found_BK: NDArray[np.bool_]) -> Said:
    is_unknown = ~found_BK.any(axis=1)
    return Said(probability_BK, found_BK, is_unknown, np.zeros_like(is_unknown))


def _made_up(
    learned: Sets, kind_C: NDArray[np.int64], number: int, sizes: Sequence[int], random: np.random.Generator
) -> tuple[csr_matrix, NDArray[np.bool_]]:
    """(H, D) flows of merged training sets, and (H, K) their kinds."""
    pool = Pool(np.append(kind_C, -1)[learned.label], learned.recording, np.ones(len(learned), np.bool_))
    drawn = pool.draw(number, sizes, (0, 0, 0, 1, 2), random) + pool.singles()
    return unite(learned.flows, drawn, int(kind_C.max()) + 1, random)


class Round(NamedTuple):
    """A training and what it is asked: ``left_out`` (C,) classes that are not learned."""

    name: str
    fold: int
    left_out: NDArray[np.bool_]
    sorts: list[tuple[Sort, int]]  # and how many merges of each
    alone: tuple[int, ...]


def rounds(kind_C: NDArray[np.int64], folds: int, times: int, random: np.random.Generator) -> Iterator[Round]:
    sorts = [
        *(Sort(kinds) for kinds in _KINDS),
        *(Sort(kinds, never) for kinds in _KINDS for never in _NEVER),
        *(Sort(kinds, hosts=True) for kinds in _KINDS),
        *(Sort(kinds, share=_THINNED) for kinds in _KINDS),
    ]
    alone = (HELD_BACK, HOST, ELSEWHERE, ALIKE, HOST_ELSEWHERE)
    for fold in range(folds):
        share = [(sort, _dealt(times, folds, fold)) for sort in sorts]
        yield Round(f"fold {fold + 1}", fold, np.zeros(len(kind_C), np.bool_), share, alone)
    drawn = random.permutation(int(kind_C.max()) + 1)
    groups = min(_GROUPS, len(drawn))
    for group in range(groups if len(drawn) > 1 else 0):
        share = [(Sort(kinds, never, LEFT_OUT), _dealt(times, groups, group)) for kinds in _KINDS for never in _NEVER]
        left_out_C = np.isin(kind_C, drawn[group::groups])
        yield Round(f"left out {group + 1}", group % folds, left_out_C, share, (LEFT_OUT,))


def _dealt(times: int, parts: int, part: int) -> int:
    return (part + 1) * times // parts - part * times // parts


def learn(
    own: Laboratory, of_round: Round, fold_N: NDArray[np.int64], kind_C: NDArray[np.int64], seed: int
) -> tuple[Encoding, dict[str, _Method]]:
    flows, listed_N = own.flows, own.is_listed
    learned_N = (fold_N != of_round.fold) & ~of_round.left_out[flows.label]
    part_N = np.where(learned_N & listed_N, PARTS.index("train"), -1)
    encoding, parts = flows.dataset(part_N)
    few_N = _few(own, learned_N, seed)
    label_N = np.where(listed_N, flows.label, -1)[few_N]
    ones = np.ones(int(few_N.sum()), np.int64)
    learned = Sets.of(own.encode(encoding, few_N), own.unit[few_N], label_N, ones, own.device[few_N])
    makers: dict[str, Callable[[], _Method]] = {
        _OURS: lambda: device_model(kind_C, learned, seed),
        _VOTE: lambda: flow_vote(encoding, parts["train"].rows, kind_C, learned, seed),
        _REGRESSIONS: lambda: regressions(kind_C, learned, seed),
    }
    methods = {}
    for name, make in makers.items():
        start = time.perf_counter()
        methods[name] = make()
        _progress(f"{of_round.name}: {name} learned in {time.perf_counter() - start:.0f} s")
    return encoding, methods


def _few(own: Laboratory, chosen_N: NDArray[np.bool_], seed: int) -> NDArray[np.bool_]:
    """(N,) flows of the sets that a dataset would keep: at most ``dataset.sets`` of a label."""
    random, kept_N = np.random.default_rng(seed), np.zeros_like(chosen_N)
    for label in np.unique(own.flows.label[chosen_N]):
        of_label_N = chosen_N & (own.flows.label == label)
        units = np.unique(own.unit[of_label_N])
        kept_N |= of_label_N & np.isin(own.unit, _some(units, min(len(units), _SETTINGS.dataset.sets), random))
    return kept_N


def ask(
    own: Laboratory,
    others: Sequence[Laboratory],
    of_round: Round,
    fold_N: NDArray[np.int64],
    kinds: Sequence[str],
    kind_C: NDArray[np.int64],
    encoding: Encoding,
) -> Asked:
    """Sets of the fold and of classes left out, and all of other laboratories.

    A kind of which the other folds hold nothing was not learned, so its sets count as left out.
    """
    listed_N, left_out_N = own.is_listed, of_round.left_out[own.flows.label]
    kind_N = kind_C[own.flows.label]
    learned = np.unique(kind_N[listed_N & ~left_out_N & (fold_N != of_round.fold)])
    is_learned_N = listed_N & np.isin(kind_N, learned)
    what_N = np.select([is_learned_N, listed_N], [HELD_BACK, LEFT_OUT], HOST)
    asked_N = (fold_N == of_round.fold) | left_out_N
    parts = [(own, asked_N, what_N, np.where(is_learned_N, kind_N, -1))]
    for other in others:
        known = other.flows.devices.describe_all(other.flows.settings.label, other.flows.labels)
        names = [merged_name(label, known[label]) for label in other.flows.labels]
        place_C = np.array([kinds.index(name) if name in kinds else -1 for name in names])
        place_N = np.where(other.is_listed, place_C[other.flows.label], -1)
        what_N = np.select([~other.is_listed, place_N >= 0], [HOST_ELSEWHERE, ALIKE], ELSEWHERE)
        parts.append((other, np.ones(len(place_N), np.bool_), what_N, place_N))
    ids, columns, offset = [], [], 0
    for lab, chosen_N, what_N, kind_N in parts:
        ids.append(lab.encode(encoding, chosen_N))
        columns.append(np.stack([lab.unit + offset, lab.device + offset, what_N, kind_N])[:, chosen_N])
        offset += len(what_N)
    unit_N, device_N, what_N, kind_N = np.concatenate(columns, axis=1)
    sequences = {name: np.concatenate([each[name] for each in ids]) for name in ids[0]}
    sets = Sets.of(sequences, unit_N, np.zeros_like(unit_N), np.ones_like(unit_N))
    first = np.unique(unit_N, return_index=True)[1]
    return Asked(sets, what_N[first], kind_N[first], device_N[first])


def _some(values: NDArray[Any], number: int, random: np.random.Generator) -> NDArray[Any]:
    return random.choice(values, number, replace=False) if number else values[:0]


def _scores(there_BK: NDArray[np.bool_], found_BK: NDArray[np.bool_]) -> dict[str, float | None]:
    both, found, there = (int(each.sum()) for each in (there_BK & found_BK, found_BK, there_BK))
    return {
        "exact": _share((there_BK == found_BK).all(axis=1)),
        "precision": both / found if found else None,
        "recall": both / there if there else None,
        "f1": 2 * both / (found + there) if found + there else None,
    }


def _share(is_so: NDArray[np.bool_]) -> float | None:
    return float(is_so.mean()) if len(is_so) else None


def calibration_error(probability: NDArray[np.float64], is_so: NDArray[np.bool_]) -> float | None:
    counted = probability >= _LEAST
    if not counted.any():
        return None
    ones = np.ones(int(counted.sum()))
    return expected_calibration_error(reliability(probability[counted], is_so[counted], ones))


def of_merges(there_BK: NDArray[np.bool_], unknown_B: NDArray[np.bool_], said: Said) -> dict[str, float | None]:
    return {
        **_scores(there_BK, said.found),
        "false_unknown": _share(said.unknown[~unknown_B]),
        "missed_unknown": _share(~said.unknown[unknown_B]),
        "calibration": calibration_error(said.probability, there_BK),
    }


def of_single(kind_B: NDArray[np.int64], said: Said) -> dict[str, float | None]:
    """Of sets of one kind each, -1 of none that was learned: what was said of them."""
    alone_BK = np.arange(said.found.shape[1]) == kind_B[:, np.newaxis]
    is_right_B = (kind_B >= 0) & (said.found == alone_BK).all(axis=1)
    is_named_B = said.found.any(axis=1)
    return {
        "right": _share(is_right_B),
        "wrong": _share(is_named_B & ~is_right_B),
        "undecided": _share(~is_named_B & said.undecided),
        "unknown": _share(~is_named_B & ~said.undecided),
    }


class Answers:
    """What was asked, and what each method said, of all rounds."""

    def __init__(self) -> None:
        self._merges: dict[Sort, list[tuple[NDArray[np.bool_], NDArray[np.bool_], dict[str, Said]]]] = defaultdict(list)
        self._alone: dict[int, list[tuple[NDArray[np.int64], dict[str, Said]]]] = defaultdict(list)

    def add(
        self, asked: Asked, of_round: Round, kinds: int, methods: Mapping[str, _Method], random: np.random.Generator
    ) -> None:
        ids = asked.sets.sequences
        for sort, times in of_round.sorts:
            merged = asked.merged(sort, times, kinds, random)
            if merged:
                said = {name: method(ids, merged.flows, "households") for name, method in methods.items()}
                self._merges[sort].append((merged.there, merged.unknown, said))
        for what in of_round.alone:
            rows = asked.alone(what)
            if len(rows):
                flows_BD = asked.sets.flows[rows]
                said = {f"{_OURS}, {behind}": methods[_OURS](ids, flows_BD, behind) for behind in _BEHIND}
                said |= {name: methods[name](ids, flows_BD, "") for name in _METHODS if name != _OURS}
                self._alone[what].append((asked.kind[rows], said))

    def merges(self) -> dict[str, dict[str, Any]]:
        """Sort, and last all of them -> how many merges, and method -> scores."""
        order = sorted(
            self._merges, key=lambda sort: (sort.source == LEFT_OUT, sort.hosts, -sort.share, sort.never, sort.kinds)
        )
        found = {str(sort): self._merges[sort] for sort in order}
        found |= {ALL: list(chain.from_iterable(found.values()))} if found else {}
        return {name: self._scored(own) for name, own in found.items()}

    def _scored(self, own: Sequence[tuple[NDArray[np.bool_], NDArray[np.bool_], dict[str, Said]]]) -> dict[str, Any]:
        there, unknown, said = zip(*own, strict=True)
        there_BK, unknown_B = np.concatenate(there), np.concatenate(unknown)
        scores = {name: of_merges(there_BK, unknown_B, _joined(said, name)) for name in _METHODS}
        return {"merges": len(unknown_B), **scores}

    def alone(self) -> dict[str, dict[str, Any]]:
        """What is asked alone -> how many sets, and method -> what was said."""
        found: dict[str, dict[str, Any]] = {}
        for what in sorted(self._alone, key=list(_ALONE).index):
            kind, said = zip(*self._alone[what], strict=True)
            kind_B = np.concatenate(kind)
            found[_ALONE[what]] = {
                "sets": len(kind_B),
                **{name: of_single(kind_B, _joined(said, name)) for name in said[0]},
            }
        return found


def _joined(said: Sequence[Mapping[str, Said]], name: str) -> Said:
    return Said(*(np.concatenate(parts) for parts in zip(*(each[name] for each in said), strict=True)))


def _table(title: str, rows: Mapping[str, Mapping[str, Any]], count: str) -> Iterator[str]:
    """A line for each row and method; numbers in per cent."""
    methods = [name for row in rows.values() for name in row if name != count]
    columns = list(next(iter(rows.values()))[methods[0]])
    width = max(len(row) for row in [title, *rows]) + 2
    wide = max(map(len, methods)) + 2
    yield f"{title:{width}}{count:>7}  {'':{wide}}" + "".join(f"{name.replace('_', ' '):>16}" for name in columns)
    for row, of_row in rows.items():
        for number, method in enumerate(name for name in of_row if name != count):
            head = f"{row:{width}}{of_row[count]:>7}" if not number else f"{'':{width + 7}}"
            values = ["-" if value is None else f"{100 * value:.1f}" for value in of_row[method].values()]
            yield f"{head}  {method:{wide}}" + "".join(f"{value:>16}" for value in values)


def _progress(text: str) -> None:
    sys.stderr.write(f"households.py: {text}\n")


def processor() -> str:
    """The processor's name, as the system has it."""
    info = Path("/proc/cpuinfo")
    name = re.search(r"^model name\s*: (.*)", info.read_text() if info.exists() else "", re.MULTILINE)
    return name[1] if name else platform.processor() or platform.machine()


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    return round(value, 4) if isinstance(value, float) else value


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--captures", required=True)
    options.add_argument("--labels", required=True)
    options.add_argument(
        "--others", action="append", default=[], nargs="+", help="another laboratory, and its settings"
    )
    options.add_argument("--folds", type=int, default=5, help="2 or more (default 5)")
    options.add_argument("--only-first", type=int, help="of the trainings (folds, then kinds left out) only so many")
    options.add_argument("--times", type=int, default=200, help="merges of each sort, over all folds (default 200)")
    options.add_argument("--seed", type=int, default=7)
    options.add_argument("--set", action="append", default=[], dest="overrides", metavar="capture.KEY=VALUE")
    given = options.parse_args()
    if given.folds < 2 or any(len(other) < 2 for other in given.others):
        options.error("--folds must be 2 or more, and --others needs captures and their labels")
    start = time.perf_counter()
    own = Laboratory.read(given.captures, given.labels, given.overrides)
    others = [Laboratory.read(captures, labels, overrides) for captures, labels, *overrides in given.others]
    kinds, kind_C = kinds_of(
        own.flows.labels, own.flows.devices.describe_all(_SETTINGS.dataset.label, own.flows.labels)
    )
    fold_N, random, answers = own.flows.folds(given.folds), np.random.default_rng(given.seed), Answers()
    _progress(f"{len(kinds)} kinds, {len(np.unique(own.unit))} sets; read in {time.perf_counter() - start:.0f} s")
    for of_round in islice(rounds(kind_C, given.folds, given.times, random), given.only_first):
        encoding, methods = learn(own, of_round, fold_N, kind_C, given.seed)
        asked = ask(own, others, of_round, fold_N, kinds, kind_C, encoding)
        answers.add(asked, of_round, len(kinds), methods, random)
        _progress(f"{of_round.name}: asked, {time.perf_counter() - start:.0f} s in all")
    merges, alone, seconds = answers.merges(), answers.alone(), round(time.perf_counter() - start)
    for title, rows, count in (("merged, %", merges, "merges"), ("alone, %", alone, "sets")):
        sys.stdout.write("".join(f"{line}\n" for line in _table(title, rows, count)) + "\n" if rows else "")
    sys.stdout.write(f"{processor()}, {seconds} s\n")
    setting = {name: getattr(given, name) for name in ("folds", "only_first", "times", "seed")} | {"kinds": len(kinds)}
    result = {**setting, "merged": merges, "alone": alone, "processor": processor(), "seconds": seconds}
    sys.stdout.write(json.dumps(_rounded(result)) + "\n")


if __name__ == "__main__":
    main()
