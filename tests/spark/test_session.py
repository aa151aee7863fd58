"""What the session takes from spark-submit, and what its Python workers find."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from socket import socket
from typing import TYPE_CHECKING, Any
from zipimport import zipimporter

import pyarrow as pa
import pytest

from iotid import spark_session
from iotid.spark.daemon import without_copies
from iotid.spark.worker_start import freezing_modules

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = pytest.mark.spark


def test_spark_session__options_of_spark_submit_win_over_the_settings(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import sys\nfrom pathlib import Path\n"
        "from iotid.config import load_settings\nfrom iotid.spark.session import spark_session\n"
        "context = spark_session(load_settings(['local.yaml']).spark, 'from settings').sparkContext\n"
        "Path(sys.argv[1]).write_text(f'{context.master} {context.appName}')\n",
        encoding="utf-8",
    )
    # spark-submit finds Spark through the first python3 on the PATH
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    options = ["--master", "local[1]", "--name", "submitted", "--conf", f"spark.pyspark.python={sys.executable}"]
    command = ["spark-submit", *options, program, tmp_path / "output"]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    assert (tmp_path / "output").read_text(encoding="utf-8") == "local[1] submitted"


def test_workers__search_no_archive_for_modules(spark: SparkSession) -> None:
    def archives(batches: Iterable[Any]) -> Iterator[pa.RecordBatch]:
        for _ in batches:
            pass
        found = [str(finder) for finder in sys.path_importer_cache.values() if isinstance(finder, zipimporter)]
        yield pa.RecordBatch.from_pydict({"archive": found}, pa.schema({"archive": pa.string()}))

    assert spark.range(1).mapInArrow(archives, "archive string").toArrow().num_rows == 0


def test_without_copies__keeps_what_a_job_ships_and_what_no_folder_holds(tmp_path: Path) -> None:
    brought, site, spark_home = tmp_path / "iotid.zip", tmp_path / "site", tmp_path / "spark"
    copies = [home / "python" / "lib" / "pyspark.zip" for home in (site / "pyspark", spark_home)]
    for file in (brought, *copies):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    (tmp_path / "link").symlink_to(site)
    assert without_copies([str(place) for place in (brought, *copies, tmp_path / "link")]) == [
        str(brought), str(copies[1]), str(tmp_path / "link"),
    ]  # fmt: skip


def test_freezing_modules__freezes_once_what_a_task_loaded_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[str] = []
    monkeypatch.setattr(gc, "collect", lambda: calls.append("collect"))
    monkeypatch.setattr(gc, "freeze", lambda: calls.append("freeze"))

    def load(connection: socket, authenticated: bool) -> int:
        sys.modules.setdefault("loaded by a task", sys)
        return 7

    task = freezing_modules(load)
    try:
        with socket() as connection:
            assert [task(connection, True) for _ in range(3)] == [7, 7, 7]
    finally:
        sys.modules.pop("loaded by a task", None)
    assert calls == ["collect", "freeze"]


@pytest.mark.spark
def test_spark_session__of_a_session_made_from_another_reads_captures_too(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    spark_session()
    other = spark.newSession()
    monkeypatch.setattr("pyspark.sql.SparkSession.getActiveSession", lambda: other)
    assert spark_session() is other
