"""A small model, registered in an embedded store, and unreachable servers."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

from iotid import config
from iotid.dataset import Encoding, Vocabulary
from iotid.model import AdaptiveEnsemble, bundle, save_bundle
from iotid.tracking import ModelVersion, Registry, champion
from iotid.tracking.runs import Run, start_run

TRACKING = config.Tracking(uri=None, experiment="iotid", model="iotid")
MODEL = config.with_values(
    config.load_settings().model, embedding_size=4, hidden_size=5, layers=1, sequence_counts=False
)
ENCODING = Encoding(
    max_packets=4,
    vocabularies={"inter_arrival": Vocabulary((0, 1, 32)), "direction": Vocabulary((-1, 1))},
    labels=("camera", "plug"),
    devices={},
    protocols=(6, 17),
    length="ip",
)

Bundle = Callable[..., Path]


@pytest.fixture(scope="session")
def tracking() -> config.Tracking:
    return TRACKING


@pytest.fixture(scope="session")
def model_settings() -> config.Model:
    return MODEL


@pytest.fixture(scope="session")
def flows() -> pa.Table:
    waits, directions = [[0, 40], [0], [0, 1, 5]], [[1, -1], [1], [1, 1, -1]]
    return pa.table(
        {
            "site": ["home"] * 3,
            "inter_arrival_us": pa.array(waits, pa.list_(pa.int64())),
            "direction": pa.array(directions, pa.list_(pa.int32())),
        }
    )


@pytest.fixture(scope="session")
def write_bundle() -> Bundle:
    """Writes a bundle with weights drawn from ``seed``; returns the folder."""

    def write(folder: Path, seed: int = 1) -> Path:
        torch.manual_seed(seed)
        model = AdaptiveEnsemble(MODEL, bundle.vocabulary_sizes(ENCODING), 2)
        save_bundle(folder, model.state_dict(), MODEL, ENCODING)
        return folder

    return write


@pytest.fixture(scope="session")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """One embedded store for all tests of this folder: creating its tables takes seconds."""
    return Registry(TRACKING, str(tmp_path_factory.mktemp("store")))


@pytest.fixture(scope="session")
def run(embedded: Registry) -> Run:
    return start_run(embedded, "nightly", [MODEL], {"dataset": "lab", "dataset_hash": "abc123"})


@pytest.fixture(scope="session")
def version(
    embedded: Registry, run: Run, flows: pa.Table, write_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory
) -> ModelVersion:
    return embedded.register(run, write_bundle(tmp_path_factory.mktemp("bundle")), flows)


@pytest.fixture(scope="module")
def champion_uri(embedded: Registry, version: ModelVersion) -> Iterator[str]:
    """The models:/ URI of the champion, in MLflow's current store."""
    import mlflow

    champion.promote(embedded, version.number, replaces=None)
    mlflow.set_tracking_uri(embedded.uri)
    yield "models:/iotid@champion"
    mlflow.set_tracking_uri(None)  # else it would come before MLFLOW_TRACKING_URI in all later tests


@pytest.fixture(scope="session")
def free_port() -> Callable[[], int]:
    def find() -> int:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return int(probe.getsockname()[1])

    return find


@pytest.fixture
def unreachable(free_port: Callable[[], int]) -> Registry:
    """The registry of a server that is not started."""
    return Registry(TRACKING.model_copy(update={"uri": f"http://127.0.0.1:{free_port()}"}), "s3://bucket/tables")


@pytest.fixture(scope="session")
def process() -> Callable[..., AbstractContextManager[subprocess.Popen[bytes]]]:
    """Starts a process; stops it and its children at the end of the block."""

    @contextmanager
    def start(command: list[str], **env: str) -> Iterator[subprocess.Popen[bytes]]:
        quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        with subprocess.Popen(command, **quiet, start_new_session=True, env={**os.environ, **env}) as own:
            try:
                yield own
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(own.pid, signal.SIGKILL)

    return start
