"""Registered models, loaded by iotid and served by MLflow."""

from __future__ import annotations

import json
import os
import pickle
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
import torch

from iotid import schemas
from iotid.dataset import Vocabulary
from iotid.errors import InputError, SchemaError, UserError
from iotid.model import AdaptiveEnsemble, Predictor, bundle, save_bundle
from iotid.tracking import ModelVersion, Registry, load
from iotid.tracking.runs import start_run

from .conftest import ENCODING, MODEL

PAGE = Path(__file__).parents[2] / "docs" / "python.md"


@pytest.fixture(scope="module")
def predictions(
    flows: pa.Table, write_bundle: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> pa.Table:
    """The expected predictions for ``flows``."""
    return Predictor.load(write_bundle(tmp_path_factory.mktemp("bundle"))).predict(flows)


def test_pyfunc__predicts_from_a_data_frame(champion_uri: str, flows: pa.Table, predictions: pa.Table) -> None:
    import mlflow

    expected = predictions.to_pandas().assign(probabilities=_by_class(predictions))
    served = mlflow.pyfunc.load_model(champion_uri)
    pd.testing.assert_frame_equal(served.predict(flows.to_pandas()), expected)
    as_lists = {name: flows[name].to_pylist() for name in ("direction", "inter_arrival_us")}
    pd.testing.assert_frame_equal(served.predict(pd.DataFrame(as_lists)), expected)
    assert served.metadata.signature.inputs.input_names() == ["inter_arrival_us", "direction"]
    assert served.metadata.signature.outputs.input_names() == schemas.PREDICTIONS.names
    assert served.input_example is not None


@pytest.mark.spark
def test_pyfunc__scores_a_spark_table(champion_uri: str, spark: Any, flows: pa.Table, predictions: pa.Table) -> None:
    import mlflow
    from pyspark.sql.functions import struct

    result = "label string, confidence double, surprise double, probabilities map<string,float>"
    predict = mlflow.pyfunc.spark_udf(spark, champion_uri, result_type=result, env_manager="local")
    columns = "site string, inter_arrival_us array<bigint>, direction array<int>"
    table = spark.createDataFrame([tuple(row.values()) for row in flows.to_pylist()], columns).repartition(1)
    scored = table.select(predict(struct("direction", "inter_arrival_us")).alias("is")).select("is.*").collect()
    assert sorted(row["label"] for row in scored) == sorted(predictions["label"].to_pylist())
    for name in ("confidence", "surprise"):
        assert sorted(row[name] for row in scored) == pytest.approx(sorted(predictions[name].to_pylist()))
    found = sorted(sorted(row["probabilities"].items()) for row in scored)
    assert found == sorted(sorted(each.items()) for each in _by_class(predictions))


def test_pyfunc__is_served_over_http_as_the_page_says(
    embedded: Registry, free_port: Callable[[], int], process: Callable[..., Any], tmp_path: Path
) -> None:
    import requests

    encoding = replace(
        ENCODING, vocabularies={"packet_length": Vocabulary((52, 60)), "tcp_window": Vocabulary((502, 65160))}
    )
    torch.manual_seed(1)
    model = AdaptiveEnsemble(MODEL, bundle.vocabulary_sizes(encoding), 2)
    save_bundle(tmp_path / "bundle", model.state_dict(), MODEL, encoding)
    flows = pa.table(dict.fromkeys(encoding.columns, pa.array([[60, 60, 52]], pa.list_(pa.int32()))))
    registry = Registry(embedded.tracking.model_copy(update={"model": "served"}), embedded.storage_root)
    registry.register(start_run(registry, "served", [MODEL], {}), tmp_path / "bundle", flows)
    port = free_port()
    (curl,) = re.findall(r"^curl .*$", PAGE.read_text(), re.MULTILINE)
    options = ["-m", "models:/served@challenger", "--env-manager", "local", "--host", "127.0.0.1", "--port", str(port)]
    command = [sys.executable, "-m", "mlflow", "models", "serve", *options]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # MLflow starts uvicorn by its name
    with process(command, MLFLOW_TRACKING_URI=embedded.uri, PATH=path) as server:
        _wait_for(f"http://127.0.0.1:{port}/ping", server)
        words = shlex.split(curl.replace(":5001/", f":{port}/"))
        answered = json.loads(subprocess.run(words, capture_output=True, check=True, timeout=60).stdout)
        body = {"dataframe_split": {"columns": ["packet_length", "tcp_window"], "data": [[[60, -1], [1, 2]]]}}
        refused = requests.post(f"http://127.0.0.1:{port}/invocations", json=body, timeout=60)
        rows = [[[60, 52], [502, 502]], [[52], [65160]], [[60, 60, 52], [502, 65160, 502]]]
        body = {"dataframe_split": {"columns": ["packet_length", "tcp_window"], "data": rows}}
        several = requests.post(f"http://127.0.0.1:{port}/invocations", json=body, timeout=60)
    (asked,) = json.loads(words[-1])["dataframe_records"]
    expected = Predictor.load(tmp_path / "bundle").predict([asked])
    (answer,) = answered["predictions"]
    assert answer.pop("probabilities") == pytest.approx(_by_class(expected)[0])
    assert answer == pytest.approx(expected.drop_columns("probabilities").to_pylist()[0])
    in_order = Predictor.load(tmp_path / "bundle").predict(
        [dict(zip(("packet_length", "tcp_window"), row, strict=True)) for row in rows]
    )
    assert [row["probabilities"] for row in several.json()["predictions"]] == [
        pytest.approx(each) for each in _by_class(in_order)
    ]
    assert refused.status_code >= 400
    assert "row 0: packet_length must be 1 to" in refused.text


@pytest.mark.parametrize("name", ["bundle_version", "flows_version"])
def test_pyfunc__other_schema_version_is_a_one_line_error(
    champion_uri: str, embedded: Registry, tmp_path: Path, name: str
) -> None:
    import mlflow

    folder = Path(mlflow.artifacts.download_artifacts(champion_uri, dst_path=str(tmp_path), tracking_uri=embedded.uri))
    (description,) = folder.rglob("model.json")
    content = json.loads(description.read_text())
    description.write_text(json.dumps({**content, name: content[name] - 1}))
    with pytest.raises(SchemaError, match=rf"{name} must be {content[name]}, got {content[name] - 1}; train") as caught:
        mlflow.pyfunc.load_model(str(folder))
    assert "\n" not in str(caught.value)


def test_model__contains_code_and_no_pickles(
    champion_uri: str, embedded: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import cloudpickle
    import mlflow

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("unpickled")

    for module, name in ((pickle, "load"), (pickle, "loads"), (cloudpickle, "load"), (torch, "load")):
        monkeypatch.setattr(module, name, refuse)
    folder = mlflow.artifacts.download_artifacts(champion_uri, dst_path=str(tmp_path), tracking_uri=embedded.uri)
    files = {path.name for path in Path(folder).rglob("*") if path.is_file()}
    assert not {name for name in files if name.endswith((".pkl", ".pickle", ".pt", ".bin"))}
    assert {"serving.py", "weights.safetensors", "model.json", "MLmodel"} <= files
    mlflow.pyfunc.load_model(folder)


def test_load__predicts_what_the_bundle_predicts(
    embedded: Registry,
    version: ModelVersion,
    flows: pa.Table,
    predictions: pa.Table,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert load("models:/iotid@challenger", embedded.uri).predict(flows).equals(predictions)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", embedded.uri)
    assert load(f"models:/iotid/{version.number}").predict(flows).equals(predictions)


def test_load__takes_a_storage_root_or_the_path_of_its_database(
    embedded: Registry, version: ModelVersion, flows: pa.Table, predictions: pa.Table
) -> None:
    for given in (embedded.storage_root, Path(embedded.storage_root), Path(embedded.storage_root, "mlflow.db")):
        model = load("models:/iotid@challenger", given)
        assert model.predict(flows).equals(predictions)
        assert repr(model).startswith(f"Predictor(models:/iotid/{version.number}; 2 labels; reads inter_arrival, ")


@pytest.mark.parametrize(
    ("tracking_uri", "message"),
    [
        ("sqlite:///absent.db", r"there is no database absent\.db; pass"),
        ("sqlite+pysqlite:///absent%3F.db", r"there is no database absent\?\.db; pass"),
        ("sqlite:///folder/absent.db", r"there is no database folder/absent\.db; pass"),
        ("sqlite://", "there is no database"),
        ("mlruns", "there is no database mlruns; pass"),
        ("file:///mlruns-absent", "there is no database /mlruns-absent; pass"),
        (Path("folder"), r"there is no database folder/mlflow\.db; pass"),
        ("sqlite:///empty.db", r"empty\.db is no database of MLflow; pass"),
        ("text.db", r"text\.db is no database of MLflow; pass"),
        (5, "must be of type str or Path, got int; pass"),
    ],
)
def test_load__without_a_database_is_refused_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tracking_uri: Any, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty.db").touch()
    (tmp_path / "text.db").write_text("no database")
    before = {path: path.stat().st_size for path in tmp_path.rglob("*")}
    with pytest.raises(UserError, match=rf"^tracking_uri: .*{message}") as caught:
        load("models:/iotid@champion", tracking_uri)
    assert "\n" not in str(caught.value)
    assert {path: path.stat().st_size for path in tmp_path.rglob("*")} == before


@pytest.mark.parametrize("uri", ["iotid", "iotid@champion", "models:/iotid", 3])
def test_load__other_than_a_models_address_is_refused(embedded: Registry, uri: Any) -> None:
    with pytest.raises((UserError, InputError), match="models:/"):
        load(uri, embedded.uri)


def test_load__other_schema_version_is_a_one_line_error(
    embedded: Registry, version: ModelVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle, "_VERSION", bundle._VERSION + 1)
    with pytest.raises(SchemaError, match=r"bundle_version must be \d+, got \d+; train again") as caught:
        load("models:/iotid@challenger", embedded.uri)
    assert "\n" not in str(caught.value)


def _by_class(predictions: pa.Table) -> list[dict[str, float]]:
    return [dict(zip(ENCODING.labels, row, strict=True)) for row in predictions["probabilities"].to_pylist()]


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    import requests

    while process.poll() is None:
        try:
            assert requests.get(url, timeout=5).ok
            return
        except requests.exceptions.ConnectionError:
            time.sleep(0.2)
    raise AssertionError(f"{process.args} ended with {process.returncode}")
