"""Runs and model versions, on the embedded SQLite and against a server that is away."""

from __future__ import annotations

import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
import torch

from iotid import config, schemas
from iotid.dataset import Encoding, Vocabulary
from iotid.errors import SchemaError, ServerError, UserError
from iotid.model import AdaptiveEnsemble, Predictor, bundle, save_bundle
from iotid.partitions import Partition
from iotid.tracking import registry
from iotid.tracking.registry import EpochLogger, Registry

_TRACKING = config.Tracking(uri=None, experiment="iotid", model="iotid")
_MODEL = config.Model(
    embedding_size=4,
    hidden_size=5,
    layers=1,
    dropout=0.3,
    fusion="concatenate",
    readout="mean",
    padding="ignored",
    sequence_counts=False,
)
_ENCODING = Encoding(
    max_packets=4,
    vocabularies={"inter_arrival": Vocabulary((0, 1, 32)), "direction": Vocabulary((-1, 1))},
    labels=("camera", "plug"),
    devices={},
    protocols=(6, 17),
    length="ip",
)


def _flows() -> pa.Table:
    waits, directions = [[0, 40], [0], [0, 1, 5]], [[1, -1], [1], [1, 1, -1]]
    return pa.table(
        {
            "site": ["home"] * 3,
            "inter_arrival_us": pa.array(waits, pa.list_(pa.int64())),
            "direction": pa.array(directions, pa.list_(pa.int32())),
        }
    )


def _bundle(folder: Path, seed: int = 1) -> Path:
    torch.manual_seed(seed)
    model = AdaptiveEnsemble(_MODEL, bundle.vocabulary_sizes(_ENCODING), 2)
    save_bundle(folder, model.state_dict(), _MODEL, _ENCODING)
    return folder


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """One embedded store for all tests of this module: making its tables takes seconds."""
    return Registry(_TRACKING, str(tmp_path_factory.mktemp("store")))


@pytest.fixture(scope="module")
def run_id(embedded: Registry) -> str:
    return embedded.start_run("night", [_MODEL], {"dataset": "lab", "dataset_hash": "abc123"})


@pytest.fixture(scope="module")
def version(embedded: Registry, run_id: str, tmp_path_factory: pytest.TempPathFactory) -> int:
    return embedded.log_model(run_id, _bundle(tmp_path_factory.mktemp("bundle")), _flows())


@pytest.fixture(scope="module")
def champion(embedded: Registry, version: int) -> Iterator[str]:
    """The address of the version, which is the champion, in the store that MLflow's own functions look it up in."""
    import mlflow

    embedded.promote(version, over=None)
    mlflow.set_tracking_uri(embedded.uri)
    yield "models:/iotid@champion"
    mlflow.set_tracking_uri(None)  # else it would come before MLFLOW_TRACKING_URI in all later tests


def test_run__keeps_settings_tags_metrics_and_artifacts(embedded: Registry, run_id: str, tmp_path: Path) -> None:
    history = [{"loss": 0.5, "validation_macro_f1": 0.4}, {"loss": 0.25, "validation_macro_f1": 0.75}]
    EpochLogger(embedded, run_id)(history[0], 1)
    embedded.log_history(run_id, history)
    (tmp_path / "note.txt").write_text("hello")
    embedded.log_artifacts(run_id, tmp_path, "notes")
    client = embedded._client()
    run = client.get_run(run_id)
    assert run.data.params["model.hidden_size"] == "5"
    assert run.data.params["model.fusion"] == "concatenate"
    assert {"dataset": "lab", "dataset_hash": "abc123", "mlflow.runName": "night"}.items() <= run.data.tags.items()
    assert run.data.tags["code_version"]
    losses = [(metric.step, metric.value) for metric in client.get_metric_history(run_id, "loss")]
    assert losses == [(1, 0.5), (2, 0.25)]
    assert [file.path for file in client.list_artifacts(run_id, "notes")] == ["notes/note.txt"]


def test_embedded__everything_lies_below_the_storage_root(embedded: Registry, run_id: str, version: int) -> None:
    root = Path(embedded.storage_root)
    assert embedded.uri == f"sqlite:///{root}/mlflow.db"
    assert {path.name for path in root.iterdir()} == {"mlflow.db", "mlflow-artifacts"}


def test_log_model__registers_a_challenger_with_the_tags_of_its_run(
    embedded: Registry, run_id: str, version: int
) -> None:
    assert embedded.version_of("challenger") == version
    assert embedded.run_of(version) == run_id
    tags = embedded.tags(version)
    assert {"dataset": "lab", "dataset_hash": "abc123", "max_packets": "4", "length": "ip"}.items() <= tags.items()


