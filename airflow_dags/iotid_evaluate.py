"""
### What it does

Runs when `iotid_train` updates the asset `iotid_challenger`, and every Tuesday in case that event was lost: `evaluate`
scores the challenger and the champion on the newest dataset of `iotid_train`, and `promote` makes the challenger the
champion if the written policy allows it. The next census uses the new champion. The dataset is read from the store, not
from the event: if promotion has decided on it already, because an event came twice, the run is skipped. **Any task may
be cleared and run again.**

### Where its settings are

In the Airflow variable `iotid`; the documentation of `iotid_ingest` lists its keys, the connection and the pool.
Triggered manually with the parameter `dataset`, it evaluates that dataset, decided or not.

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

from airflow.sdk import DAG, AssetOrTimeSchedule, CronTriggerTimetable, Param, get_current_context, task
from airflow.sdk.exceptions import AirflowSkipException
from iotid_tasks import (
    CHALLENGER,
    DATASET_PREFIX,
    DEFAULT_ARGS,
    StepOperator,
    deadline,
    deployment,
    is_decided,
    layers,
    newest_partition,
    step,
)


def line() -> list[str]:
    """The arguments of both jobs."""
    context = get_current_context()
    variable, asked = deployment(), context["params"]["dataset"]
    dataset = asked or newest_partition(variable, "datasets", DATASET_PREFIX)
    if dataset is None:
        raise AirflowSkipException(f"no dataset {DATASET_PREFIX}… is in {variable['storage']}; run iotid_train first")
    if not asked and context["ti"].try_number == 1 and is_decided(variable, dataset):  # a cleared task runs again
        raise AirflowSkipException(f"{dataset} is decided already; give the parameter dataset to evaluate it again")
    return [*layers(variable), "--dataset", dataset]


with DAG(
    dag_id="iotid_evaluate",
    description="After each training: scores of the challenger and the champion, and the decision which one is used",
    # Tuesdays: a day after the training, if its event was lost
    schedule=AssetOrTimeSchedule(timetable=CronTriggerTimetable("0 12 * * 2", timezone="UTC"), assets=[CHALLENGER]),
    catchup=False,
    max_active_runs=1,
    params={
        "dataset": Param(None, type=["null", "string"], description="Dataset; default: the newest of iotid_train.")
    },
    deadline=deadline(timedelta(hours=8)),
    default_args=DEFAULT_ARGS,
    tags=["iotid", "after training"],
    doc_md=__doc__,
):
    arguments = task(line)()
    evaluate, promote = (StepOperator(**step(job), application_args=arguments) for job in ("evaluate", "promote"))
    evaluate >> promote
