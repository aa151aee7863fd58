"""standalone.py start|stop FOLDER: a Spark cluster of this machine, one master and two workers of one core each.

Real processes on the loopback interface, from the PySpark that the environment holds. ``start`` prints the master's
address and leaves the cluster running, its logs in FOLDER; ``stop`` ends it.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import venv
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

WORKERS = 2
_STATE = "cluster.json"
_PATIENCE_S = 120


def spark_home() -> Path:
    import pyspark

    return Path(pyspark.__file__).parent


def environment() -> dict[str, str]:
    """Environment of the cluster's processes, and of those that submit to it."""
    own = {"SPARK_HOME": str(spark_home()), "SPARK_LOCAL_IP": "127.0.0.1", "PYSPARK_PYTHON": sys.executable}
    return {**os.environ, **own}


def python_without_iotid(folder: Path) -> str:
    """A Python that has the packages of this one, but not iotid: that must come from what is submitted."""
    venv.create(folder, symlinks=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")  # whose own .pth files are not heeded
    python = str(folder / "bin" / "python")
    program = "import pyspark, torch, iotid.cli.command"
    looked = subprocess.run([python, "-I", "-c", program], capture_output=True, text=True, check=False)
    if "No module named 'iotid" not in looked.stderr:
        raise SystemExit(f"standalone.py: {python} should lack iotid alone: {looked.stderr or 'it lacks nothing'}")
    return python


class Cluster:
    """The cluster that ``start`` started in ``folder``: its address, and the process ids of its parts."""

    def __init__(self, folder: Path) -> None:
        state = json.loads((folder / _STATE).read_text())
        self.url: str = state["url"]
        self.master: int = state["master"]
        self.workers: list[int] = state["workers"]


def start(folder: Path) -> Cluster:
    """Start a cluster that writes its logs and its work to ``folder``, and wait until it takes jobs."""
    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"spark://127.0.0.1:{port}"
    state = {"url": url, "master": _spawn(folder, "master", "master.Master", "--port", str(port)), "workers": []}
    try:
        _await(folder, "master", "I have been elected leader")
        for number in range(WORKERS):
            size = ["-c", "1", "-m", "2g", "-d", str(folder / f"worker{number}")]
            state["workers"].append(_spawn(folder, f"worker{number}", "worker.Worker", *size, url))
        for number in range(WORKERS):
            _await(folder, f"worker{number}", "Successfully registered with master")
    finally:
        (folder / _STATE).write_text(json.dumps(state))  # also of one that is half there, so that it can be stopped
    return Cluster(folder)


def stop(folder: Path) -> None:
    """End the cluster's processes, those that are still there, workers first."""
    cluster = Cluster(folder)
    for pid in (*cluster.workers, cluster.master):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    for pid in (*cluster.workers, cluster.master):
        _await_end(pid)
    (folder / _STATE).unlink()


@contextmanager
def running(folder: Path) -> Iterator[Cluster]:
    """A cluster for as long as the block lasts."""
    try:
        yield start(folder)
    finally:
        stop(folder)


def _spawn(folder: Path, name: str, kind: str, *arguments: str) -> int:
    command = [str(spark_home() / "bin" / "spark-class"), f"org.apache.spark.deploy.{kind}"]
    command += ["--host", "127.0.0.1", "--webui-port", "0", *arguments]
    with (folder / f"{name}.log").open("wb") as log:
        quiet = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
        return subprocess.Popen(command, env=environment(), start_new_session=True, **quiet).pid


def _await(folder: Path, name: str, text: str) -> None:
    log = folder / f"{name}.log"
    deadline = time.monotonic() + _PATIENCE_S
    while text not in log.read_text(errors="replace"):
        if time.monotonic() > deadline:
            raise SystemExit(f"standalone.py: {name} did not start:\n{log.read_text()[-2000:]}")
        time.sleep(0.2)


def _await_end(pid: int) -> None:
    for _ in range(5 * _PATIENCE_S):
        with suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)  # or else a child of this process would be there as a zombie
        if not Path(f"/proc/{pid}").exists():
            return
        time.sleep(0.2)
    raise SystemExit(f"standalone.py: process {pid} does not end")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("what", choices=("start", "stop"))
    options.add_argument("folder", type=Path)
    given = options.parse_args()
    if given.what == "start":
        sys.stdout.write(f"{start(given.folder.absolute()).url}\n")
    else:
        stop(given.folder.absolute())


if __name__ == "__main__":
    main()
