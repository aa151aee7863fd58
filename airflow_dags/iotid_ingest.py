"""
### What it does

Every night, for each site by itself: `captured` waits for the night's captures, `split_pcaps` and `assemble_flows`
turn them into flows, `announce` updates the asset `iotid_flows`, and `take_census` lists the site's devices with the
champion, if there is one yet. Every Spark task is one spark-submit of one file in `jobs/`; every table is a partition
that is written whole or not at all, so **any task may be cleared and run again, and gives the same rows**.

A run's night is its logical date, which is where its data interval starts, and must be midnight UTC; the database
allows one run for each logical date, so two runs never write one night. Captures lie in CAPTURES/SITE/DATE.

In scheduled runs `late_nights` looks at the nights before: where captures came after a night's flows (or there are
captures and no flows), `ingest_late` clears that night's run, or starts one if there is none.

### Where its settings are

The Airflow variable `iotid` (JSON, all keys): `jobs` (folder of the job files), `captures` and `storage` (folders or
URIs; Airflow needs the provider of the URI's kind, because it looks for captures itself), `sites` (list), `labels`
(device list), `config` (list of settings files, later wins), `python` (interpreter of the iotid environment),
`driver_memory` (such as 3g), `wheel` (iotid's package for the executors; empty where they have it installed),
`settle_s` (captures are whole when no file came for so long), `wait_s` (a site that has no captures so long after its
night is skipped), `late_nights` (how many nights back to look for late captures), `train_nights` (how many nights to
learn from). The connection `spark_default` names the Spark master; `spark-submit` must be on the workers' PATH.
The pool `iotid_spark` must exist (`airflow pools set iotid_spark 1 "Spark jobs at once"`), or Spark tasks stay
scheduled for ever; each of its slots is a Spark job at once and needs `driver_memory` on a worker.
With `census.pseudonyms`, workers need the key: IOTID_CENSUS_KEY in their environment, or the file `census.key_file`.

### What failure looks like, and what to do

Each job ends with one line that names the file or setting, the rule and the remedy, near the end of the task's log. A
task is tried three times, after a pause of 5 to 10 minutes and one of 10 to 20; Spark itself tries no application
again. What cannot help is not tried again:

* *Exit code 2* (a missing folder, an unknown setting, a malformed device list): mend what the line names, then clear
  the task with its downstream tasks.
* *Exit code 3* of `take_census`: no fault; a device on the watch list was met, and `watchlist.fail` asks that this be
  seen. The census is written, and the line names its page: act, then mark the task as a success.
* *Exit code 4*: skipped; none was ever promoted. When one is, clear `take_census` of the nights that you want.

Else:

* `captured` skipped: that site had no captures `wait_s` after its night; the other sites go on, the run is green. If
  they come within `late_nights` nights they are found; later, clear the night. A site that is gone: take it out of
  `sites`.
* `captured` failed: captures kept growing for twelve hours, or could not be looked at; its log says which.
* *PartitionError*: an earlier step has not finished for that site and night; clear that step with its downstream tasks.
* *SchemaError, AccountingError*: stored data breaks its contract; do not clear, keep the partition and report it.
* *A logical date that is no midnight*: start the run again with one, or back-fill; without a date there is no night.
* The execution time-out: look in `splits` for a site that grew; give Spark more executors, or raise the time-out in
  `iotid_tasks.py`.
* A missed deadline is an error line in the callback's log; `tell_missed_deadline` is where to have mail sent instead.

Nights of a site are made in their order, one run at a time. A night that is run again changes what the next night says
of flows that go on over midnight and of devices that came or went: clear that one, too, if it matters. Back-fill with
`airflow backfill create --dag-id iotid_ingest --from-date … --to-date … --max-active-runs 1`: back-fills do not heed
the DAG's own limit, so say it.
"""

from __future__ import annotations

import logging
import time
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import DAG, CronDataIntervalTimetable, get_current_context, task, task_group
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException
from iotid_tasks import (
    DEFAULT_ARGS,
    FLOWS,
    StepOperator,
    captures_folder,
    deadline,
    deployment,
    flows_written,
    is_late,
    latest_arrival,
    layers,
    step,
    why_not_settled,
)

