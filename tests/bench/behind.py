"""behind.py --captures DIR --labels FILE: what the census says of one address behind which one device or several are.

In each of --folds folds, a small model (conf/local.yaml) learns from the other captures, as iotid train does. Asked are
captures held back, alone, and merged at random by two and by three, and all held-back captures of a device, alone and
merged; merged ones are of different kinds (look-alikes are one). Then kinds are left out of training in as many groups,
and their captures asked. Prints what became of each sort, in per cent, and ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, vstack

from iotid import config
from iotid.census.vote import Tally, vote
from iotid.dataset import DeviceList, LabelledFlows, Sets
from iotid.dataset.characteristics import unseen_share
from iotid.dataset.devices import merged_name
from iotid.evaluation import protocols
from iotid.flows import from_captures
from iotid.model import Predictor
from iotid.model.kinds import kinds_of, sure_of
from iotid.training.fit import fit

_SETTINGS = config.load_settings(["local.yaml"], ["training.ranks=1", "training.threads=1", "flow.join_files=false"])
_WHAT = ("the very set", "part of it", "a kind not there", "one of them", "one not there", "unknown", "undecided")
_ASKED = ("captures", "devices")


def asked(
    folder: str, flows: LabelledFlows, part_N: NDArray[np.int8], times: int, seed: int
) -> Counter[tuple[str, str]]:
    """(what is behind the address, what the census says) -> how often."""
    random = np.random.default_rng(seed)
    encoding, parts = flows.dataset(part_N)
    unit_N = flows.capture * len(flows.labels) + flows.label

    def sets_of(chosen: NDArray[np.bool_], together: NDArray[np.int64]) -> Sets:
        ids = encoding.encode(flows.flows.filter(pa.array(chosen)))
        return Sets.of(ids, together[chosen], flows.label[chosen], np.ones(int(chosen.sum()), np.int64))

    learned = sets_of((part_N == protocols.TRAIN) | (part_N == protocols.VALIDATION), unit_N)
    train, validation = parts["train"].rows, parts["validation"].rows
    fit(_SETTINGS.model, _SETTINGS.training, encoding, train, validation, folder, sets=learned)
    predictor, told = Predictor.load(folder), Counter[tuple[str, str]]()
    kind_C = kinds_of(flows.labels, encoding.devices)
    left_out = part_N == protocols.LEFT_OUT
    if left_out.any():
        for what, together in zip(_ASKED, (unit_N, flows.label), strict=True):
            sets = sets_of(left_out, together)
            told += judge(f"never learned, {what}", predictor, sets, sets.flows, kind_C[sets.label][:, None])
        return told
    for what, together in zip(_ASKED, (unit_N, flows.label), strict=True):
        sets = sets_of(part_N == protocols.TEST, together)
        for number in (1, 2, 3):
            merged = np.array(list(draw(kind_C[sets.label], number, times, random)))
            summed = vstack([csr_matrix(sets.flows[chosen].sum(axis=0)) for chosen in merged]).tocsr()
            told += judge(f"{number} {what}", predictor, sets, summed, kind_C[sets.label][merged])
    return told


def draw(kind_B: NDArray[np.int64], number: int, times: int, random: np.random.Generator) -> Iterator[NDArray[np.intp]]:
    """Sets alone, each once; or so many times ``number`` sets of different kinds."""
    if number == 1:
        yield from np.arange(len(kind_B))[:, np.newaxis]
        return
    while times:
        chosen = random.choice(len(kind_B), number, replace=False)
        if len(set(kind_B[chosen].tolist())) == number:
            times -= 1
            yield chosen


def judge(
    what: str, predictor: Predictor, sets: Sets, flows_BD: csr_matrix, kinds_B: NDArray[np.int64]
) -> Counter[tuple[str, str]]:
    """What the census says of sets (B, D) behind which these kinds are (B, any)."""
    learned, labels, devices = predictor.learned, predictor.labels, predictor.encoding.devices
    assert learned.vote is not None
    assert learned.novelty is not None
    kind_C = kinds_of(labels, devices)
    names = dict(zip(labels, kind_C.tolist(), strict=True))
    names |= {merged_name(label, devices.get(label, {})): names[label] for label in labels}
    probabilities, summaries = predictor.read(sets.sequences)
    tally, pairs = Tally(len(labels)), flows_BD.tocoo()
    address = pa.array([str(number) for number in range(flows_BD.shape[0])])
    tally.add_flows(
        address.take(pa.array(pairs.row)),
        pairs.data,
        pairs.col,
        probabilities,
        unseen_share(sets.sequences),
        learned.vote.of_flows(summaries),
        sure_of(probabilities, kind_C),
    )
    tally.add_sets(
        address, learned.vote.of_bags(sets.sequences, flows_BD), learned.novelty.looks(sets.sequences, flows_BD)
    )
    votes = vote(tally.table(), labels, devices, _SETTINGS.census, learned).to_pylist()
    told = Counter[tuple[str, str]]()
    for row in votes:
        there = set(kinds_B[int(row["device_id"])].tolist())
        said = [kind["label"] or f"{kind['vendor']} {kind['type']}" for kind in row["several"]]
        found = {names[name] for name in said}
        if row["status"] == "several":
            told[what, _WHAT[0] if found == there else _WHAT[1] if found < there else _WHAT[2]] += 1
        elif row["status"] == "known":
            told[what, _WHAT[3] if names[row["label"]] in there else _WHAT[4]] += 1
        else:
            told[what, row["status"]] += 1
    return told


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--captures", required=True)
    options.add_argument("--labels", required=True)
    options.add_argument("--folds", type=int, default=5, help="3 or more (default 5)")
    options.add_argument("--times", type=int, default=400, help="merged sets of each sort, of each fold (default 400)")
    options.add_argument("--seed", type=int, default=7)
    options.add_argument("--set", action="append", default=[], dest="overrides", metavar="SECTION.KEY=VALUE")
    given = options.parse_args()
    flow, capture = _SETTINGS.flow, config.load_settings(overrides=given.overrides).capture
    table = from_captures([given.captures], join_files=False, length=flow.length, capture=capture)
    flows = LabelledFlows.of(table, DeviceList.read(given.labels), _SETTINGS.dataset, flow)
    evaluation = _SETTINGS.evaluation.model_copy(update={"folds": given.folds, "left_out_groups": given.folds})
    told = Counter[tuple[str, str]]()
    for protocol in (protocols.FOLDS, protocols.DEVICES_OUT):
        for number, part_N in enumerate(protocols.splits(flows, protocol, evaluation), start=1):
            sys.stderr.write(f"behind.py: {protocol} {number}\n")
            with tempfile.TemporaryDirectory() as folder:
                told += asked(folder, flows, part_N, given.times, given.seed)
    table_of = {}
    for what in dict.fromkeys(what for what, _ in told):
        counts = {said: told[what, said] for said in _WHAT}
        table_of[what] = {"sets": sum(counts.values())} | {
            said: round(100 * count / sum(counts.values()), 1) for said, count in counts.items()
        }
        sys.stdout.write(f"{what}: {table_of[what]}\n")
    sys.stdout.write(json.dumps(table_of) + "\n")


if __name__ == "__main__":
    main()
