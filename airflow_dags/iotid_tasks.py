"""Shared by the three DAGs: the variable `iotid`, the Spark operator, the captures of a site and date, the assets."""

from __future__ import annotations

import logging
import re
from datetime import timedelta
from typing import Any
from urllib.parse import quote, unquote

from airflow.providers.apache.spark.operators.spark_submit import SparkSubmitOperator
from airflow.sdk import Asset, DeadlineAlert, DeadlineReference, ObjectStoragePath, SyncCallback, Variable
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

POOL = "iotid_spark"  # one slot per parallel Spark job; each uses `driver_memory` on its worker
FLOWS = Asset("iotid_flows", uri="iotid://flows")  # extra: the capture date, and the sites that have flows of it
DATASET_PREFIX = "nights-"  # of the datasets of iotid_train; the rest of a name sorts by time
CHALLENGER = Asset("iotid_challenger", uri="iotid://challenger")  # extra: the dataset that it was trained on

DEFAULT_ARGS = {
    "owner": "iotid",
    "pool": "default_pool",
    "retries": 2,
    "retry_delay": timedelta(minutes=5),
    "retry_exponential_backoff": 2,
    "execution_timeout": timedelta(minutes=5),
}

_REQUIRED = {"jobs", "captures", "sites", "storage", "python"}  # keys of the variable `iotid`
_DEFAULTS: dict[str, Any] = {  # of its other keys; the documentation of iotid_ingest describes all
    "labels": "",  # none: groups that persons named are the labels
    "config": ["cluster.yaml"],
    "driver_memory": "3g",
    "wheel": "",
    "settle_s": 600,  # two polls of the sensor `captured`
    "wait_s": 2 * 3600,  # all sites wait for the slowest
    "late_nights": 3,
    "train_nights": 7,
}
# stricter than iotid/messages.py, which Airflow's environment lacks; CONTAINER in abfs://CONTAINER@… is not a user
_CREDENTIALS = re.compile(r"(?is)(?<!abfs)(?<!abfss)://[^/].*@|abfss?://[^/]*:.*@|://.*[?#;].*=")
_EXECUTION_TIMEOUT = {  # several times the duration for 100 GB on the smallest suitable cluster
    "ingest_sites": timedelta(hours=6),  # of all sites
    "write_dataset": timedelta(hours=2),
    "train": timedelta(hours=8),
    "evaluate": timedelta(hours=2),
    "promote": timedelta(minutes=15),
    "take_network_census": timedelta(hours=1),
}


class StepOperator(SparkSubmitOperator):  # type: ignore[misc]  # Airflow is not in the environment of mypy
    """spark-submit of one job; the exit code determines retries, see iotid/errors.py.

    In cluster deploy mode the driver's exit code is lost, and every failure is retried.
    """

    def execute(self, context: Any) -> None:
        try:
            super().execute(context)
        except AirflowException as fault:
            code = re.search(r"Error code is: (\d+)", str(fault))
            match code and int(code[1]):
                case 2:
                    raise AirflowFailException("a retry does not help: fix what the job's last line names") from fault
                case 3:
                    raise AirflowFailException(
                        "a watched device was found; the job's last line names the page"
                    ) from fault
                case 4:
                    raise AirflowSkipException("there is no model yet: the job's last line names it") from fault
            raise


def step(job: str) -> dict[str, Any]:
    """Arguments of a job's StepOperator; ``job`` is the name of the file in jobs/ and of the task."""
    return {
        "task_id": job,
        "conn_id": "spark_default",
        "pool": POOL,
        "application": "{{ var.json.iotid.jobs }}/" + job + ".py",
        "name": f"iotid {job} {{{{ (dag_run.logical_date or dag_run.run_after) | ds }}}}",
        "py_files": _template("wheel"),
        "conf": {
            # the driver's JVM starts before the settings are read, so their spark.driver_memory has no effect
            "spark.driver.memory": _template("driver_memory"),
            "spark.pyspark.python": "{{ var.json.iotid.python }}",
            "spark.yarn.maxAppAttempts": "1",  # retries are Airflow's
        },
        "execution_timeout": _EXECUTION_TIMEOUT[job],
    }


def _template(key: str) -> str:
    """The value of a key of the variable `iotid`, or its default, as a template."""
    return f"{{{{ var.json.iotid.{key} | default('{_DEFAULTS[key]}', true) }}}}"


