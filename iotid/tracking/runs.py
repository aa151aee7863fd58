"""MLflow runs: settings, tags, metrics and artifacts of a training, evaluation or comparison."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from iotid import __version__, config
from iotid.errors import ServerError, UserError
from iotid.tracking.client import NOTE, Server, mlflow, origin_tags
from iotid.tracking.notes import with_section

if TYPE_CHECKING:
    from iotid.partitions import Partition
    from iotid.schemas.metadata import Datasets

_log = logging.getLogger(__name__)

FINGERPRINT = "fingerprint"  # tag that finds a run or model again if the response with its id was lost


@dataclass
class Run:
    """A run of ``server``, started when its id is first needed: ``start`` returns the id.

    Every method retries while the server is unreachable and raises a ServerError if it stays so.
    """

    server: Server
    start: Callable[[], str]

    @classmethod
    def of(cls, server: Server, run_id: str) -> Run:
        """The run with this id."""
        return cls(server, lambda: run_id)

    @cached_property
    def id(self) -> str:
        return self.start()

    @property
    def started(self) -> bool:
        return "id" in vars(self)

    @property
    def epoch_logger(self) -> EpochLogger | None:
        """The callback of rank 0 after each epoch; None if the run has not started."""
        return EpochLogger(self.server, self.id) if self.started else None

    def end(self, *, failed: bool = False) -> None:
        self.server.call(lambda client: client.set_terminated(self.id, "FAILED" if failed else "FINISHED"))

    def add_note(self, title: str, text: str) -> None:
        """Set the section ``title`` of the run's description."""

        def change(client: Any) -> None:
            former = client.get_run(self.id).data.tags.get(NOTE)
            client.set_tag(self.id, NOTE, with_section(former, title, text))

        self.server.call(change)

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log the parameters that the run does not have yet: MLflow refuses another value of one that it has."""

        def log(client: Any) -> None:
            known = client.get_run(self.id).data.params
            client.log_batch(self.id, params=_params({key: params[key] for key in params if key not in known}))

        self.server.call(log)

    def log_dataset(self, name: str, partition: Partition[Datasets], context: str) -> None:
        """Log a dataset that the run uses: URI, hash, and the rows and flows of each dataset split and label.

        ``context``: what it is used for, training or evaluation.
        """
        entities, metadata = mlflow().entities, partition.metadata
        profile = json.dumps({key: metadata[key] for key in ("rows", "flows", "labels")})
        source = json.dumps({"uri": partition.uri})
        dataset = entities.Dataset(name, metadata["hash"], "petastorm", source, None, profile)
        inputs = [entities.DatasetInput(dataset, [entities.InputTag("mlflow.data.context", context)])]
        self.server.call(lambda client: client.log_inputs(self.id, inputs))

    def log_epoch(self, metrics: Mapping[str, float], epoch: int) -> None:
        entities, now_ms = mlflow().entities, int(time.time() * 1000)
        values = [entities.Metric(key, float(value), now_ms, epoch) for key, value in metrics.items()]
        self.server.call(lambda client: client.log_batch(self.id, metrics=values))

    def log_metrics(self, metrics: Mapping[str, float]) -> None:
        """Log metrics without an epoch."""
        self.log_epoch(metrics, 0)

    def log_history(self, history: Iterable[Mapping[str, float]]) -> None:
        """Log the epochs (from 1) of a training history that the run does not have yet."""
        epochs = {epoch: dict(metrics) for epoch, metrics in enumerate(history, start=1)}
        for epoch in epochs.keys() - self.epochs():
            self.log_epoch(epochs[epoch], epoch)

    def epochs(self) -> set[int]:
        """The epochs logged so far."""
        return self.server.call(lambda client: {entry.step for entry in client.get_metric_history(self.id, "loss")})

    def log_artifacts(self, path: str | Path, to: str | None = None) -> None:
        """Copy a file, or the files of a folder, into the run's artifacts, below ``to``."""
        method = "log_artifacts" if Path(path).is_dir() else "log_artifact"
        self.server.call(lambda client: getattr(client, method)(self.id, str(path), to))

    def log_json(self, content: Mapping[str, Any], path: str) -> None:
        """Write ``content`` as the artifact ``path`` (ending in .json)."""
        self.server.call(lambda client: client.log_dict(self.id, dict(content), path))


