"""capture.py [--captures DIR] [--small]: the capture engine and its peers on the same files, as whole processes.

Files: all captures of DIR merged into one (without DIR: those that the project writes itself), 100 MB and 1 GB made of
it with later times and other addresses. CPU is user and system time of a process and its children, the best of several
runs if one takes seconds. Peers come from .venv-peers (`make peers-setup`) and the PATH; absent ones are
listed as missing. Ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parents[2]
_PEERS = _ROOT / ".venv-peers" / "bin" / "python"
_MAX_PACKETS = 32
_NEVER_S = 10**9

# What each child runs; it prints the number of flows.
_IOTID = "import sys, iotid.flows as f; t = f.from_captures(sys.argv[1], max_packets={m}); print(len(t), t.nbytes)"
_IOTID_KEYS = "import sys, iotid.flows as f; print(len(f.from_captures(sys.argv[1], max_packets={m}, tcp_close=False)))"
# As a worker of the cluster: emits its partial flows and stores none
_WORKER = """
import sys
from iotid import config
from iotid.capture import find_captures, split_captures
from iotid.capture.counters import Counters
from iotid.flows.read import TaskSplits, read_partials
s = config.load_settings()
splits = split_captures(find_captures([sys.argv[1]]).captures, s.capture).splits
print(sum(len(part) for part in read_partials(TaskSplits(splits, None), 0, s.capture, s.flow, Counters())))
"""
_NFSTREAM = """
import sys
from nfstream import NFStreamer
if __name__ == "__main__":
    streamer = NFStreamer(source=sys.argv[1], splt_analysis={m}, n_dissections=0, statistical_analysis=False,
                          idle_timeout={never}, active_timeout={never}, n_meters=1)
    print(sum(1 for _ in streamer))
"""
_DPKT = """
import sys, dpkt
flows = {{}}
with open(sys.argv[1], "rb") as file:
    reader = dpkt.pcap.Reader(file)
    link = dpkt.ethernet.Ethernet if reader.datalink() == 1 else dpkt.sll.SLL
    for time, data in reader:
        ip = link(data).data
        if not isinstance(ip, (dpkt.ip.IP, dpkt.ip6.IP6)):
            continue
        above = ip.data
        ends = [(ip.src, getattr(above, "sport", 0)), (ip.dst, getattr(above, "dport", 0))]
        flow = flows.setdefault((ip.p, *sorted(ends)), [])
        if len(flow) < {m}:
            flow.append((time, len(ip), getattr(above, "win", 0)))
