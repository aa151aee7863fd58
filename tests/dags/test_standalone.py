"""The DAGs under a scheduler and API server that really run: one night with real jobs, else a scripted spark-submit.

On SQLite, or with DATABASE=postgresql in the environment on a PostgreSQL of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

pytest.importorskip("airflow", reason="needs the Airflow environment (.venv-airflow)")
pytestmark = [pytest.mark.dags, pytest.mark.timeout(1500)]

_NIGHT = "2026-01-10"
_WITHIN_S = 1200  # generous: other tests may have the machine's cores
_QUICK = """\
dataset: {label: model}
model: {embedding_size: 16, hidden_size: 16, layers: 1}
training: {ranks: 1, epochs: 2}
evaluation: {baselines: [majority_sequence], bootstrap: 0}
promotion: {min_macro_f1: 0.0}
"""
_SPARK_SUBMIT = """\
#!{python}
import os, pathlib, sys
here = pathlib.Path(__file__).parent
given = sys.argv[1:]
job = next(pathlib.Path(part).stem for part in given if part.endswith(".py"))
option = lambda name: ",".join(value for key, value in zip(given, given[1:]) if key == name)
with (here / "lines").open("a") as lines:
    lines.write(" ".join([job, option("--site"), option("--date"), option("--dataset")]) + "\\n")
if (here / "real").exists():
    os.environ["PATH"] = os.path.dirname("{real}") + os.pathsep + os.environ["PATH"]  # it asks `python` where Spark is
    os.execv("{real}", ["{real}", *given])
fails = here / "fails" / f"{{job}} {{option('--site')}} {{option('--date')}}"
if fails.exists() and (left := int(fails.read_text())):
    fails.write_text(str(left - 1))
    sys.exit("Error: made to fail")
if job == "ingest_sites":
    for table in ("flows", "census"):
        for site in option("--site").split(","):
            folder = pathlib.Path("{store}", table, "site=" + site, "capture_date=" + option("--date"))
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "_SUCCESS").touch()
"""
_POSTGRESQL = """\
import sys
from database import postgresql
with postgresql() as records:
    print(records.uri, flush=True)
    sys.stdin.read()
"""
_ROWS = """\
import hashlib, pathlib, sys, pyarrow.parquet as pq
files = sorted(file for file in pathlib.Path(sys.argv[1]).rglob("*.parquet") if "_open" not in file.parts)
rows = sorted(repr(row) for file in files for row in pq.ParquetFile(file).read().to_pylist())
print(len(rows), hashlib.sha256("".join(rows).encode()).hexdigest())
"""


class Site:
    """An Airflow that runs, the folders that its DAGs read and write, and the arguments of its spark-submit."""

    def __init__(self, folder: Path, standalone: Any, database: str | None) -> None:
        self.bin, self.captures, self.store = folder / "bin", folder / "captures", folder / "store"
        self.python, real = (standalone.MAIN_ENVIRONMENT / name for name in ("python", "spark-submit"))
        (self.bin / "fails").mkdir(parents=True)
        program = self.bin / "spark-submit"
        program.write_text(_SPARK_SUBMIT.format(python=self.python, real=real, store=self.store), encoding="utf-8")
        program.chmod(0o755)
        (folder / "quick.yaml").write_text(_QUICK, encoding="utf-8")
        changes = {"sites": ["home", "garage"], "config": ["local.yaml", str(folder / "quick.yaml")], "train_nights": 2}
        deployment = standalone.demo_deployment(folder, late_nights=1, **changes)
        # at most a second between tries, instead of minutes
        self.airflow = standalone.Standalone(folder / "airflow", self.bin, database, max_task_retry_delay="1")
        try:
            self.airflow.prepare(deployment, "local[2]")
        except BaseException:
            self.airflow.stop()
            raise

    def lines(self) -> list[str]:
        file = self.bin / "lines"
        return file.read_text(encoding="utf-8").splitlines() if file.exists() else []

    def runs(self, dag: str) -> dict[str, dict[str, Any]]:
        """Every run of the DAG by its id."""
        return {run["dag_run_id"]: run for run in self.airflow.api("GET", f"dags/{dag}/dagRuns")["dag_runs"]}

    def trigger(self, dag: str, date: str) -> str:
        given = self.airflow.api("POST", f"dags/{dag}/dagRuns", {"logical_date": date, "dag_run_id": f"asked__{date}"})
        return str(given["dag_run_id"])

    def clear(self, dag: str, run: str) -> None:
        self.airflow.api("POST", f"dags/{dag}/dagRuns/{quote(run)}/clear", {"dry_run": False})

    def ended(self, dag: str, run: str | None = None, task: str | None = None) -> str:
        """Wait until the run, or any where none is named, has succeeded and has not skipped the task; its id."""
        ends = time.monotonic() + _WITHIN_S
        while time.monotonic() < ends:
            for name, found in self.runs(dag).items():
                if run in (None, name):
                    assert found["state"] != "failed", self.tasks(dag, name)
                    is_skipped = task is not None and self.tasks(dag, name).get((task, -1), ("",))[0] != "success"
                    if found["state"] == "success" and not is_skipped:
                        return name
            time.sleep(2)
        raise TimeoutError(f"{dag} {run}: {self.runs(dag)}")

    def tasks(self, dag: str, run: str) -> dict[tuple[str, int], tuple[str, int]]:
        """State and number of tries of each task instance of the run, by task and map index."""
        given = self.airflow.api("GET", f"dags/{dag}/dagRuns/{quote(run)}/taskInstances")["task_instances"]
        return {
            (one["task_id"].rpartition(".")[2], one["map_index"]): (one["state"], one["try_number"]) for one in given
        }

    def rows(self, table: str) -> str:
        """How many rows the home site's night has, and a hash of them."""
        command = [self.python, "-c", _ROWS, self._night(table)]
        return subprocess.run(command, check=True, text=True, capture_output=True).stdout

    def written(self, table: str) -> float:
        """When the home site's night was completed (Unix time)."""
        return (self._night(table) / "_SUCCESS").stat().st_mtime

    def metadata(self, table: str) -> dict[str, Any]:
        """The metadata of the home site's night."""
        given: dict[str, Any] = json.loads((self._night(table) / "_METADATA.json").read_text(encoding="utf-8"))
        return given

    def _night(self, table: str) -> Path:
        return self.store / table / "site=home" / f"capture_date={_NIGHT}"


