"""ingest.py [--captures DIR --labels FILE] [--gigabytes 1 2 4]: captures to a dataset, and NFStream, whole processes.

iotid: split-pcaps, assemble-flows and write-dataset in one process on `local[2]`, from the start of Python and Java to
a whole Petastorm dataset. NFStream (`make peers-setup`), with its default number of meters, makes flows with
the first 32 packets' lengths, directions and times of the same file and writes them as Parquet. Files: all captures of
DIR merged into one (default: simulated captures), repeated with later times and other addresses, so that every copy's
flows are new; `--files` divides each size, `--packet-bytes` lengthens the packets.

Before each program the captures are removed from the page cache, so that it reads them from the disk. The disk is
measured in the same run: reading these captures, and writing. `least_s` is what disk and processor would need for what
was read, written and computed, each alone; the larger is the limit. CPU time, memory and transfers are sampled ten
times a second. `margins` says what each further GB costs. Ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from bench_files import lengthen, merge, write_files

_ROOT = Path(__file__).parents[2]
_PEERS = _ROOT / ".venv-peers" / "bin" / "python"
_GB = 1_000_000_000
_BLOCK = 8_000_000
_ENDED = "ended"  # kind of a process that is no more
_CORES = 2  # that iotid uses: local[2]
_MOST_GB = 4  # of NFStream, unless the size is named: it takes 16 GB of memory there
_IOTID = """
import importlib, json, sys, time
from pathlib import Path
root, captures, labels, *settings = sys.argv[1:]
night = ["--site", "bench", "--date", "2026-01-10"]
log = json.dumps({"spark.eventLog.enabled": "true", "spark.eventLog.compress": "false",
                  "spark.eventLog.dir": f"file:{root}/events"})
Path(root, "events").mkdir(parents=True)
layers = ["--config", "local.yaml"]
for text in ("spark.master=local[2]", f"spark.conf={log}", f"storage.root={root}", *settings):
    layers += ["--set", text]
