"""What the session asks of Spark, seen by a stand-in for Spark's builder: no Java is started."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyspark
import pytest

import iotid
from iotid.capture.source import PcapDataSource
from iotid.config import load_settings
from iotid.spark import session


class Stand:
    """Spark's builder and its conf as spark-submit filled it; remembers what it is given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **submitted: str) -> None:
        self.given: dict[str, str] = {}
        self.chosen_master: str | None = None
        self.registered: list[Any] = []
        options = {f"spark.{key.replace('_', '.')}": value for key, value in submitted.items()}
        conf = SimpleNamespace(contains=options.__contains__, get=options.get)
        active = SimpleNamespace(getActiveSession=lambda: None, builder=self)
        monkeypatch.setattr(pyspark.sql, "SparkSession", active)
        monkeypatch.setattr(pyspark, "SparkConf", lambda: conf)
        monkeypatch.setattr(session, "use_java", lambda: None)
        for name in ("PYSPARK_GATEWAY_PORT", "PYSPARK_PYTHON", "SPARK_LOCAL_IP"):
            monkeypatch.setenv(name, "")  # so that what is set here is undone
            monkeypatch.delenv(name)

    def master(self, master: str) -> Stand:
        self.chosen_master = master
        return self

    def config(self, name: str, value: str) -> Stand:
        self.given[name] = value
        return self

    def getOrCreate(self) -> Any:
        return SimpleNamespace(dataSource=SimpleNamespace(register=self.registered.append))


def _settings(*overrides: str) -> Any:
    return load_settings(["local.yaml"], overrides).spark


def test_spark_session__of_one_machine_asks_for_what_the_settings_say(monkeypatch: pytest.MonkeyPatch) -> None:
    stand = Stand(monkeypatch)
    conf = 'spark.conf={"spark.x": "1", "spark.sql.session.timeZone": "CET"}'
    own = ["spark.master=local[3]", "spark.driver_memory=5g", "spark.shuffle_partitions=4", conf]
    iotid.spark_session(_settings(*own), "iotid look")
    assert stand.chosen_master == "local[3]"
    assert stand.given["spark.app.name"] == "iotid look"
    assert stand.given["spark.driver.memory"] == "5g"
    assert stand.given["spark.sql.shuffle.partitions"] == "4"
    assert (stand.given["spark.x"], stand.given["spark.sql.session.timeZone"]) == ("1", "CET")
    assert stand.given["spark.python.daemon.module"] == "iotid.spark.daemon"
    assert "log4j2.properties" in stand.given["spark.driver.defaultJavaOptions"]
    assert "-XX:GCTimeRatio=4" in stand.given["spark.driver.defaultJavaOptions"].split()
    assert stand.registered == [PcapDataSource]
    assert os.environ["PYSPARK_PYTHON"] == sys.executable
    assert os.environ["SPARK_LOCAL_IP"] == "127.0.0.1"


def test_spark_session__what_spark_submit_was_told_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    stand = Stand(
        monkeypatch, master="spark://head:7077", app_name="submitted", submit_pyFiles="/a/iotid.zip,s3://b/c.zip"
    )
    session.spark_session(_settings(), "iotid look")
    assert stand.chosen_master is None
    assert "spark.app.name" not in stand.given
    assert stand.given["spark.executorEnv.PYTHONPATH"] == "iotid.zip:c.zip"
    assert "spark.python.daemon.module" not in stand.given, "executors may lack iotid"
    assert "PYSPARK_PYTHON" not in os.environ


PARTITIONS = "spark.sql.shuffle.partitions"


def test_spark_session__steps_derive_partitions_unless_anyone_sets_their_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stand = Stand(monkeypatch)
    iotid.spark_session(_settings())
    assert stand.given[session.DERIVED] == "true"
    assert stand.given[PARTITIONS] == "8"
    for number in ("spark.shuffle_partitions=6", f'spark.conf={{"{PARTITIONS}": "6"}}'):
        stand = Stand(monkeypatch)
        iotid.spark_session(_settings(number))
        assert session.DERIVED not in stand.given
        assert stand.given[PARTITIONS] == "6"
    stand = Stand(monkeypatch, sql_shuffle_partitions="6")
    iotid.spark_session(_settings())
    assert session.DERIVED not in stand.given
    assert PARTITIONS not in stand.given


def test_spark_session__has_pages_only_where_spark_submit_or_the_settings_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    stand = Stand(monkeypatch)
    iotid.spark_session(_settings())
    assert stand.given["spark.ui.enabled"] == "false"
    iotid.spark_session(_settings('spark.conf={"spark.ui.enabled": "true"}'))
    assert stand.given["spark.ui.enabled"] == "true"
    submitted = Stand(monkeypatch, master="local[2]")
    monkeypatch.setenv("PYSPARK_GATEWAY_PORT", "1")
    monkeypatch.setattr(pyspark.SparkContext, "_ensure_initialized", lambda: None)
    iotid.spark_session(_settings())
    assert "spark.ui.enabled" not in submitted.given


def test_spark_session__another_python_gets_no_daemon_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    stand = Stand(monkeypatch)
    monkeypatch.setenv("PYSPARK_PYTHON", "/opt/python")
    session.spark_session(_settings())
    assert "spark.python.daemon.module" not in stand.given
    assert os.environ["PYSPARK_PYTHON"] == "/opt/python"


def test_spark_session__one_that_runs_is_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    Stand(monkeypatch)
    running = object()
    monkeypatch.setattr(pyspark.sql.SparkSession, "getActiveSession", lambda: running)
    assert session.spark_session(_settings()) is running


def test_java_options__name_an_archive_only_where_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    archive = tmp_path / "share" / "iotid" / "spark-classes.jsa"
    assert "SharedArchiveFile" not in session._java_options()
    archive.parent.mkdir(parents=True)
    archive.touch()
    assert f'"-XX:SharedArchiveFile={archive}"' in session._java_options()


@pytest.mark.parametrize(("master", "here"), [("local[*]", True), ("local", True), ("spark://head:7077", False)])
def test_runs_here__is_told_by_the_master_and_by_spark_submit(
    master: str, here: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYSPARK_GATEWAY_PORT", raising=False)
    assert session.runs_here(_settings(f"spark.master={master}")) is here
    monkeypatch.setenv("PYSPARK_GATEWAY_PORT", "1")
    assert not session.runs_here(_settings(f"spark.master={master}"))
