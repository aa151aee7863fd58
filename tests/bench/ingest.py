"""ingest.py [--captures DIR --labels FILE] [--gigabytes 1 2 4]: captures to a dataset, and NFStream, whole processes.

iotid: split-pcaps, assemble-flows and write-dataset in one process on `local[2]`, from the start of Python and Java to
a whole Petastorm dataset. NFStream (`make peers-setup`), with its default number of meters, makes flows with
the first 32 packets' lengths, directions and times of the same file and writes them as Parquet. Files: all captures of
DIR merged into one (default: simulated captures), repeated with later times and other addresses, so that every copy's
flows are new. Memory is sampled ten times a second. Ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from bench_files import merge, write_copies

_ROOT = Path(__file__).parents[2]
_PEERS = _ROOT / ".venv-peers" / "bin" / "python"
_GB = 1_000_000_000
_IOTID = """
import importlib, json, sys, time
from pathlib import Path
root, capture, labels = sys.argv[1:]
night = ["--site", "bench", "--date", "2026-01-10"]
log = json.dumps({"spark.eventLog.enabled": "true", "spark.eventLog.compress": "false",
                  "spark.eventLog.dir": f"file:{root}/events"})
Path(root, "events").mkdir(parents=True)
layers = ["--config", "local.yaml"]
for text in ("spark.master=local[2]", f"spark.conf={log}", f"storage.root={root}"):
    layers += ["--set", text]
seconds = {}
for step, *rest in (
    ["split_pcaps", "--captures", capture, *night],
    ["assemble_flows", *night],
    ["write_dataset", *night, "--labels", labels, "--dataset", "bench"],
):
    begin = time.perf_counter()
    importlib.import_module(f"iotid.cli.{step}").main.main([*layers, *rest], standalone_mode=False)
    seconds[step] = round(time.perf_counter() - begin, 2)
print(json.dumps(seconds))
"""
_NFSTREAM = """
import sys
import pandas as pd
from nfstream import NFStreamer
if __name__ == "__main__":
    columns = ("src_ip", "src_port", "dst_ip", "dst_port", "protocol", "vlan_id", "src_mac", "dst_mac",
               "bidirectional_first_seen_ms", "bidirectional_last_seen_ms", "bidirectional_packets",
               "bidirectional_bytes", "splt_ps", "splt_direction", "splt_piat_ms")
    streamer = NFStreamer(source=sys.argv[1], splt_analysis=32, n_dissections=0, statistical_analysis=False,
                          idle_timeout=10**9, active_timeout=10**9)
    rows = [tuple(getattr(flow, name) for name in columns) for flow in streamer]
    pd.DataFrame(rows, columns=columns).to_parquet(sys.argv[2])
    print(len(rows))
"""


class Watched:
    """A process with its descendants: seconds, and peak memory of each kind of process."""

    def __init__(self, command: list[str]) -> None:
        self.peak_mb: dict[str, int] = {}
        with tempfile.TemporaryFile("w+") as out:
            begin = time.perf_counter()
            child = subprocess.Popen(command, stdout=out, stderr=subprocess.DEVNULL, cwd=_ROOT)
            done = threading.Event()
            sampler = threading.Thread(target=self._sample, args=(child.pid, done))
            sampler.start()
            code = child.wait()
            self.wall_s = round(time.perf_counter() - begin, 2)
            done.set()
            sampler.join()
            out.seek(0)
            self.printed = out.read()
        if code != 0:
            raise SystemExit(f"ingest.py: {command[1:3]} ended with {code}: {self.printed[-2000:]}")

    def _sample(self, pid: int, done: threading.Event) -> None:
        while not done.wait(0.1):
            now: dict[str, int] = {}
            for process in _family(pid):
                kind, resident = _kind_and_mb(process)
                now[f"{kind}s_together"] = now.get(f"{kind}s_together", 0) + resident
                now[kind] = max(now.get(kind, 0), resident)
            for kind, resident in now.items():
                self.peak_mb[kind] = max(self.peak_mb.get(kind, 0), resident)


def _family(pid: int) -> list[int]:
    """The process and its descendants."""
    family, rest = [], [pid]
    while rest:
        process = rest.pop()
        family.append(process)
        for children in Path(f"/proc/{process}/task").glob("*/children"):
            try:
                rest += map(int, children.read_text().split())
            except OSError:  # it has ended
                continue
    return family


def _kind_and_mb(pid: int) -> tuple[str, int]:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return "ended", 0
    kind = (
        "jvm"
        if b"java" in words[0]
        else "worker"
        if {b"pyspark.daemon", b"iotid.spark.daemon"} & {*words}
        else "driver"
    )
    return kind, pages * os.sysconf("SC_PAGE_SIZE") >> 20


def _shuffled(root: Path) -> int:
    """Shuffle bytes written by all tasks, from Spark's event log."""
    total = 0
    for log in (root / "events").rglob("*"):
        if log.is_file() and not log.name.startswith("."):
            for line in log.read_text().splitlines():
                event = json.loads(line)
                written = event.get("Task Metrics", {}).get("Shuffle Write Metrics", {})
                total += written.get("Shuffle Bytes Written", 0)
    return total


