"""Runs on the embedded SQLite and on a server that is unreachable, for a time or always."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from iotid import config
from iotid.errors import ServerError
from iotid.partitions import Partition
from iotid.tracking import Registry, client
from iotid.tracking.runs import EpochLogger, Run, run_on_dataset

_DATASET = Partition("file:///datasets/lab", {}, {"hash": "abc", "rows": {}, "flows": {}, "labels": {"plug": 3}})


def test_run__keeps_settings_tags_metrics_and_artifacts(embedded: Registry, run: Run, tmp_path: Path) -> None:
    history = [{"loss": 0.5, "validation_macro_f1": 0.4}, {"loss": 0.25, "validation_macro_f1": 0.75}]
    EpochLogger(embedded, run.id)(history[0], 1)
    run.log_history(history)
    (tmp_path / "note.txt").write_text("hello")
    run.log_artifacts(tmp_path, "notes")
    mlflow_client = embedded.connect()
    stored = mlflow_client.get_run(run.id)
    assert stored.data.params["model.hidden_size"] == "5"
    assert stored.data.params["model.fusion"] == "concatenate"
    tags = {"dataset": "lab", "dataset_hash": "abc123", "mlflow.runName": "nightly"}
    assert tags.items() <= stored.data.tags.items()
    assert stored.data.tags["code_version"]
    losses = [(metric.step, metric.value) for metric in mlflow_client.get_metric_history(run.id, "loss")]
    assert losses == [(1, 0.5), (2, 0.25)]
    assert [file.path for file in mlflow_client.list_artifacts(run.id, "notes")] == ["notes/note.txt"]


def test_epoch_logger__unreachable_server_does_not_stop_training(
    unreachable: Registry, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(client, "RETRY_S", 0.1)
    log = EpochLogger(unreachable, "run")
    for epoch in (3, 4, 5):
        log({"loss": 1.0}, epoch)
    assert caplog.text.count("epochs from 3 on will be logged after the training") == 1
    assert caplog.text.count("waiting for the tracking server") == 1  # not once for each epoch


def test_run__of_a_server_that_starts_late_is_logged_afterwards(
    unreachable: Registry,
    model_settings: config.Model,
    flows: pa.Table,
    write_bundle: Callable[..., Path],
    process: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    @contextmanager
    def server() -> Iterator[None]:
        """A real tracking server, records and artifacts below ``tmp_path``."""
        options = ["--host", "127.0.0.1", "--port", unreachable.uri.rsplit(":", 1)[1], "--workers", "1"]
        options += ["--backend-store-uri", f"sqlite:///{tmp_path}/records.db", "--artifacts-destination", str(tmp_path)]
        with process([sys.executable, "-m", "mlflow", "server", *options]):
            yield

    monkeypatch.setattr(client, "RETRY_S", 0.1)
    asked = (unreachable, "nightly", [model_settings], {}, ("lab", _DATASET))
    with ExitStack() as later, run_on_dataset(*asked, if_unreachable="") as run:
        assert not run.started
        assert run.epoch_logger is None
        assert "training continues and is logged afterwards" in caplog.text
        monkeypatch.setattr(client, "RETRY_S", 60.0)
        later.enter_context(server())
        run.log_history([{"loss": 0.5}, {"loss": 0.25}])
        version = unreachable.register(run, write_bundle(tmp_path / "bundle"), flows)
        assert unreachable.version_of("challenger") == version
        stored = unreachable.connect().get_run(run.id)
        assert stored.data.metrics["loss"] == 0.25
        (given,) = stored.inputs.dataset_inputs
        assert (given.dataset.name, given.dataset.digest) == ("lab", "abc")
        assert {tag.key: tag.value for tag in given.tags} == {"mlflow.data.context": "training"}
        assert json.loads(given.dataset.profile)["labels"] == {"plug": 3}


def test_run__of_an_unreachable_server_reports_where_the_model_is(
    unreachable: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "RETRY_S", 0.1)
    asked = (unreachable, "nightly", [], {}, ("lab", _DATASET))
    with pytest.raises(ServerError, match=r"does not answer .*; the model is kept in /runs/lab"):  # noqa: SIM117
        with run_on_dataset(*asked, if_unreachable="the model is kept in /runs/lab") as run:
            _ = run.id


def test_run__is_failed_if_its_block_raises(embedded: Registry) -> None:
    asked = (embedded, "nightly", [], {}, ("lab", _DATASET))
    with pytest.raises(ZeroDivisionError), run_on_dataset(*asked, if_unreachable="") as run:
        _ = 1 / 0
    assert embedded.connect().get_run(run.id).info.status == "FAILED"
