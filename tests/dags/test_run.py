"""Runs every DAG to its end with a spark-submit that records its command line; tests its tasks' functions."""

from __future__ import annotations

import json
import os
import shlex
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing, nullcontext
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("airflow", reason="needs the Airflow environment (.venv-airflow)")
pytestmark = pytest.mark.dags

DagTest = Callable[..., "subprocess.CompletedProcess[str]"]
_HERE = Path(__file__).parent


_SPARK_SUBMIT = """\
#!{python}
import os, pathlib, shlex, sys
here, given = pathlib.Path(__file__).parent, sys.argv[1:]
with (here / "lines").open("a") as lines:
    lines.write(shlex.join(given) + "\\n")
option = lambda name: [value for key, value in zip(given, given[1:]) if key == name]
newest = lambda folder: max((file.stat().st_mtime_ns for file in folder.rglob("*")), default=0)
failed = {{}}
if any(part.endswith("/ingest_sites.py") for part in given):
    (date,), (captures,), (root,) = option("--date"), option("--captures"), option("--set")
    for site in option("--site"):
        fails = here / "fails" / site  # the codes of its attempts, one a line
        if fails.exists() and (codes := fails.read_text().split()):
            failed[site] = int(codes[0])
            fails.write_text("\\n".join(codes[1:]))
            continue
        for table in ("flows", "census"):
            marker = pathlib.Path(root.partition("=")[2], table, f"site={{site}}", f"capture_date={{date}}", "_SUCCESS")
            if marker.exists() and marker.stat().st_mtime_ns > newest(pathlib.Path(captures, site, date)):
                continue
            marker.parent.mkdir(parents=True, exist_ok=True)
            marker.touch()
            with (here / "made").open("a") as made:
                made.write(f"{{table}} {{site}} {{date}}\\n")
print("Error: as asked")
sys.exit(min(failed.values()) if failed else int((here / "code").read_text()))
"""


@pytest.fixture
def recorder(tmp_path: Path) -> Path:
    """A folder with a spark-submit that appends its command line to `lines` and exits with the code in `code`.

    Of ingest_sites it writes the success markers, unless they are newer than the captures, and appends to `made`.
    """
    folder = tmp_path / "bin"
    (folder / "fails").mkdir(parents=True)
    (folder / "code").write_text("0", encoding="utf-8")
    program = folder / "spark-submit"
    program.write_text(_SPARK_SUBMIT.format(python=sys.executable), encoding="utf-8")
    program.chmod(0o755)
    return folder