@dataclass
class EpochLogger:
    """Logs the metrics of epochs to a run; picklable.

    An unreachable server does not stop the training, and is retried for one epoch only: ``Run.log_history`` adds the
    missing epochs at the end.
    """

    server: Server
    run_id: str
    given_up: bool = False
    logged: set[int] | None = None  # epochs that an earlier process logged

    def __call__(self, metrics: Mapping[str, float], epoch: int) -> None:
        if self.given_up:
            return
        run = Run.of(self.server, self.run_id)
        try:
            if self.logged is None:
                self.logged = run.epochs()
            if epoch not in self.logged:
                run.log_epoch(metrics, epoch)
        except UserError as fault:
            self.given_up = True
            _log.warning("epochs from %d on will be logged after the training: %s", epoch, fault)


@dataclass(frozen=True)
class Description:
    """What readers of a run see first: its description's section ``title``, and parameters beside the settings."""

    title: str
    text: str
    params: Mapping[str, Any] = field(default_factory=dict)


def start_run(
    server: Server,
    name: str,
    sections: Iterable[BaseModel],
    tags: Mapping[str, str],
    description: Description | None = None,
) -> Run:
    """Start a run, with every setting of ``sections`` as a parameter.

    Reuses an active run of the same name, settings and tags: the server became unreachable before it returned the id,
    or before the process that started the run could end it.
    """
    sections = list(sections)
    fingerprint = config.settings_hash(*sections, extra={"name": name, **tags})

    def start(client: Any) -> str:
        entities, experiment = mlflow().entities, server.experiment_id(client)
        running = f"tags.{FINGERPRINT} = '{fingerprint}' and attributes.status = 'RUNNING'"
        found = next(iter(client.search_runs([experiment], running, max_results=1)), None)
        found = found or client.create_run(experiment, tags={FINGERPRINT: fingerprint}, run_name=name)
        run_id: str = found.info.run_id
        params = {
            f"{type(section).__name__.lower()}.{key}": value
            for section in sections
            for key, value in section.model_dump(mode="json").items()
        }
        all_tags = {**origin_tags(), "code_version": __version__, **tags}
        if description is not None:
            params |= description.params
            all_tags[NOTE] = with_section(found.data.tags.get(NOTE), description.title, description.text)
        run_tags = [entities.RunTag(key, to_text(value)) for key, value in all_tags.items()]
        client.log_batch(run_id, params=_params(params), tags=run_tags)
        return run_id

    return Run.of(server, server.call(start))


@contextmanager
def run_on_dataset(
    server: Server,
    name: str,
    sections: Iterable[BaseModel],
    tags: Mapping[str, str],
    dataset: tuple[str, Partition[Datasets]],
    description: Description | None = None,
    *,
    if_unreachable: str,
) -> Iterator[Run]:
    """A run (see ``start_run``) that trains on a dataset and ends with the block; as failed if the block raises.

    It starts immediately, or when its id is first needed if the server is unreachable. ``if_unreachable`` is added to
    the ServerError if the server stays unreachable.
    """

    def start() -> str:
        started = start_run(server, name, sections, tags, description)
        started.log_dataset(*dataset, context="training")
        return started.id

    run = Run(server, start)
    try:
        try:
            _ = run.id
        except ServerError as fault:
            _log.warning("%s; training continues and is logged afterwards", fault)
        yield run
        run.end()
    except ServerError as fault:
        raise ServerError(f"{fault}; {if_unreachable}") from None
    except BaseException:
        if run.started:
            with suppress(ServerError):
                run.end(failed=True)
        raise


def _params(values: Mapping[str, Any]) -> list[Any]:
    entities = mlflow().entities
    return [entities.Param(key, to_text(value)) for key, value in values.items()]


def to_text(value: Any) -> str:
    """A value as text for a parameter or tag."""
    return value if isinstance(value, str) else json.dumps(value)