def _metadata(root: Path, table: str) -> dict[str, Any]:
    (path,) = (root / table).rglob("_METADATA.json")
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def iotid(capture: Path, labels: Path, folder: Path) -> dict[str, Any]:
    root = folder / f"store-{capture.stem}"
    ran = Watched([sys.executable, "-c", _IOTID, str(root), str(capture), str(labels)])
    flows, dataset = _metadata(root, "flows"), _metadata(root, "datasets")
    packets = sum(flows["packets"].values())
    return {
        "wall_s": ran.wall_s,
        "steps_s": json.loads(ran.printed.splitlines()[-1]),
        "packets": packets,
        "flows": flows["rows"],
        "dataset_rows": dataset["rows"],
        "shuffle_bytes_per_packet": round(_shuffled(root) / packets, 1),
        "peak_mb": ran.peak_mb,
    }


def nfstream(capture: Path, folder: Path) -> dict[str, Any]:
    script = folder / "flows.py"  # its meters start from a file
    script.write_text(_NFSTREAM)
    ran = Watched([str(_PEERS), str(script), str(capture), str(folder / "nfstream.parquet")])
    return {"wall_s": ran.wall_s, "flows": int(ran.printed.split()[-1]), "peak_mb": ran.peak_mb["drivers_together"]}


def _ratios(sizes: dict[str, Any]) -> dict[str, float]:
    """NFStream's time over iotid's, at the smallest size and per added byte; and growth of iotid's time."""
    small, large = (sizes[key] for key in (min(sizes, key=int), max(sizes, key=int)))
    ratios = {"time_over_size": large["iotid"]["wall_s"] / small["iotid"]["wall_s"]}
    if "nfstream" in small:
        ratios["smallest"] = small["nfstream"]["wall_s"] / small["iotid"]["wall_s"]
        more = [large[who]["wall_s"] - small[who]["wall_s"] for who in ("nfstream", "iotid")]
        ratios["margin"] = more[0] / max(more[1], 1e-3)
    return {name: round(value, 2) for name, value in ratios.items()}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--captures", type=Path, help="folder of captures; default: simulated ones")
    options.add_argument("--labels", type=Path, help="device list of these captures")
    options.add_argument("--gigabytes", type=int, nargs="+", default=[1, 2, 4])
    given = options.parse_args()
    if (given.captures is None) != (given.labels is None):
        options.error("--captures and --labels go together")
    work = _ROOT / "var" / "bench"
    work.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = {"captures": "simulated" if given.captures is None else given.captures.name, "sizes": {}}
    with tempfile.TemporaryDirectory(dir=work) as name:
        folder = Path(name)
        labels = given.labels
        if labels is None:
            from iotid.simulate.captures import write_demo

            write_demo(folder / "demo")
            labels = folder / "demo" / "devices.yaml"
        merged = merge(given.captures)
        for size in given.gigabytes:
            capture = folder / f"{size}.pcap"
            write_copies(merged, capture, size * _GB, new_flows=True)
            os.sync()  # or the first program shares the disk with it
            found = {"iotid": iotid(capture, labels.absolute(), folder)}
            if _PEERS.exists():
                found["nfstream"] = nfstream(capture, folder)
            capture.unlink()
            result["sizes"][str(size)] = found
            sys.stderr.write(f"{size} GB: {json.dumps(found)}\n")
    result["missing"] = [] if _PEERS.exists() else ["nfstream"]
    result["ratios"] = _ratios(result["sizes"])
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
