"""cluster.py: the same ingest on one machine and on a standalone cluster, one worker of which dies in the middle.

A real master and two real workers, processes on the loopback interface. The captures are those that the project writes
itself. Splits, flows and dataset must be the same, file for file and row for row. Ends with one line of JSON, and with
1 where something was not as it must be.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from kill import content, descendants, start_ingest


class Cluster:
    """A standalone master and two workers of one core each, until ``close``."""

    def __init__(self, folder: Path) -> None:
        import pyspark

        self._home = Path(pyspark.__file__).parent
        self._folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"spark://127.0.0.1:{port}"
        self._master = self._start("master", "master.Master", "--port", str(port))
        self._await("master", "I have been elected leader")
        self.workers = [self._start(f"worker{i}", "worker.Worker", "-c", "1", "-m", "2g", self.url) for i in (0, 1)]
        for i in (0, 1):
            self._await(f"worker{i}", "Successfully registered with master")

    def _start(self, name: str, kind: str, *arguments: str) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "SPARK_HOME": str(self._home), "SPARK_LOCAL_IP": "127.0.0.1"}
        command = [str(self._home / "bin" / "spark-class"), f"org.apache.spark.deploy.{kind}"]
        common = ["--host", "127.0.0.1", "--webui-port", "0"]
        if name != "master":
            common += ["-d", str(self._folder / name)]
        with (self._folder / f"{name}.log").open("wb") as log:
            return subprocess.Popen([*command, *common, *arguments], stdout=log, stderr=log, env=environment)

    def _await(self, name: str, text: str) -> None:
        log = self._folder / f"{name}.log"
        deadline = time.monotonic() + 120
        while text not in log.read_text(errors="replace"):
            if time.monotonic() > deadline:
                raise SystemExit(f"cluster.py: {name} did not start:\n{log.read_text()[-2000:]}")
            time.sleep(0.2)

    def kill_worker(self) -> None:
        """The worker, its executor and the Python processes of that, all at once, as when a machine goes off."""
        worker = self.workers[1]
        for pid in (worker.pid, *descendants(worker.pid)):
            os.kill(pid, signal.SIGKILL)
        worker.wait()

    def close(self) -> None:
        for process in (*self.workers, self._master):
            process.terminate()
            process.wait()


def _run(root: Path, demo: Path, master: str, *, kill_after_s: float = 0, cluster: Cluster | None = None) -> float:
    """Seconds of an ingest that must end well."""
    log = root.with_suffix(".log")
    begin = time.monotonic()
    run = start_ingest(root, demo / "captures" / "home" / "2026-01-10", demo / "devices.yaml", master, log)
    if cluster is not None:
        time.sleep(kill_after_s)
        if run.poll() is not None:
            raise SystemExit("cluster.py: the run had ended before a worker could be killed")
        cluster.kill_worker()
    if run.wait(timeout=600) != 0:
        raise SystemExit(f"cluster.py: the run on {master} failed:\n{log.read_text()[-3000:]}")
    return time.monotonic() - begin


def main() -> None:
    from iotid.capture.simulate import write_demo

    os.environ.update(SPARK_LOCAL_IP="127.0.0.1", PYSPARK_PYTHON=sys.executable)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        demo = folder / "demo"
        write_demo(demo)
        seconds = {"one_machine": _run(folder / "one", demo, "local[2]")}
        expected = content(folder / "one")
        cluster = Cluster(folder)
        try:
            seconds["cluster"] = _run(folder / "two", demo, cluster.url)
            half = 0.6 * seconds["cluster"]  # flows are being merged then
            seconds["worker_killed"] = _run(folder / "three", demo, cluster.url, kill_after_s=half, cluster=cluster)
        finally:
            cluster.close()
        same = {root: content(folder / root) == expected for root in ("two", "three")}
    told = {name: round(value, 1) for name, value in seconds.items()}
    sys.stdout.write(
        json.dumps({"seconds": told, "killed_after_s": round(half, 1), "same": list(same.values())}) + "\n"
    )
    raise SystemExit(0 if all(same.values()) else 1)


if __name__ == "__main__":
    main()
