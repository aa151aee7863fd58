"""The client of the tracking server: its address, and calls that are retried while the server is unreachable."""

from __future__ import annotations

import logging
import os
import re
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from iotid import __version__, config
from iotid.errors import ServerError, UserError
from iotid.inputs import check_type
from iotid.messages import NO_CREDENTIALS, holds_credentials, redacted, redacted_location
from iotid.storage import local_folder, local_path
from iotid.tracking import notes
from iotid.tracking.locations import ARTIFACTS, check_locations, database_of

_log = logging.getLogger(__name__)
T = TypeVar("T")

NOTE = "mlflow.note.content"  # the tag of experiments and runs that the MLflow UI shows as their description
DATABASE = "mlflow.db"  # below the storage root, unless ``tracking.uri`` names a server
RETRY_S = 60.0  # how long a step retries while the tracking server is unreachable
_OUTAGES = ("failed with exception", "failed with timeout exception", "error responses", "database is locked")
_QUIET = {  # set before MLflow is imported; existing environment variables win
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_RECORD_ENV_VARS_IN_MODEL_LOGGING": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # with_retries retries, for a bounded time
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "GIT_PYTHON_REFRESH": "quiet",
}


@dataclass(frozen=True)
class Server:
    """The tracking server of one configuration. Small and picklable: it is sent to training ranks."""

    tracking: config.Tracking
    storage_root: str

    @property
    def uri(self) -> str:
        """The tracking URI of MLflow.

        Raises:
            UserError: ``tracking.uri`` is null, and ``storage.root`` is not a local folder that SQLite can use.
        """
        if self.tracking.uri:
            return self.tracking.uri
        return _sqlite_uri(self._local_root() / DATABASE)

    def connect(self) -> Any:
        """An MLflow client of this server.

        Raises:
            UserError: an SQLite URI does not name a regular file, or its storage root was copied or moved.
        """
        database = database_of(self.uri)
        if database and database.exists() and not database.is_file():  # SQLite would block on a pipe
            raise UserError(f"tracking.uri: {self.uri} is not a file; name one, or a server")
        check_locations(self.uri)
        return mlflow().MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)

    def has_store(self) -> bool:
        """Whether there is a tracking store, which MLflow would create for a mere question.

        Raises:
            UserError: ``tracking.uri`` names a database that does not exist. Only training may begin a store.
        """
        if self.tracking.uri:
            existing_server(self.tracking.uri)
            return True
        root = local_path(self.storage_root)
        return root is not None and (Path(root) / DATABASE).is_file()

    def call(self, request: Callable[[Any], T]) -> T:
        """Call ``request`` with an MLflow client, ``with_retries``; returns its result."""
        return with_retries(self.uri, lambda: request(self.connect()))

    def experiment_id(self, client: Any) -> str:
        """The id of ``tracking.experiment``, which is created if absent, and described if nobody has done so."""
        name = self.tracking.experiment
        location = None if self.tracking.uri else (self._local_root() / ARTIFACTS).as_uri()
        found = client.get_experiment_by_name(name)
        if found is None:
            return str(client.create_experiment(name, location, {NOTE: notes.EXPERIMENT}))
        if not found.tags.get(NOTE):
            client.set_experiment_tag(found.experiment_id, NOTE, notes.EXPERIMENT)
        return str(found.experiment_id)

    def _local_root(self) -> Path:
        root = local_path(self.storage_root)
        if root is None:
            raise UserError(
                f"tracking.uri: must name an MLflow server when storage.root is not a local folder, got null with "
                f"{self.storage_root}; set tracking.uri"
            )
        return local_folder(root).resolve()


