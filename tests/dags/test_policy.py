"""What every DAG must have before it may run at night."""

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
_ASKED_FOR_BY_PEOPLE = {"compare", "describe", "rollback"}  # beside the steps of every night
_SPARK_TASKS = {
    "ingest.split_pcaps",
    "ingest.assemble_flows",
    "write_dataset",
    "train",
    "evaluate",
    "promote",
    "take_census",
}


@pytest.fixture(scope="module")
def bag(airflow_environment: dict[str, str]) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in airflow_environment.items():
            patch.setenv(name, value)
        from airflow.dag_processing.dagbag import DagBag

        yield DagBag(dag_folder=_REPOSITORY / "airflow_dags")


@pytest.fixture(scope="module")
def tasks(bag: Any) -> dict[str, Any]:
    return {task.task_id: task for dag in bag.dags.values() for task in dag.tasks}


def test_dags__are_exactly_those_expected_and_import_without_errors(bag: Any) -> None:
    assert bag.import_errors == {}
    assert set(bag.dags) == {"iotid_ingest_train_evaluate"}


def test_dags__name_an_owner_tags_and_one_active_run(bag: Any) -> None:
    for dag in bag.dags.values():
        assert dag.owner == "iotid"
        assert "iotid" in dag.tags
        assert dag.max_active_runs == 1
        assert dag.catchup is False


def test_dags__runbook_says_what_it_does_and_what_failure_looks_like(bag: Any) -> None:
    for dag in bag.dags.values():
        for heading in ("### What it does", "### Where its settings are", "### What failure looks like"):
            assert heading in dag.doc_md
        for task in dag.tasks:
            assert task.task_id.rpartition(".")[2] in dag.doc_md or not hasattr(task, "application")


def test_tasks__retry_with_growing_pauses_and_end_after_a_time(tasks: dict[str, Any]) -> None:
    for task in tasks.values():
        assert task.owner == "iotid"
        assert task.retries >= 2
        assert task.retry_exponential_backoff > 1
        assert task.retry_delay * task.retry_exponential_backoff**task.retries <= timedelta(hours=1)
        assert timedelta(0) < task.execution_timeout <= timedelta(hours=8)
        assert task.pool == "default_pool"


def test_tasks__follow_the_way_the_data_goes(bag: Any) -> None:
    dag = bag.dags["iotid_ingest_train_evaluate"]
    way = (
        "ingest.split_pcaps",
        "ingest.assemble_flows",
        "write_dataset",
        "train",
        "evaluate",
        "promote",
        "take_census",
    )
    assert {task.task_id for task in dag.tasks} - set(way) == {"lines_of_each_site", "lines_of_all_sites"}
    for earlier, later in pairwise(way):
        assert later in dag.get_task(earlier).downstream_task_ids


def test_tasks__submit_job_files_that_exist(tasks: dict[str, Any]) -> None:
    jobs = {path.stem for path in (_REPOSITORY / "jobs").glob("[a-z]*.py")}
    assert {name.rpartition(".")[2] for name in _SPARK_TASKS} == jobs - _ASKED_FOR_BY_PEOPLE
    assert set(tasks) >= _SPARK_TASKS


def test_dag_files__import_airflow_and_the_standard_library_only() -> None:
    files = sorted((_REPOSITORY / "airflow_dags").rglob("*.py"))
    assert files
    for file in files:
        tree = ast.parse(file.read_text(encoding="utf-8"))
        imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        imported |= {node.module or "." for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        foreign = {name.partition(".")[0] for name in imported} - sys.stdlib_module_names - {"airflow"}
        assert foreign == set(), file
