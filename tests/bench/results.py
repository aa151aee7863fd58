"""results.py CAPTURES ROOT [--quick] [--set SECTION.KEY=VALUE]...: every number of RESULTS.md that iotid compare tells.

CAPTURES holds the folders aalto and lsif. Assembles both, then compares the ensemble with its rivals under every
protocol: aalto (leave-captures-out in ten folds, random, de-duplicated, by capture, by time, and with kinds of devices
left out), lsif (the same but the last, and drift over its days), and across the two, trained on one and tested on the
other over the device types that both have.
--quick: small networks, three folds, fewer protocols. Killed and started again, it goes on from what it has trained.
Prints each comparison's table, and ends with one line of JSON: macro F1 of flows and accuracy of captures of each
system, what became of kinds that were left out, and what methods find of kinds behind one address.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from iotid import messages
from iotid.cli import command, steps
from iotid.partitions import PartitionKey, Store
from iotid.studies.compare import flat
from iotid.studies.households.compare import ALL
from iotid.studies.households.scores import rounded

_AALTO = ("--site", "aalto", "--date", "2016-04-01")  # dates name the nights; packets keep their own
_LSIF = ("--site", "lsif", "--date", "2016-04-01")
_LSIF_SETTINGS = ("--set", "capture.duplicate_window_us=10000")  # nearly every packet is in its files twice
_LISTS = {name: ("--labels", f"conf/datasets/{name}.yaml") for name in ("aalto", "lsif")}
_SMALL = ["--config", "local.yaml", "--set", "evaluation.folds=3"]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("captures")
    options.add_argument("root")
    options.add_argument("--quick", action="store_true")
    options.add_argument("--set", action="append", default=[], dest="overrides", metavar="SECTION.KEY=VALUE")
    given = options.parse_args()
    messages.to_stderr()
    layers = [*(_SMALL if given.quick else ()), "--set", f"storage.root={given.root}", "--set", "flow.join_files=false"]
    layers += [part for text in given.overrides for part in ("--set", text)]
    for name, night, own in (("aalto", _AALTO, ()), ("lsif", _LSIF, _LSIF_SETTINGS)):
        for step in (["split-pcaps", "--captures", f"{given.captures}/{name}"], ["assemble-flows"]):
            steps.main([*step, *night, *layers, *own], standalone_mode=False)
    protocols = ["random_unique", "capture_folds"]
    if not given.quick:
        protocols += ["random_flow", "by_capture", "by_time"]
    comparisons = {
        "aalto": ([*_AALTO, *_LISTS["aalto"]], [*protocols, "devices_out"], []),
        "lsif": ([*_LSIF, *_LISTS["lsif"]], [*protocols, "drift"], [*_LSIF_SETTINGS]),
        "across": (
            [*_AALTO, "--site", "lsif", *_LISTS["aalto"], *_LISTS["lsif"]],
            ["site:lsif", "site:aalto"],
            ["--set", "dataset.label=type", *_LSIF_SETTINGS],  # for windows: aalto holds no repeats
        ),
    }
    told: dict[str, dict[str, Any]] = {}
    store = Store(str(Path(given.root).absolute()))
    for name, (arguments, asked, own) in comparisons.items():
        asking = ["--set", f"evaluation.protocols=[{','.join(asked)}]"]
        steps.main(["compare", *arguments, "--name", name, *layers, *own, *asking], standalone_mode=False)
        outcomes = store.read_json(store.open("comparisons", PartitionKey.named(name)), "comparison.json")
        told[name] = {outcome["protocol"]: _numbers(outcome["systems"]) for outcome in outcomes}
        told[name] |= {"households": _of_households(store, name)}
        told[name] |= {"open_set": {key: round(value, 4) for key, value in flat(outcomes).items() if "open_set" in key}}
    command.say(json.dumps(told))


def _of_households(store: Store, name: str) -> dict[str, Any]:
    """Method -> scores over all merges."""
    found = store.read_json(store.open("comparisons", PartitionKey.named(name)), "households.json")
    return dict(rounded(found["merges"].get(ALL, {}))) if found else {}


def _numbers(systems: dict[str, dict[str, dict[str, dict[str, dict[str, float]]]]]) -> dict[str, dict[str, float]]:
    asked = (("scores", "flows", "macro_f1"), ("scores", "captures", "accuracy"), ("merged", "captures", "accuracy"))
    return {
        system: {
            f"{of}_{metric}{'_merged' * (kind == 'merged')}": round(scores[kind][of][metric]["value"], 4)
            for kind, of, metric in asked
            if of in scores[kind]
        }
        for system, scores in systems.items()
    }


if __name__ == "__main__":
    main()
