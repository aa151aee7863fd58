"""sites.py [--sites N] [--compared N] [--root DIR]: many small sites in one application.

A model learns from the demo's captures. Then N sites have copies of a night of its two sites (about 5 MB, 20,000
packets and 11 devices each), and three more are broken: no capture, no file, and a link to nothing. Timed are whole
processes: `iotid ingest-sites` of all; the same again, when nothing has changed; and again after one site got a late
capture. Compared are `iotid split-pcaps`, `assemble-flows` and `take-census` of one site after the other, for
--compared sites, from which the time for all is extrapolated: as they are, and with Spark for every step
(in_process_bytes=0). --root: a folder to reuse. Ends with one line of JSON; nothing is asserted.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from processes import measured_step, processor

from iotid import messages
from iotid.cli import steps
from iotid.partitions import PartitionKey, Store
from iotid.simulate.captures import write_demo

_DATE, _LEARNED = "2026-01-11", "2026-01-10"
_BROKEN = ("broken-no-capture", "broken-no-file", "broken-link")


def learn(root: str, demo: Path) -> None:
    """Train and promote a model on the demo's first date."""
    layers = ["--config", "local.yaml", "--set", f"storage.root={root}", "--set", "training.epochs=4"]
    night = ["--site", "home", "--date", _LEARNED]
    for step in (
        ["split-pcaps", "--captures", f"{demo}/captures/home/{_LEARNED}", *night],
        ["assemble-flows", *night],
        ["write-dataset", *night, "--labels", f"{demo}/devices.yaml", "--dataset", "bench"],
        ["train", "--dataset", "bench"],
        ["evaluate", "--dataset", "bench"],
        ["promote", "--dataset", "bench", "--set", "promotion.min_macro_f1=0.01"],
    ):
        steps.main([*step, *layers], standalone_mode=False)


def lay_out(demo: Path, sites: Path, number: int) -> None:
    """Folders SITE/DATE with hard links to the demo's captures, and the broken sites."""
    for site in range(number):
        folder = sites / f"site{site:04}" / _DATE
        folder.mkdir(parents=True)
        for file in sorted((demo / "captures" / ("office" if site % 2 else "home") / _DATE).iterdir()):
            os.link(file, folder / file.name)
    for broken in _BROKEN:
        (sites / broken / _DATE).mkdir(parents=True)
    (sites / _BROKEN[0] / _DATE / "notes.txt").write_text("no capture")
    (sites / _BROKEN[2] / _DATE / "a.pcap").symlink_to("gone.pcap")


def ingest(root: str, captures: Path, *more: str) -> dict[str, float]:
    """Time `iotid ingest-sites`, whose broken sites make it end with an exit code of its own."""
    command = ["ingest-sites", "--config", "local.yaml", "--set", f"storage.root={root}", "--captures", str(captures)]
    return measured_step(*command, "--date", _DATE, *more, code=2)


def one_by_one(root: str, captures: Path, sites: list[str], *more: str) -> dict[str, float]:
    """Seconds of the three commands for each of some sites, added up."""
    total: dict[str, float] = {}
    layers = ["--config", "local.yaml", "--set", f"storage.root={root}", *more]
    for site in sites:
        night = ["--site", site, "--date", _DATE]
        for step in (["split-pcaps", "--captures", f"{captures}/{site}/{_DATE}"], ["assemble-flows"], ["take-census"]):
            took = measured_step(*step, *night, *layers)
            total = {name: round(total.get(name, 0) + took[name], 1) for name in ("wall_s", "cpu_s")}
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sites", type=int, default=200)
    parser.add_argument("--compared", type=int, default=2)
    parser.add_argument("--root")
    given = parser.parse_args()
    messages.log_to_stderr()
    with tempfile.TemporaryDirectory() as temporary:
        base = Path(given.root or temporary).absolute()
        root, demo, sites = f"{base}/store", base / "demo", base / "sites"
        if not Path(root).is_dir():
            write_demo(demo)
            learn(root, demo)
        shutil.rmtree(sites, ignore_errors=True)
        lay_out(demo, sites, given.sites)
        for table in ("splits", "flows", "census"):
            for folder in Path(root, table).glob("site=site*"):
                shutil.rmtree(folder)
        names = [f"site{number:04}" for number in range(given.sites)]
        report: dict[str, Any] = {"sites": given.sites, "broken": len(_BROKEN), "processor": processor()}
        report["all"] = ingest(root, sites)
        store = Store(root)
        done = [name for name in names if store.exists("census", PartitionKey.of_date(name, _DATE))]
        report["done"], report["broken_done"] = (
            len(done),
            sum(store.exists("census", PartitionKey.of_date(name, _DATE)) for name in _BROKEN),
        )
        report["nothing_changed"] = ingest(root, sites)
        late = demo / "captures" / "home" / _LEARNED
        os.link(sorted(late.iterdir())[0], sites / names[0] / _DATE / "late.pcap")
        report["one_late"] = ingest(root, sites)
        some = names[: given.compared]
        for name, more in (("commands", ()), ("commands_on_spark", ("--set", "spark.in_process_bytes=0"))):
            took = one_by_one(root, sites, some, *more)
            report[name] = took | {"all_sites_s": round(took["wall_s"] / given.compared * given.sites)}
        print(json.dumps(report), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