seconds = {}
for step, *rest in (
    ["split_pcaps", "--captures", captures, *night],
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
    """A process with its descendants: seconds, bytes from and to the disk, and memory of each kind of process."""

    def __init__(self, command: list[str]) -> None:
        self.samples: list[tuple[float, dict[str, int]]] = []  # Unix time, MB of each kind of process
        self._last: dict[int, tuple[str, float, int, int]] = {}  # by process, as `_used`
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

    @property
    def peak_mb(self) -> dict[str, int]:
        return self.peak_between(0, float("inf"))

    def peak_between(self, start: float, end: float) -> dict[str, int]:
        """Most memory of one process of each kind, and of all of that kind together, between two Unix times."""
        peak: dict[str, int] = {}
        for at, now in self.samples:
            if start <= at <= end:
                for kind, resident in now.items():
                    peak[kind] = max(peak.get(kind, 0), resident)
        return peak

    def cpu_s(self) -> dict[str, float]:
        """CPU seconds, user and system, of each kind of process; the last 0.1 s of each are not seen."""
        total: dict[str, float] = {}
        for kind, seconds, _, _ in self._last.values():
            total[kind] = round(total.get(kind, 0) + seconds, 1)
        return total

    def disk_bytes(self) -> tuple[int, int]:
        """Bytes that the processes made the disk read and write; what was in memory does not count."""
        return sum(each[2] for each in self._last.values()), sum(each[3] for each in self._last.values())

    def _sample(self, pid: int, done: threading.Event) -> None:
        while not done.wait(0.1):
            now: dict[str, int] = {}
            for process in _family(pid):
                kind, resident = _kind_and_mb(process)
                now[f"{kind}s_together"] = now.get(f"{kind}s_together", 0) + resident
                now[kind] = max(now.get(kind, 0), resident)
                if used := _used(process):
                    before = self._last.get(process, (kind, 0.0, 0, 0))
                    # one that ends has no command line, and one that starts has that of its parent
                    self._last[process] = (before[0] if kind == _ENDED else kind, *map(max, before[1:], used))
            self.samples.append((time.time(), now))


def _used(pid: int) -> tuple[float, int, int] | None:
    """CPU seconds of the process without its children, and bytes that it made the disk read and write."""
    try:
        times = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        io = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
    except OSError:  # it has ended
        return None
    seconds = (int(times[11]) + int(times[12])) / os.sysconf("SC_CLK_TCK")
    return seconds, int(io["read_bytes"]), int(io["write_bytes"])


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
        return _ENDED, 0
    if not words[0]:
        return _ENDED, 0
    kind = (
        "jvm"
        if b"java" in words[0]
        else "worker"
        if {b"pyspark.daemon", b"iotid.spark.daemon"} & {*words}
        else "driver"
    )
    return kind, pages * os.sysconf("SC_PAGE_SIZE") >> 20


def _events(root: Path) -> Iterator[dict[str, Any]]:
    for log in sorted((root / "events").rglob("*")):
        if log.is_file() and not log.name.startswith("."):
            yield from map(json.loads, log.read_text().splitlines())


def _stages(root: Path, ran: Watched) -> tuple[list[dict[str, Any]], int]:
    """Spark's stages of a second or more, from its event log, with the memory while they ran; shuffle bytes of all.

    ``task_s``: seconds of all tasks together; ``gc_s``: those in which the JVM collected garbage.
    """
    phases: dict[int, str] = {}
    found: dict[int, dict[str, Any]] = {}
    shuffled = 0
    for event in _events(root):
        if event["Event"] == "SparkListenerJobStart":
            phase = (event.get("Properties") or {}).get("spark.job.description", "")
            phases |= dict.fromkeys(event["Stage IDs"], phase.partition(" (")[0])
        elif event["Event"] == "SparkListenerTaskEnd":
            stage = found.setdefault(event["Stage ID"], dict.fromkeys(("tasks", "task_s", "gc_s", "shuffled_mb"), 0))
            metrics = event.get("Task Metrics", {})
            written = metrics.get("Shuffle Write Metrics", {}).get("Shuffle Bytes Written", 0)
            shuffled += written
            stage["tasks"] += 1
            stage["task_s"] += metrics.get("Executor Run Time", 0) / 1000
            stage["gc_s"] += metrics.get("JVM GC Time", 0) / 1000
            stage["shuffled_mb"] += written / 1e6
            stage["spilled_mb"] = stage.get("spilled_mb", 0) + metrics.get("Disk Bytes Spilled", 0) / 1e6
        elif event["Event"] == "SparkListenerStageCompleted":
            info = event["Stage Info"]
            start, end = info.get("Submission Time", 0) / 1000, info.get("Completion Time", 0) / 1000
            peak = ran.peak_between(start, end)
            memory = {f"{kind}_mb": peak.get(kind, 0) for kind in ("worker", "jvm", "driver")}
            found.setdefault(info["Stage ID"], {}).update(wall_s=end - start, **memory)
    stages = [{"phase": phases.get(number, ""), **stage} for number, stage in sorted(found.items())]
    rounded = [{k: round(v, 1) if isinstance(v, float) else v for k, v in stage.items()} for stage in stages]
    return [stage for stage in rounded if stage.get("wall_s", 0) >= 1], shuffled


def _metadata(root: Path, table: str) -> dict[str, Any]:
    (path,) = (root / table).rglob("_METADATA.json")
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def iotid(
    captures: Path, labels: Path, folder: Path, disk: Mapping[str, Any], settings: Sequence[str]
) -> dict[str, Any]:
    root = folder / "store"
    ran = Watched([sys.executable, "-c", _IOTID, str(root), str(captures), str(labels), *settings])
    flows, dataset = _metadata(root, "flows"), _metadata(root, "datasets")
    packets = sum(flows["packets"].values())
    stages, shuffled = _stages(root, ran)
    cpu = ran.cpu_s()
    read, written = ran.disk_bytes()
    disk_s = round(read / disk["read_mb_s"] / 1e6 + written / disk["write_mb_s"] / 1e6, 1)
    processor_s = round(sum(cpu.values()) / _CORES, 1)
    found = {
        "wall_s": ran.wall_s,
        "steps_s": json.loads(ran.printed.splitlines()[-1]),
        "packets": packets,
        "flows": flows["rows"],
        "dataset_rows": dataset["rows"],
        "shuffle_bytes_per_packet": round(shuffled / packets, 1),
        "flow_files": len(list((root / "flows").rglob("*.parquet"))),
        "peak_mb": ran.peak_mb,
        "cpu_s": {**cpu, "all": round(sum(cpu.values()), 1)},
        "disk": {"read_mb": read // 10**6, "written_mb": written // 10**6, **disk},
        "least_s": {"disk": disk_s, "processor": processor_s},  # if nothing waited for anything else
        "limit": "disk" if disk_s > processor_s else "processor",
        "stages": stages,
    }
    shutil.rmtree(root)
    return found


def measure_disk(captures: Sequence[Path], folder: Path) -> dict[str, Any]:
    """MB/s of reading the captures one after the other, none of them in memory, and of writing a file of 1 GB."""
    drop_from_memory(captures)
    buffer = bytearray(_BLOCK)
    before, total, begin = _used(os.getpid()), 0, time.perf_counter()
    for path in captures:
        with path.open("rb", buffering=0) as file:
            while count := file.readinto(buffer):
                total += count
    read_s = time.perf_counter() - begin
    after = _used(os.getpid())
    assert before is not None
    assert after is not None
    scratch = folder / "scratch"
    block = os.urandom(_BLOCK)
    begin = time.perf_counter()
    with scratch.open("wb", buffering=0) as file:
        for _ in range(_GB // _BLOCK):
            file.write(block)
        os.fsync(file.fileno())
    write_s = time.perf_counter() - begin
    scratch.unlink()
    return {
        "read_mb_s": round(total / read_s / 1e6),
        "from_disk": round((after[1] - before[1]) / total, 2),  # the rest was in memory in spite of all
        "write_mb_s": round(_GB / write_s / 1e6),
    }


def drop_from_memory(captures: Sequence[Path]) -> None:
    """Remove the files' pages from the page cache, so that they are read from the disk."""
    for path in captures:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def nfstream(capture: Path, folder: Path) -> dict[str, Any]:
    script = folder / "flows.py"  # its meters start from a file
    script.write_text(_NFSTREAM)
    ran = Watched([str(_PEERS), str(script), str(capture), str(folder / "nfstream.parquet")])
    return {"wall_s": ran.wall_s, "flows": int(ran.printed.split()[-1]), "peak_mb": ran.peak_mb["drivers_together"]}


def _ratios(sizes: Mapping[str, Any]) -> dict[str, float]:
    """NFStream's time over iotid's, at its smallest size and per added byte; and growth of iotid's time."""
    small, large = (sizes[key]["iotid"] for key in (min(sizes, key=int), max(sizes, key=int)))
    ratios = {"time_over_size": large["wall_s"] / small["wall_s"]}
    both = sorted((key for key in sizes if "nfstream" in sizes[key]), key=int)
    if both:
        small, large = sizes[both[0]], sizes[both[-1]]
        ratios["smallest"] = small["nfstream"]["wall_s"] / small["iotid"]["wall_s"]
        if len(both) > 1:
            more = [large[who]["wall_s"] - small[who]["wall_s"] for who in ("nfstream", "iotid")]
            ratios["margin"] = more[0] / max(more[1], 1e-3)
    return {name: round(value, 2) for name, value in ratios.items()}


def _margins(sizes: Mapping[str, Any]) -> dict[str, Any]:
    """What each further GB costs, from each size to the next and from the smallest to the largest."""
    order = sorted(sizes, key=int)
    pairs = list(dict.fromkeys([*pairwise(order), (order[0], order[-1])])) if len(order) > 1 else []
    margins = {}
    for one, other in pairs:
        small, large = sizes[one]["iotid"], sizes[other]["iotid"]
        gigabytes = (sizes[other]["bytes"] - sizes[one]["bytes"]) / _GB
        margins[f"{one}-{other}"] = {
            "wall_s": round((large["wall_s"] - small["wall_s"]) / gigabytes, 2),
            "cpu_s": round((large["cpu_s"]["all"] - small["cpu_s"]["all"]) / gigabytes, 2),
            "disk_s": round((large["least_s"]["disk"] - small["least_s"]["disk"]) / gigabytes, 2),
            "packets": round((large["packets"] - small["packets"]) / gigabytes),
            "memory": {
                kind: round(large["peak_mb"][kind] / small["peak_mb"][kind], 2) for kind in ("worker", "jvm", "driver")
            },
        }
    return margins


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--captures", type=Path, help="folder of captures; default: simulated ones")
    options.add_argument("--labels", type=Path, help="device list of these captures")
    options.add_argument("--gigabytes", type=int, nargs="+", default=[1, 2, 4])
    options.add_argument(
        "--nfstream", type=int, nargs="*", metavar="GB", help="sizes for NFStream; default: all up to 4"
    )
    options.add_argument("--files", type=int, default=1, help="captures that each size is divided into")
    options.add_argument(
        "--packet-bytes", type=int, help="lengthen IP packets to this mean, and leave out other frames"
    )
    options.add_argument("--set", dest="settings", action="append", default=[], metavar="SECTION.KEY=VALUE")
    given = options.parse_args()
    if (given.captures is None) != (given.labels is None):
        options.error("--captures and --labels go together")
    beside = set(
        given.nfstream if given.nfstream is not None else [size for size in given.gigabytes if size <= _MOST_GB]
    )
    has_nfstream = _PEERS.exists() and given.files == 1  # it reads one file
    work = _ROOT / "var" / "bench"
    work.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = {
        "captures": "simulated" if given.captures is None else given.captures.name,
        "files": given.files,
        "packet_bytes": given.packet_bytes,
        "cores": _CORES,
        "settings": given.settings,
        "sizes": {},
    }
    with tempfile.TemporaryDirectory(dir=work) as name:
        folder = Path(name)
        labels = given.labels
        if labels is None:
            from iotid.simulate.captures import write_demo

            write_demo(folder / "demo")
            labels = folder / "demo" / "devices.yaml"
        merged = merge(given.captures)
        if given.packet_bytes:
            merged = lengthen(merged, given.packet_bytes)
        for size in given.gigabytes:
            captures = folder / "captures"
            captures.mkdir()
            paths = write_files(merged, captures, size * _GB, given.files)
            os.sync()  # or the first program shares the disk with it
            disk = measure_disk(paths, folder)
            drop_from_memory(paths)
            found = {
                "bytes": sum(path.stat().st_size for path in paths),
                "iotid": iotid(captures, labels.absolute(), folder, disk, given.settings),
            }
            if has_nfstream and size in beside:
                drop_from_memory(paths)
                found["nfstream"] = nfstream(paths[0], folder)
            shutil.rmtree(captures)
            result["sizes"][str(size)] = found
            sys.stderr.write(f"{size} GB: {json.dumps(found)}\n")
    result["missing"] = [] if has_nfstream or not beside else ["nfstream"]
    result["ratios"] = _ratios(result["sizes"])
    result["margins"] = _margins(result["sizes"])
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
