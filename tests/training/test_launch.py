"""Ranks started by Spark's TorchDistributor on a real dataset, and by torchrun's environment."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import socket
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from iotid.config import Settings, load_settings
from iotid.dataset import read_split, write_dataset
from iotid.errors import AbsentError, DataError, IotidError, TrainingError
from iotid.labels import DeviceList
from iotid.model import Predictor
from iotid.partitions import PartitionKey, Store
from iotid.schemas import FLOWS, HEADER_COLUMNS
from iotid.spark.worker_errors import WorkerError, mark
from iotid.training import launch, train_on_ranks

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = [pytest.mark.spark, pytest.mark.ddp]

_DEVICES = """
devices:
  - {name: camera, mac: "02:00:00:00:00:01"}
  - {name: plug, mac: "02:00:00:00:00:02"}
  - {name: hub, mac: "02:00:00:00:00:03"}
"""


def _settings(root: Path, *overrides: str) -> Settings:
    small = ["model.embedding_size=8", "model.hidden_size=8", "model.layers=1", "model.dropout=0"]
    small += ["training.epochs=6", "training.batch_size=32", "training.learning_rate=0.03", "training.ranks=2"]
    small += ["training.precision=float32"]  # as in rank_process.py
    return load_settings(["local.yaml"], [f"storage.root={root}", "spark.master=local[2]", *small, *overrides])


def _flow(number: int) -> dict[str, Any]:
    """A flow of device number % 3, whose first packet has the device's length."""
    random = np.random.default_rng(number)
    lengths = [100 + 100 * (number % 3), *random.integers(40, 80, random.integers(0, 6)).tolist()]
    seen = datetime(2026, 1, 31, 12, 0, number % 60, number, tzinfo=UTC)
    counts = {name: len(lengths) for name in ("client_packets", "client_bytes", "server_packets", "server_bytes")}
    texts = {
        "client_ip": f"10.0.0.{number % 3}",
        "server_ip": "192.0.2.1",
        "capture_file": "a.pcap",
        "end_reason": "end",
    }
    ports = {"protocol": 6, "client_port": 1024 + number, "server_port": 443}
    zeros = {name: [0] * len(lengths) for name in ("tcp_window", "inter_arrival_us", "tcp_flags", "payload_length")}
    mac = f"02:00:00:00:00:0{number % 3 + 1}"
    times = {"first_seen": seen, "last_seen": seen}
    return {
        **counts,
        **texts,
        **ports,
        **zeros,
        **{name: [] for name in HEADER_COLUMNS},
        **times,
        "answered": True,
        "address_conflict": False,
        "client_mac": mac,
        "packet_length": lengths,
        "direction": [1] * len(lengths),
    }


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def dataset_uri(spark: SparkSession, root: Path) -> str:
    """A dataset of 241 flows of three devices."""
    settings, store, keys = _settings(root), Store(str(root)), PartitionKey.of_date("lab", "2026-01-31")
    with store.write("flows", keys, FLOWS.version) as staged:
        table = pa.Table.from_pylist([_flow(number) for number in range(241)], FLOWS.arrow_schema(stored=True))
        pq.write_table(table, f"{staged.path}/part.parquet")
        staged.metadata = {"rows": table.num_rows, "settings": {"flow": settings.flow.model_dump(mode="json")}}
    (root / "devices.yaml").write_text(_DEVICES)
    devices, nights = DeviceList.read(root / "devices.yaml"), [store.open("flows", keys)]
    return write_dataset(spark, store, nights, devices, settings.dataset, settings.flow, "toy").uri


