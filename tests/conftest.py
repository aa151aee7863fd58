"""Fixtures that several rooms share."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest

from iotid.config import Settings, load_settings

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_TESTS = Path(__file__).parent

hypothesis.settings.register_profile("iotid", deadline=None)  # a busy machine is no fault
hypothesis.settings.load_profile("iotid")

# for servers that tests start: seven more processes each, for jobs that nobody gives them
os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings for one small machine, with the tables below a folder of this test."""
    return load_settings(["local.yaml"], [f"storage.root={tmp_path}/store"])


@pytest.fixture(scope="session")
def spark() -> Iterator[SparkSession]:
    from iotid import spark_session

    # code is run too few times here to earn back what it costs to optimize it
    java = 'spark.conf={"spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1"}'
    own = ["spark.master=local[2]", "spark.shuffle_partitions=4", java]  # these tests' inputs are worth one partition
    session = spark_session(load_settings(["local.yaml"], own).spark, "iotid-tests")
    yield session
    session.stop()


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # a dataclass looks its own module up there
    spec.loader.exec_module(module)
    return module


def pytest_configure(config: pytest.Config) -> None:
    """Fixtures that several folders of tests use."""
    for name in ("flow_tables", "grouped_census", "small_registry", "small_report"):
        config.pluginmanager.register(_load(_TESTS / f"{name}.py"), name)


@pytest.fixture(scope="session")
def module_at() -> Callable[[Path], ModuleType]:
    """The module in a file that lies beside the tests; other processes know it by the name of the file."""
    return _load


@pytest.fixture(params=["cluster", "in_process"])
def plain_spark(
    request: pytest.FixtureRequest, module_at: Callable[[Path], ModuleType], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Any]:
    """Makes sessions that need no Java, of ``partitions`` partitions, for all that the jobs ask; or the one in this
    process."""
    if request.param == "in_process":
        from iotid.spark.in_process import InProcess

        return lambda **_: InProcess()
    plain = module_at(_TESTS / "plain_spark.py")
    return lambda **more: plain.PlainSpark(monkeypatch, **more)


@pytest.fixture(scope="session")
def tracking_server(
    module_at: Callable[[Path], ModuleType], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Any]]:
    """The address of an MLflow server, and the PostgreSQL behind it, which a test may stop and must start again."""
    database, folder = module_at(_TESTS / "drills" / "database.py"), tmp_path_factory.mktemp("served")
    with database.postgresql() as records, database.mlflow_server(folder, records.uri) as uri:
        yield uri, records


@pytest.fixture(scope="session")
def reference(module_at: Callable[[Path], ModuleType]) -> ModuleType:
    """The slow, obvious twin of assembly."""
    return module_at(_TESTS / "reference.py")


@pytest.fixture(scope="session")
def captures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the unpacked real captures: IOTID_CAPTURES, or the archives beside the checkout, unpacked once."""
    given = os.environ.get("IOTID_CAPTURES")
    if given:
        return Path(given)
    unpack = _TESTS.parent.parent / "shared" / "captures" / "unpack"
    if not unpack.is_file():
        pytest.skip("the real captures are absent: set IOTID_CAPTURES, or lay shared/captures beside the checkout")
    folder = tmp_path_factory.getbasetemp().parent / "iotid-captures"
    subprocess.run([str(unpack), str(folder)], check=True, capture_output=True)
    return folder