@pytest.fixture
def tasks(airflow_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """The DAGs' shared module."""
    for name, value in airflow_environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.syspath_prepend(str(_HERE.parents[1] / "airflow_dags"))
    import iotid_tasks

    return iotid_tasks


@pytest.fixture
def deployment(tmp_path: Path) -> dict[str, Any]:
    """A variable `iotid` with captures of two of three sites for one date."""
    for site in ("home", "office"):
        folder = tmp_path / "captures" / site / "2026-01-10"
        folder.mkdir(parents=True)
        (folder / "a.pcap").write_bytes(b"x")
    return {
        "jobs": "/opt/iotid/jobs",
        "captures": str(tmp_path / "captures"),
        "sites": ["home", "office", "garage"],
        "labels": "/etc/iotid/devices.yaml",
        "storage": str(tmp_path / "tables"),
        "config": ["cluster.yaml", "/etc/iotid/our.yaml"],
        "python": "/opt/iotid/bin/python",
        "driver_memory": "3g",
        "wheel": "/opt/iotid/iotid.zip",
        "train_nights": 3,
        "late_nights": 0,
        "settle_s": 0,
        "wait_s": 0,
    }


def test_run__every_task_submits_the_golden_command_line(
    dag_test: DagTest, recorder: Path, deployment: dict[str, Any], tmp_path: Path, migrated: dict[str, str]
) -> None:
    for dag, date, conf in (
        ("iotid_ingest", "2026-01-10", {}),
        ("iotid_train", "2026-01-12T12:00:00+00:00", {}),
        ("iotid_evaluate", "2026-01-12T16:00:00+00:00", {"dataset": "nights-20260112T120000"}),
    ):
        done = dag_test(dag, date, deployment, recorder, conf=conf)
        assert "state=success" in done.stdout, done.stdout[-4000:]
        if dag == "iotid_ingest":
            for ended in ("home 2026-01-10: done", "office 2026-01-10: done", "garage 2026-01-10: skipped"):
                assert ended in done.stdout
    submitted = (recorder / "lines").read_text(encoding="utf-8").splitlines()
    golden = (_HERE / "command_lines.txt").read_text(encoding="utf-8").splitlines()
    assert sorted(line.replace(str(tmp_path), "/data") for line in submitted) == sorted(golden)
    select = "SELECT rendered_map_index FROM task_instance WHERE task_id = 'captured' AND state = 'success'"
    with closing(sqlite3.connect(f"{migrated['AIRFLOW_HOME']}/airflow.db")) as database:
        assert {("home",), ("office",)} <= set(database.execute(select))
        (event,) = database.execute("SELECT extra FROM asset_event WHERE source_task_id = 'announce'"
                                    " AND source_dag_id = 'iotid_ingest'")  # fmt: skip
    extra = json.loads(event[0])
    assert (extra["date"], extra["sites"]) == ("2026-01-10", ["home", "office"])


def test_run__a_failed_site_fails_the_run_and_the_others_are_done(
    dag_test: DagTest, recorder: Path, deployment: dict[str, Any]
) -> None:
    (recorder / "fails" / "office").write_text("2", encoding="utf-8")
    done = dag_test("iotid_ingest", "2026-01-10", deployment, recorder)
    assert "state=failed" in done.stdout, done.stdout[-4000:]
    for ended in ("home 2026-01-10: done", "office 2026-01-10: failed", "garage 2026-01-10: skipped"):
        assert ended in done.stdout
    assert "failed sites: office; " in done.stdout
    ingest, network = (recorder / "lines").read_text(encoding="utf-8").splitlines()  # once: code 2 is not retried
    assert "ingest_sites.py" in ingest
    assert "take_network_census.py" in network


def test_run__a_retry_repeats_only_the_sites_that_failed(
    dag_test: DagTest, recorder: Path, deployment: dict[str, Any]
) -> None:
    (recorder / "fails" / "office").write_text("1", encoding="utf-8")
    done = dag_test("iotid_ingest", "2026-01-10", deployment, recorder)
    assert "state=success" in done.stdout, done.stdout[-4000:]
    lines = (recorder / "lines").read_text(encoding="utf-8").splitlines()
    first, second = (line for line in lines if "ingest_sites.py" in line)
    assert first == second
    made = [f"{table} {site} 2026-01-10" for site in ("home", "office") for table in ("flows", "census")]
    assert (recorder / "made").read_text(encoding="utf-8").splitlines() == made


def test_run__a_late_site_is_done_alone_and_one_that_fails_is_named_alone(
    dag_test: DagTest, recorder: Path, deployment: dict[str, Any]
) -> None:
    dag_test("iotid_ingest", "2026-01-10", deployment, recorder)
    (recorder / "made").unlink()
    late = Path(deployment["captures"]) / "garage" / "2026-01-10"
    late.mkdir(parents=True)
    (late / "a.pcap").touch()
    (Path(deployment["captures"]) / "office" / "2026-01-10" / "b.pcap").touch()
    (recorder / "fails" / "office").write_text("2", encoding="utf-8")  # it has an older census
    done = dag_test("iotid_ingest", "2026-01-10", deployment, recorder)
    assert "state=failed" in done.stdout, done.stdout[-4000:]
    for ended in ("home 2026-01-10: done", "office 2026-01-10: failed", "garage 2026-01-10: done"):
        assert ended in done.stdout
    assert (recorder / "made").read_text(encoding="utf-8").splitlines() == [
        "flows garage 2026-01-10", "census garage 2026-01-10"
    ]  # fmt: skip


def test_run__a_watched_device_fails_the_run_after_all_censuses(
    dag_test: DagTest, recorder: Path, deployment: dict[str, Any]
) -> None:
    (recorder / "code").write_text("3", encoding="utf-8")
    done = dag_test("iotid_ingest", "2026-01-10", deployment, recorder)
    assert "state=failed" in done.stdout, done.stdout[-4000:]
    for ended in ("home 2026-01-10: done", "office 2026-01-10: done"):
        assert ended in done.stdout
    assert "a watched device was found" in done.stdout
    assert "ingest_sites: failed, although every site has a census" in done.stdout
    assert "take_network_census.py" in (recorder / "lines").read_text(encoding="utf-8")


def test_run__without_captures_nothing_is_ingested_and_the_run_is_green(
    dag_test: DagTest, recorder: Path, deployment: dict[str, Any]
) -> None:
    done = dag_test("iotid_ingest", "2026-01-09", deployment, recorder)
    assert "state=success" in done.stdout, done.stdout[-4000:]
    assert "2026-01-09: no site has complete captures" in done.stdout
    assert "office 2026-01-09: skipped" in done.stdout
    assert "no site has flows of the date" in done.stdout
    (network,) = (recorder / "lines").read_text(encoding="utf-8").splitlines()
    assert "take_network_census.py" in network


def test_run__ingest_with_a_logical_date_not_at_midnight_submits_nothing(
    dag_test: DagTest, recorder: Path, deployment: dict[str, Any]
) -> None:
    done = dag_test("iotid_ingest", "2026-01-10T05:00:00+00:00", deployment, recorder)
    assert "state=failed" in done.stdout, done.stdout[-4000:]
    assert "must be midnight in UTC" in done.stdout
    assert not (recorder / "lines").exists()


@pytest.mark.parametrize(
    ("code", "outcome"), [(0, None), (1, "AirflowException"), (2, "AirflowFailException"), (3, "AirflowFailException"),
                          (4, "AirflowSkipException")]
)  # fmt: skip
def test_step__exit_code_determines_retries(
    tasks: Any, recorder: Path, monkeypatch: pytest.MonkeyPatch, code: int, outcome: str | None
) -> None:
    monkeypatch.setenv("PATH", f"{recorder}{os.pathsep}{os.environ['PATH']}")
    (recorder / "code").write_text(str(code), encoding="utf-8")
    step = tasks.StepOperator(task_id="step", application="job.py", conf={})
    with pytest.raises(Exception, match=r"code is|retry|watched|model") if outcome else nullcontext() as raised:
        step.execute({})
    assert outcome is None or raised.typename == outcome


def test_deployment__reports_missing_and_unknown_keys(
    tasks: Any, deployment: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_VAR_IOTID", json.dumps(deployment))
    assert tasks.deployment() == deployment
    changed = {key: value for key, value in deployment.items() if key != "storage"} | {"waits": 1}
    monkeypatch.setenv("AIRFLOW_VAR_IOTID", json.dumps(changed))
    with pytest.raises(Exception, match=r"lacks \['storage'\], does not know \['waits'\]"):
        tasks.deployment()


def test_deployment__the_example_has_every_key_and_every_default(tasks: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = _HERE.parents[1] / "airflow_dags"
    example = json.loads((folder / "variable.example.json").read_text(encoding="utf-8"))["iotid"]
    required = {key: example[key] for key in ("jobs", "python", "captures", "storage", "sites")}
    monkeypatch.setenv("AIRFLOW_VAR_IOTID", json.dumps(required))
    assert tasks.deployment() == example
    described = (folder / "iotid_ingest.py").read_text(encoding="utf-8")
    assert all(f"`{key}`" in described for key in example)


def test_run__a_variable_with_the_required_keys_alone_needs_no_labels(
    dag_test: DagTest, recorder: Path, deployment: dict[str, Any]
) -> None:
    required = {key: deployment[key] for key in ("jobs", "python", "captures", "storage", "sites")}
    done = dag_test("iotid_train", "2026-01-12T12:00:00+00:00", required, recorder)
    assert "state=success" in done.stdout, done.stdout[-4000:]
    write, train = (shlex.split(line) for line in (recorder / "lines").read_text(encoding="utf-8").splitlines())
    assert "--labels" not in write
    assert "spark.driver.memory=3g" in train
    assert train[-6:-2] == ["--config", "cluster.yaml", "--set", f"storage.root={deployment['storage']}"]


@pytest.mark.parametrize(
    ("captured", "ingested", "arrived", "flows", "census", "expected"),
    [
        ("success", "success", 10, 20, 30, "done"),
        ("success", "success", 25, 20, 22, "done"),  # a copy with the same bytes came, so the steps kept their results
        ("success", "failed", 10, 20, 30, "done"),  # another site failed
        ("success", "failed", 10, 20, 15, "done"),  # assembled again with the same rows; the census is of these
        ("success", "failed", 10, None, None, "failed"),
        ("success", "failed", 10, 20, None, "failed"),
        ("success", "failed", 25, 20, 30, "failed"),
        ("success", "failed", 25, 30, 20, "failed"),  # the census is older than late captures
        ("success", "upstream_failed", 10, None, None, "failed"),
        ("failed", "success", 10, 20, 30, "failed"),
        ("upstream_failed", "skipped", None, None, None, "failed"),
        ("skipped", "success", None, None, None, "skipped"),
        ("skipped", "success", 10, None, None, "late"),
        (None, "success", 10, None, None, "skipped"),
    ],
)
def test_outcome__is_done_late_skipped_or_failed(
    tasks: Any,
    captured: str | None,
    ingested: str,
    arrived: float | None,
    flows: float | None,
    census: float | None,
    expected: str,
) -> None:
    import iotid_ingest

    assert iotid_ingest.outcome(captured, ingested, arrived, flows, census) == expected


def test_check_sites__fails_for_failed_sites_and_for_a_failed_ingest(tasks: Any) -> None:
    import iotid_ingest

    iotid_ingest.check_sites({"home": "done", "office": "late"}, "success")
    iotid_ingest.check_sites({"home": "skipped"}, "skipped")
    with pytest.raises(Exception, match="failed sites: home, office; "):
        iotid_ingest.check_sites({"home": "failed", "garage": "done", "office": "failed"}, "failed")
    for ended in ("failed", "upstream_failed", None):
        with pytest.raises(Exception, match=f"ingest_sites: {ended}, although every site has a census"):
            iotid_ingest.check_sites({"home": "done"}, ended)


def test_evaluate__each_of_fifty_trainings_once_with_events_lost_or_doubled(
    tasks: Any, deployment: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Monday's event starts the evaluation none, one or two times; Tuesday's schedule starts it once more."""
    import iotid_evaluate
    from airflow.sdk.exceptions import AirflowSkipException

    context = {"params": {"dataset": None}, "ti": SimpleNamespace(try_number=1)}
    monkeypatch.setattr(iotid_evaluate, "get_current_context", lambda: context)
    monkeypatch.setattr(iotid_evaluate, "deployment", lambda: deployment)
    store, random, evaluated, datasets = Path(deployment["storage"]), Random(1), [], []
    with pytest.raises(AirflowSkipException, match="no dataset nights-"):
        iotid_evaluate.line()
    for week in range(50):
        monday = datetime(2026, 1, 5, 12) + timedelta(weeks=week)
        datasets.append(f"nights-{monday:%Y%m%dT%H%M%S}")
        for name in (datasets[-1], "home"):
            _complete(store / "datasets" / f"name={name}")
        for _ in range(random.choice((0, 1, 1, 2)) + 1):
            try:
                evaluated.append(iotid_evaluate.line()[-1])
            except AirflowSkipException:
                continue
            _complete(store / "decisions" / f"dataset={evaluated[-1]}" / f"version={week}")
    assert evaluated == datasets
    context["ti"].try_number = 2
    assert iotid_evaluate.line()[-1] == datasets[-1]
    context |= {"params": {"dataset": "home"}}
    assert iotid_evaluate.line()[-1] == "home"


def _complete(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "_SUCCESS").touch()


@pytest.mark.parametrize(
    "location",
    ["s3://AKIA:hunter2@bucket", "s3://AKIA:hun/ter2@bucket", "s3://hunter2@bucket", "s3://bucket/x?token=hunter2",
     "abfss://nights:hunter2@account.dfs.core.windows.net", "https://account/nights?sv=1&sig=hunter2"],
)  # fmt: skip
@pytest.mark.parametrize("key", ["captures", "storage", "config"])
def test_deployment__a_location_with_credentials_is_refused_and_not_shown(
    tasks: Any, deployment: dict[str, Any], monkeypatch: pytest.MonkeyPatch, key: str, location: str
) -> None:
    good = deployment | {"captures": "abfss://nights@account.dfs.core.windows.net/x", "storage": "s3://bucket/a%40b"}
    monkeypatch.setenv("AIRFLOW_VAR_IOTID", json.dumps(good))
    assert tasks.deployment() == good
    value = [location] if key == "config" else location
    monkeypatch.setenv("AIRFLOW_VAR_IOTID", json.dumps(good | {key: value}))
    with pytest.raises(Exception, match=f"variable iotid: {key} must not contain a user, password") as caught:
        tasks.deployment()
    assert "hunter2" not in str(caught.value)


def test_captures__are_complete_when_the_newest_file_is_old_enough(tasks: Any, tmp_path: Path) -> None:
    assert tasks.latest_arrival(str(tmp_path / "none")) is None
    (tmp_path / "deep" / "er").mkdir(parents=True)
    assert tasks.latest_arrival(str(tmp_path)) is None
    before = time.time()
    (tmp_path / "deep" / "er" / "a.pcap").write_bytes(b"x")
    os.utime(tmp_path / "deep" / "er" / "a.pcap", (0, 0))  # an old date, as a copy may keep it
    arrived = tasks.latest_arrival(str(tmp_path))
    assert before - 1 < arrived < time.time() + 1
    assert tasks.why_incomplete(None, 1000, 60) == "no captures"
    assert tasks.why_incomplete(970, 1000, 60) == "still growing: a file arrived 30 s ago, settle_s is 60"
    assert tasks.why_incomplete(940, 1000, 60) is None


def test_late__are_captures_newer_than_the_success_marker_of_their_flows(
    tasks: Any, deployment: dict[str, Any]
) -> None:
    assert tasks.written(deployment, "flows", "a/b", "2026-01-10") is None
    marker = Path(deployment["storage"]) / "flows" / "site=a%2Fb" / "capture_date=2026-01-10" / "_SUCCESS"
    marker.parent.mkdir(parents=True)
    marker.touch()
    os.utime(marker, (500, 500))
    assert tasks.written(deployment, "flows", "a/b", "2026-01-10") == 500
    assert tasks.written(deployment, "census", "a/b", "2026-01-10") is None
    assert [tasks.is_late(arrived, 500) for arrived in (None, 499, 501)] == [False, False, True]
    assert [tasks.is_late(arrived, None) for arrived in (None, 499)] == [False, True]