@pytest.fixture(scope="module")
def undisturbed(spark: SparkSession, root: Path, dataset_uri: str) -> dict[str, Any]:
    """The result of two ranks without interruption, with their ``stdout`` and ``stderr``."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        result = train_on_ranks(spark, _settings(root), dataset_uri, root / "undisturbed", _note_epoch)
    return {**result, "stdout": out.getvalue(), "stderr": err.getvalue()}


def _note_epoch(metrics: dict[str, float], epoch: int) -> None:
    print(f"noted epoch {epoch} with loss {metrics['loss']:.3f}", flush=True)  # noqa: T201 - as any callback may


def _learned(result: dict[str, Any]) -> list[float]:
    return [epoch["loss"] for epoch in result["history"]]


def test_train_on_ranks__writes_the_bundle_and_its_history(
    root: Path, dataset_uri: str, undisturbed: dict[str, Any]
) -> None:
    test = read_split(dataset_uri, "test")
    predicted = Predictor.load(root / "undisturbed").probabilities(test.sequences).argmax(axis=1)
    assert (predicted == test.label).mean() > 0.9
    assert undisturbed["best_macro_f1"] > 0.9
    assert json.loads((root / "undisturbed" / "history.json").read_text()) == undisturbed["history"]


def test_train_on_ranks__forwards_only_the_ranks_lines_to_stderr(undisturbed: dict[str, Any]) -> None:
    assert undisturbed["stdout"] == ""
    lines = undisturbed["stderr"].splitlines()
    assert [line.split()[0] for line in lines] == [*["epoch", "noted"] * 6, "fitted", "calibrated"]


def test_train_on_ranks__a_rank_that_aborts_at_its_end_stops_no_other(
    spark: SparkSession, root: Path, dataset_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rank 1 ends first; torchrun would stop rank 0, and rank 1's result would be returned without a bundle."""
    (tmp_path / "sitecustomize.py").write_text(
        "import atexit, os\nif os.environ.get('RANK') == '1':\n    atexit.register(os.abort)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    result = train_on_ranks(spark, _settings(root), dataset_uri, tmp_path / "run", _wait_after_the_last_epoch)
    assert result["rank"] == 0
    assert Predictor.load(tmp_path / "run").labels


def _wait_after_the_last_epoch(_: dict[str, float], epoch: int) -> None:
    if epoch == 6:
        time.sleep(5)


def test_train_on_ranks__one_rank_equals_two(
    spark: SparkSession, root: Path, dataset_uri: str, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    one = train_on_ranks(spark, _settings(root, "training.ranks=1"), dataset_uri, tmp_path)
    np.testing.assert_allclose(_learned(one), _learned(undisturbed), rtol=1e-3)


def test_train_on_ranks__killed_ranks_resume_to_the_same_result(
    spark: SparkSession,
    root: Path,
    dataset_uri: str,
    undisturbed: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(TrainingError, match=r"killed or crashed \(exitcode: -9\)"):
        train_on_ranks(spark, _settings(root), dataset_uri, tmp_path, _die_after_epoch_3)
    assert "Traceback" not in capsys.readouterr().err
    resumed = train_on_ranks(spark, _settings(root), dataset_uri, tmp_path)
    assert resumed["resumed_from"] == 3
    assert _learned(resumed) == _learned(undisturbed)
    weights = [(folder / "weights.safetensors").read_bytes() for folder in (root / "undisturbed", tmp_path)]
    assert weights[0] == weights[1]


def _die_after_epoch_3(_: dict[str, float], epoch: int) -> None:
    if epoch == 3:
        os.kill(os.getpid(), signal.SIGKILL)


def test_train_on_ranks__error_of_a_rank_is_one_line_without_a_traceback(
    spark: SparkSession, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(AbsentError, match="no completed data at") as caught:
        train_on_ranks(spark, _settings(root, "training.ranks=1"), f"{root}/datasets/name=absent", tmp_path)
    assert "\n" not in str(caught.value)
    assert "Traceback" not in capsys.readouterr().err


def test_train_on_ranks__under_torchrun_this_process_is_a_rank(
    root: Path, dataset_uri: str, undisturbed: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torchrun = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    for name, value in {**torchrun, "GLOO_SOCKET_IFNAME": "lo"}.items():
        monkeypatch.setenv(name, value)
    result = train_on_ranks(None, _settings(root), dataset_uri, tmp_path)
    assert result["rank"] == 0
    np.testing.assert_allclose(_learned(result), _learned(undisturbed), rtol=1e-3)
    assert Predictor.load(tmp_path).labels == ("camera", "hub", "plug")


def _failed(rank: int, kind: type[Exception], text: str, *, lost: bool = False) -> str:
    return WorkerError.of(kind(text), rank=rank, lost=lost).to_line(mark()) + "\n"


@pytest.mark.parametrize(
    ("output", "kind", "message"),
    [
        (f"x\n{_failed(1, DataError, 'dataset: no rows')}Traceback …", "DataError", "dataset: no rows"),
        (_failed(0, MemoryError, "no room"), "TrainingError", "training: rank 0 failed: MemoryError: no room"),
        (_failed(1, OSError, "closed", lost=True) + _failed(0, DataError, "odd"), "DataError", "odd"),
        (_failed(1, ValueError, "x") + _failed(0, DataError, "odd"), "DataError", "odd"),
        (
            "iotid.errors.NoModelError: x\n" + _failed(0, DataError, "a\nNoModelError: b"),
            "DataError",
            r"a\nNoModelError: b",
        ),
        (
            _failed(1, OSError, "closed", lost=True) + "exitcode  : -9 (pid: 7)\n",
            "TrainingError",
            "training: a rank was killed or crashed (exitcode  : -9); if memory ran out, set fewer training.ranks; "
            "run the command again to resume from the last checkpoint",
        ),
    ],
)
def test_error_of_rank__is_the_root_cause(output: str, kind: str, message: str) -> None:
    error: IotidError = launch.error_of_rank(output)
    assert (type(error).__name__, str(error)) == (kind, message)
