"""traffic.py --captures DIR --labels FILE: how good the answer is after the first flows and minutes of a capture.

In each of --folds folds of captures, the device model and capture_bag learn from the whole captures of the other folds.
Then both see only the beginning of each held-out set (a set: the flows of one device in one capture): its first flows,
or those that begin within some minutes of its first flow's begin; a set that is shorter is whole. A flow counts with
all of its first packets, also those after the cut, so the minutes are a lower bound of what was waited for.

The device model decides as a census of single hosts does: right (exactly the own kind), wrong, undecided or unknown.
similar: the own kind is the most similar one, or among the five most similar, as a census lists for what it does not
name. bag: the kind of capture_bag's answer, which always names one. Also: the share of sets that are whole at the cut,
and medians of their flows and of the minutes from the first flow's begin to the last one's.

Sets of kinds that a fold has not learned are not scored. Prints a table, in per cent, and one line of JSON.

Shape suffixes: P flows of the test split, U sets, R their distinct rows, C classes, K kinds.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from processes import processor  # beside this file
from scipy.sparse import coo_matrix

from iotid import config, messages
from iotid.baselines.capture_bag import CaptureBag
from iotid.dataset import FlowSets, LabelledFlows
from iotid.dataset.split_protocols import DATASET_SPLITS
from iotid.flows import from_captures
from iotid.labels import DeviceList
from iotid.model.device import DeviceModel, decide, kinds_of
from iotid.model.device.decide import UNDECIDED, UNKNOWN
from iotid.studies.votes import of_groups, rank

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

    from iotid.dataset.in_memory import DatasetSplit

FLOWS, MINUTES = (1, 2, 5, 10, 20, 50, 100), (1, 5, 15, 60, 240, 1440)
WHOLE = "whole"
RIGHT, WRONG = "right", "wrong"
OUTCOMES = (RIGHT, WRONG, UNDECIDED, UNKNOWN)
_FIVE = 5
_MINUTE_US = 60_000_000


class Scored(NamedTuple):
    """Of U sets at one cut: outcome of a census, rank of the own kind by similarity (0: nothing in common), whether
    capture_bag names the kind, whether the set is whole, and its flows and minutes."""

    outcome: NDArray[np.str_]
    similar_rank: NDArray[np.int64]
    bag: NDArray[np.bool_]
    whole: NDArray[np.bool_]
    flows: NDArray[np.int64]
    minutes: NDArray[np.float64]


def prefixes(set_P: NDArray[np.int64], first_us_P: NDArray[np.int64]) -> dict[str, NDArray[np.bool_]]:
    """Cut -> (P,) whether the flow is before it; flows that begin at the same time are in the order of the rows."""
    order = np.lexsort((first_us_P, set_P))
    _, first, count = np.unique(set_P[order], return_index=True, return_counts=True)
    begin = np.repeat(first, count)
    position_P, age_us_P = np.zeros(len(order), np.int64), np.zeros(len(order), np.int64)
    position_P[order] = np.arange(len(order)) - begin
    age_us_P[order] = first_us_P[order] - first_us_P[order][begin]
    by_flows = {f"{flows} flows": position_P < flows for flows in FLOWS}
    by_minutes = {f"{minutes} min": age_us_P < minutes * _MINUTE_US for minutes in MINUTES}
    return by_flows | by_minutes | {WHOLE: np.ones(len(order), np.bool_)}


def read(captures: str, labels: str, settings: config.Settings) -> LabelledFlows:
    flows = from_captures(captures, join_files=False, length=settings.flow.length, capture=settings.capture)
    return LabelledFlows.of(flows, DeviceList.read(labels), settings.dataset, settings.flow)


def score_fold(flows: LabelledFlows, is_test_N: NDArray[np.bool_], settings: config.Settings) -> dict[str, Scored]:
    """Cut -> scores of the test sets of learned kinds."""
    encoding, parts = flows.dataset(np.where(is_test_N, DATASET_SPLITS.index("test"), DATASET_SPLITS.index("train")))
    kind_C = kinds_of(encoding.labels, encoding.devices)[1]
    set_N, train, test = flows.capture * len(flows.labels) + flows.label, parts["train"], parts["test"]
    sequences = {name: ids_RM[train.row_of_flow] for name, ids_RM in train.rows.sequences.items()}
    ones = np.ones(len(train.flow), np.int64)
    learned = FlowSets.of(sequences, set_N[train.flow], flows.label[train.flow], ones)
    model = DeviceModel(kind_C).fit(learned, seed=settings.training.seed)
    bag = CaptureBag(settings.evaluation.seed)
    sets, bags_UR = _bags(train, set_N[train.flow], ones)
    bag.fit(train.rows.sequences, bags_UR, sets % len(flows.labels), len(flows.labels))

    is_learned_C = np.isin(kind_C, kind_C[train.rows.label])
    first_us_P = pc.cast(flows.flows["first_seen"], pa.int64()).to_numpy()[test.flow]
    set_P, found = set_N[test.flow], {}
    cuts = prefixes(set_P, first_us_P)
    for cut, is_before_P in cuts.items():
        sets, bags_UR = _bags(test, set_P, is_before_P)
        label_U, flows_U = sets % len(flows.labels), np.asarray(bags_UR.sum(axis=1)).ravel().astype(np.int64)
        kind_U = kind_C[label_U]
        answer = model.answer(test.rows.sequences, bags_UR)
        decision = decide(answer, 0.0, flows_U, settings.census)
        own_UK = kind_U[:, np.newaxis] == np.arange(model.kinds)
        named_U = np.where((decision.found == own_UK).all(axis=1), RIGHT, WRONG)
        bag_UC = bag.probabilities(test.rows.sequences, bags_UR)
        with np.errstate(divide="ignore"):
            similar_rank_U = rank(kind_U, np.log(answer.similarity))
            bag_UK = of_groups(np.log(bag_UC), kind_C)
        scored = Scored(
            outcome=np.where(decision.found.any(axis=1), named_U, decision.status),
            similar_rank=similar_rank_U,
            bag=bag_UK.argmax(axis=1) == kind_U,
            whole=flows_U == np.unique(set_P, return_counts=True)[1],
            flows=flows_U,
            minutes=_spans(set_P[is_before_P], first_us_P[is_before_P]) / _MINUTE_US,
        )
        found[cut] = Scored(*(column[is_learned_C[label_U]] for column in scored))
    return found


def _bags(
    split: DatasetSplit, set_P: NDArray[np.int64], chosen_P: NDArray[Any]
) -> tuple[NDArray[np.int64], csr_matrix]:
    """The sets (U,), and (U, R) how many of their chosen flows are equal to each row."""
    sets, which_P = np.unique(set_P, return_inverse=True)
    entries = chosen_P.astype(np.float64), (which_P, split.row_of_flow)
    bags_UR = coo_matrix(entries, shape=(len(sets), len(split.rows))).tocsr()
    bags_UR.eliminate_zeros()
    return sets, bags_UR


def _spans(set_P: NDArray[np.int64], first_us_P: NDArray[np.int64]) -> NDArray[np.int64]:
    """(U,) µs from the first begin of a set's flows to the last."""
    sets, which_P = np.unique(set_P, return_inverse=True)
    first_U, last_U = np.full(len(sets), np.iinfo(np.int64).max), np.full(len(sets), np.iinfo(np.int64).min)
    np.minimum.at(first_U, which_P, first_us_P)
    np.maximum.at(last_U, which_P, first_us_P)
    return last_U - first_U


