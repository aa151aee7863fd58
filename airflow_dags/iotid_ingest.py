"""
### What it does

Every night, separately for each site: `captured` waits for the captures of the date, `split_pcaps` and
`assemble_flows` turn them into flows, `announce` updates the asset `iotid_flows`, and `take_census` identifies the
site's devices with the champion, if there is one yet. When all sites have ended, `sites_ended` says for each whether it
is done, late, skipped or failed, `take_network_census` sums the census of all sites, with missing sites counted as
such, and `check_sites` fails if a site failed. Every Spark task is one spark-submit of one file in `jobs/`; every
partition is written whole or not at all, so **any task may be cleared and run again, and gives the same rows**.

A run's capture date is its logical date, the start of its data interval, and must be midnight UTC; the database allows
one run for each logical date, so two runs never write the same partitions. Captures are in CAPTURES/SITE/DATE.

In scheduled runs `late_nights` checks earlier dates: if captures arrived after the flows of a date were written (or
there are captures but no flows), `ingest_late` clears the run of that date, or starts one if there is none. That run
sums its date again; later nights need not be repeated, as `take_network_census` reads what is in the store, and sums a
night of its window again if a census of it is new. It counts no events, so lost or doubled ones change nothing.

### Where its settings are

The Airflow variable `iotid` (JSON). Change a copy of `airflow_dags/variable.example.json`, which has all keys and the
defaults, and import it with `airflow variables import FILE`. Required:

* `jobs`: folder of the job files
* `python`: interpreter of the iotid environment
* `captures`, `storage`: folders or URIs; Airflow needs the provider of the URI's scheme, because it lists captures
* `sites`: list of names

With defaults:

* `labels` (none): device list. `take_census` compares each site's devices with it; `iotid_train` learns its labels,
  without one the names that persons gave to groups of unknown devices (`iotid name`). `iotid_ingest` needs neither
  labels nor a model
* `config` (`["cluster.yaml"]`): settings files, later wins
* `driver_memory` (3g): of each Spark driver, on an Airflow worker
* `wheel` (none): iotid's package for the executors; none if they have it installed
* `settle_s` (600): captures are complete when no file arrived for so many seconds
* `wait_s` (21600): a site without captures so many seconds after the end of the date is skipped
* `late_nights` (3): how many earlier dates to check for late captures
* `train_nights` (7): how many dates to train on

The connection `spark_default` names the Spark master; `spark-submit` must be on the workers'
PATH. The pool `iotid_spark` must exist (`airflow pools set iotid_spark 1 "parallel Spark jobs"`), or Spark tasks stay
scheduled for ever; each of its slots runs one Spark job and needs `driver_memory` on a worker.
With `census.pseudonyms`, workers need the key: IOTID_CENSUS_KEY in their environment, or the file `census.key_file`.

### What failure looks like, and what to do

Each job ends with one line that names the file or setting, the rule and the remedy, near the end of the task's log. A
task is tried three times, after a pause of 5 to 10 minutes and one of 10 to 20; Spark itself retries no application.
Tasks that a retry cannot help are not retried:

* *Exit code 2* (a missing folder, an unknown setting, a malformed device list; "no completed data for" a site and date:
  an earlier step has not finished): fix what the line names, or clear the earlier step, with its downstream tasks.
* *Exit code 3* of `take_census`: not an error; a device on the watch list was found, and `watchlist.fail` is set. The
  census is written, and the line names its page: act, then mark the task as a success.

Before a model was promoted, `take_census` succeeds: its census groups unknown devices, and its last lines say why there
is no model. When one is promoted, clear `take_census` of the dates that it shall identify devices of.

Other cases:

* `check_sites` failed: the tasks of the sites that it names did; the network's census is written without them. Fix and
  clear those, and the network's census and `check_sites` run again.
* `captured` skipped: that site had no captures `wait_s` after the end of the date; the other sites continue, the run is
  green. If they arrive within `late_nights` dates they are found; later, clear the run of that date. Remove a site
  that no longer exists from `sites`.
* `captured` failed: captures kept growing for twelve hours, or could not be listed; its log says which.
* *SchemaError, AccountingError*: stored data breaks its contract; do not clear, keep the partition and report it.
* *A logical date that is not midnight*: it is the capture date; start the run again with a valid one, or back-fill.
* The execution time-out: check `splits` for a site that grew; give Spark more executors, or raise the time-out in
  `iotid_tasks.py`.
* A missed deadline is an error line in the callback's log; send mail from `report_missed_deadline` instead.

Dates of a site run in order, one run at a time. Repeating a date changes, on the next date, the flows that continue
over midnight and the devices that are new or gone: clear that date too, if it matters. Back-fill with
`airflow backfill create --dag-id iotid_ingest --from-date … --to-date … --max-active-runs 1`: back-fills ignore
the DAG's own limit, so give it.
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
    why_incomplete,
)

_log = logging.getLogger(__name__)
_DAG_ID = "iotid_ingest"
_DAY = timedelta(days=1)
_SITE_TASKS = ("captured", "split_pcaps", "assemble_flows", "take_census")


def _midnight() -> datetime:
    """The start of this run's capture date: midnight UTC."""
    midnight: datetime | None = get_current_context().get("logical_date")
    if midnight is None or midnight.timestamp() % _DAY.total_seconds():
        raise AirflowFailException(
            f"logical date: must be midnight in UTC, such as 2026-01-31T00:00:00+00:00, is {midnight}"
        )
    return midnight


