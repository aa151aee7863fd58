"""households.py --captures DIR --labels FILE [--others DIR FILE [SETTING …]] …: kinds found behind an address.

In each of --folds folds of captures, the device model and its baselines learn from the other folds' sets (a set: the
flows of one device in one capture), and are tested on held-out sets, alone and merged as if behind one address: see
`iotid.studies.households.run`. Devices of other laboratories (--others) are not in training, unless a learned kind has
their vendor and type; further trainings leave kinds out. Prints tables, in per cent, and one line of JSON.

Shape suffixes: N flows.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from processes import processor

from iotid import config, messages
from iotid.dataset import LabelledFlows
from iotid.dataset.in_memory import FlowsInMemory
from iotid.flows import from_captures
from iotid.labels import DeviceList
from iotid.labels.devices import UNLISTED
from iotid.labels.hosts import UNANSWERED, name_devices
from iotid.studies.households.laboratory import Laboratory
from iotid.studies.households.methods import METHODS
from iotid.studies.households.run import HouseholdStudy, rounds
from iotid.studies.households.scores import rounded, table

_SETTINGS = config.load_settings(overrides=["flow.join_files=false"])
_GROUPS = 4  # of kinds left out


def read(captures: str, labels: str, overrides: Sequence[str]) -> Laboratory:
    """Flows of listed devices and of unlisted hosts, without unanswered ones."""
    flow, dataset = _SETTINGS.flow, _SETTINGS.dataset
    capture, devices = config.load_settings(overrides=list(overrides)).capture, DeviceList.read(labels)
    flows = from_captures([captures], join_files=False, length=flow.length, capture=capture)
    flows = flows.filter(pc.is_in(flows["protocol"], pa.array(dataset.protocols, pa.int32())))
    devices = devices.at([FlowsInMemory(flows)])
    device_N, conflict_N = devices.resolve(flows)
    named = name_devices(flows, devices.site())
    answered_N = pc.fill_null(pc.not_equal(named.reason, UNANSWERED), True).to_numpy(zero_copy_only=False)
    host_N = np.asarray(pc.fill_null(named.device, "").to_pylist(), object)
    kept_N = answered_N & ~conflict_N & ((device_N >= 0) | (host_N != ""))
    names = np.array([*devices.labels(dataset.label), UNLISTED], object)[device_N]  # -1 takes the last
    labels_there, flows_of = np.unique(names[kept_N & (device_N >= 0)].astype(str), return_counts=True)
    listed = labels_there[flows_of >= dataset.min_flows].tolist()
    kept_N &= np.isin(names.astype(str), [*listed, UNLISTED])
    all_labels = sorted({*listed, UNLISTED})
    label_N = np.searchsorted(all_labels, names[kept_N].astype(str))
    kept = LabelledFlows(
        flows.filter(pa.array(kept_N)), label_N, device_N[kept_N], tuple(all_labels), devices, dataset, flow
    )
    owner = np.where(device_N < 0, host_N, device_N.astype(str))[kept_N].astype(str)
    return Laboratory.of(kept, np.unique(owner, return_inverse=True)[1].astype(np.int64))


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--captures", required=True)
    options.add_argument("--labels", required=True)
    options.add_argument(
        "--others", action="append", default=[], nargs="+", help="another laboratory, and its settings"
    )
    options.add_argument("--folds", type=int, default=5, help="2 or more (default 5)")
    options.add_argument("--only-first", type=int, help="only the first N trainings (folds, then kinds left out)")
    options.add_argument("--times", type=int, default=200, help="merges of each scenario, over all folds (default 200)")
    options.add_argument("--seed", type=int, default=7)
    options.add_argument("--methods", nargs="+", choices=METHODS, default=[*METHODS], help="default: all of them")
    options.add_argument("--set", action="append", default=[], dest="overrides", metavar="capture.KEY=VALUE")
    given = options.parse_args()
    if given.folds < 2 or any(len(other) < 2 for other in given.others):
        options.error("--folds must be 2 or more, and --others needs captures and their labels")
    messages.log_to_stderr()
    start = time.perf_counter()
    own = read(given.captures, given.labels, given.overrides)
    others = [read(captures, labels, overrides) for captures, labels, *overrides in given.others]
    kinds, kind_C = own.kinds()
    random = np.random.default_rng(given.seed)
    study = HouseholdStudy(own, others, own.flows.folds(given.folds), _SETTINGS.census, given.seed, given.methods)
    all_rounds = rounds(kind_C, given.folds, _GROUPS, given.times, random, first_hour=own.has_long_captures)
    results = study.run(islice(all_rounds, given.only_first), random)
    merges, alone, seconds = results.merges(), results.alone(), round(time.perf_counter() - start)
    for title, rows, count in (("merged, %", merges, "merges"), ("alone, %", alone, "sets")):
        sys.stdout.write("".join(f"{line}\n" for line in table(title, rows, count)) + "\n" if rows else "")
    sys.stdout.write(f"{processor()}, {seconds} s\n")
    setting = {name: getattr(given, name) for name in ("folds", "only_first", "times", "seed", "methods")} | {
        "kinds": len(kinds)
    }
    result: dict[str, Any] = {**setting, "merged": merges, "alone": alone, "processor": processor()}
    sys.stdout.write(json.dumps(rounded(result | {"seconds": seconds})) + "\n")


if __name__ == "__main__":
    main()