def test_load__predicts_what_the_bundle_predicts(
    embedded: Registry, version: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = Predictor.load(_bundle(tmp_path)).predict(_flows())
    assert registry.load("models:/iotid@challenger", embedded.uri).predict(_flows()).equals(expected)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", embedded.uri)
    assert registry.load(f"models:/iotid/{version}").predict(_flows()).equals(expected)


def test_bundle__is_had_by_number_alias_or_uri(embedded: Registry, version: int, tmp_path: Path) -> None:
    for number, which in enumerate([version, str(version), "challenger", "models:/iotid@challenger"]):
        folder = embedded.bundle(which, tmp_path / str(number))
        assert sorted(path.name for path in folder.iterdir()) == ["model.json", "weights.safetensors"]


def test_pyfunc__takes_a_data_frame_and_gives_predictions(champion: str, tmp_path: Path) -> None:
    import mlflow

    expected = Predictor.load(_bundle(tmp_path)).predict(_flows()).to_pandas()
    served = mlflow.pyfunc.load_model(champion)
    pd.testing.assert_frame_equal(served.predict(_flows().to_pandas()), expected)
    as_lists = {name: _flows()[name].to_pylist() for name in ("direction", "inter_arrival_us")}
    pd.testing.assert_frame_equal(served.predict(pd.DataFrame(as_lists)), expected)
    assert served.metadata.signature.inputs.input_names() == ["inter_arrival_us", "direction"]
    assert served.metadata.signature.outputs.input_names() == schemas.PREDICTIONS.names
    assert served.input_example is not None


@pytest.mark.spark
def test_pyfunc__scores_a_spark_table(champion: str, spark: Any, tmp_path: Path) -> None:
    import mlflow
    from pyspark.sql.functions import struct

    expected = Predictor.load(_bundle(tmp_path)).predict(_flows())
    result = "label string, confidence double, surprise double, probabilities array<float>"
    predict = mlflow.pyfunc.spark_udf(spark, champion, result_type=result, env_manager="local")
    columns = "site string, inter_arrival_us array<bigint>, direction array<int>"
    table = spark.createDataFrame([tuple(row.values()) for row in _flows().to_pylist()], columns).repartition(1)
    scored = table.select(predict(struct("direction", "inter_arrival_us")).alias("is")).select("is.*").collect()
    assert sorted(row["label"] for row in scored) == sorted(expected["label"].to_pylist())
    for name in ("confidence", "surprise"):
        assert sorted(row[name] for row in scored) == pytest.approx(sorted(expected[name].to_pylist()))
    assert sorted(row["probabilities"] for row in scored) == sorted(expected["probabilities"].to_pylist())


def test_pyfunc__is_served_over_http(champion: str, embedded: Registry, tmp_path: Path) -> None:
    import requests

    expected = Predictor.load(_bundle(tmp_path)).predict(_flows()).to_pylist()
    port = _free_port()
    options = ["-m", champion, "--env-manager", "local", "--host", "127.0.0.1", "--port", str(port)]
    command = [sys.executable, "-m", "mlflow", "models", "serve", *options]
    asked = _flows().select(["direction", "inter_arrival_us"])
    rows = [list(row.values()) for row in asked.to_pylist()]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # MLflow starts uvicorn by its name
    with _process(command, MLFLOW_TRACKING_URI=embedded.uri, PATH=path) as server:
        _wait_for(f"http://127.0.0.1:{port}/ping", server)
        body = {"dataframe_split": {"columns": asked.column_names, "data": rows}}
        told = requests.post(f"http://127.0.0.1:{port}/invocations", json=body, timeout=60)
    assert told.status_code == 200, told.text
    for answer, row in zip(told.json()["predictions"], expected, strict=True):
        assert answer["label"] == row["label"]
        for name in ("confidence", "surprise", "probabilities"):
            assert answer[name] == pytest.approx(row[name])


@pytest.mark.parametrize("name", ["bundle_version", "flows_version"])
def test_pyfunc__model_of_another_schema_version_is_one_clear_line(
    champion: str, embedded: Registry, tmp_path: Path, name: str
) -> None:
    import mlflow

    folder = Path(mlflow.artifacts.download_artifacts(champion, dst_path=str(tmp_path), tracking_uri=embedded.uri))
    (description,) = folder.rglob("model.json")
    content = json.loads(description.read_text())
    description.write_text(json.dumps({**content, name: content[name] - 1}))
    with pytest.raises(SchemaError, match=rf"{name} must be {content[name]}, got {content[name] - 1}; train") as caught:
        mlflow.pyfunc.load_model(str(folder))
    assert "\n" not in str(caught.value)


def test_model__holds_code_and_nothing_that_unpickles(
    embedded: Registry, version: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import cloudpickle
    import mlflow

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("unpickled")

    for module, name in ((pickle, "load"), (pickle, "loads"), (cloudpickle, "load"), (torch, "load")):
        monkeypatch.setattr(module, name, refuse)
    folder = mlflow.artifacts.download_artifacts(
        f"models:/iotid/{version}", dst_path=str(tmp_path), tracking_uri=embedded.uri
    )
    files = {path.name for path in Path(folder).rglob("*") if path.is_file()}
    assert not {name for name in files if name.endswith((".pkl", ".pickle", ".pt", ".bin"))}
    assert {"serving.py", "weights.safetensors", "model.json", "MLmodel"} <= files
    mlflow.pyfunc.load_model(folder)


def test_promote__moves_the_champion_and_rollback_puts_the_former_back(tmp_path: Path) -> None:
    store = Registry(_TRACKING, str(tmp_path / "store"))
    with pytest.raises(UserError, match=r"no version of iotid is champion; run iotid promote first"):
        store.version_of("champion")
    run = store.start_run("night", [], {})
    first, second = (store.log_model(run, _bundle(tmp_path / str(seed), seed), _flows()) for seed in (1, 2))
    assert (first, second) == (1, 2)
    store.promote(first, over=None)
    with pytest.raises(UserError, match="was the first champion") as caught:
        store.rollback()
    assert "\n" not in str(caught.value)
    store.promote(second, over=first)
    assert (store.find_version("champion"), store.tags(second)["former_champion"]) == (2, "1")
    assert store.rollback() == (second, first)
    assert store.version_of("champion") == 1
    assert store.tags(second)["rolled_back_to"] == "1"
    store.set_tag(first, "macro_f1", "0.9")
    assert store.tags(first)["macro_f1"] == "0.9"
    store.end_run(run)
    assert store._client().get_run(run).info.status == "FINISHED"


def test_artifact__of_the_versions_run_or_a_user_error(
    embedded: Registry, run_id: str, version: int, tmp_path: Path
) -> None:
    (tmp_path / "report.json").write_text("{}")
    embedded.log_artifacts(run_id, tmp_path, "evaluation")
    assert embedded.artifact(version, "evaluation/report.json", tmp_path / "back").read_text() == "{}"
    with pytest.raises(UserError, match=r"nothing\.json cannot be had"):
        embedded.artifact(version, "evaluation/nothing.json", tmp_path / "back")


def test_bundle__unknown_alias_is_a_user_error(embedded: Registry, version: int, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"models:/iotid@nobody.*cannot be had"):
        embedded.bundle("nobody", tmp_path)


def test_load__another_schema_version_is_one_clear_line(
    embedded: Registry, version: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle, "_VERSION", bundle._VERSION + 1)
    with pytest.raises(SchemaError, match=r"bundle_version must be \d+, got \d+; train again") as caught:
        registry.load("models:/iotid@challenger", embedded.uri)
    assert "\n" not in str(caught.value)


def test_uri__sqlite_needs_a_local_storage_root() -> None:
    with pytest.raises(UserError, match=r"tracking\.uri: must name an MLflow server"):
        _ = Registry(_TRACKING, "s3://bucket/tables").uri


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _nobody_listens() -> Registry:
    return Registry(_TRACKING.model_copy(update={"uri": f"http://127.0.0.1:{_free_port()}"}), "s3://bucket/tables")


def test_server_that_is_away__is_waited_for_then_named(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(registry, "_PATIENCE_S", 1.0)
    store = _nobody_listens()
    with pytest.raises(UserError, match=rf"tracking\.uri: {store.uri} does not answer") as caught:
        store.start_run("night", [], {})
    assert "\n" not in str(caught.value)
    assert caplog.text.count("waiting for the tracking server") == 1


def test_server_that_is_away__does_not_stop_a_training(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(registry, "_PATIENCE_S", 0.1)
    log = EpochLogger(_nobody_listens(), "run")
    for epoch in (3, 4, 5):
        log({"loss": 1.0}, epoch)
    assert caplog.text.count("epochs from 3 on are kept in the history and logged after the last") == 1
    assert caplog.text.count("waiting for the tracking server") == 1  # not once for each epoch


@contextmanager
def _process(command: list[str], **env: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process, and all that it starts, for as long as the block lasts."""
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, **quiet, start_new_session=True, env={**os.environ, **env}) as own:
        try:
            yield own
        finally:
            with suppress(ProcessLookupError):
                os.killpg(own.pid, signal.SIGKILL)


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    import requests

    while process.poll() is None:
        try:
            assert requests.get(url, timeout=5).ok
            return
        except requests.exceptions.ConnectionError:
            time.sleep(0.2)
    raise AssertionError(f"{process.args} ended with {process.returncode}")


@contextmanager
def _server(uri: str, folder: Path) -> Iterator[None]:
    """A real tracking server, records and artifacts below ``folder``."""
    options = ["--host", "127.0.0.1", "--port", uri.rsplit(":", 1)[1], "--workers", "1"]
    places = ["--backend-store-uri", f"sqlite:///{folder}/records.db", "--artifacts-destination", str(folder)]
    with _process([sys.executable, "-m", "mlflow", "server", *options, *places]):
        yield


def test_run__of_a_server_that_comes_late_is_logged_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(registry, "_PATIENCE_S", 0.1)
    store = _nobody_listens()
    dataset = Partition("file:///datasets/lab", {}, {"hash": "abc", "rows": {}, "flows": {}, "labels": {"plug": 3}})
    with ExitStack() as later, store.run("night", [_MODEL], {}, ("lab", dataset), if_away="") as run:
        assert not run.started
        assert run.epoch_logger is None
        assert "meanwhile this goes on, and is logged afterwards" in caplog.text
        monkeypatch.setattr(registry, "_PATIENCE_S", 60.0)
        later.enter_context(_server(store.uri, tmp_path))
        store.log_history(run.id, [{"loss": 0.5}, {"loss": 0.25}])
        version = store.log_model(run.id, _bundle(tmp_path / "bundle"), _flows())
        assert store.version_of("challenger") == version
        told = store._client().get_run(run.id)
        assert told.data.metrics["loss"] == 0.25
        (given,) = told.inputs.dataset_inputs
        assert (given.dataset.name, given.dataset.digest) == ("lab", "abc")
        assert json.loads(given.dataset.profile)["labels"] == {"plug": 3}


def test_run__of_a_server_that_never_comes_says_where_the_model_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_PATIENCE_S", 0.1)
    dataset = Partition("file:///datasets/lab", {}, {"hash": "abc"})
    with pytest.raises(ServerError, match=r"does not answer .*; the model is kept in /runs/lab"):  # noqa: SIM117
        with _nobody_listens().run("night", [], {}, ("lab", dataset), if_away="the model is kept in /runs/lab") as run:
            _ = run.id


def test_run__is_failed_where_its_block_raises(embedded: Registry) -> None:
    dataset = Partition("file:///datasets/lab", {}, {"hash": "abc", "rows": {}, "flows": {}, "labels": {}})
    with pytest.raises(ZeroDivisionError), embedded.run("night", [], {}, ("lab", dataset), if_away="") as run:
        _ = 1 / 0
    assert embedded._client().get_run(run.id).info.status == "FAILED"


def test_registry__says_nothing_and_loads_no_mlflow_until_used(tmp_path: Path) -> None:
    _bundle(tmp_path / "bundle")
    code = f"""
import sys
from iotid import config
from iotid.tracking import registry
store = registry.Registry(config.Tracking(uri=None, experiment="e", model="m"), {str(tmp_path / "store")!r})
assert "mlflow" not in sys.modules and "torch" not in sys.modules
import pyarrow as pa
types = {{"inter_arrival_us": pa.int64(), "direction": pa.int32()}}
flows = pa.table({{name: pa.array([[1]], pa.list_(kind)) for name, kind in types.items()}})
run = store.start_run("quiet", [], {{}})
version = store.log_model(run, {str(tmp_path / "bundle")!r}, flows)
store.promote(version, over=None)
registry.load("models:/m@champion", store.uri).predict(flows)
store.end_run(run)
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=os.environ)
    assert (told.returncode, told.stdout, told.stderr) == (0, "", "")
    assert {path.name for path in tmp_path.iterdir()} == {"bundle", "store"}


def test_registry__of_a_root_with_signs_of_an_address_keeps_its_database_below_the_root(tmp_path: Path) -> None:
    root = tmp_path / "a?b %20#c" / "run"
    own = Registry(_TRACKING, str(root))
    run = own.start_run("night", [_MODEL], {"dataset": "lab"})
    own.log_json(run, {"a": 1}, "x.json")
    own.end_run(run)
    assert (root / "mlflow.db").is_file()
    assert len(list((root / "mlflow-artifacts").rglob("x.json"))) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a?b %20#c"]
    assert Registry(_TRACKING, f"file://{tmp_path}/plain%20one").uri == f"sqlite:///{tmp_path}/plain one/mlflow.db"


def test_registry__below_what_is_no_folder_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for root in (f"{tmp_path}/file", f"{tmp_path}/file/below", "/proc/iotid"):
        with pytest.raises(UserError, match=r"^storage\.root: \S+ cannot be used"):
            _ = Registry(_TRACKING, root).uri
