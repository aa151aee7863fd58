"""unlike_kind.py --captures DIR: what the census column unlike_kind and DIoT's anomaly detection notice.

DIR holds aalto, lsif and ucl. lsif: both learn from the first days (evaluation.drift_days, here 7), and are asked about
each device's capture of every later day; aalto and ucl: folds of captures. Each is asked whether the captures are like
their own kind's:

* ordinary: as they are;
* mixed: with flows of a capture of another kind, as many as are 1, 5 or 20 % of all, at least one;
* scan: with 100 SYNs within a minute to telnet at random addresses, as Mirai sends them (40 bytes, any window);
* flood: with 100 SYNs within a minute to one server, equal to the device's own;
* swap: a capture of another kind in its place.

unlike_kind calls a capture unlike if its p-value is 0.05 or less, or 0.01 or less, which needs 19, or 99, recordings in
training; AUC and "at 5 %" are of the score behind the p-value. "not named": a census of hosts does not name the own
kind alone; then the column is null, and the p-value here is the one that it would have.

DIoT as published (Nguyen et al., ICDCS 2019): a packet is anomalous if its kind's network gave it a probability below
0.01, a capture if that is so for more than half of any 250 consecutive packets. Its networks are smaller here, and its
packets are only the first of each flow (iotid/baselines/diot.py). "share": the greatest share of anomalous packets in
250; "mean": the mean probability of the capture's packets.

AUC: of telling the captures from ordinary ones; "at 5 %": the share found by the threshold that 5 % of the ordinary
captures exceed at most. Prints tables, in per cent, and one line of JSON.

Shape suffixes: N flows, U captures, P packets, S captures of all folds.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from processes import processor  # beside this file
from sklearn.metrics import roc_auc_score

from iotid import config, messages
from iotid.baselines import device_flows
from iotid.baselines.device_flows import DeviceFlows
from iotid.baselines.diot import STEPS, Diot
from iotid.dataset import Encoding, FlowSets, LabelledFlows
from iotid.flows import from_captures
from iotid.labels import DeviceList, owner
from iotid.model.device import DeviceModel, decide, kinds_of
from iotid.studies import protocols

SITES: dict[str, tuple[str, tuple[str, ...]]] = {  # the protocol, and settings
    "lsif": (protocols.DRIFT, ("capture.duplicate_window_us=10000", "evaluation.drift_days=7")),
    "aalto": (protocols.FOLDS, ("evaluation.folds=3",)),
    "ucl": (protocols.FOLDS, ("evaluation.folds=3",)),
}
MIXED = (0.01, 0.05, 0.2)
SYNS, _SYNS_US = 100, 60_000_000
TELNET, HTTPS = 23, 443
LEVELS = (0.05, 0.01)
IMPROBABLE, WINDOW, MOST_IMPROBABLE = 0.01, 250, 0.5  # as published
ORDINARY = "ordinary"
_LINUX_SYN = (60, 29_200)  # bytes and window, of devices that open no TCP connection
_FIRST_PORT, _LAST_PORT = 32_768, 61_000  # of clients on Linux
_TCP, _SYN = 6, 2
_GRID = np.linspace(-20, 20, 1_000_001)


class Scores(NamedTuple):
    """Of S captures under one condition: ``not_named`` and ``published`` are answers; ``score``, ``share`` and ``mean``
    are the greater, the more unlike the capture is."""

    kind: NDArray[np.int64]
    p_value: NDArray[np.float64]
    score: NDArray[np.float64]  # of which the p-value is the rank among training's
    not_named: NDArray[np.bool_]
    share: NDArray[np.float64]
    mean: NDArray[np.float64]  # negative
    published: NDArray[np.bool_]


def read(captures: str, site: str, overrides: Sequence[str]) -> tuple[LabelledFlows, config.Settings]:
    settings = config.load_settings(overrides=["flow.join_files=false", *SITES[site][1], *overrides])
    flows = from_captures(f"{captures}/{site}", join_files=False, length=settings.flow.length, capture=settings.capture)
    listed = DeviceList.read(f"conf/datasets/{site}.yaml")
    further = (*owner.READ, *device_flows.COLUMNS)
    labelled = LabelledFlows.of(flows, listed, settings.dataset, settings.flow, further=further)
    return labelled, settings


def captures_of(flows: LabelledFlows, flow: NDArray[np.int64]) -> tuple[DeviceFlows, NDArray[np.int64]]:
    """The captures of a device among these flows, and their labels (U,)."""
    sets, unit = np.unique(flows.capture[flow] * len(flows.labels) + flows.label[flow], return_inverse=True)
    found = joined([(flows.flows.take(pa.array(flow)), unit, flows.is_client[flow])], len(sets))
    return found, sets % len(flows.labels)


def joined(parts: Sequence[tuple[pa.Table, NDArray[np.int64], NDArray[np.bool_]]], units: int) -> DeviceFlows:
    """Flows with their captures, and whether the device is the client, by capture and time."""
    tables, unit_N, is_client_N = zip(*parts, strict=True)
    table, unit = pa.concat_tables(tables).combine_chunks(), np.concatenate(unit_N)
    order = np.lexsort((_first_us(table), unit))
    return DeviceFlows(table.take(pa.array(order)), unit[order], np.concatenate(is_client_N)[order], units)


def mixed(captures: DeviceFlows, kind_U: NDArray[np.int64], share: float, random: np.random.Generator) -> DeviceFlows:
    """Each capture with flows of one of another kind, at random times."""
    parts = [(captures.flows, captures.unit, captures.is_client)]
    for unit, other in enumerate(_others(kind_U, random)):
        own, foreign = (np.flatnonzero(captures.unit == each) for each in (unit, other))
        drawn = random.choice(foreign, max(round(share * len(own) / (1 - share)), 1))
        first_us = _first_us(captures.flows)[own]
        table = _with(
            captures.flows.take(pa.array(drawn)), first_seen=random.integers(first_us[0], first_us[-1] + 1, len(drawn))
        )
        parts.append((table, np.full(len(drawn), unit), captures.is_client[drawn]))
    return joined(parts, captures.units)


def swapped(captures: DeviceFlows, kind_U: NDArray[np.int64], random: np.random.Generator) -> DeviceFlows:
    """In each capture's place one of another kind."""
    parts = []
    for unit, other in enumerate(_others(kind_U, random)):
        foreign = np.flatnonzero(captures.unit == other)
        parts.append((captures.flows.take(pa.array(foreign)), np.full(len(foreign), unit), captures.is_client[foreign]))
    return joined(parts, captures.units)