def deployment() -> dict[str, Any]:
    """The Airflow variable `iotid`, validated, with the defaults of what it leaves out."""
    given: dict[str, Any] = Variable.get("iotid", deserialize_json=True)
    lacks, unknown = sorted(_REQUIRED - given.keys()), sorted(given.keys() - _REQUIRED - _DEFAULTS.keys())
    if lacks or unknown:
        raise AirflowFailException(
            f"variable iotid: lacks {lacks}, does not know {unknown}; airflow_dags/variable.example.json has all keys"
        )
    variable = _DEFAULTS | given
    for key, value in variable.items():
        if any(_CREDENTIALS.search(str(text)) for text in (value if isinstance(value, list) else [value])):
            raise AirflowFailException(
                f"variable iotid: {key} must not contain a user, password, key or query, because logs show it; set "
                "them in the environment"
            )
    return variable


def layers(variable: dict[str, Any]) -> list[str]:
    """Arguments of every job: settings files and the storage root."""
    files = [part for file in variable["config"] for part in ("--config", file)]
    return [*files, "--set", f"storage.root={variable['storage']}"]


def captures_folder(variable: dict[str, Any], site: str, date: str) -> str:
    return f"{variable['captures']}/{site}/{date}"


def latest_arrival(folder: str) -> float | None:
    """Arrival (Unix time) of the newest file below a folder or URI; None if there is no file.

    On disks, a file copied with its old modification time arrived when its inode changed; object stores have no inodes.
    """
    root = ObjectStoragePath(folder)
    if not root.exists():
        return None
    found = [path.stat() for path in root.rglob("*") if path.is_file()]
    return max((max(stat.st_mtime, _inode_changed(stat)) for stat in found), default=None)


def _inode_changed(stat: Any) -> float:
    changed = stat.get("created", 0.0)  # fsspec's name for the inode change time of local files
    return changed if isinstance(changed, float) else 0.0


def why_incomplete(arrived: float | None, now: float, quiet_s: float) -> str | None:
    """Why captures are not complete yet; None if they are: no file arrived within ``quiet_s``."""
    if arrived is None:
        return "no captures"
    if now - arrived < quiet_s:
        return f"still growing: a file arrived {now - arrived:.0f} s ago, settle_s is {quiet_s:.0f}"
    return None


def written(variable: dict[str, Any], table: str, site: str, date: str) -> float | None:
    """When a table's partition of a site and date was completed (Unix time, of its success marker); None: it was not.

    A step that keeps its partition, because nothing has changed, leaves that time as it is.
    """
    marker = f"{variable['storage']}/{table}/site={quote(site, safe='')}/capture_date={date}/_SUCCESS"
    path = ObjectStoragePath(marker)
    return float(path.stat().st_mtime) if path.exists() else None


def newest_partition(variable: dict[str, Any], table: str, prefix: str) -> str | None:
    """The last name in order, of those that begin with ``prefix``, of the table's complete partitions; None: none."""
    root = ObjectStoragePath(f"{variable['storage']}/{table}")
    if not root.exists():
        return None
    names = [unquote(path.parent.name.partition("=")[2]) for path in root.glob("name=*/_SUCCESS")]
    return max((name for name in names if name.startswith(prefix)), default=None)


def is_decided(variable: dict[str, Any], dataset: str) -> bool:
    """Whether promotion has decided about a model on the dataset."""
    folder = ObjectStoragePath(f"{variable['storage']}/decisions/dataset={quote(dataset, safe='')}")
    return folder.exists() and any(True for _ in folder.glob("version=*/_SUCCESS"))


def is_late(arrived: float | None, written: float | None) -> bool:
    """Whether captures arrived after what was made of them was written, or there are captures and nothing was."""
    return arrived is not None and (written is None or arrived > written)


def deadline(interval: timedelta) -> DeadlineAlert:
    """Call `report_missed_deadline` if a run has not ended within ``interval`` after it was queued."""
    return DeadlineAlert(DeadlineReference.DAGRUN_QUEUED_AT, interval, SyncCallback(report_missed_deadline), "end")


def report_missed_deadline(context: dict[str, Any]) -> None:
    """Called by Airflow in the scheduler's executor; add mail or a pager here."""
    run = context["dag_run"]
    logging.getLogger(__name__).error("deadline missed: %s %s has not ended", run["dag_id"], run["dag_run_id"])
