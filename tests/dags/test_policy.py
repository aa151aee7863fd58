"""What every DAG needs to run unattended."""

from __future__ import annotations

import ast
import sys
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("airflow", reason="needs the Airflow environment (.venv-airflow)")
pytestmark = pytest.mark.dags

_REPOSITORY = Path(__file__).parents[2]
_MANUAL = {"compare", "describe", "rollback"}  # no DAG runs them
_OF_ONE_SITE = {"split_pcaps", "assemble_flows", "take_census"}  # ingest_sites does the same for all
_SPARK_TASKS = {  # of each DAG, in the order of the data
    "iotid_ingest": ("ingest_sites", "take_network_census"),
    "iotid_train": ("write_dataset", "train"),
    "iotid_evaluate": ("evaluate", "promote"),
}
_TAGS = {"iotid_ingest": "nightly", "iotid_train": "weekly", "iotid_evaluate": "after training"}  # when they run


@pytest.fixture(scope="module")
def bag(airflow_environment: dict[str, str]) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in airflow_environment.items():
            patch.setenv(name, value)
        patch.syspath_prepend(str(_REPOSITORY / "airflow_dags"))  # as Airflow does with a bundle's folder
        from airflow.dag_processing.dagbag import DagBag

        yield DagBag(dag_folder=_REPOSITORY / "airflow_dags")


@pytest.fixture(scope="module")
def tasks(bag: Any) -> list[Any]:
    return [task for dag in bag.dags.values() for task in dag.tasks]


def test_dags__are_exactly_those_expected_and_import_without_errors(bag: Any) -> None:
    assert bag.import_errors == {}
    assert set(bag.dags) == set(_SPARK_TASKS)


def test_dag_files__are_parsed_in_well_under_a_second(bag: Any) -> None:
    again = type(bag)(dag_folder=_REPOSITORY / "airflow_dags")  # without Airflow's own imports, which all DAGs share
    assert {Path(stats.file).name for stats in again.dagbag_stats} == {f"{dag}.py" for dag in _SPARK_TASKS}
    assert sum((stats.duration for stats in again.dagbag_stats), timedelta()) < timedelta(seconds=1)


def test_dags__name_an_owner_tags_and_one_active_run(bag: Any) -> None:
    for dag in bag.dags.values():
        assert dag.owner == "iotid"
        assert dag.tags == {"iotid", _TAGS[dag.dag_id]}
        assert dag.description
        assert dag.max_active_runs == 1
        assert dag.catchup is False
        assert dag.deadline is not None


def test_dags__runbook_says_what_it_does_and_what_failure_looks_like(bag: Any) -> None:
    for dag in bag.dags.values():
        for heading in ("### What it does", "### Where its settings are", "### What failure looks like"):
            assert heading in dag.doc_md
        for task in dag.tasks:
            assert task.task_id.rpartition(".")[2] in dag.doc_md or not hasattr(task, "application")


def test_tasks__have_retries_with_backoff_and_time_limits(tasks: list[Any]) -> None:
    for task in tasks:
        assert task.owner == "iotid"
        assert task.retries >= 2
        assert task.retry_exponential_backoff > 1
        assert task.retry_delay * task.retry_exponential_backoff**task.retries <= timedelta(hours=1)
        assert timedelta(0) < task.execution_timeout <= timedelta(hours=8)


def test_spark_tasks__share_a_pool_and_are_submitted_once(
    tasks: list[Any],
) -> None:
    for task in tasks:
        spark = hasattr(task, "application")
        assert (task.pool, task.pool_slots) == ("iotid_spark" if spark else "default_pool", 1)
        if spark:
            assert type(task).__name__ == "StepOperator"
            assert task.conf["spark.driver.memory"] == "{{ var.json.iotid.driver_memory | default('3g', true) }}"
            assert task.conf["spark.yarn.maxAppAttempts"] == "1"
            assert "spark.task.maxFailures" not in task.conf


def test_spark_tasks__are_the_steps_in_the_order_of_the_data(bag: Any) -> None:
    jobs = {path.stem for path in (_REPOSITORY / "jobs").glob("[a-z]*.py")}
    submitted = set()
    for name, expected in _SPARK_TASKS.items():
        dag = bag.dags[name]
        assert {task.task_id for task in dag.tasks if hasattr(task, "application")} == set(expected)
        for earlier, later in pairwise(expected):
            assert later in {task.task_id for task in dag.get_task(earlier).get_flat_relatives(upstream=False)}
        submitted |= {task_id.rpartition(".")[2] for task_id in expected}
        for task_id in expected:
            assert dag.get_task(task_id).application.endswith(f"/{task_id.rpartition('.')[2]}.py")
    assert submitted == jobs - _MANUAL - _OF_ONE_SITE


def test_assets__connect_the_dags(bag: Any) -> None:
    outlets = {
        (asset.name, dag.dag_id, task.task_id)
        for dag in bag.dags.values()
        for task in dag.tasks
        for asset in task.outlets
    }
    assert outlets == {
        ("iotid_flows", "iotid_ingest", "announce"),
        ("iotid_challenger", "iotid_train", "announce"),
    }
    assert [asset.name for asset in bag.dags["iotid_train"].get_task("write_dataset").inlets] == ["iotid_flows"]
    awaited = bag.dags["iotid_evaluate"].timetable.asset_condition
    assert [asset.name for asset in awaited.objects] == ["iotid_challenger"]
    assert bag.dags["iotid_evaluate"].timetable.timetable.expression == "0 12 * * 2"  # in case the event is lost


def test_network_census__runs_whatever_became_of_the_sites_and_failures_show(bag: Any) -> None:
    dag = bag.dags["iotid_ingest"]
    ended = dag.get_task("sites_ended")
    assert ended.trigger_rule == "all_done"
    assert "ingest_sites" in ended.upstream_task_ids
    assert ended.downstream_task_ids == {"announce", "take_network_census", "check_sites"}
    assert {task.task_id for task in dag.leaves} == {"announce", "take_network_census", "check_sites", "ingest_late"}


def test_ingest_sites__is_one_task_for_all_sites_after_the_last_capture(bag: Any) -> None:
    dag = bag.dags["iotid_ingest"]
    assert dag.get_task("ingest_line").trigger_rule == "all_done"
    assert dag.get_task("ingest_line").upstream_task_ids == {"sites", "captured"}
    assert dag.get_task("ingest_sites").upstream_task_ids == {"ingest_line"}
    assert {task.task_id for task in dag.tasks if task.is_mapped} == {"captured", "ingest_late"}


def test_mapped_tasks__show_their_site_and_no_other_task_has_such_a_template(bag: Any) -> None:
    dag = bag.dags["iotid_ingest"]
    assert {task.task_id for task in dag.tasks if task.map_index_template} == {"captured"}


def test_captured__frees_its_slot_while_waiting_and_times_out(bag: Any) -> None:
    sensor = bag.dags["iotid_ingest"].get_task("captured")
    assert sensor.partial_kwargs["mode"] == "reschedule"
    assert 0 < sensor.partial_kwargs["timeout"] <= timedelta(hours=12).total_seconds()


def test_dag_files__import_airflow_and_the_standard_library_only() -> None:
    files = sorted((_REPOSITORY / "airflow_dags").rglob("*.py"))
    assert files
    for file in files:
        tree = ast.parse(file.read_text(encoding="utf-8"))
        imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        imported |= {node.module or "." for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        foreign = {name.partition(".")[0] for name in imported} - sys.stdlib_module_names - {"airflow", "iotid_tasks"}
        assert foreign == set(), file