def with_syns(captures: DeviceFlows, random: np.random.Generator, *, is_scan: bool) -> DeviceFlows:
    """Each capture with a scan or a flood of SYNs, one packet each, within a minute."""
    parts = [(captures.flows, captures.unit, captures.is_client)]
    for unit in range(captures.units):
        own = np.flatnonzero(captures.unit == unit)
        length, window = (40, int(random.integers(1, 1 << 16))) if is_scan else _own_syn(captures, own)
        address = random.integers(1, 224 << 24, SYNS) if is_scan else np.full(SYNS, random.integers(1, 224 << 24))
        start_us = int(_first_us(captures.flows)[random.choice(own)])
        lists = {"packet_length": length, "payload_length": 0, "tcp_window": window, "tcp_flags": _SYN, "direction": 1}
        table = _with(
            captures.flows.take(pa.array(np.full(SYNS, own[0]))),
            first_seen=start_us + np.sort(random.integers(0, _SYNS_US, SYNS)),
            protocol=np.full(SYNS, _TCP),
            server_ip=[".".join(map(str, int(each).to_bytes(4, "big"))) for each in address],
            server_port=np.full(SYNS, TELNET if is_scan else HTTPS),
            client_port=random.integers(_FIRST_PORT, _LAST_PORT, SYNS),
            client_packets=np.ones(SYNS, np.int64), server_packets=np.zeros(SYNS, np.int64),
            client_bytes=np.full(SYNS, length), server_bytes=np.zeros(SYNS, np.int64),
            **{name: [[value]] * SYNS for name, value in (lists | {"inter_arrival_us": 0}).items()},
        )  # fmt: skip
        parts.append((table, np.full(SYNS, unit), np.ones(SYNS, np.bool_)))
    return joined(parts, captures.units)


def _own_syn(captures: DeviceFlows, own: NDArray[np.int64]) -> tuple[int, int]:
    """Length and window of the first packet of the capture's first TCP connection that the device opened."""
    opened = own[captures.is_client[own] & (captures.column("protocol")[own] == _TCP)]
    if not len(opened):
        return _LINUX_SYN
    flow = captures.flows.slice(int(opened[0]), 1)
    return flow["packet_length"][0].as_py()[0], flow["tcp_window"][0].as_py()[0]