print(len(flows))
"""
_TSHARK_FIELDS = (
    "frame.time_epoch", "frame.len", "ip.proto", "ip.src", "ip.dst", "ip.len", "ipv6.nxt", "ipv6.src", "ipv6.dst",
    "ipv6.plen", "tcp.srcport", "tcp.dstport", "tcp.flags", "tcp.window_size_value", "udp.srcport", "udp.dstport",
)  # fmt: skip


def measure(command: list[str], runs: int, environment: dict[str, str] | None = None) -> dict[str, Any]:
    """CPU and wall seconds, the best of ``runs``, peak resident memory, and the last printed line."""
    cpu = wall = float("inf")
    peak = 0
    printed = ""
    for _ in range(runs):
        with tempfile.TemporaryFile("w+") as out:
            begin = time.perf_counter()
            child = subprocess.Popen(
                command, stdout=out, stderr=subprocess.DEVNULL, env={**os.environ, **(environment or {})}, cwd=_ROOT
            )
            _, status, usage = os.wait4(child.pid, 0)
            wall = min(wall, time.perf_counter() - begin)
            child.returncode = os.waitstatus_to_exitcode(status)
            if child.returncode != 0:
                raise SystemExit(f"capture.py: {' '.join(command)[:200]} ended with {child.returncode}")
            cpu = min(cpu, usage.ru_utime + usage.ru_stime)
            peak = max(peak, usage.ru_maxrss // 1024)
            out.seek(0)
            printed = (out.read().splitlines() or [""])[-1]
    return {"cpu_s": round(cpu, 3), "wall_s": round(wall, 3), "peak_mb": peak, "printed": printed}


def python(code: str, path: Path, runs: int, interpreter: str = sys.executable, **environment: str) -> dict[str, Any]:
    filled = code.format(m=_MAX_PACKETS, never=_NEVER_S)
    return measure([interpreter, "-c", filled, str(path)], runs, environment)


def iotid(path: Path, runs: int) -> dict[str, Any]:
    found = python(_IOTID, path, runs)
    flows, table = found.pop("printed").split()
    keys = python(_IOTID_KEYS, path, 1)["printed"]
    return {**found, "flows": int(flows), "flows_without_tcp_close": int(keys), "table_mb": int(table) >> 20}


def counted(found: dict[str, Any]) -> dict[str, Any]:
    flows = int(found.pop("printed"))
    return {**found, "flows": flows}


def cat(path: Path, runs: int) -> dict[str, Any]:
    found = measure(["sh", "-c", 'exec cat "$1" >/dev/null', "sh", str(path)], runs)
    del found["printed"]
    return found


def nfstream(path: Path, runs: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:  # its workers are spawned from a file
        script = Path(folder) / "flows.py"
        script.write_text(_NFSTREAM.format(m=_MAX_PACKETS, never=_NEVER_S))
        return counted(measure([str(_PEERS), str(script), str(path)], runs))


def dpkt(path: Path, runs: int) -> dict[str, Any]:
    return counted(python(_DPKT, path, runs, str(_PEERS)))


def nfpcapd(path: Path, runs: int) -> dict[str, Any]:
    """Its flows are unidirectional, with its own time-outs (300 s active, 60 s idle)."""
    with tempfile.TemporaryDirectory() as folder:
        found = measure(["nfpcapd", "-r", str(path), "-w", folder], runs)
        del found["printed"]
        if shutil.which("nfdump"):
            done = subprocess.run(["nfdump", "-R", folder, "-q", "-I"], capture_output=True, text=True, check=True)
            flows = re.search(r"^Flows: (\d+)", done.stdout, re.MULTILINE)
            found["flows_one_way"] = int(flows[1]) if flows else None
        return found


def tshark(path: Path, runs: int) -> dict[str, Any]:
    fields = [part for field in _TSHARK_FIELDS for part in ("-e", field)]
    found = measure(
        ["sh", "-c", 'exec "$@" >/dev/null', "sh", "tshark", "-r", str(path), "-T", "fields", *fields], runs
    )
    del found["printed"]
    return found


Peer = Callable[[Path, int], dict[str, Any]]


def peers() -> tuple[dict[str, Peer], dict[str, str]]:
    """The installed peers, and the versions of all programs."""
    there: dict[str, Peer] = {"iotid": iotid, "cat": cat}
    versions = {"python": platform.python_version(), "iotid": _version(sys.executable, "iotid")}
    for name, peer in (("nfstream", nfstream), ("dpkt", dpkt)):
        versions[name] = _version(str(_PEERS), name) if _PEERS.exists() else "missing"
        if versions[name] != "missing":
            there[name] = peer
    for name, peer, option in (("nfpcapd", nfpcapd, "-V"), ("tshark", tshark, "--version")):
        versions[name] = "missing"
        if shutil.which(name):
            there[name] = peer
            done = subprocess.run([name, option], capture_output=True, text=True, check=False)
            versions[name] = (done.stdout + done.stderr).strip().splitlines()[0]
    return there, versions


def _version(interpreter: str, package: str) -> str:
    code = f"import importlib.metadata as m; print(m.version({package!r}))"
    done = subprocess.run([interpreter, "-c", code], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "missing"


def cold(path: Path) -> dict[str, Any]:
    """One small capture in a new process: with cached kernels, as after `make setup`, and without."""
    kept = python(_IOTID, path, 3)
    with tempfile.TemporaryDirectory() as empty:
        compiled = python(_IOTID, path, 1, NUMBA_CACHE_DIR=empty)
    return {"file_bytes": path.stat().st_size, "kernels_kept": _times(kept), "kernels_compiled": _times(compiled)}


def _times(found: dict[str, Any]) -> dict[str, Any]:
    return {name: found[name] for name in ("cpu_s", "wall_s", "peak_mb")}


def ratios(figures: dict[str, Any]) -> dict[str, float]:
    """Times of each peer over iotid's (wall and CPU); and iotid's over those of `cat`."""
    own = figures["iotid"]
    found = {}
    for name, peer in figures.items():
        if name in ("nfstream", "nfpcapd", "tshark", "dpkt"):
            for unit in ("wall", "cpu"):
                found[f"{name}_{unit}"] = round(peer[f"{unit}_s"] / own[f"{unit}_s"], 2)
    for unit in ("wall", "cpu"):
        found[f"over_cat_{unit}"] = round(own[f"{unit}_s"] / max(figures["cat"][f"{unit}_s"], 1e-3), 1)
    return found


def beyond_start(small: dict[str, Any], large: dict[str, Any]) -> dict[str, Any]:
    """Cost of the bytes between the small and the large file: each program's speed without its start-up."""
    more = large["file_bytes"] - small["file_bytes"]
    figures = {
        name: {f"{unit}_s": max(large[name][f"{unit}_s"] - small[name][f"{unit}_s"], 1e-3) for unit in ("wall", "cpu")}
        for name in ("iotid", "cat", "nfstream", "nfpcapd")
        if name in small and name in large
    }
    speeds = {f"{name}_mb_per_s": round(more / 1e6 / figure["wall_s"], 1) for name, figure in figures.items()}
    return {"bytes": more, **speeds, "ratios": ratios(figures)}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--captures", type=Path, help="folder of captures; default: simulated ones")
    options.add_argument("--small", action="store_true", help="leave the 1 GB files out")
    given = options.parse_args()
    there, versions = peers()
    result: dict[str, Any] = {
        "captures": "simulated" if given.captures is None else given.captures.name,
        "cores": len(os.sched_getaffinity(0)),
        "versions": versions,
        "missing": [name for name, version in versions.items() if version == "missing"],
    }
    work = _ROOT / "var" / "bench"
    work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=work) as folder:
        make = [sys.executable, str(Path(__file__).with_name("bench_files.py")), folder]
        make += ["--captures", str(given.captures)] if given.captures else []
        subprocess.run([*make, *["--small"] * given.small], check=True)
        files = Path(folder)
        python(_IOTID, files / "cold.pcap", 1)  # from here on kernels are cached
        result["cold_50kB"] = cold(files / "cold.pcap")
        slow = {"dpkt", "tshark"}  # minutes on 1 GB
        programs_of = {"merged": set(there), "small": set(there), "large": set(there) - slow}
        for name in ("merged", "small", "small_same_flows", "large", "large_same_flows"):
            path = files / f"{name}.pcap"
            if path.exists():
                result[name] = _compare(
                    path, {peer: there[peer] for peer in there if peer in programs_of.get(name, _OURS)}
                )
        if "large" in result:
            result["from_small_to_large"] = beyond_start(result["small"], result["large"])
    sys.stdout.write(json.dumps(result) + "\n")


_OURS = {"iotid", "cat"}


def _compare(path: Path, programs: dict[str, Peer]) -> dict[str, Any]:
    figures: dict[str, Any] = {"file_bytes": path.stat().st_size}
    for name, run in programs.items():
        figures[name] = run(path, 3 if name in _OURS or path.stem == "merged" else 1)
        sys.stdout.write(f"{path.stem} {name}: {json.dumps(figures[name])}\n")
        sys.stdout.flush()
    figures["iotid_worker"] = _times(python(_WORKER, path, 1))
    figures["ratios"] = ratios(figures)
    return figures


if __name__ == "__main__":
    main()
