"""
### What it does

Runs when `iotid_train` updates the asset `iotid_challenger`: `evaluate` scores the challenger and the champion on the
dataset of the asset's event, and `promote` makes the challenger the champion if the written policy allows it. The next
census uses the new champion. **Any task may be cleared and run again.**

### Where its settings are

In the Airflow variable `iotid`; the documentation of `iotid_ingest` lists its keys, the connection and the pool.
Triggered manually, it needs its parameter `dataset`.

### What failure looks like, and what to do

Each job ends with one line that names the file or setting, the rule and the remedy, near the end of the task's log. A
task is tried three times, after a pause of 5 to 10 minutes and one of 10 to 20.

* *Exit code 2*, not retried (a dataset that does not exist, an unknown setting): fix what the line names, then clear
  the task with its downstream tasks.
* *Exit code 4*: skipped; there is no challenger yet.
* *StaleError*: the champion changed during the evaluation; clear `evaluate` with its downstream task.
* `promote` succeeds but the champion stays: not a failure; the task's log lists the rules that refused.
* A bad champion: `iotid rollback` restores the previous one.
* A missed deadline is an error line in the callback's log; send mail from `report_missed_deadline` instead.

Only one run is active at a time. If several trainings ended meanwhile, only the last one, the challenger, is evaluated.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, Param, get_current_context, task
from airflow.sdk.exceptions import AirflowFailException
from iotid_tasks import (
    CHALLENGER,
    DEFAULT_ARGS,
    StepOperator,
    deadline,
    deployment,
    layers,
    step,
)


def line() -> list[str]:
    """The arguments of both jobs."""
    context = get_current_context()
    events = context["triggering_asset_events"].get(CHALLENGER)
    if events:
        dataset = max(events, key=lambda event: event.timestamp).extra.get("dataset")
    else:
        dataset = context["params"]["dataset"]
    if not dataset:
        raise AirflowFailException("dataset: neither the asset's event nor the parameter names one; give the parameter")
    return [*layers(deployment()), "--dataset", dataset]


with DAG(
    dag_id="iotid_evaluate",
    schedule=[CHALLENGER],
    catchup=False,
    max_active_runs=1,
    params={"dataset": Param(None, type=["null", "string"], description="Dataset; default: the asset event's.")},
    deadline=deadline(timedelta(hours=8)),
    default_args=DEFAULT_ARGS,
    tags=["iotid", "weekly"],
    doc_md=__doc__,
):
    arguments = task(line)()
    evaluate, promote = (StepOperator(**step(job), application_args=arguments) for job in ("evaluate", "promote"))
    evaluate >> promote