def _others(kind_U: NDArray[np.int64], random: np.random.Generator) -> list[int]:
    """For each capture a random one of another kind."""
    return [int(random.choice(np.flatnonzero(kind_U != kind))) for kind in kind_U]


def _first_us(flows: pa.Table) -> NDArray[np.int64]:
    return np.asarray(pc.cast(flows["first_seen"], pa.int64()))


def _with(flows: pa.Table, **columns: Any) -> pa.Table:
    """The flows with these columns' values; of a column that is not there, nothing."""
    for name, values in columns.items():
        at = flows.schema.get_field_index(name)
        if at >= 0:
            field = flows.schema.field(at)
            plain = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
            array = pa.array(values) if isinstance(values, np.ndarray) else pa.array(values, plain)
            flows = flows.set_column(at, field, array.cast(plain).cast(field.type))
    return flows


class Fold:
    """Both systems, fitted to the captures of a split's training."""

    def __init__(self, flows: LabelledFlows, part_N: NDArray[np.int8], settings: config.Settings, steps: int) -> None:
        is_learned_N = (part_N == protocols.TRAIN) | (part_N == protocols.VALIDATION)
        self._settings = settings
        self._encoding: Encoding = flows.dataset(np.where(is_learned_N, protocols.TRAIN, -1))[0]
        kind_C = kinds_of(self._encoding.labels, self._encoding.devices)[1]
        learned, label_U = captures_of(flows, np.flatnonzero(is_learned_N))
        sequences, ones = self._encoding.encode(learned.flows), np.ones(len(learned.unit), np.int64)
        sets = FlowSets.of(sequences, learned.unit, label_U[learned.unit], ones)
        self._model = DeviceModel(kind_C).fit(sets, seed=settings.training.seed)
        # the same with a fine grid for training's scores: its p-values are in the order of the scores, without ties
        fine = copy(self._model)
        assert fine.unlike_kind is not None
        fine.unlike_kind = replace(fine.unlike_kind, scores=_GRID)
        self._models = self._model, fine
        is_known_U = kind_C[label_U] >= 0
        assert is_known_U.all(), "unlisted devices are not labelled here"
        self._diot = Diot(settings.evaluation.seed, steps=steps).fit(learned, kind_C[label_U], self._model.kinds)
        self.captures, label_U = captures_of(flows, np.flatnonzero(part_N == protocols.TEST))
        self.kind_U = kind_C[label_U]
        self.recordings = len(np.unique(learned.unit))

    def conditions(self, random: np.random.Generator) -> dict[str, DeviceFlows]:
        of_shares = {f"mixed {100 * share:g} %": mixed(self.captures, self.kind_U, share, random) for share in MIXED}
        syns = {name: with_syns(self.captures, random, is_scan=name == "scan") for name in ("scan", "flood")}
        return {ORDINARY: self.captures, **of_shares, **syns, "swap": swapped(self.captures, self.kind_U, random)}

    def score(self, captures: DeviceFlows) -> Scores:
        row_U = np.arange(captures.units)
        sequences, ones = self._encoding.encode(captures.flows), np.ones(len(captures.unit), np.int64)
        sets = FlowSets.of(sequences, captures.unit, self.kind_U[captures.unit], ones)
        order = np.lexsort((row_U, self.kind_U))  # of the sets: by label, here the kind
        answer, fine = (model.answer(sets.sequences, sets.flows, unlike_kind=True) for model in self._models)
        decision = decide(
            answer, 0.0, np.asarray(sets.flows.sum(axis=1)).ravel().astype(np.int64), self._settings.census
        )
        is_own_UK = self.kind_U[order, np.newaxis] == np.arange(self._model.kinds)
        p_U, score_U, named_U = (np.zeros(captures.units, each) for each in (float, float, bool))
        assert answer.unlike_kind is not None
        assert fine.unlike_kind is not None
        p_U[order], score_U[order] = answer.unlike_kind[is_own_UK], -fine.unlike_kind[is_own_UK]
        named_U[order] = (decision.found == is_own_UK).all(axis=1)
        probability_P, unit_P = self._diot.own_probabilities(captures, self.kind_U)
        share_U = worst_windows(probability_P < IMPROBABLE, unit_P, captures.units)
        packets_U = np.bincount(unit_P, minlength=captures.units)
        mean_U = np.bincount(unit_P, probability_P, captures.units) / np.maximum(packets_U, 1)
        return Scores(self.kind_U, p_U, score_U, ~named_U, share_U, -mean_U, share_U > MOST_IMPROBABLE)


