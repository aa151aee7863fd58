"""
### What it does

Every night `captured` waits, separately for each site, for the captures of the date. When that has ended for all sites,
`ingest_line` lists those whose captures are complete, and `ingest_sites` makes their flows and censuses in one Spark
application, with the champion, if there is one yet. `sites_ended` says for each site whether it is done, late, skipped
or failed, `announce` updates the asset `iotid_flows` once for the date, `take_network_census` sums the census of all
sites, with missing sites counted as such, and `check_sites` fails if a site failed. Every Spark task is one
spark-submit of one file in `jobs/`; every partition is written whole or not at all, so **any task may be cleared and
run again, and gives the same rows**.

`ingest_sites` leaves out each step whose captures, settings, model and version of iotid are those that its stored
result was made from. So a retry repeats only what failed, and for a late site only that site is done. Flows that
continue open flows of the date before (`flow.idle_timeout_s`) are the exception: they are always assembled again.

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

* `labels` (none): device list. `ingest_sites` compares each site's devices with it; `iotid_train` learns its labels,
  without one the names that persons gave to groups of unknown devices (`iotid name`). `iotid_ingest` needs neither
  labels nor a model
* `config` (`["cluster.yaml"]`): settings files, later wins
* `driver_memory` (3g): of each Spark driver, on an Airflow worker
* `wheel` (none): iotid's package for the executors; none if they have it installed
* `settle_s` (600): captures are complete when no file arrived for so many seconds
* `wait_s` (7200): a site without captures so many seconds after the end of the date is skipped; the others wait for it
  as long, because one application ingests all
* `late_nights` (3): how many earlier dates to check for late captures
* `train_nights` (7): how many dates to train on

The connection `spark_default` names the Spark master; `spark-submit` must be on the workers'
PATH. The pool `iotid_spark` must exist (`airflow pools set iotid_spark 1 "parallel Spark jobs"`), or Spark tasks stay
scheduled for ever; each of its slots runs one Spark job and needs `driver_memory` on a worker.
With `census.pseudonyms`, Airflow workers need the key, as the Spark driver runs there: IOTID_CENSUS_KEY in their
environment, or the file `census.key_file`. Executors do not.

### What failure looks like, and what to do

Each job ends with one line that names the file or setting, the rule and the remedy, near the end of the task's log. A
task is tried three times, after a pause of 5 to 10 minutes and one of 10 to 20; Spark itself retries no application.
Tasks that a retry cannot help are not retried:

* *Exit code 2* (a missing folder, an unknown setting, a malformed device list; of `ingest_sites`: every failure is of
  that kind): fix what the line names, then clear the task with its downstream tasks.
* *Exit code 3* of `ingest_sites`: not an error; a device on the watch list was found, and `watchlist.fail` is set. All
  censuses are written, and the line names the sites: act, then mark `ingest_sites` and `check_sites` as successes.

Before a model was promoted, `ingest_sites` succeeds: its censuses group unknown devices, and its last lines say why
there is no model. When one is promoted, clear `ingest_sites`, with its downstream tasks, for the dates that it shall
identify devices of: it takes their censuses again, from the flows that are there.

Other cases:

* `check_sites` failed: it names the sites, and the last line of `ingest_sites` or the log of `captured` says why. The
  other sites are done, and the network's census is written. Fix it and clear `ingest_sites` (or that site's
  `captured`) with its downstream tasks: only what failed is done again. If it names no site, `ingest_sites` failed but
  every site has a census that is newer than its captures, which may be that of an earlier run.
* `captured` skipped: that site had no captures `wait_s` after the end of the date; the other sites are done, the run is
  green. If they arrive within `late_nights` dates they are found; later, clear the run of that date. Remove a site
  that no longer exists from `sites`.
* `captured` failed: captures kept growing for twelve hours, or could not be listed; its log says which.
* *SchemaError, AccountingError*: stored data breaks its contract; do not clear, keep the partition and report it.
* *A logical date that is not midnight*: it is the capture date; start the run again with a valid one, or back-fill.
* The execution time-out: the retry continues with what is left. Check `splits` for a site that grew; give Spark more
  executors, or raise the time-out in `iotid_tasks.py`.
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
from airflow.sdk import DAG, CronDataIntervalTimetable, get_current_context, task
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException
from iotid_tasks import (
    DEFAULT_ARGS,
    FLOWS,
    StepOperator,
    captures_folder,
    deadline,
    deployment,
    is_late,
    latest_arrival,
    layers,
    step,
    why_incomplete,
    written,
)

_log = logging.getLogger(__name__)
_DAG_ID = "iotid_ingest"
_DAY = timedelta(days=1)


def _midnight() -> datetime:
    """The start of this run's capture date: midnight UTC."""
    midnight: datetime | None = get_current_context().get("logical_date")
    if midnight is None or midnight.timestamp() % _DAY.total_seconds():
        raise AirflowFailException(
            f"logical date: must be midnight in UTC, such as 2026-01-31T00:00:00+00:00, is {midnight}"
        )
    return midnight


def sites() -> list[str]:
    """The names of all sites; the captures of each are waited for."""
    names: list[str] = deployment()["sites"]
    _midnight()
    return names


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


