"""Times whole processes: wall time, CPU and peak memory of a process and all its descendants (Linux)."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path


def measured_step(*arguments: str, code: int = 0) -> dict[str, float]:
    """Run `iotid STEP …` in a process of its own, see `measured`."""
    return measured([sys.executable, "-m", "iotid.cli", *arguments], code)


def measured(command: Sequence[str], code: int = 0) -> dict[str, float]:
    """Seconds, CPU seconds with descendants, and peak memory of all in MB; exits if the command does not end with
    ``code``."""
    begin = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    peak, ticks = 0, Counter[int]()
    while process.poll() is None:
        family = _family(process.pid)
        peak = max(peak, sum(resident for _, resident in family.values()))
        ticks |= Counter({pid: used for pid, (used, _) in family.items()})  # the maximum of each
        time.sleep(0.05)
    if process.returncode != code:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    cpu = ticks.total() / os.sysconf("SC_CLK_TCK")
    wall = time.perf_counter() - begin
    return {"wall_s": round(wall, 2), "cpu_s": round(cpu, 2), "peak_mb": round(peak / 1e6)}


def _family(pid: int) -> dict[int, tuple[int, int]]:
    """CPU ticks and bytes of memory of the process and all its descendants, by id."""
    own: dict[int, tuple[int, int, int]] = {}
    page = os.sysconf("SC_PAGE_SIZE")
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        own[int(stat.parent.name)] = int(fields[1]), int(fields[11]) + int(fields[12]), int(fields[21]) * page
    family = {pid}
    while more := {child for child, (parent, _, _) in own.items() if parent in family} - family:
        family |= more
    return {each: own[each][1:] for each in family if each in own}


def processor() -> str:
    """The processor's name, from the system."""
    info = Path("/proc/cpuinfo")
    name = re.search(r"^model name\s*: (.*)", info.read_text() if info.exists() else "", re.MULTILINE)
    return name[1] if name else platform.processor() or platform.machine()
