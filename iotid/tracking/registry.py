"""Runs, metrics and model versions: the only user of MLflow, beside the file that MLflow itself loads (serving.py).

Without ``tracking.uri`` everything lies below the storage root: SQLite for the records, a folder for the artifacts.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import version as installed
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote
from uuid import uuid4

from pydantic import BaseModel

from iotid import __version__, config, schemas
from iotid.errors import DataError, NoModelError, ServerError, StaleError, UserError, shown
from iotid.messages import NO_CREDENTIALS, holds_credentials, redacted, redacted_location
from iotid.storage import local_folder, local_path

if TYPE_CHECKING:
    import pyarrow as pa

    from iotid.model import Predictor
    from iotid.partitions import Partition

_log = logging.getLogger(__name__)
T = TypeVar("T")

CHALLENGER = "challenger"
CHAMPION = "champion"
_FORMER = "former_champion"
_FINGERPRINT = "fingerprint"  # tag by which a run, or its model, is found again whose maker never heard its id
_BUNDLE = "bundle"
_PATIENCE_S = 60.0  # how long a tracking server may be away before a step gives up
_TURN_S = 300.0  # after which a turn is taken away: more than its few calls last, each of which may wait for the server
_TURN_POLL_S = 0.2
_OUTAGES = ("failed with exception", "failed with timeout exception", "error responses", "database is locked")
_SERVED_WITH = ("iotid", "mlflow", "numpy", "pandas", "pyarrow", "safetensors", "torch")
_QUIET = {  # set before MLflow is imported; a person's own choice wins
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_RECORD_ENV_VARS_IN_MODEL_LOGGING": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # _reach repeats, for a bounded time
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "GIT_PYTHON_REFRESH": "quiet",
}


@dataclass(frozen=True)
class Registry:
    """The tracking server and model registry of one configuration. Small and picklable: training ranks carry it.

    Every method waits for a server that is away and raises a ServerError when it stays away.
    """

    tracking: config.Tracking
    storage_root: str

    @property
    def uri(self) -> str:
        """Where MLflow keeps its records.

        Raises:
            UserError: there is no ``tracking.uri``, and ``storage.root`` is no local folder for SQLite to be written.
        """
        if self.tracking.uri:
            return self.tracking.uri
        root = str(self._local_root())
        quoted = re.sub("[%?#]", lambda found: quote(found[0]), root)
        # of a quoted address MLflow would first make the folder that it seems to name, unless it names a driver
        return f"{'sqlite' if quoted == root else 'sqlite+pysqlite'}:///{quoted}/mlflow.db"

    @contextmanager
    def run(
        self,
        name: str,
        sections: Iterable[BaseModel],
        tags: Mapping[str, str],
        dataset: tuple[str, Partition],
        *,
        if_away: str,
    ) -> Iterator[Run]:
        """A run on a dataset, named as in ``start_run``, that ends with the block; as failed, where the block raises.

        It starts at once, or, while the server is away, when its id is first asked for. ``if_away`` is added to the
        ServerError of a server that never came.
        """

        def start() -> str:
            run_id = self.start_run(name, sections, tags)
            self.log_dataset(run_id, *dataset)
            return run_id

        run = Run(self, start)
        try:
            try:
                _ = run.id
            except ServerError as fault:
                _log.warning("%s; meanwhile this goes on, and is logged afterwards", fault)
            yield run
            self.end_run(run.id)
        except ServerError as fault:
            raise ServerError(f"{fault}; {if_away}") from None
        except BaseException:
            if run.started:
                with suppress(ServerError):
                    self.end_run(run.id, failed=True)
            raise

    def start_run(self, name: str, sections: Iterable[BaseModel], tags: Mapping[str, str]) -> str:
        """Start a run, with every setting of ``sections`` as a parameter; returns its id.

        A run of the same name, settings and tags that has not ended is this one: the server went away before its id
        came back, or before the process that started it could end it.
        """
        sections = list(sections)
        own = config.settings_hash(*sections, extra={"name": name, **tags})

        def start() -> str:
            client, entities = self._client(), _mlflow().entities
            experiment = self._experiment_id(client)
            running = f"tags.{_FINGERPRINT} = '{own}' and attributes.status = 'RUNNING'"
            run = next(iter(client.search_runs([experiment], running, max_results=1)), None)
            run = run or client.create_run(experiment, tags={_FINGERPRINT: own}, run_name=name)
            run_id: str = run.info.run_id
            params = [
                entities.Param(f"{type(section).__name__.lower()}.{key}", _text(value))
                for section in sections
                for key, value in section.model_dump(mode="json").items()
            ]
            all_tags = {"code_version": __version__, **tags}
            run_tags = [entities.RunTag(key, _text(value)) for key, value in all_tags.items()]
            client.log_batch(run_id, params=params, tags=run_tags)
            return run_id

        return self._reach(start)

    def log_dataset(self, run_id: str, name: str, partition: Partition) -> None:
        """Tell which dataset the run learns from: its address, its hash, the rows and flows of each part and label."""
        entities, told = _mlflow().entities, partition.metadata
        profile = json.dumps({key: told[key] for key in ("rows", "flows", "labels")})
        dataset = entities.Dataset(name, told["hash"], "petastorm", json.dumps({"uri": partition.uri}), None, profile)
        self._reach(lambda: self._client().log_inputs(run_id, [entities.DatasetInput(dataset)]))

    def end_run(self, run_id: str, *, failed: bool = False) -> None:
        self._reach(lambda: self._client().set_terminated(run_id, "FAILED" if failed else "FINISHED"))

    def log_epoch(self, run_id: str, metrics: Mapping[str, float], epoch: int) -> None:
        entities, now_ms = _mlflow().entities, int(time.time() * 1000)
        values = [entities.Metric(key, float(value), now_ms, epoch) for key, value in metrics.items()]
        self._reach(lambda: self._client().log_batch(run_id, metrics=values))

    def log_metrics(self, run_id: str, metrics: Mapping[str, float]) -> None:
        """Log values that belong to no epoch."""
        self.log_epoch(run_id, metrics, 0)

    def log_history(self, run_id: str, history: Iterable[Mapping[str, float]]) -> None:
        """Log those epochs (from 1) of a training's history that the run does not have yet."""
        epochs = {epoch: dict(metrics) for epoch, metrics in enumerate(history, start=1)}
        for epoch in epochs.keys() - self.epochs(run_id):
            self.log_epoch(run_id, epochs[epoch], epoch)

    def epochs(self, run_id: str) -> set[int]:
        """The epochs that are logged."""
        return self._reach(lambda: {metric.step for metric in self._client().get_metric_history(run_id, "loss")})

    def log_artifacts(self, run_id: str, path: str | Path, to: str | None = None) -> None:
        """Copy a file, or the files of a folder, into the run's artifacts, below ``to``."""
        client = self._client()
        log = client.log_artifacts if Path(path).is_dir() else client.log_artifact
        self._reach(lambda: log(run_id, str(path), to))

    def log_json(self, run_id: str, content: Mapping[str, Any], path: str) -> None:
        """Keep the content as the file at ``path`` (ending in .json) among the run's artifacts."""
        self._reach(lambda: self._client().log_dict(run_id, dict(content), path))

    def log_model(self, run_id: str, bundle_folder: str | Path, example: pa.Table) -> int:
        """Register the bundle as a new version under ``tracking.model``, with alias `challenger`; its number.

        ``example``: a few rows of FLOWS, kept as the model's input example. The version's tags are the run's, and
        which flows the model is meant for. A bundle of a run is registered once, however often the server goes away.
        """
        from iotid.model import Predictor

        encoding = Predictor.load(bundle_folder).encoding

        def log() -> int:
            client = self._client()
            run_tags = client.get_run(run_id).data.tags
            tags = {key: value for key, value in run_tags.items() if not key.startswith(("mlflow.", _FINGERPRINT))}
            tags |= {"max_packets": str(encoding.max_packets), "length": encoding.length}
            tags |= {"characteristics": _text(list(encoding.vocabularies)), "protocols": _text(encoding.protocols)}
            model = self._log_pyfunc(run_id, Path(bundle_folder), example.select(list(encoding.columns)))
            self._ensure_model(client)
            # by its place, not by its models:/ URI: that one the embedded store looks up in the process's current store
            name, place = self.tracking.model, model.artifact_location
            of_run = client.search_model_versions(f"run_id = '{run_id}'")
            version = next((known for known in of_run if (known.name, known.source) == (name, place)), None)
            version = version or client.create_model_version(name, place, run_id, tags, model_id=model.model_id)
            client.set_registered_model_alias(self.tracking.model, CHALLENGER, version.version)
            return int(version.version)

        return self._reach(log)

    def find_version(self, alias: str) -> int | None:
        """The version that has the alias, or none."""

        def find() -> int | None:
            try:
                return int(self._client().get_model_version_by_alias(self.tracking.model, alias).version)
            except _mlflow().exceptions.MlflowException as fault:
                if _is_absent(fault):
                    return None
                raise

        return self._reach(find)

    def version_of(self, alias: str) -> int:
        """The version that has the alias.

        Raises:
            NoModelError: there is none.
        """
        version = self.find_version(alias)
        if version is None:
            step = {CHAMPION: "promote", CHALLENGER: "train"}.get(alias, "train")
            raise NoModelError(
                f"registry {self.uri}: no version of {self.tracking.model} is {alias}; run iotid {step} first"
            )
        return version

    def run_of(self, version: int) -> str:
        """The run that the version was trained in."""
        return str(self._version(version).run_id)

    def date_of(self, version: int) -> str:
        """The day (UTC) on which it was registered, as YYYY-MM-DD."""
        return datetime.fromtimestamp(self._version(version).creation_timestamp / 1000, UTC).date().isoformat()

    def tags(self, version: int) -> dict[str, str]:
        return dict(self._version(version).tags)

    def set_tag(self, version: int, key: str, value: str) -> None:
        self._reach(lambda: self._client().set_model_version_tag(self.tracking.model, str(version), key, value))

    def artifact(self, version: int, path: str, into: str | Path) -> Path:
        """Download a file or folder of the artifacts of the version's run.

        Raises:
            UserError: there is no such artifact.
        """
        return _download(path, lambda: f"runs:/{self.run_of(version)}/{path}", into, self.uri)

    def bundle(self, which: int | str, into: str | Path) -> Path:
        """Download what ``Predictor.load`` reads; ``which`` is a version's number, an alias or a models:/ URI."""
        if isinstance(which, int) or which.isdecimal():
            uri = f"models:/{self.tracking.model}/{which}"
        else:
            uri = which if which.startswith("models:/") else f"models:/{self.tracking.model}@{which}"
        return _download_bundle(uri, into, self.uri)

    def promote(self, version: int, *, over: int | None) -> None:
        """Make the version the champion in place of ``over``, the champion that it was decided against, or none.

        ``over`` is remembered in the version's tag ``former_champion``.

        Raises:
            StaleError: the champion is another one by now; nothing was moved.
        """
        with self._turn():
            if self.find_version(CHAMPION) == version and self.former_champion(version) == over:
                return  # moved by a promotion that was cut off
            self._expect_champion(over)
            if over is not None:
                self.set_tag(version, _FORMER, str(over))
            self._set_champion(version)

    def rollback(self) -> tuple[int, int]:
        """Put the champion before the present one back; the numbers of the present one, and of that.

        Raises:
            UserError: there is no champion, or it was the first.
            StaleError: the champion is another one by now; nothing was moved.
        """
        version = self.version_of(CHAMPION)
        former = self.former_champion(version)
        if former is None:
            raise UserError(
                f"registry {self.uri}: version {version} was the first champion; there is none to go back to: promote "
                "another version instead"
            )
        with self._turn():
            self._expect_champion(version)
            self._set_champion(former)
            self.set_tag(version, "rolled_back_to", str(former))
        return version, former

    def former_champion(self, version: int) -> int | None:
        """The champion in whose place the version was put, if any."""
        former = self.tags(version).get(_FORMER)
        if former is not None and not re.fullmatch("[0-9]{1,18}", former):
            raise DataError(
                f"registry {self.uri}: tag {_FORMER} of version {version} must be a version's number, got "
                f"{shown(former)}; set it to the champion before, or remove it"
            )
        return None if former is None else int(former)

    def _expect_champion(self, version: int | None) -> None:
        present = self.find_version(CHAMPION)
        if present != version:
            raise StaleError(
                f"registry {self.uri}: the champion has changed meanwhile: this was decided against version {version}, "
                f"but it is version {present} now; nothing was moved; run iotid evaluate, then decide again"
            )

    def _set_champion(self, version: int) -> None:
        self._reach(lambda: self._client().set_registered_model_alias(self.tracking.model, CHAMPION, str(version)))
        self._expect_champion(version)

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Nobody else moves the champion within this block.

        MLflow can neither move an alias on condition nor lock, but keeps the names of registered models unique: who
        registers one of a certain name has the turn, and removes it afterwards. Of a process that died in its turn it
        is taken away after a time.
        """
        own = uuid4().hex
        holder, since = None, time.monotonic()
        while (found := self._reach(lambda: self._claim_turn(own))) != own:
            if found != holder:
                holder, since = found, time.monotonic()
            if found is not None and time.monotonic() - since > _TURN_S:
                _log.warning("promotion: whoever had the turn for %.0f s has died; going on", _TURN_S)
                self._end_turn(found)
            time.sleep(_TURN_POLL_S)
        try:
            yield
        finally:
            with suppress(UserError):  # else whoever waits takes it away
                self._end_turn(own)

    def _claim_turn(self, own: str) -> str | None:
        """Take the turn, if nobody has it; who has it now, or none when it was given back this very moment."""
        mlflow = _mlflow()
        try:
            note = f"held while the alias {CHAMPION} of {self.tracking.model} is moved, and removed afterwards"
            self._client().create_registered_model(self._turn_name, {"holder": own}, note)
            return own
        except mlflow.exceptions.MlflowException as fault:
            if fault.error_code == "RESOURCE_ALREADY_EXISTS":
                return self._turn_holder()
            if _is_absent(fault):  # the embedded store looks up the one that was in the way
                return None
            raise

    def _turn_holder(self) -> str | None:
        try:
            return str(self._client().get_registered_model(self._turn_name).tags.get("holder"))
        except _mlflow().exceptions.MlflowException as fault:
            if _is_absent(fault):
                return None
            raise

    def _end_turn(self, holder: str) -> None:
        def end() -> None:
            if self._turn_holder() == holder:
                self._client().delete_registered_model(self._turn_name)

        self._reach(end)

    @property
    def _turn_name(self) -> str:
        return f"{self.tracking.model}.moving-{CHAMPION}"

    def _version(self, version: int) -> Any:
        return self._reach(lambda: self._client().get_model_version(self.tracking.model, str(version)))

    def _client(self) -> Any:
        database = re.fullmatch(r"sqlite(?:\+\w+)?:///([^?]+).*", self.uri)
        if database and Path(database[1]).exists() and not Path(database[1]).is_file():  # SQLite would wait for a pipe
            raise UserError(f"tracking.uri: {self.uri} is no file; name one, or a server")
        return _mlflow().MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)

    def _experiment_id(self, client: Any) -> str:
        name = self.tracking.experiment
        location = None if self.tracking.uri else (self._local_root() / "mlflow-artifacts").as_uri()
        found = client.get_experiment_by_name(name)
        return str(found.experiment_id if found else client.create_experiment(name, artifact_location=location))

    def _ensure_model(self, client: Any) -> None:
        try:
            client.get_registered_model(self.tracking.model)
        except _mlflow().exceptions.MlflowException as fault:
            if not _is_absent(fault):
                raise
            client.create_registered_model(self.tracking.model)

    def _log_pyfunc(self, run_id: str, bundle_folder: Path, example: pa.Table) -> Any:
        """Log the bundle as an MLflow model that is loaded from code; what MLflow knows of it.

        Step by step on the client, where ``log_model`` would depend on the process's current run and experiment.
        """
        from iotid.model.bundle import DESCRIPTION, WEIGHTS

        mlflow, client = _mlflow(), self._client()
        run, name = client.get_run(run_id), self.tracking.model
        experiment, parts = run.info.experiment_id, (WEIGHTS, DESCRIPTION)
        own = hashlib.sha256(b"".join((bundle_folder / file).read_bytes() for file in parts)).hexdigest()
        logged = f"source_run_id = '{run_id}' and tags.{_FINGERPRINT} = '{own}'"
        model = next(iter(client.search_logged_models([experiment], logged)), None)
        model = model or client.create_logged_model(experiment, name, run_id, {_FINGERPRINT: own}, run.data.params)
        with TemporaryDirectory() as folder:
            files, path = Path(folder) / _BUNDLE, Path(folder) / "model"
            files.mkdir()
            for file in parts:
                shutil.copyfile(bundle_folder / file, files / file)
            mlflow.pyfunc.save_model(
                path,
                mlflow_model=mlflow.models.Model(run_id=run_id, model_uuid=model.model_id, model_id=model.model_id),
                python_model=config.package_dir() / "tracking" / "serving.py",
                artifacts={_BUNDLE: str(files)},
                signature=_signature(example.schema),
                input_example=example.to_pandas(),
                pip_requirements=[f"{library}=={installed(library)}" for library in _SERVED_WITH],
            )
            client.log_model_artifacts(model.model_id, str(path))
        client.finalize_logged_model(model.model_id, "READY")
        if model.model_id not in {output.model_id for output in run.outputs.model_outputs}:
            client.log_outputs(run_id, [mlflow.entities.LoggedModelOutput(model.model_id, 0)])
        return model

    def _local_root(self) -> Path:
        root = local_path(self.storage_root)
        if root is None:
            raise UserError(
                f"tracking.uri: must name an MLflow server when storage.root is not a local folder, got null with "
                f"{self.storage_root}; set tracking.uri"
            )
        return local_folder(root).resolve()

    def _reach(self, call: Callable[[], T]) -> T:
        return _reach(self.uri, call)


@dataclass
class Run:
    """A run that starts when its id is first asked for."""

    registry: Registry
    start: Callable[[], str]

    @cached_property
    def id(self) -> str:
        return self.start()

    @property
    def started(self) -> bool:
        return "id" in vars(self)

    @property
    def epoch_logger(self) -> EpochLogger | None:
        """What training calls after each epoch, in rank 0's process; none for a run that has not started."""
        return EpochLogger(self.registry, self.id) if self.started else None


