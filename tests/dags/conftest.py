"""A separate Airflow for these tests: home, database and variables."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

_REPOSITORY = Path(__file__).parents[2]
DagTest = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def standalone() -> ModuleType:
    """The module that starts a whole Airflow."""
    spec = importlib.util.spec_from_file_location("standalone", Path(__file__).parent / "standalone.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def airflow_environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment variables of a fresh Airflow on SQLite that knows the repository's DAGs only."""
    home = tmp_path_factory.mktemp("airflow")
    return {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(_REPOSITORY / "airflow_dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__UNIT_TEST_MODE": "False",
        "AIRFLOW__CORE__MAX_TASK_RETRY_DELAY": "1",  # seconds, a cap over every task's own pauses
        "AIRFLOW__LOGGING__COLORED_CONSOLE_LOG": "False",
        # as JSON: of the URI form spark://local[2] the brackets are no host, and the hook would fall back to YARN
        "AIRFLOW_CONN_SPARK_DEFAULT": json.dumps({"conn_type": "spark", "host": "local[2]"}),
    }


@pytest.fixture(scope="session")
def migrated(airflow_environment: dict[str, str]) -> dict[str, str]:
    """The same with its database and pool created."""
    for command in (["db", "migrate"], ["pools", "set", "iotid_spark", "1", "Spark jobs at once"]):
        _airflow(command, airflow_environment, timeout_s=120).check_returncode()
    return airflow_environment


@pytest.fixture
def dag_test(migrated: dict[str, str]) -> DagTest:
    """Run one DAG for one logical date to its end, with the given variable `iotid` and folder first on the PATH."""

    def run(
        dag_id: str, date: str, deployment: dict[str, Any], first_on_path: Path, conf: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        environment = {
            **migrated,
            "AIRFLOW_VAR_IOTID": json.dumps(deployment),
            "PATH": f"{first_on_path}{os.pathsep}{os.environ['PATH']}",
        }
        return _airflow(["dags", "test", dag_id, date, "--conf", json.dumps(conf or {})], environment, timeout_s=300)

    return run


def _airflow(arguments: list[str], environment: dict[str, str], timeout_s: float) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "airflow", *arguments]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW_")}
    return subprocess.run(
        command,
        env={**inherited, **environment},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=timeout_s,
        check=False,
    )