@pytest.fixture(scope="module")
def database(standalone: Any) -> Iterator[str | None]:
    """The URI of the database that is asked for; None: Airflow's own SQLite."""
    if os.environ.get("DATABASE") != "postgresql":
        yield None
        return
    drills = standalone.REPOSITORY / "tests" / "drills"
    command = [standalone.MAIN_ENVIRONMENT / "python", "-c", _POSTGRESQL]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=drills, **pipes) as server:
        yield server.stdout.readline().strip().replace("postgresql:", "postgresql+psycopg2:")
        server.stdin.close()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, standalone: Any, database: str | None) -> Iterator[Site]:
    running = Site(tmp_path_factory.mktemp("site"), standalone, database)
    try:
        running.ended("iotid_ingest")  # yesterday's night, of which no site has captures; then SQLite is quiet
        yield running
    finally:
        running.airflow.stop()


@pytest.mark.spark
def test_standalone__a_date_is_trained_on_and_promoted_and_cleared_gives_the_same(site: Site) -> None:
    (site.bin / "real").touch()
    night = site.ended("iotid_ingest", site.trigger("iotid_ingest", f"{_NIGHT}T00:00:00Z"))
    first = site.tasks("iotid_ingest", night)
    home, garage = 0, 1
    assert (first["captured", home][0], first["captured", garage][0]) == ("success", "skipped")
    assert first["ingest_sites", -1][0] == "success", "without a champion it groups what is there"
    assert first["take_network_census", -1][0] == "success"
    rows, flows = site.rows("flows"), site.written("flows")
    assert site.metadata("census")["model_version"] is None

    site.ended("iotid_train", site.trigger("iotid_train", "2026-01-11T12:00:00Z"))  # of the 9th there are no flows
    # started by the asset; on Mondays a scheduled training, without real jobs, has started one that was skipped
    site.ended("iotid_evaluate", task="promote")
    assert "promote   nights-20260111T120000" in site.lines()

    site.clear("iotid_ingest", night)
    site.ended("iotid_ingest", night)
    assert site.lines().count(f"ingest_sites home {_NIGHT} ") == 2
    assert site.metadata("census")["model_version"] == "1", "the model is an input of the census"
    assert site.written("flows") == flows, "nothing of which they are made has changed"
    assert site.rows("flows") == rows
    assert int(rows.split()[0]) > 1000
    (site.bin / "real").unlink()


def test_standalone__a_back_fill_runs_in_order_and_a_job_that_fails_twice_works(site: Site) -> None:
    for date in ("2026-02-01", "2026-02-02"):
        (site.captures / "home" / date).mkdir(parents=True)
        (site.captures / "home" / date / "a.pcap").touch()
    (site.bin / "fails" / "ingest_sites home 2026-02-01").write_text("2", encoding="utf-8")
    nights = {"from_date": "2026-02-01T00:00:00Z", "to_date": "2026-02-02T00:00:00Z", "max_active_runs": 1}
    site.airflow.api("POST", "backfills", {"dag_id": "iotid_ingest", **nights})
    first, second = sorted(run for run in site.runs("iotid_ingest") if run.startswith("backfill"))
    site.ended("iotid_ingest", first)
    site.ended("iotid_ingest", second)
    assert site.tasks("iotid_ingest", first)["ingest_sites", -1] == ("success", 3)
    given = [line for line in site.lines() if line.startswith("ingest_sites") and " 2026-02-0" in line]
    assert given == ["ingest_sites home 2026-02-01 "] * 3 + ["ingest_sites home 2026-02-02 "]


def test_standalone__late_captures_run_their_date_again(site: Site) -> None:
    (tonight,) = (run for run in site.runs("iotid_ingest").values() if run["run_type"] == "scheduled")
    site.ended("iotid_ingest", tonight["dag_run_id"])
    late = datetime.fromisoformat(tonight["logical_date"]) - timedelta(days=1)
    run, line = f"late__{late.isoformat()}", f"ingest_sites home {late.date()} "
    for number in (1, 2):  # a night that had no run, and one that has
        (site.captures / "home" / str(late.date())).mkdir(parents=True, exist_ok=True)
        (site.captures / "home" / str(late.date()) / f"{number}.pcap").touch()
        site.clear("iotid_ingest", tonight["dag_run_id"])
        site.ended("iotid_ingest", tonight["dag_run_id"])
        site.ended("iotid_ingest", run)
        assert site.lines().count(line) == number
    site.clear("iotid_ingest", tonight["dag_run_id"])
    site.ended("iotid_ingest", tonight["dag_run_id"])
    assert site.runs("iotid_ingest")[run]["state"] == "success", "nothing came since, so it was not cleared"