def lines() -> list[dict[str, Any]]:
    """For each site: the arguments of the jobs that read captures, that read splits, and that take the census."""
    variable, date = deployment(), _midnight().date().isoformat()
    labels = ("--labels", variable["labels"]) if variable["labels"] else ()
    rows = []
    for site in variable["sites"]:
        tables_line = [*layers(variable), "--site", site, "--date", date]
        captures_line = [*tables_line, "--captures", captures_folder(variable, site, date)]
        census_line = [*tables_line, *labels]
        lines_of_site = {"captures_line": captures_line, "tables_line": tables_line, "census_line": census_line}
        rows.append({"site": site, **lines_of_site})
    return rows


def captured(site: str) -> bool:
    """Whether the site's captures of the date are complete; skips a site that has none after ``wait_s``."""
    variable, midnight = deployment(), _midnight()
    folder = captures_folder(variable, site, midnight.date().isoformat())
    arrived = latest_arrival(folder)
    why = why_incomplete(arrived, time.time(), variable["settle_s"])
    if arrived is None and time.time() > (midnight + _DAY).timestamp() + variable["wait_s"]:
        raise AirflowSkipException(f"{folder}: {why} {variable['wait_s']} s after the date; {site} is left out")
    _log.info("%s: %s", folder, why or "complete")
    return why is None


def announce(site: str) -> None:
    """Update the asset of flows."""
    date = _midnight().date().isoformat()
    get_current_context()["outlet_events"][FLOWS].extra = {"site": site, "date": date}


def sites_ended() -> dict[str, Any]:
    """How each site's night ended, and the arguments of the network's census.

    ``outcomes``: done, late (captures came after they were waited for), skipped (no captures, or no census by intent)
    or failed, by site; read from the states of this run's tasks and from the captures.
    """
    context = get_current_context()
    variable, date, run_id = deployment(), _midnight().date().isoformat(), context["dag_run"].run_id
    states = context["ti"].get_task_states(dag_id=_DAG_ID, task_group_id="ingest", run_ids=[run_id]).get(run_id, {})
    outcomes: dict[str, str] = {}
    for index, site in enumerate(variable["sites"]):
        of_site = {task: states.get(f"ingest.{task}_{index}") for task in _SITE_TASKS}
        outcomes[site] = outcome(of_site, latest_arrival(captures_folder(variable, site, date)) is not None)
        _log.info("%s %s: %s", site, date, outcomes[site])
    line = [*layers(variable), "--date", date, *(part for site in variable["sites"] for part in ("--site", site))]
    return {"outcomes": outcomes, "network_line": line}


