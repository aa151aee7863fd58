"""network.py --site NAME CAPTURES LABELS … [--nights N] [--root DIR]: from no label to a named network.

Each site's captures (one folder for each device) are spread over N nights. The first half of the nights is seen without
a model: census, then the network's census, which names what is alike at all sites. A script that knows the truth names
each group once (`iotid name`). The next dataset is written from these names alone, a model learns from it, and the
other half of the nights is taken with it. Truth is the device list of each site, by MAC; hosts on no list stay in the
data and are not scored. Prints each night and ends with one line of JSON; nothing is asserted.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import Counter, defaultdict
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from natsort import natsorted
from sklearn.metrics import normalized_mutual_info_score

from iotid import messages
from iotid.cli import command, steps
from iotid.labels import DeviceList
from iotid.labels.devices import device_kind
from iotid.partitions import PartitionKey, Store

_FIRST = date(2026, 1, 1)
_DATASET = "named"
_SETTINGS = (
    "flow.join_files=false", "capture.duplicate_window_us=10000", "training.epochs=2", "promotion.min_macro_f1=0",
    "evaluation.bootstrap=0", "evaluation.baselines=[majority_sequence]", "dataset.label=model",
)  # fmt: skip # the census uses the device model alone, so two epochs of the network are enough
Truth = dict[tuple[str, str], set[tuple[str, str]]]
"""(site, MAC) -> the (kind, model) of each listed device with that MAC"""


def spread(captures: Path, folder: Path, nights: int) -> None:
    """Links to the captures in ``folder``/night/device: of each device, consecutive captures are of one night."""
    for device in sorted(path for path in captures.iterdir() if path.is_dir()):
        files = natsorted(path for path in device.iterdir() if path.suffix.startswith(".pcap"))
        for index, path in enumerate(files):
            own = folder / str(index * nights // len(files)) / device.name
            own.mkdir(parents=True, exist_ok=True)
            (own / path.name).symlink_to(path.resolve())


def truth_of(site: str, labels: str) -> Truth:
    truth: Truth = defaultdict(set)
    for device in DeviceList.read(labels).devices:
        kind = device_kind(device.model, {"vendor": device.vendor, "type": device.type})
        for mac in device.mac:
            truth[site, mac].add((kind, device.model))
    return truth


def run(root: str, *arguments: str) -> None:
    layers = ["--config", "local.yaml", "--set", f"storage.root={root}"]
    layers += [part for setting in _SETTINGS for part in ("--set", setting)]
    sys.stdout.write(f"iotid {' '.join(arguments)}\n")
    sys.stdout.flush()
    steps.main([*arguments, *layers], standalone_mode=False)


def rows_of(store: Store, site: str, night: str) -> list[dict[str, Any]]:
    census = store.open("census", PartitionKey.of_date(site, night))
    rows = pq.read_table(f"{census.uri}/part-0.parquet", partitioning=None).to_pylist()
    return [row | {"site": site, "night": night} for row in rows if row["change"] not in ("gone", "away")]


def group_scores(rows: list[dict[str, Any]], truth: Truth) -> dict[str, Any]:
    """Groups against true kinds: each device and night is one point; MACs of several listed devices are left out."""
    points = [
        (next(iter(known))[0], row["group_name"])
        for row in rows
        if len(known := truth.get((row["site"], row["device_id"]), set())) == 1 and row["group_name"] is not None
    ]
    kinds, groups = zip(*points, strict=True)
    commonest = Counter[str]()
    for group in set(groups):
        commonest[group] = Counter(kind for kind, own in points if own == group).most_common(1)[0][1]
    return {
        "points": len(points),
        "kinds": len(set(kinds)),
        "groups": len(set(groups)),
        "nmi": round(float(normalized_mutual_info_score(kinds, groups)), 4),
        "purity": round(commonest.total() / len(points), 4),
    }


def names_of_groups(rows: list[dict[str, Any]], truth: Truth) -> dict[str, tuple[str, str]]:
    """Group -> commonest true (kind, model) of its devices; groups of hosts on no list are not named."""
    of_group: dict[str, Counter[tuple[str, str]]] = defaultdict(Counter)
    for row in rows:
        known = truth.get((row["site"], row["device_id"]))
        if row["group_name"] is not None and known:
            of_group[row["group_name"]][min(known)] += 1
    return {group: counted.most_common(1)[0][0] for group, counted in of_group.items()}


def hits(rows: list[dict[str, Any]], truth: Truth) -> dict[str, int]:
    """How the census of later nights answers for listed devices, by kind."""
    found: Counter[str] = Counter()
    for row in rows:
        if known := truth.get((row["site"], row["device_id"])):
            kinds = {kind for kind, _ in known}
            answer = {kind["kind"] for kind in row["kinds"]}
            found["right" if answer and answer <= kinds else "wrong" if answer else row["status"]] += 1
    return dict(found)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--site", nargs=3, action="append", required=True, metavar=("NAME", "CAPTURES", "LABELS"))
    options.add_argument("--nights", type=int, default=4)
    options.add_argument("--root", help="an empty folder to keep; default: a temporary one")
    given = options.parse_args()
    messages.log_to_stderr()
    with tempfile.TemporaryDirectory() as made:
        root, store = given.root or f"{made}/root", Store(given.root or f"{made}/root")
        nights = [(_FIRST + timedelta(days=number)).isoformat() for number in range(given.nights)]
        sites = [name for name, _, _ in given.site]
        truth: Truth = {}
        for name, captures, labels in given.site:
            spread(Path(captures), Path(made) / "captures" / name, given.nights)
            truth |= truth_of(name, labels)
        result: dict[str, Any] = {}
        chosen = [part for site in sites for part in ("--site", site)]

        def take(number: int) -> list[dict[str, Any]]:
            night = nights[number]
            for site in sites:
                captures = Path(made) / "captures" / site / str(number)
                run(root, "split-pcaps", "--captures", str(captures), "--site", site, "--date", night)
                run(root, "assemble-flows", "--site", site, "--date", night)
                run(root, "take-census", "--site", site, "--date", night)
            run(root, "take-network-census", "--date", night, *chosen)
            return [row for site in sites for row in rows_of(store, site, night)]

        half = given.nights // 2
        unlabelled = [row for number in range(half) for row in take(number)]
        result["groups"] = group_scores(unlabelled, truth)
        result["groups_by_site"] = {
            site: group_scores([row for row in unlabelled if row["site"] == site], truth) for site in sites
        }
        described = {
            (device.model): device for _, _, labels in given.site for device in DeviceList.read(labels).devices
        }
        names = names_of_groups(unlabelled, truth)
        for group, (_, model) in sorted(names.items()):
            device = described[model]
            more = [
                part for name in ("vendor", "type") if (value := getattr(device, name)) for part in (f"--{name}", value)
            ]
            run(root, "name", group, "--model", model, *more, "--by", "drill")
        result["named"] = len(names)
        learned = [part for night in nights[:half] for part in ("--date", night)]
        run(root, "write-dataset", *chosen, *learned, "--dataset", _DATASET)
        for step in ("train", "evaluate", "promote"):
            run(root, step, "--dataset", _DATASET)
        later = [row for number in range(half, given.nights) for row in take(number)]
        result["later"] = hits(later, truth)
        result["later_by_site"] = {site: hits([row for row in later if row["site"] == site], truth) for site in sites}
    command.print_lines(json.dumps(result))


if __name__ == "__main__":
    main()
