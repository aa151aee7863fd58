"""kill.py [--moments 20] [--seed 1]: SIGKILL at random moments of an ingest, and what is there afterwards.

Captures that the project writes itself become splits, flows and a dataset, once undisturbed. Then the same is run again
and again, from nothing or over what is there, and at a random moment one of its processes is killed: the driver, its
JVM (which on one machine is the executor, too), a Python worker, or all of them. After each kill every partition must
be absent or whole and of the same rows as the undisturbed one; the next run must end with all of them so, and with
nothing left over. Ends with one line of JSON, and with 1 where something was not as it must be.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

_INGEST = """
import importlib, sys
root, captures, labels, master = sys.argv[1:]
night = ["--site", "home", "--date", "2026-01-10"]
small = ["capture.split_bytes=400000", "capture.task_bytes=400000", f"spark.master={master}",
         "spark.shuffle_partitions=3", "flow.idle_timeout_s=600", f"storage.root={root}"]
layers = ["--config", "local.yaml", *(part for text in small for part in ("--set", text))]
for step, *rest in (
    ["split_pcaps", "--captures", captures, *night],
    ["assemble_flows", *night],
    ["write_dataset", *night, "--labels", labels, "--dataset", "drill"],
):
    importlib.import_module(f"iotid.cli.{step}").main.main([*layers, *rest], standalone_mode=False)
"""
TABLES = ("splits", "flows", "datasets")
VICTIMS = ("driver", "jvm", "worker", "all")


class Drill:
    """One store that runs are killed over, and what an undisturbed run makes."""

    def __init__(self, folder: Path) -> None:
        from iotid.simulate.captures import write_demo

        write_demo(folder / "demo")
        self._captures = folder / "demo" / "captures" / "home" / "2026-01-10"
        self._labels = folder / "demo" / "devices.yaml"
        self._log = folder / "log"
        self._root = folder / "store"
        begin = time.monotonic()
        self._finish(self._start(folder / "calm"))
        self.seconds = time.monotonic() - begin
        self._expected = content(folder / "calm")
        made = sorted(place.partition("/")[0] for place in self._expected)
        assert made == sorted(TABLES), f"the undisturbed run made {made}"

    def kill(self, victim: str, after_s: float, *, from_nothing: bool) -> list[str]:
        """Kill a run, look at what is there; return what is not as it must be."""
        if from_nothing:
            shutil.rmtree(self._root, ignore_errors=True)
        run = self._start(self._root)
        time.sleep(after_s)
        for pid in pids(run.pid, victim):
            os.kill(pid, signal.SIGKILL)
        run.wait(timeout=300)
        return self._faults(content(self._root))

    def recover(self) -> list[str]:
        """Run to the end; return what is not as it must be."""
        self._finish(self._start(self._root))
        missing = [f"{place}: absent" for place in self._expected.keys() - content(self._root).keys()]
        return missing + self._faults(content(self._root)) + [f"{path} is left over" for path in left_over(self._root)]

    def _start(self, root: Path) -> subprocess.Popen[bytes]:
        return start_ingest(root, self._captures, self._labels, "local[2]", self._log)

    def _finish(self, run: subprocess.Popen[bytes]) -> None:
        if run.wait(timeout=600) != 0:
            raise SystemExit(f"kill.py: an undisturbed run failed:\n{self._log.read_text()[-3000:]}")

    def _faults(self, found: dict[str, list[str]]) -> list[str]:
        return [f"{place}: differs" for place in found if found[place] != self._expected[place]]


def start_ingest(root: Path, captures: Path, labels: Path, master: str, log: Path) -> subprocess.Popen[bytes]:
    """Captures to a dataset below ``root``, in a process of its own that writes to ``log``."""
    with log.open("wb") as out:
        command = [sys.executable, "-c", _INGEST, str(root), str(captures), str(labels), master]
        return subprocess.Popen(command, stdout=out, stderr=out)


def content(root: Path, tables: Iterable[str] = TABLES) -> dict[str, list[str]]:
    """By partition, hashes of the rows of its Parquet files, where it has its success marker.

    Files of one folder that are named by their number are one: which row is in which of them is drawn anew by each run.
    """
    import pyarrow.parquet as pq

    found = {}
    for marker in (marker for table in tables for marker in (root / table).rglob("_SUCCESS")):
        texts: dict[str, list[str]] = {}
        for path in marker.parent.rglob("*.parquet"):
            table = pq.ParquetFile(path).read()
            name = re.sub(r"part-[0-9]+.*", "part", str(path.relative_to(marker.parent)))
            texts.setdefault(f"{name} {table.schema.names}", []).extend(map(str, table.to_pylist()))
        rows = [f"{name} {hashlib.sha256(repr(sorted(lines)).encode()).hexdigest()}" for name, lines in texts.items()]
        found[str(marker.parent.relative_to(root))] = sorted(rows)
    return found


def left_over(root: Path) -> list[str]:
    """Files of runs that died which are in nobody's way any more."""
    return [str(path) for place in ("_staging", "_trash") for path in (root / place).rglob("*.parquet")]


def pids(driver: int, victim: str) -> list[int]:
    """The processes to kill: those of a run that are there at this moment."""
    family = descendants(driver)
    kinds = {"driver": [driver], "all": [*family, driver]}
    kinds["jvm"] = [pid for pid in family if b"java" in _command(pid).split(b"\0")[0]]
    kinds["worker"] = [
        pid for pid in family if {b"pyspark.daemon", b"iotid.spark.daemon"} & {*_command(pid).split(b"\0")}
    ]
    return kinds[victim]


def descendants(pid: int) -> list[int]:
    """The processes that one has started, and those that they have."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            after_name = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended meanwhile
            continue
        children.setdefault(int(after_name[1]), []).append(int(stat.parent.name))
    family, rest = [], [pid]
    while rest:
        more = children.get(rest.pop(), [])
        family += more
        rest += more
    return family


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def run(moments: int, seed: int) -> dict[str, object]:
    """Kill at so many random moments; what was found."""
    dice = random.Random(seed)
    faults = []
    hit = dict.fromkeys(VICTIMS, 0)
    with tempfile.TemporaryDirectory() as folder:
        drill = Drill(Path(folder))
        for number in range(moments):
            victim = VICTIMS[number % len(VICTIMS)]
            after_s = dice.uniform(0, drill.seconds)
            from_nothing = dice.random() < 0.5
            moment = f"{victim} after {after_s:.1f} s{' from nothing' if from_nothing else ''}"
            found = drill.kill(victim, after_s, from_nothing=from_nothing)
            if number % 4 == 3 or number == moments - 1:
                found += drill.recover()
            hit[victim] += 1
            faults += [f"{moment}: {fault}" for fault in found]
            sys.stderr.write(f"{number + 1}/{moments} {moment}: {found or 'as it must be'}\n")
    return {"moments": moments, "seed": seed, "run_s": round(drill.seconds, 1), "killed": hit, "faults": faults}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--moments", type=int, default=20)
    options.add_argument("--seed", type=int, default=1)
    given = options.parse_args()
    found = run(given.moments, given.seed)
    sys.stdout.write(json.dumps(found) + "\n")
    raise SystemExit(1 if found["faults"] else 0)


if __name__ == "__main__":
    main()
