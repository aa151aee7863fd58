"""The address of the tracking server, and calls while it is unreachable."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from iotid import config
from iotid.errors import UserError
from iotid.tracking import Registry, client
from iotid.tracking.runs import start_run


def test_uri__is_sqlite_below_the_storage_root(tracking: config.Tracking, tmp_path: Path) -> None:
    assert Registry(tracking, str(tmp_path / "store")).uri == f"sqlite:///{tmp_path}/store/mlflow.db"
    assert Registry(tracking, f"file://{tmp_path}/plain%20one").uri == f"sqlite:///{tmp_path}/plain one/mlflow.db"


def test_uri__sqlite_needs_a_local_storage_root(tracking: config.Tracking) -> None:
    with pytest.raises(UserError, match=r"tracking\.uri: must name an MLflow server"):
        _ = Registry(tracking, "s3://bucket/tables").uri


def test_uri__below_a_file_is_a_one_line_error(tracking: config.Tracking, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for root in (f"{tmp_path}/file", f"{tmp_path}/file/below", "/proc/iotid"):
        with pytest.raises(UserError, match=r"^storage\.root: \S+ cannot be used"):
            _ = Registry(tracking, root).uri


def test_uri__root_with_url_characters_keeps_the_database_below_the_root(
    tracking: config.Tracking, model_settings: config.Model, tmp_path: Path
) -> None:
    root = tmp_path / "a?b %20#c" / "run"
    run = start_run(Registry(tracking, str(root)), "nightly", [model_settings], {"dataset": "lab"})
    run.log_json({"a": 1}, "x.json")
    run.end()
    assert (root / "mlflow.db").is_file()
    assert len(list((root / "mlflow-artifacts").rglob("x.json"))) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a?b %20#c"]


def test_unreachable_server__is_retried_then_reported(
    unreachable: Registry, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(client, "RETRY_S", 1.0)
    with pytest.raises(UserError, match=rf"tracking\.uri: {unreachable.uri} does not answer") as caught:
        start_run(unreachable, "nightly", [], {})
    assert "\n" not in str(caught.value)
    assert caplog.text.count("waiting for the tracking server") == 1


def test_existing_server__without_an_address_is_mlflows_own_and_must_exist(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(UserError, match=r"there is no database \S+/mlflow\.db; pass .* or set MLFLOW_TRACKING_URI"):
        client.existing_server(None)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert client.existing_server(None) == "http://127.0.0.1:9"
    assert not list(tmp_path.iterdir())


def test_existing_server__reads_a_database_in_use_below_a_root_with_url_characters(
    tracking: config.Tracking, tmp_path: Path
) -> None:
    root = tmp_path / "a?b %20#c"
    registry = Registry(tracking, str(root))
    registry.call(lambda server: server.search_registered_models())  # creates the database
    with closing(sqlite3.connect(root / "mlflow.db", isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        assert client.existing_server(root) == client.existing_server(registry.uri) == registry.uri