def shares(scored: Scored) -> dict[str, float]:
    rank_U = scored.similar_rank
    found = {
        **{outcome: np.mean(scored.outcome == outcome) for outcome in OUTCOMES},
        "similar_first": np.mean(rank_U == 1),
        "similar_in_five": np.mean((rank_U >= 1) & (rank_U <= _FIVE)),
        "bag": np.mean(scored.bag),
        "whole": np.mean(scored.whole),
        "flows": np.median(scored.flows),
        "minutes": np.median(scored.minutes),
    }
    return {name: round(float(value), 4) for name, value in found.items()}


def table(found: dict[str, dict[str, float]]) -> list[str]:
    columns = [*OUTCOMES, "similar_first", "similar_in_five", "bag", "whole"]
    lines = [" " * 10 + "".join(f"{name:>16}" for name in (*columns, "median flows", "median minutes"))]
    for cut, row in found.items():
        cells = [f"{100 * row[name]:.1f}" for name in columns] + [f"{row['flows']:.0f}", f"{row['minutes']:.1f}"]
        lines.append(f"{cut:10}" + "".join(f"{cell:>16}" for cell in cells))
    return lines


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--captures", required=True)
    options.add_argument("--labels", required=True)
    options.add_argument("--folds", type=int, default=3, help="2 or more (default 3)")
    options.add_argument("--set", action="append", default=[], dest="overrides", metavar="SECTION.KEY=VALUE")
    given = options.parse_args()
    if given.folds < 2:
        options.error("--folds must be 2 or more")
    messages.log_to_stderr()
    start = time.perf_counter()
    settings = config.load_settings(overrides=["flow.join_files=false", *given.overrides])
    flows = read(given.captures, given.labels, settings)
    fold_N = flows.folds(given.folds)
    folds = [score_fold(flows, fold_N == fold, settings) for fold in range(given.folds)]
    found = {
        cut: shares(Scored(*(np.concatenate(columns) for columns in zip(*(fold[cut] for fold in folds), strict=True))))
        for cut in folds[0]
    }
    sys.stdout.write("".join(f"{line}\n" for line in table(found)))
    result: dict[str, Any] = {
        "sets": sum(len(fold[WHOLE].outcome) for fold in folds),
        "flows": len(flows.label),
        "labels": len(flows.labels),
        "kinds": len(kinds_of(flows.labels, flows.devices.describe_all(settings.dataset.label, flows.labels))[0]),
        "folds": given.folds,
        "cuts": found,
        "processor": processor(),
        "seconds": round(time.perf_counter() - start),
    }
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