@dataclass
class EpochLogger:
    """Logs an epoch's metrics to a run. A server that stays away does not stop the training, and it is waited for once,
    not after each epoch: ``Registry.log_history`` makes up for what is missing."""

    registry: Registry
    run_id: str
    given_up: bool = False
    known: set[int] | None = None  # epochs that a process before this one has logged

    def __call__(self, metrics: Mapping[str, float], epoch: int) -> None:
        if self.given_up:
            return
        try:
            if self.known is None:
                self.known = self.registry.epochs(self.run_id)
            if epoch not in self.known:
                self.registry.log_epoch(self.run_id, metrics, epoch)
        except UserError as fault:
            self.given_up = True
            _log.warning("epochs from %d on are kept in the history and logged after the last: %s", epoch, fault)


def load(uri: str, tracking_uri: str | None = None) -> Predictor:
    """The registered model, as in ``load("models:/iotid@champion").predict(flows)``.

    ``tracking_uri``: MLflow's own choice (MLFLOW_TRACKING_URI, or what was set) where it is not given.

    Raises:
        UserError: there is no such model, the server does not answer, or its address holds credentials.
        SchemaError: the model is of another schema version.
    """
    from iotid.model import Predictor

    server = tracking_uri or str(_mlflow().get_tracking_uri())
    if holds_credentials(server):
        raise UserError(f"tracking_uri: {NO_CREDENTIALS}, got {redacted_location(server)}")
    with TemporaryDirectory() as folder:
        return Predictor.load(_download_bundle(uri, folder, server))