def ingest_line(sites: list[str]) -> list[str]:
    """The arguments of `ingest_sites`: the sites whose captures are complete; skips if there is none."""
    variable, date = deployment(), _midnight().date().isoformat()
    captured_by_site, _ = _states(sites)
    ready = [site for site, state in captured_by_site.items() if state == "success"]
    if not ready:
        raise AirflowSkipException(f"{date}: no site has complete captures")
    labels = ("--labels", variable["labels"]) if variable["labels"] else ()
    line = [*layers(variable), "--date", date, "--captures", variable["captures"], *labels]
    return [*line, *(part for site in ready for part in ("--site", site))]


def sites_ended(sites: list[str]) -> dict[str, Any]:
    """How each site's night ended, the sites that have flows of their captures, and what later tasks need.

    ``outcomes``: done, late (captures came after they were waited for), skipped (no captures) or failed, by site.
    ``ingested``: the state of `ingest_sites`.
    """
    variable, date = deployment(), _midnight().date().isoformat()
    captured_by_site, ingested = _states(sites)
    outcomes: dict[str, str] = {}
    with_flows = []
    for site, state in captured_by_site.items():
        arrived = latest_arrival(captures_folder(variable, site, date))
        flows, census = (written(variable, table, site, date) for table in ("flows", "census"))
        outcomes[site] = outcome(state, ingested, arrived, flows, census)
        with_flows += [site] * (outcomes[site] == "done" or (state == "success" and not is_late(arrived, flows)))
        _log.info("%s %s: %s", site, date, outcomes[site])
    line = [*layers(variable), "--date", date, *(part for site in sites for part in ("--site", site))]
    return {"outcomes": outcomes, "ingested": ingested, "with_flows": with_flows, "network_line": line}


def outcome(
    captured: str | None, ingested: str | None, arrived: float | None, flows: float | None, census: float | None
) -> str:
    """How a site's night ended.

    ``captured``, ``ingested``: states of its sensor and of `ingest_sites`; ``arrived``: of its latest capture;
    ``flows``, ``census``: when they were completed (Unix times, None: there is none).

    If `ingest_sites` failed, a site is done if its flows and census are newer than its captures. They may be older than
    the run: steps of which nothing has changed are left out.
    """
    if captured == "success":
        is_done = ingested == "success" or not (is_late(arrived, flows) or is_late(arrived, census))
        return "done" if is_done else "failed"
    if captured in ("failed", "upstream_failed"):
        return "failed"
    return "late" if captured == "skipped" and arrived is not None else "skipped"


def _states(sites: list[str] | None) -> tuple[dict[str, str | None], str | None]:
    """The state of `captured` by site, and that of `ingest_sites`, in this run."""
    if sites is None:  # after its failure this runs, too
        raise AirflowFailException("there is no list of sites: the task sites failed; clear it")
    context = get_current_context()
    run_id, tasks = context["dag_run"].run_id, ["captured", "ingest_sites"]
    states = context["ti"].get_task_states(dag_id=_DAG_ID, task_ids=tasks, run_ids=[run_id]).get(run_id, {})
    return {site: states.get(f"captured_{index}") for index, site in enumerate(sites)}, states.get("ingest_sites")


def announce(with_flows: list[str]) -> None:
    """Update the asset of flows, once for the date; its consumers read which flows are in the store."""
    if not with_flows:
        raise AirflowSkipException("no site has flows of the date")
    date = _midnight().date().isoformat()
    get_current_context()["outlet_events"][FLOWS].extra = {"date": date, "sites": with_flows}


def check_sites(outcomes: dict[str, str], ingested: str | None) -> None:
    """Fail if a site failed: otherwise the run would be green, because the network's census is its end."""
    failed = [site for site, ended in outcomes.items() if ended == "failed"]
    if failed:
        raise AirflowFailException(
            f"failed sites: {', '.join(failed)}; the network's census counts them as missing, or with an older census; "
            "the last line of ingest_sites says why"
        )
    if ingested not in ("success", "skipped"):  # a watched device, or a step that failed and left what was there
        raise AirflowFailException(
            f"ingest_sites: {ingested}, although every site has a census; its last line says why"
        )


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
    return complete and is_late(arrived, written(variable, "flows", site, date))


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
    names = task(sites)()
    wait = task.sensor(
        mode="reschedule",
        poke_interval=300,
        timeout=12 * 3600,
        map_index_template="{{ task.op_kwargs['site'] }}",  # instead of a number in Airflow's pages
    )(captured).expand(site=names)
    line = task(trigger_rule="all_done")(ingest_line)(names)
    ingest = StepOperator(**step("ingest_sites"), application_args=line)
    # runs whatever became of the sites; check_sites is an end of the DAG of its own, which fails the run
    ended = task(trigger_rule="all_done", multiple_outputs=True)(sites_ended)(names)
    wait >> line >> ingest >> ended
    task(outlets=[FLOWS])(announce)(ended["with_flows"])
    StepOperator(**step("take_network_census"), application_args=ended["network_line"])
    task(retries=DEFAULT_ARGS["retries"])(check_sites)(ended["outcomes"], ended["ingested"])
    TriggerDagRunOperator.partial(task_id="ingest_late", trigger_dag_id=_DAG_ID, reset_dag_run=True).expand_kwargs(
        task(task_id="late_nights")(late_captures)()
    )
