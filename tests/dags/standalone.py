"""A complete Airflow for the tests and for `make airflow`: scheduler, API server, database."""

from __future__ import annotations

import argparse
import configparser
import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

REPOSITORY = Path(__file__).parents[2]
DAGS = ("iotid_ingest", "iotid_train", "iotid_evaluate")
MAIN_ENVIRONMENT = REPOSITORY / ".venv" / "bin"
_READY_WITHIN_S = 180

_WHERE_TO_LOOK = """\
Airflow:  {url}  (user admin, password in {passwords})
It has the variable iotid, the connection spark_default and the pool iotid_spark, and captures of two nights.
To make both nights, then learn, evaluate and promote, and ask the champion about the second night:
  export AIRFLOW_HOME={home} PATH={bin}:$PATH
  airflow backfill create --dag-id iotid_ingest --from-date 2026-01-10 --to-date 2026-01-11 --max-active-runs 1
  airflow dags trigger iotid_train --logical-date 2026-01-12T12:00:00+00:00
  airflow tasks clear iotid_ingest --yes --downstream --start-date 2026-01-11 --end-date 2026-01-11 -t ingest_sites
Tables and census pages: {storage}. Ctrl-C stops it.
"""


class Standalone:
    """A running `airflow standalone` with the repository's DAGs, and its REST API."""

    def __init__(self, home: Path, first_on_path: Path, database: str | None = None, **core: str) -> None:
        """Start it below ``home``; ``database``: its URI, else SQLite's; ``core``: further settings of [core]."""
        home.mkdir(parents=True, exist_ok=True)
        self.home = home
        api, triggerer, worker = _free_ports(3)
        self.url = f"http://localhost:{api}"
        self._token = ""
        # SQLite's writers take turns, and would give up after five seconds
        database = database or f"sqlite:///{home}/airflow.db?timeout=120"
        _write_config(home, self.url, api, triggerer, worker, database, core)
        # settings of another Airflow, and this process's Python path, are none of its business
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW_", "PYTHON"))}
        path = os.pathsep.join([str(first_on_path), str(Path(sys.executable).parent), os.environ["PATH"]])
        with (home / "standalone.log").open("w", encoding="utf-8") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "airflow", "standalone"],
                env={**inherited, "AIRFLOW_HOME": str(home), "PATH": path, "NO_COLOR": "1"},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # so that all of it can be stopped
            )

    @property
    def password_file(self) -> Path:
        return self.home / "simple_auth_manager_passwords.json.generated"

    def prepare(self, deployment: Mapping[str, Any], master: str) -> None:
        """Wait until it answers and knows the DAGs; make variable, connection and pool; unpause the DAGs."""
        ends = time.monotonic() + _READY_WITHIN_S
        while not self._knows_dags():
            if self.process.poll() is not None or time.monotonic() > ends:
                raise RuntimeError(f"Airflow did not start: see {self.home}/standalone.log")
            time.sleep(1)
        self._make("variables", "key", {"key": "iotid", "value": json.dumps(deployment)})
        self._make("connections", "connection_id", {
            "connection_id": "spark_default", "conn_type": "spark", "host": master
        })  # fmt: skip
        self._make("pools", "name", {"name": "iotid_spark", "slots": 1, "description": "Spark jobs at once"})
        for dag in DAGS:
            self.api("PATCH", f"dags/{dag}", {"is_paused": False})

    def api(self, method: str, path: str, body: Any = None) -> Any:
        """The answer to a request of the public REST API."""
        return self._request(method, f"/api/v2/{path}", body, {"Authorization": f"Bearer {self._token}"})

    def stop(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(10)
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def _knows_dags(self) -> bool:
        with contextlib.suppress(OSError, KeyError):  # HTTPError is an OSError
            if not self._token:
                password = json.loads(self.password_file.read_text(encoding="utf-8"))["admin"]
                answer = self._request("POST", "/auth/token", {"username": "admin", "password": password}, {})
                self._token = answer["access_token"]
            return {dag["dag_id"] for dag in self.api("GET", "dags")["dags"]} >= set(DAGS)
        return False

    def _make(self, kind: str, key: str, body: Mapping[str, Any]) -> None:
        try:
            self.api("POST", kind, body)
        except HTTPError as refused:
            if refused.code != 409:
                raise
            self.api("PATCH", f"{kind}/{body[key]}", body)

    def _request(self, method: str, path: str, body: Any, headers: Mapping[str, str]) -> Any:
        content = None if body is None else json.dumps(body).encode()
        request = Request(self.url + path, content, {"Content-Type": "application/json", **headers}, method=method)
        with urlopen(request, timeout=120) as answer:
            return json.loads(answer.read() or "null")


def demo_deployment(folder: Path, **changes: Any) -> dict[str, Any]:
    """The variable `iotid` for the demo's captures below ``folder``, which are written if they are not there."""
    if not (folder / "devices.yaml").exists():
        write = "import pathlib, sys; from iotid.simulate.captures import write_demo as w; w(pathlib.Path(sys.argv[1]))"
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        subprocess.run([MAIN_ENVIRONMENT / "python", "-c", write, folder], check=True, env=environment)
    return {
        "jobs": str(REPOSITORY / "jobs"),
        "captures": str(folder / "captures"),
        "sites": ["home", "office"],
        "labels": str(folder / "devices.yaml"),
        "storage": str(folder / "store"),
        "config": ["local.yaml"],
        "python": str(MAIN_ENVIRONMENT / "python"),
        "driver_memory": "2g",
        "wheel": "",
        "train_nights": 7,
        "late_nights": 3,
        "settle_s": 0,
        "wait_s": 0,
        **changes,
    }


def _free_ports(number: int) -> list[int]:
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(number)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _write_config(
    home: Path, url: str, api: int, triggerer: int, worker: int, database: str, core: Mapping[str, str]
) -> None:
    """airflow.cfg, so that AIRFLOW_HOME is all that a command of this Airflow needs; a former one keeps its secrets."""
    file, config = home / "airflow.cfg", configparser.ConfigParser(interpolation=None)
    config.read(file)
    known = {section: dict(config[section]) for section in config.sections()}
    secret = known.get("api_auth", {}).get("jwt_secret") or secrets.token_hex(32)
    config.read_dict({
        "core": {
            "dags_folder": str(REPOSITORY / "airflow_dags"),
            "load_examples": "False",
            "executor": "LocalExecutor",
            "parallelism": "4",
            "execution_api_server_url": f"{url}/execution/",
            **core,
        },
        "api": {"host": "127.0.0.1", "port": str(api), "base_url": url, "workers": "1", "secret_key": secret},
        "api_auth": {"jwt_secret": secret},
        "database": {"sql_alchemy_conn": database},
        # of a machine that is busy with Spark, answers come late, and DAG files need no second look every half minute
        "workers": {"execution_api_timeout": "60"},
        "dag_processor": {"min_file_process_interval": "600"},
        "logging": {"trigger_log_server_port": str(triggerer), "worker_log_server_port": str(worker)},
    })  # fmt: skip
    with file.open("w", encoding="utf-8") as out:
        config.write(out)
    file.chmod(0o600)


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> None:
    """Start it for a person, until Ctrl-C."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("folder", type=Path, help="where its home, the captures and the tables lie")
    folder = parser.parse_args().folder.absolute()
    deployment = demo_deployment(folder / "demo", late_nights=0)
    airflow = Standalone(folder / "home", MAIN_ENVIRONMENT)
    try:
        _say(f"starting Airflow, half a minute; its log: {airflow.home}/standalone.log")
        airflow.prepare(deployment, "local[*]")
        _say(_WHERE_TO_LOOK.format(
            url=airflow.url, passwords=airflow.password_file, home=airflow.home,
            bin=Path(sys.executable).parent, storage=deployment["storage"],
        ))  # fmt: skip
        airflow.process.wait()
    except KeyboardInterrupt:
        _say("stopping")
    finally:
        airflow.stop()


if __name__ == "__main__":
    main()