def _download_bundle(uri: str, into: str | Path, server: str) -> Path:
    def locate() -> str:
        client = _mlflow().MlflowClient(tracking_uri=server, registry_uri=server)
        name, alias, number = _parse(uri)
        number = number or client.get_model_version_by_alias(name, alias).version
        return f"{client.get_model_version_download_uri(name, number)}/artifacts/{_BUNDLE}"

    return _download(uri, locate, into, server)


def _parse(uri: str) -> tuple[str, str | None, str | None]:
    """Name, and alias or version."""
    match = re.fullmatch(r"models:/([^/@]+)(?:@([^/]+)|/(\d+))", uri)
    if match is None:
        raise UserError(f"model {uri}: must read models:/NAME@ALIAS or models:/NAME/VERSION")
    name, alias, number = match.groups()
    return name, alias, number


def _download(what: str, locate: Callable[[], str], into: str | Path, server: str) -> Path:
    def fetch() -> Path:
        mlflow = _mlflow()
        try:
            return Path(mlflow.artifacts.download_artifacts(locate(), dst_path=str(into), tracking_uri=server))
        except (mlflow.exceptions.MlflowException, OSError) as fault:
            if _is_outage(fault):
                raise
            raise UserError(f"registry {server}: {what} cannot be had ({_first_line(fault)})") from None

    return _reach(server, fetch)