def existing_server(tracking_uri: str | Path | None) -> str:
    """The URI of a tracking server to read from; a database must exist, because MLflow would create it.

    ``tracking_uri``: of a server or database; or the path of a database, or of a storage root with one; None: MLflow's
    own (MLFLOW_TRACKING_URI, or what was set).

    Raises:
        InputError: it is no text or path.
        UserError: there is no database of MLflow, or the address contains credentials.
    """
    if tracking_uri is None:
        tracking_uri = str(mlflow().get_tracking_uri())
    check_type("tracking_uri", tracking_uri, (str, Path), "the URI of a tracking server, or a storage root")
    uri = str(tracking_uri)
    if holds_credentials(uri):
        raise UserError(f"tracking_uri: {NO_CREDENTIALS}, got {redacted_location(uri)}")
    database, local = database_of(uri), local_path(uri)
    if database is None and local is None and not uri.startswith("sqlite"):
        return uri
    path = database or Path(local or "")
    if database is None and path.is_dir():
        path /= DATABASE
    if not path.is_file():
        problem = f"{path} is not a file" if path.exists() else f"there is no database {path}"
        raise UserError(
            f"tracking_uri: {problem}; pass the server's URI, sqlite:///PATH or a storage root, or set "
            "MLFLOW_TRACKING_URI"
        )
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as opened:
            is_mlflow = opened.execute("SELECT 1 FROM sqlite_master WHERE name = 'registered_models'").fetchone()
    except sqlite3.OperationalError:  # locked: MLflow waits
        is_mlflow = True
    except sqlite3.DatabaseError:
        is_mlflow = None
    if not is_mlflow:
        raise UserError(f"tracking_uri: {path} is no database of MLflow; pass the one that iotid train wrote")
    return uri if database else _sqlite_uri(path.resolve())


def _sqlite_uri(path: Path) -> str:
    quoted = re.sub("[%?#]", lambda found: quote(found[0]), str(path))
    # MLflow would create a folder with the quoted name, unless the URI names a driver
    return f"{'sqlite' if quoted == str(path) else 'sqlite+pysqlite'}:///{quoted}"


def with_retries(uri: str, call: Callable[[], T]) -> T:
    """The call's result; retries while the server at ``uri`` is unreachable, for at most ``RETRY_S``.

    Raises:
        ServerError: the server stays unreachable.
        UserError: MLflow refuses the call.
    """
    import tenacity

    def warn(state: tenacity.RetryCallState) -> None:
        if state.attempt_number == 1 and state.outcome is not None:
            _log.warning("waiting for the tracking server %s (%s)", uri, first_line(state.outcome.exception()))

    attempts = tenacity.Retrying(
        retry=tenacity.retry_if_exception(is_outage),
        stop=tenacity.stop_after_delay(RETRY_S),
        wait=tenacity.wait_random_exponential(multiplier=0.5, max=8),
        before_sleep=warn,
        reraise=True,
    )
    try:
        return attempts(call)
    except Exception as fault:
        if is_outage(fault):
            raise ServerError(
                f"tracking.uri: {uri} does not answer ({first_line(fault)}); start the server, or set another uri"
            ) from None
        if type(fault).__module__.startswith("mlflow."):
            raise UserError(f"registry {uri}: {first_line(fault)}") from None
        raise


def mlflow() -> Any:
    """Import MLflow on first use, without telemetry, progress bars and other output."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    import mlflow

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return mlflow


def origin_tags() -> dict[str, str]:
    """The tags by which the MLflow UI shows who started a run, with which code, and its git commit if there is one."""
    library = mlflow()
    from mlflow.tracking.context import registry
    from mlflow.utils import mlflow_tags

    source = {
        mlflow_tags.MLFLOW_SOURCE_NAME: f"iotid {__version__}",
        mlflow_tags.MLFLOW_SOURCE_TYPE: library.entities.SourceType.to_string(library.entities.SourceType.JOB),
    }
    commit = _commit()
    if commit is not None:
        source[mlflow_tags.MLFLOW_GIT_COMMIT] = commit
    return {key: str(value) for key, value in registry.resolve_tags().items()} | source


def _commit() -> str | None:
    """The commit of the checkout that this code runs from; None if it runs from none, or there is no git. MLflow's own
    way needs a further package."""
    folder = Path(__file__).resolve().parents[2]
    if not (folder / ".git").exists():
        return None
    try:
        found = subprocess.run(
            ["git", "-C", str(folder), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() or None


def is_outage(fault: Any) -> bool:
    """Whether the server, or the database behind it, is unreachable, so that a retry may succeed."""
    import requests

    if isinstance(fault, requests.exceptions.ConnectionError | requests.exceptions.Timeout):
        return True
    if not type(fault).__module__.startswith("mlflow."):
        return False
    text = str(fault)
    return getattr(fault, "error_code", "") == "TEMPORARILY_UNAVAILABLE" or any(words in text for words in _OUTAGES)


def is_absent(fault: Any) -> bool:
    """Whether the server reports that the entity does not exist."""
    return fault.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE") and "not found" in str(fault)


def first_line(fault: BaseException | None) -> str:
    """The first line of the error's message, without credentials."""
    return (redacted(str(fault)).splitlines() or [""])[0][:300]
