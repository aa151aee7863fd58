"""What a device model knows that learned from named groups: how many of the later captures it names right.

Shape suffixes: N flows, B sets of flows (one device on one night), M packets kept of each flow.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from iotid import config
from iotid.dataset import Encoding
from iotid.dataset.characteristics import learn_vocabularies, select_characteristics
from iotid.dataset.sets import FlowSets
from iotid.model.device import DeviceModel, decide, share_of_households
from iotid.model.device.decide import KNOWN, UNDECIDED, UNKNOWN

Item = tuple[str, int]  # a device and a night
RIGHT, WRONG, SEVERAL = "right", "wrong", "several kinds"


class Grouped(Protocol):
    """``device``, ``night``, ``group`` and ``kind`` of items; the kind is empty if no list names the device."""

    device: NDArray[np.object_]
    night: NDArray[np.int64]
    group: NDArray[np.object_]
    kind: NDArray[np.object_]


def later_captures(flows: pa.Table, night_N: NDArray[np.int64], items: Grouped, settings: config.Settings) -> Any:
    """Shares of the listed items of the second half of the nights that a device model names right, wrong or not at all.

    It learns from the first half, with the kinds by which each group is named once, and with the true kinds.

    Args:
        flows: FLOWS with ``device_id``.
        night_N: the night of each.
    """
    half = (int(night_N.max()) + 1) // 2
    rows = list(zip(items.device, items.night.tolist(), items.group, items.kind, strict=True))
    true = {(device, night): kind for device, night, _, kind in rows if kind}
    in_group: dict[str, Counter[str]] = defaultdict(Counter)
    for _, night, group, kind in rows:
        if kind and night < half:
            in_group[group][kind] += 1
    names = {group: counted.most_common(1)[0][0] for group, counted in in_group.items()}
    named = {(device, night): names[group] for device, night, group, _ in rows if group in names}
    return {
        "groups_named": len(names),
        "labels_right": float(np.mean([named[item] == kind for item, kind in true.items() if item[1] < half])),
        "with_names": _shares(flows, night_N, half, named, true, settings),
        "with_true_kinds": _shares(flows, night_N, half, true, true, settings),
    }


def _shares(
    flows: pa.Table,
    night_N: NDArray[np.int64],
    half: int,
    labels: dict[Item, str],
    true: dict[Item, str],
    settings: config.Settings,
) -> dict[str, Any]:
    """Outcomes of the later items of a model that learned from ``labels``, and the most frequent mistakes."""
    item_N = list(zip(flows["device_id"].to_pylist(), night_N.tolist(), strict=True))
    learned_N = np.array([night < half and (device, night) in labels for device, night in item_N])
    tested_N = np.array([night >= half and (device, night) in true for device, night in item_N])
    encoding = _encoding(flows.filter(pa.array(learned_N)), settings)
    kinds = sorted({labels[item] for item, is_learned in zip(item_N, learned_N, strict=True) if is_learned})
    training, _ = _sets(flows, item_N, learned_N, encoding, lambda item: kinds.index(labels[item]))
    model = DeviceModel(np.arange(len(kinds))).fit(training, seed=1)
    test, tested = _sets(flows, item_N, tested_N, encoding, lambda item: 0)
    answer = model.answer(test.sequences, test.flows, test.concurrent)
    counted_B = answer.known_tokens.max(axis=1, initial=0) >= settings.census.min_evidence
    share = share_of_households(np.sort(answer.log_odds[counted_B]), settings.census.behind)
    flows_B = np.asarray(test.flows.sum(axis=1)).ravel().astype(np.int64)
    decision = decide(answer, share, flows_B, settings.census)
    outcomes, mistakes = Counter[str](), Counter[str]()
    for item, status, found_K in zip(tested, decision.status, decision.found, strict=True):
        found = [kinds[kind] for kind in np.flatnonzero(found_K)]
        outcome = str(status) if status in (UNDECIDED, UNKNOWN) else _outcome(found, true[item], status)
        outcomes[outcome] += 1
        if outcome != RIGHT:
            mistakes[f"{true[item]}: {' + '.join(found) or outcome}"] += 1
    shares = {name: count / len(tested) for name, count in sorted(outcomes.items())}
    return {**shares, "items": len(tested), "mistakes": dict(mistakes.most_common(12))}


def _outcome(found: list[str], true: str, status: str) -> str:
    if found == [true] and status == KNOWN:
        return RIGHT
    return SEVERAL if true in found else WRONG


def _encoding(flows: pa.Table, settings: config.Settings) -> Encoding:
    seen = {}
    for name, characteristic in select_characteristics(settings.dataset.characteristics).items():
        values = characteristic.quantise(flows[characteristic.column].combine_chunks().flatten().to_numpy())
        distinct, counted = np.unique(values, return_counts=True)
        seen[name] = dict(zip(distinct.tolist(), counted.tolist(), strict=True))
    vocabularies = learn_vocabularies(seen, settings.dataset)
    protocols = tuple(settings.dataset.protocols)
    return Encoding(settings.flow.max_packets, vocabularies, (), {}, protocols, settings.flow.length)


def _sets(
    flows: pa.Table, item_N: list[Item], chosen_N: NDArray[np.bool_], encoding: Encoding, label_of: Any
) -> tuple[FlowSets, list[Item]]:
    """The sets of the chosen flows, and the item of each."""
    chosen = [item for item, is_chosen in zip(item_N, chosen_N, strict=True) if is_chosen]
    items = sorted(set(chosen), key=lambda item: (label_of(item), item))
    number = {item: index for index, item in enumerate(items)}
    unit_N = np.array([number[item] for item in chosen])
    label_N = np.array([label_of(item) for item in chosen])
    sequences = encoding.encode(flows.filter(pa.array(chosen_N)))
    return FlowSets.of(sequences, unit_N, label_N, np.ones(len(chosen), np.int64)), items