_log = logging.getLogger(__name__)
_DAG_ID = "iotid_ingest"
_DAY = timedelta(days=1)


def _night() -> datetime:
    """The night of this run: midnight UTC, when it begins."""
    night: datetime | None = get_current_context().get("logical_date")
    if night is None or night.timestamp() % _DAY.total_seconds():
        raise AirflowFailException(
            f"logical date: must be a night's midnight in UTC, such as 2026-01-31T00:00:00+00:00, is {night}"
        )
    return night


def nights() -> list[dict[str, Any]]:
    """For each site: the arguments of the job that reads captures, and of those that read the night's tables."""
    told, date = deployment(), _night().date().isoformat()
    rows = []
    for site in told["sites"]:
        night_line = [*layers(told), "--site", site, "--date", date]
        captures_line = [*night_line, "--captures", captures_folder(told, site, date)]
        rows.append({"site": site, "captures_line": captures_line, "night_line": night_line})
    return rows


def captured(site: str) -> bool:
    """Whether the site's captures of the night are whole; a site that has none in time is skipped."""
    told, night = deployment(), _night()
    folder = captures_folder(told, site, night.date().isoformat())
    arrived = latest_arrival(folder)
    why = why_not_settled(arrived, time.time(), told["settle_s"])
    if arrived is None and time.time() > (night + _DAY).timestamp() + told["wait_s"]:
        raise AirflowSkipException(f"{folder}: {why} {told['wait_s']} s after the night; {site} is left out")
    _log.info("%s: %s", folder, why or "whole")
    return why is None


def announce(site: str) -> None:
    """Update the asset of flows."""
    date = _night().date().isoformat()
    get_current_context()["outlet_events"][FLOWS].extra = {"site": site, "date": date}


def late_nights() -> list[dict[str, str]]:
    """For each earlier night with late captures: the logical date and the id of the run that makes it, or will."""
    context = get_current_context()
    told, instance = deployment(), context["ti"]
    runs: list[dict[str, str]] = []
    if (
        context["dag_run"].run_type != "scheduled"
    ):  # else one night would start the nights before, and they those before
        return runs
    for days in range(told["late_nights"], 0, -1):
        night = _night() - days * _DAY
        late = [site for site in told["sites"] if _is_late(told, site, night.date().isoformat())]
        if not late or instance.get_dr_count(_DAG_ID, logical_dates=[night], states=["queued", "running"]):
            continue
        _log.info("%s: late captures of %s", night.date(), ", ".join(late))
        earlier = instance.get_previous_ti(logical_date=night + timedelta(seconds=1))  # of this task: the latest before
        known = earlier is not None and earlier.logical_date == night
        run_id = earlier.run_id if known else f"late__{night.isoformat()}"
        runs.append({"logical_date": night.isoformat(), "trigger_run_id": run_id})
    return runs


def _is_late(told: dict[str, Any], site: str, date: str) -> bool:
    arrived = latest_arrival(captures_folder(told, site, date))
    settled = why_not_settled(arrived, time.time(), told["settle_s"]) is None
    return settled and is_late(arrived, flows_written(told, site, date))


def ingest(site: str, captures_line: list[str], night_line: list[str]) -> None:
    """One site's night, from captures to flows and the census."""
    wait = task.sensor(mode="reschedule", poke_interval=300, timeout=12 * 3600)(captured)(site)
    split = StepOperator(**step("split_pcaps"), application_args=captures_line)
    assemble = StepOperator(**step("assemble_flows"), application_args=night_line)
    census = StepOperator(**step("take_census"), application_args=night_line)
    wait >> split >> assemble >> [task(outlets=[FLOWS])(announce)(site), census]


with DAG(
    dag_id=_DAG_ID,
    schedule=CronDataIntervalTimetable("0 0 * * *", timezone="UTC"),  # the day that has just ended
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    deadline=deadline(timedelta(hours=20)),
    default_args=DEFAULT_ARGS,
    tags=["iotid", "nightly"],
    doc_md=__doc__,
):
    task_group(ingest).expand_kwargs(task(nights)())
    TriggerDagRunOperator.partial(task_id="ingest_late", trigger_dag_id=_DAG_ID, reset_dag_run=True).expand_kwargs(
        task(late_nights)()
    )
