"""results.py CAPTURES ROOT [--quick] [--set SECTION.KEY=VALUE]...: numbers of the results from iotid compare.

CAPTURES holds the folders aalto, lsif and ucl. Assembles them, then compares the ensemble with its baselines under
every protocol: aalto and ucl (leave-captures-out in ten folds, random, de-duplicated, by capture, by time, and with
kinds of devices left out), lsif (the same but the last, and drift over its days; ucl has one day but for ten captures),
and across the three, each left out of training once.
--quick: small networks, three folds, fewer protocols. A second run continues from the trained models.
Prints each comparison's table, and ends with one line of JSON: macro F1 of flows and accuracy of captures of each
system, open-set scores of left-out kinds, scores across laboratories, and of the kinds found behind one address.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from iotid import messages
from iotid.cli import command, steps
from iotid.partitions import PartitionKey, Store
from iotid.studies.across import Across
from iotid.studies.compare import flat
from iotid.studies.households.run import ALL
from iotid.studies.households.scores import rounded

_DATE = ("--date", "2016-04-01")  # the partitions' date; packets keep their own
_NO_COPIES = ("--set", "capture.duplicate_window_us=10000")  # nearly every packet is in the files of lsif twice
_SITES: dict[str, tuple[str, ...]] = {"aalto": (), "lsif": _NO_COPIES, "ucl": ()}
_LISTS = {name: ("--labels", f"conf/datasets/{name}.yaml") for name in _SITES}
# header fields, and payload for a baseline that reads DNS names
_FLOWS = ("flow.join_files=false", "flow.header_fields=true", "flow.keep_bytes=250")
_SMALL = ["--config", "local.yaml", "--set", "evaluation.folds=3"]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("captures")
    options.add_argument("root")
    options.add_argument("--quick", action="store_true")
    options.add_argument("--set", action="append", default=[], dest="overrides", metavar="SECTION.KEY=VALUE")
    given = options.parse_args()
    messages.log_to_stderr()
    settings = (f"storage.root={given.root}", *_FLOWS, *given.overrides)
    layers = [*(_SMALL if given.quick else ()), *_setting(*settings)]
    for site, own in _SITES.items():
        for step in (["split-pcaps", "--captures", f"{given.captures}/{site}"], ["assemble-flows"]):
            steps.main([*step, "--site", site, *_DATE, *layers, *own], standalone_mode=False)
    protocols = ["random_unique", "capture_folds"]
    if not given.quick:
        protocols += ["random_flow", "by_capture", "by_time"]
    comparisons = {
        "aalto": (["aalto"], [*protocols, "devices_out"], ()),
        "lsif": (["lsif"], [*protocols, "drift"], _NO_COPIES),
        "ucl": (["ucl"], [*protocols, "devices_out"], ()),
        "across": ([*_SITES], ["across"], _NO_COPIES),  # for windows: aalto and ucl hold no copies
    }
    numbers: dict[str, dict[str, Any]] = {}
    store = Store(str(Path(given.root).absolute()))
    for name, (sites, asked, own) in comparisons.items():
        arguments = [*_DATE, *(part for site in sites for part in ("--site", site, *_LISTS[site]))]
        asking = _setting(f"evaluation.protocols=[{','.join(asked)}]")
        steps.main(["compare", *arguments, "--name", name, *layers, *own, *asking], standalone_mode=False)
        all_scores = store.read_json(store.open("comparisons", PartitionKey.named(name)), "comparison.json")
        numbers[name] = {
            each["protocol"]: _across(each["across"]) if each["across"] else _numbers(each["systems"])
            for each in all_scores
        }
        numbers[name] |= {"households": _of_households(store, name)}
        numbers[name] |= {
            "open_set": {key: round(value, 4) for key, value in flat(all_scores).items() if "open_set" in key}
        }
    command.print_lines(json.dumps(numbers))


def _setting(*texts: str) -> list[str]:
    return [part for text in texts for part in ("--set", text)]


def _across(scored: Across) -> dict[str, Any]:
    """System -> captures or devices -> shares; and those of a census."""
    return dict(rounded({"sets": scored["sets"], **scored["systems"], "census": scored["census"]}))


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
