"""
### What it does

Once a night, for every site: `split_pcaps` and `assemble_flows` turn the night's captures into flows. Then, over all
sites together: `write_dataset`, `train`, `evaluate`, and `promote`, which moves the champion's alias only if the
written policy allows. Last, `take_census` lists every site's devices with the champion. Every task is one
spark-submit of one file in `jobs/`; every table is a partition that is written whole or not at all, so **any task may
be cleared and run again, and gives the same rows**.

A run's night is its parameter `date`, or else its logical date. Captures lie in CAPTURES/SITE/DATE.

### Where its settings are

The Airflow variable `iotid` (JSON): `jobs` (folder of the job files), `captures`, `sites` (list), `labels` (device
list), `storage` (folder or URI of the tables), `config` (list of settings files, later wins), `python` (interpreter of
the iotid environment), `driver_memory` (such as 3g), `wheel` (iotid's package for the executors; empty where they have
it installed). The connection `spark_default` names the Spark master; `spark-submit` must be on the workers' PATH.
With `census.pseudonyms`, workers need the key: IOTID_CENSUS_KEY in their environment, or the file `census.key_file`.

### What failure looks like, and what to do

Each job ends with one line that names the file or setting, the rule and the remedy: it is the last line of the task's
log. A task is tried three times, after a pause of 5 to 10 minutes and one of 10 to 20.

* *Exit code 2* (a missing folder, an empty night, an unknown setting, a malformed device list): mend what the line
  names, then clear the task; trying again by itself does not help.
* *Exit code 3* of `take_census`: no fault; a device on the watch list was met, and `watchlist.fail` asks that this be
  seen. The census is written, and the line names its page: act, then mark the task as a success; it was tried three
  times and met the device each time.
* *PartitionError*: an earlier step has not finished for that site and night; clear that step with its downstream tasks.
* *SchemaError, AccountingError*: stored data breaks its contract; do not clear, keep the partition and report it.
* *TrainingError*, such as a loss that is not finite: clear `train` once; if it returns, look at the dataset's summary.
* `promote` succeeds but the champion stays: not a failure, the report says which line of the policy was not met.
* `take_census` finds no champion: none was ever promoted; read the night's report, then mend the data or the policy.
* A site's captures came late, or again: clear that site's `ingest` tasks of the night with their downstream tasks.
* A site has gone: take it out of `sites`; until then its `ingest` fails, and nothing is learned or counted after it.
* The execution time-out: look in `splits` for a site that grew; give Spark more executors, or raise the time-out here.

Only one run is active at a time, so two runs never write one night at once. Back-fill with
`airflow backfill create --dag-id iotid_ingest_train_evaluate --from-date … --to-date …`.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.providers.apache.spark.operators.spark_submit import SparkSubmitOperator
from airflow.sdk import DAG, CronDataIntervalTimetable, Param, Variable, get_current_context, task, task_group

_EXECUTION_TIMEOUT = {  # several times what a night of 100 GB takes on the smallest cluster that suits it
    "split_pcaps": timedelta(hours=1),
    "assemble_flows": timedelta(hours=3),
    "write_dataset": timedelta(hours=2),
    "train": timedelta(hours=8),
    "evaluate": timedelta(hours=2),
    "promote": timedelta(minutes=15),
    "take_census": timedelta(hours=2),
}


def _submit(job: str) -> dict[str, Any]:
    """What every spark-submit task is told; ``job`` names the file in jobs/ and the task."""
    return {
        "task_id": job,
        "application": "{{ var.json.iotid.jobs }}/" + job + ".py",
        "name": f"iotid {job} {{{{ params.date or ds }}}}",
        "py_files": "{{ var.json.iotid.wheel }}",
        "conf": {
            # the driver's JVM is there before the settings are read: their spark.driver_memory would come too late
            "spark.driver.memory": "{{ var.json.iotid.driver_memory }}",
            "spark.pyspark.python": "{{ var.json.iotid.python }}",
            "spark.yarn.maxAppAttempts": "1",  # trying again is Airflow's alone
        },
        "execution_timeout": _EXECUTION_TIMEOUT[job],
    }


def _run() -> tuple[dict[str, Any], str, list[str], list[str]]:
    """The deployment's settings; the run's night and sites; the arguments that every job gets."""
    context = get_current_context()
    deployment = Variable.get("iotid", deserialize_json=True)
    layers = [part for file in deployment["config"] for part in ("--config", file)]
    layers += ["--set", f"storage.root={deployment['storage']}"]
    date = context["params"]["date"] or context["ds"]
    return deployment, date, context["params"]["sites"] or deployment["sites"], layers


def lines_of_each_site() -> list[dict[str, list[str]]]:
    """For each site the arguments of the job that reads captures, and of those that read the night's tables."""
    deployment, date, sites, layers = _run()
    lines = []
    for site in sites:
        night_line = [*layers, "--site", site, "--date", date]
        captures_line = [*night_line, "--captures", f"{deployment['captures']}/{site}/{date}"]
        lines.append({"captures_line": captures_line, "night_line": night_line})
    return lines


def lines_of_all_sites() -> dict[str, list[str]]:
    """The arguments of the job that writes the dataset, and of those that read it."""
    deployment, date, sites, layers = _run()
    dataset_line = [*layers, "--dataset", f"nightly-{date}"]
    selection = [part for site in sites for part in ("--site", site)]
    write_line = [*dataset_line, *selection, "--date", date, "--labels", deployment["labels"]]
    return {"write_line": write_line, "dataset_line": dataset_line}


def ingest(captures_line: list[str], night_line: list[str]) -> None:
    """One site's night, from captures to flows."""
    split = SparkSubmitOperator(**_submit("split_pcaps"), application_args=captures_line)
    split >> SparkSubmitOperator(**_submit("assemble_flows"), application_args=night_line)


with DAG(
    dag_id="iotid_ingest_train_evaluate",
    schedule=CronDataIntervalTimetable("0 1 * * *", timezone="UTC"),  # the night before, an hour after it is over
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    params={
        "date": Param(None, type=["null", "string"], format="date", description="Night; default: the logical date."),
        "sites": Param(None, type=["null", "array"], description="Sites; default: those of the variable `iotid`."),
    },
    default_args={
        "owner": "iotid",
        "conn_id": "spark_default",
        "pool": "default_pool",
        "retries": 2,
        "retry_delay": timedelta(minutes=5),
        "retry_exponential_backoff": 2,
        "execution_timeout": timedelta(minutes=5),
    },
    tags=["iotid", "nightly"],
    doc_md=__doc__,
):
    nights = task(lines_of_each_site)()
    lines = task(multiple_outputs=True)(lines_of_all_sites)()
    ingested = task_group(ingest).expand_kwargs(nights)
    write = SparkSubmitOperator(**_submit("write_dataset"), application_args=lines["write_line"])
    train, evaluate, promote = (
        SparkSubmitOperator(**_submit(job), application_args=lines["dataset_line"])
        for job in ("train", "evaluate", "promote")
    )
    census = SparkSubmitOperator.partial(**_submit("take_census")).expand(
        application_args=nights.map(lambda site_lines: site_lines["night_line"])
    )
    ingested >> write >> train >> evaluate >> promote >> census