def outcome(states: dict[str, str | None], has_captures: bool) -> str:
    """How a site's night ended, from the states of its tasks."""
    if states["take_census"] == "success":
        return "done"
    if any(state in ("failed", "upstream_failed") for state in states.values()):
        return "failed"
    return "late" if states["captured"] == "skipped" and has_captures else "skipped"


def check_sites(outcomes: dict[str, str]) -> None:
    """Fail if a site's night failed: otherwise the run would be green, because the network's census is its end."""
    failed = [site for site, ended in outcomes.items() if ended == "failed"]
    if failed:
        raise AirflowFailException(f"failed sites: {', '.join(failed)}; the network's census counts them as missing")


def late_captures() -> list[dict[str, str]]:
    """For each earlier date with late captures: its logical date and the id of its run, which may not exist yet."""
    context = get_current_context()
    variable, instance = deployment(), context["ti"]
    runs: list[dict[str, str]] = []
    if context["dag_run"].run_type != "scheduled":  # a run started by this task must not start earlier ones
        return runs
    for days in range(variable["late_nights"], 0, -1):
        midnight = _midnight() - days * _DAY
        late = [site for site in variable["sites"] if _is_late(variable, site, midnight.date().isoformat())]
        if not late or instance.get_dr_count(_DAG_ID, logical_dates=[midnight], states=["queued", "running"]):
            continue
        _log.info("%s: late captures of %s", midnight.date(), ", ".join(late))
        earlier = instance.get_previous_ti(logical_date=midnight + timedelta(seconds=1))  # this task's latest before
        known = earlier is not None and earlier.logical_date == midnight
        run_id = earlier.run_id if known else f"late__{midnight.isoformat()}"
        runs.append({"logical_date": midnight.isoformat(), "trigger_run_id": run_id})
    return runs


def _is_late(variable: dict[str, Any], site: str, date: str) -> bool:
    arrived = latest_arrival(captures_folder(variable, site, date))
    complete = why_incomplete(arrived, time.time(), variable["settle_s"]) is None
    return complete and is_late(arrived, flows_written(variable, site, date))


def ingest(site: str, captures_line: list[str], tables_line: list[str], census_line: list[str]) -> None:
    """One site and date, from captures to flows and the census."""
    # the site instead of a number in Airflow's pages; both templates are rendered with the task's own arguments
    by_site = {"map_index_template": "{{ task.op_args[0] }}"}
    job_by_site = {"map_index_template": "{{ task.application_args[task.application_args.index('--site') + 1] }}"}
    wait = task.sensor(mode="reschedule", poke_interval=300, timeout=12 * 3600, **by_site)(captured)(site)
    split = StepOperator(**step("split_pcaps"), **job_by_site, application_args=captures_line)
    assemble = StepOperator(**step("assemble_flows"), **job_by_site, application_args=tables_line)
    census = StepOperator(**step("take_census"), **job_by_site, application_args=census_line)
    wait >> split >> assemble >> [task(outlets=[FLOWS], **by_site)(announce)(site), census]


with DAG(
    dag_id=_DAG_ID,
    description="Each night: captures of every site to flows, each site's census, then the network's",
    schedule=CronDataIntervalTimetable("0 0 * * *", timezone="UTC"),  # the day that has just ended
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    deadline=deadline(timedelta(hours=20)),
    default_args=DEFAULT_ARGS,
    tags=["iotid", "nightly"],
    doc_md=__doc__,
):
    sites = task_group(ingest).expand_kwargs(task(task_id="nights")(lines)())
    # runs whatever became of the sites; check_sites is an end of the DAG of its own, which fails the run
    ended = task(trigger_rule="all_done", multiple_outputs=True)(sites_ended)()
    sites >> ended
    StepOperator(**step("take_network_census"), application_args=ended["network_line"])
    task(retries=DEFAULT_ARGS["retries"])(check_sites)(ended["outcomes"])
    TriggerDagRunOperator.partial(task_id="ingest_late", trigger_dag_id=_DAG_ID, reset_dag_run=True).expand_kwargs(
        task(task_id="late_nights")(late_captures)()
    )
