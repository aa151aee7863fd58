"""results.py CAPTURES ROOT [--quick] [--set SECTION.KEY=VALUE]...: numbers of the results from iotid compare.

CAPTURES holds the folders aalto and lsif. Assembles both, then compares the ensemble with its baselines under every
protocol: aalto (leave-captures-out in ten folds, random, de-duplicated, by capture, by time, and with kinds of devices
left out), lsif (the same but the last, and drift over its days), and across the two, trained on one and tested on the
other over the device types that both have.
--quick: small networks, three folds, fewer protocols. A second run continues from the trained models.
Prints each comparison's table, and ends with one line of JSON: macro F1 of flows and accuracy of captures of each
system, open-set scores of left-out kinds, and scores of the kinds found behind one address.
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
from iotid.studies.households.run import ALL
from iotid.studies.households.scores import rounded

_AALTO = ("--site", "aalto", "--date", "2016-04-01")  # the partition's date; packets keep their own
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
    messages.log_to_stderr()
    layers = [*(_SMALL if given.quick else ()), "--set", f"storage.root={given.root}", "--set", "flow.join_files=false"]
    layers += [part for text in given.overrides for part in ("--set", text)]
    for name, partition, own in (("aalto", _AALTO, ()), ("lsif", _LSIF, _LSIF_SETTINGS)):
        for step in (["split-pcaps", "--captures", f"{given.captures}/{name}"], ["assemble-flows"]):
            steps.main([*step, *partition, *layers, *own], standalone_mode=False)
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
    numbers: dict[str, dict[str, Any]] = {}
    store = Store(str(Path(given.root).absolute()))
    for name, (arguments, asked, own) in comparisons.items():
        asking = ["--set", f"evaluation.protocols=[{','.join(asked)}]"]
        steps.main(["compare", *arguments, "--name", name, *layers, *own, *asking], standalone_mode=False)
        all_scores = store.read_json(store.open("comparisons", PartitionKey.named(name)), "comparison.json")
        numbers[name] = {each["protocol"]: _numbers(each["systems"]) for each in all_scores}
        numbers[name] |= {"households": _of_households(store, name)}
        numbers[name] |= {
            "open_set": {key: round(value, 4) for key, value in flat(all_scores).items() if "open_set" in key}
        }
    command.print_lines(json.dumps(numbers))


def _of_households(store: Store, name: str) -> dict[str, Any]:
    """Method -> scores over all merges."""
    found = store.read_json(store.open("comparisons", PartitionKey.named(name)), "households.json")
    return dict(rounded(found["merges"].get(ALL, {}))) if found else {}


def _numbers(systems: dict[str, dict[str, dict[str, dict[str, dict[str, float]]]]]) -> dict[str, dict[str, float]]:
    reported = (
        ("scores", "flows", "macro_f1"),
        ("scores", "captures", "accuracy"),
        ("merged", "captures", "accuracy"),
    )
    return {
        system: {
            f"{of}_{metric}{'_merged' * (kind == 'merged')}": round(scores[kind][of][metric]["value"], 4)
            for kind, of, metric in reported
            if of in scores[kind]
        }
        for system, scores in systems.items()
    }


if __name__ == "__main__":
    main()
