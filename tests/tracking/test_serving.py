"""Registered models, loaded by iotid and served by MLflow."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
import torch

from iotid import schemas
from iotid.errors import SchemaError
from iotid.model import Predictor, bundle
from iotid.tracking import ModelVersion, Registry, load


@pytest.fixture(scope="module")
def predictions(
    flows: pa.Table, write_bundle: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> pa.Table:
    """The expected predictions for ``flows``."""
    return Predictor.load(write_bundle(tmp_path_factory.mktemp("bundle"))).predict(flows)


def test_pyfunc__predicts_from_a_data_frame(champion_uri: str, flows: pa.Table, predictions: pa.Table) -> None:
    import mlflow

    expected = predictions.to_pandas()
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

    result = "label string, confidence double, surprise double, probabilities array<float>"
    predict = mlflow.pyfunc.spark_udf(spark, champion_uri, result_type=result, env_manager="local")
    columns = "site string, inter_arrival_us array<bigint>, direction array<int>"
    table = spark.createDataFrame([tuple(row.values()) for row in flows.to_pylist()], columns).repartition(1)
    scored = table.select(predict(struct("direction", "inter_arrival_us")).alias("is")).select("is.*").collect()
    assert sorted(row["label"] for row in scored) == sorted(predictions["label"].to_pylist())
    for name in ("confidence", "surprise"):
        assert sorted(row[name] for row in scored) == pytest.approx(sorted(predictions[name].to_pylist()))
    assert sorted(row["probabilities"] for row in scored) == sorted(predictions["probabilities"].to_pylist())


def test_pyfunc__is_served_over_http(
    champion_uri: str,
    embedded: Registry,
    flows: pa.Table,
    predictions: pa.Table,
    free_port: Callable[[], int],
    process: Callable[..., Any],
) -> None:
    import requests

    expected = predictions.to_pylist()
    port = free_port()
    options = ["-m", champion_uri, "--env-manager", "local", "--host", "127.0.0.1", "--port", str(port)]
    command = [sys.executable, "-m", "mlflow", "models", "serve", *options]
    asked = flows.select(["direction", "inter_arrival_us"])
    rows = [list(row.values()) for row in asked.to_pylist()]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # MLflow starts uvicorn by its name
    with process(command, MLFLOW_TRACKING_URI=embedded.uri, PATH=path) as server:
        _wait_for(f"http://127.0.0.1:{port}/ping", server)
        body = {"dataframe_split": {"columns": asked.column_names, "data": rows}}
        response = requests.post(f"http://127.0.0.1:{port}/invocations", json=body, timeout=60)
    assert response.status_code == 200, response.text
    for answer, row in zip(response.json()["predictions"], expected, strict=True):
        assert answer["label"] == row["label"]
        for name in ("confidence", "surprise", "probabilities"):
            assert answer[name] == pytest.approx(row[name])


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
    embedded: Registry, version: ModelVersion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import cloudpickle
    import mlflow

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("unpickled")

    for module, name in ((pickle, "load"), (pickle, "loads"), (cloudpickle, "load"), (torch, "load")):
        monkeypatch.setattr(module, name, refuse)
    folder = mlflow.artifacts.download_artifacts(
        f"models:/iotid/{version.number}", dst_path=str(tmp_path), tracking_uri=embedded.uri
    )
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


def test_load__other_schema_version_is_a_one_line_error(
    embedded: Registry, version: ModelVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle, "_VERSION", bundle._VERSION + 1)
    with pytest.raises(SchemaError, match=r"bundle_version must be \d+, got \d+; train again") as caught:
        load("models:/iotid@challenger", embedded.uri)
    assert "\n" not in str(caught.value)


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    import requests

    while process.poll() is None:
        try:
            assert requests.get(url, timeout=5).ok
            return
        except requests.exceptions.ConnectionError:
            time.sleep(0.2)
    raise AssertionError(f"{process.args} ended with {process.returncode}")