def worst_windows(is_improbable_P: NDArray[np.bool_], unit_P: NDArray[np.int64], units: int) -> NDArray[np.float64]:
    """(U,) the greatest share of such packets in WINDOW consecutive ones of the capture, or in all if it has fewer."""
    found = np.zeros(units)
    for unit in np.unique(unit_P):
        sums = np.concatenate([[0], np.cumsum(is_improbable_P[unit_P == unit])])
        size = min(WINDOW, len(sums) - 1)
        found[unit] = (sums[size:] - sums[:-size]).max() / size
    return found


def rates(ordinary: Scores, found: Scores) -> dict[str, float]:
    """What each system answers, and how well its scores tell the captures from ordinary ones."""
    row = {f"p_{level:g}": np.mean(found.p_value <= level) for level in LEVELS}
    row |= {"not_named": found.not_named.mean(), "published": found.published.mean()}
    row["p_0.05_or_not_named"] = np.mean((found.p_value <= LEVELS[0]) | found.not_named)
    if found is not ordinary:
        for name in ("score", "share", "mean"):
            usual, other = getattr(ordinary, name), getattr(found, name)
            row[f"{name}_auc"] = roc_auc_score(
                np.repeat([0, 1], [len(usual), len(other)]), np.concatenate([usual, other])
            )
            row[f"{name}_at_5"] = np.mean(other > np.quantile(usual, 0.95, method="higher"))
    return {name: round(float(value), 4) for name, value in row.items()}


def run(captures: str, site: str, overrides: Sequence[str], steps: int, seed: int) -> dict[str, Any]:
    flows, settings = read(captures, site, overrides)
    random, found, recordings = np.random.default_rng(seed), [], []
    for part_N in protocols.splits(flows, SITES[site][0], settings.evaluation):
        fold = Fold(flows, part_N, settings, steps)
        recordings.append(fold.recordings)
        found.append({name: fold.score(each) for name, each in fold.conditions(random).items()})
    all_scores = {
        name: Scores(*(np.concatenate(column) for column in zip(*(each[name] for each in found), strict=True)))
        for name in found[0]
    }
    ordinary = all_scores[ORDINARY]
    names = kinds_of(flows.labels, flows.devices.describe_all(settings.dataset.label, flows.labels))[0]
    by_kind = {
        names[kind]: round(float(np.mean(ordinary.p_value[ordinary.kind == kind] <= LEVELS[0])), 4)
        for kind in np.unique(ordinary.kind).tolist()
    }
    return {
        "recordings": recordings,
        "captures": len(ordinary.kind),
        "kinds": len(by_kind),
        "conditions": {name: rates(ordinary, scores) for name, scores in all_scores.items()},
        "ordinary_p_0.05_by_kind": by_kind,
    }


_COLUMNS = {
    "p_0.05": "p <= .05", "p_0.01": "p <= .01", "not_named": "not named", "score_auc": "AUC",
    "score_at_5": "at 5 %", "published": "DIoT", "share_auc": "share AUC", "share_at_5": "at 5 %",
    "mean_auc": "mean AUC", "mean_at_5": "at 5 %",
}  # fmt: skip


def table(conditions: Mapping[str, Mapping[str, float]]) -> list[str]:
    lines = [" " * 12 + "".join(f"{title:>11}" for title in _COLUMNS.values())]
    for name, row in conditions.items():
        cells = [f"{100 * row[key]:.1f}" if key in row else "" for key in _COLUMNS]
        lines.append(f"{name:12}" + "".join(f"{cell:>11}" for cell in cells))
    return lines


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--captures", required=True)
    options.add_argument("--sites", nargs="+", choices=list(SITES), default=list(SITES))
    options.add_argument("--steps", type=int, default=STEPS, help=f"of training DIoT (default {STEPS})")
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--set", action="append", default=[], dest="overrides", metavar="SECTION.KEY=VALUE")
    given = options.parse_args()
    messages.log_to_stderr()
    found = {}
    for site in given.sites:
        start = time.perf_counter()
        found[site] = run(given.captures, site, given.overrides, given.steps, given.seed)
        found[site]["seconds"] = round(time.perf_counter() - start)
        sys.stdout.write("".join(f"{line}\n" for line in (f"{site}:", *table(found[site]["conditions"]))))
    sys.stdout.write(json.dumps({**found, "processor": processor()}) + "\n")


if __name__ == "__main__":
    main()
