"""
### What it does

Every week, and whenever it is triggered: `write_dataset` reads the flows of all sites of the last `train_nights` dates
before the run's logical date, without those that have no flows; `train` trains on them and registers the challenger;
`announce` updates the asset `iotid_challenger` with the dataset's name, which starts `iotid_evaluate`. The dataset is
named after the run's logical date, so each run has its own, and **any task may be cleared and run again, and gives the
same rows**.

### Where its settings are

In the Airflow variable `iotid`; the documentation of `iotid_ingest` lists its keys, the connection and the pool.

### What failure looks like, and what to do

Each job ends with one line that names the file or setting, the rule and the remedy, near the end of the task's log. A
task is tried three times, after a pause of 5 to 10 minutes and one of 10 to 20.

* *Exit code 2*, not retried (no date has flows, a malformed device list, an unknown setting; neither a device list nor
  a named group): fix what the line names, then clear the task with its downstream tasks.
* *SchemaError, AccountingError*: stored data breaks its contract; do not clear, keep the partition and report it.
* *TrainingError*, such as a loss that is not finite: clear `train` once; if it fails again, read the dataset's summary.
* The execution time-out of `train`: fewer `train_nights`, more `training.ranks`, or raise it in `iotid_tasks.py`.
* A missed deadline is an error line in the callback's log; send mail from `report_missed_deadline` instead.

Only one run is active at a time. Training reads flows; with more than one slot in the pool `iotid_spark`, flows that
are rewritten meanwhile may make it fail, and the retry reads the new rows.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from airflow.sdk import DAG, CronTriggerTimetable, get_current_context, task
from iotid_tasks import (
    CHALLENGER,
    DATASET_PREFIX,
    DEFAULT_ARGS,
    FLOWS,
    StepOperator,
    deadline,
    deployment,
    layers,
    step,
)


def _asked() -> datetime:
    """The run's logical date, or the time at which it was triggered; it trains on the dates before that day."""
    context = get_current_context()
    asked: datetime = context.get("logical_date") or context["dag_run"].run_after
    return asked


def lines() -> dict[str, Any]:
    """The dataset's name, the arguments of the job that writes it, and those of the job that reads it."""
    variable, asked = deployment(), _asked()
    dataset = f"{DATASET_PREFIX}{asked:%Y%m%dT%H%M%S}"
    dates = [(asked - timedelta(days=days)).date().isoformat() for days in range(variable["train_nights"], 0, -1)]
    dataset_line = [*layers(variable), "--dataset", dataset]
    selection = [part for site in variable["sites"] for part in ("--site", site)]
    selection += [part for date in dates for part in ("--date", date)]
    labels = ("--labels", variable["labels"]) if variable["labels"] else ()
    write_line = [*dataset_line, *selection, "--skip-absent", *labels]
    return {"dataset": dataset, "write_line": write_line, "dataset_line": dataset_line}


def announce(dataset: str) -> None:
    """Update the asset of the challenger, which starts its evaluation."""
    get_current_context()["outlet_events"][CHALLENGER].extra = {"dataset": dataset}


with DAG(
    dag_id="iotid_train",
    description="Each week: a dataset of the last nights, and a model trained on it (the challenger)",
    schedule=CronTriggerTimetable("0 12 * * 1", timezone="UTC"),  # Mondays, after the flows of Sunday
    catchup=False,
    max_active_runs=1,
    deadline=deadline(timedelta(hours=20)),
    default_args=DEFAULT_ARGS,
    tags=["iotid", "weekly"],
    doc_md=__doc__,
):
    arguments = task(multiple_outputs=True)(lines)()
    write = StepOperator(**step("write_dataset"), application_args=arguments["write_line"], inlets=[FLOWS])
    train = StepOperator(**step("train"), application_args=arguments["dataset_line"])
    write >> train >> task(outlets=[CHALLENGER])(announce)(arguments["dataset"])