def _reach(uri: str, call: Callable[[], T]) -> T:
    """The call's result, repeated while the server behind ``uri`` is away, for a bounded time."""
    import tenacity

    def tell(state: tenacity.RetryCallState) -> None:
        if state.attempt_number == 1 and state.outcome is not None:
            _log.warning("waiting for the tracking server %s (%s)", uri, _first_line(state.outcome.exception()))

    repeat = tenacity.Retrying(
        retry=tenacity.retry_if_exception(_is_outage),
        stop=tenacity.stop_after_delay(_PATIENCE_S),
        wait=tenacity.wait_random_exponential(multiplier=0.5, max=8),
        before_sleep=tell,
        reraise=True,
    )
    try:
        return repeat(call)
    except Exception as fault:
        if _is_outage(fault):
            raise ServerError(
                f"tracking.uri: {uri} does not answer ({_first_line(fault)}); start the server, or set another uri"
            ) from None
        if type(fault).__module__.startswith("mlflow."):
            raise UserError(f"registry {uri}: {_first_line(fault)}") from None
        raise


def _mlflow() -> Any:
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    import mlflow

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return mlflow


def _signature(example: pa.Schema) -> Any:
    """Columns of the input (as in the example) and of schemas.PREDICTIONS, in MLflow's types."""
    from mlflow.models.signature import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema
    from mlflow.types.schema import Array

    types = {"string": DataType.string, "double": DataType.double, "float": DataType.float}
    types |= {"int32": DataType.long, "int64": DataType.long}  # JSON and Python know one kind of integer

    def columns(schema: pa.Schema) -> Any:
        return Schema(
            [
                ColSpec(Array(types[str(field.type.value_type)]), field.name)
                if str(field.type).startswith("list")
                else ColSpec(types[str(field.type)], field.name)
                for field in schema
            ]
        )

    return ModelSignature(inputs=columns(example), outputs=columns(schemas.PREDICTIONS.arrow_schema()))


def _is_outage(fault: Any) -> bool:
    import requests

    if isinstance(fault, requests.exceptions.ConnectionError | requests.exceptions.Timeout):
        return True
    is_mlflow = type(fault).__module__.startswith("mlflow.")
    told = str(fault)
    return is_mlflow and (
        getattr(fault, "error_code", "") == "TEMPORARILY_UNAVAILABLE" or any(t in told for t in _OUTAGES)
    )


def _is_absent(fault: Any) -> bool:
    return fault.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE") and "not found" in str(fault)


def _first_line(fault: BaseException | None) -> str:
    return (redacted(str(fault)).splitlines() or [""])[0][:300]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
