"""The Spark session: the one place that starts or joins it, finds Java first, and ships the library to executors."""

from __future__ import annotations

import os
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iotid import config
from iotid.messages import SECRET_NAMES, names_secret
from iotid.spark.java import use_java
from iotid.spark.worker_errors import in_worker

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


def spark_session(settings: config.Spark, app_name: str = "iotid", ahead: Iterable[str] = ()) -> SparkSession:
    """Start or join a session. What spark-submit says of the master wins over ``spark.master``.

    ``ahead`` names modules to load while Java starts, which takes longer.

    Raises:
        SetupError: there is no Java 17 or 21.
    """
    import pyspark

    running = pyspark.sql.SparkSession.getActiveSession()
    if running is not None:
        return running
    use_java()
    loading = threading.Thread(target=lambda: [import_module(name) for name in ahead], daemon=True)
    loading.start()
    defaults = {
        "spark.app.name": app_name,
        "spark.driver.memory": settings.driver_memory,
        "spark.sql.shuffle.partitions": str(settings.shuffle_partitions),
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
        "spark.sql.execution.arrow.pyspark.enabled": "true",
        "spark.sql.execution.arrow.maxBytesPerBatch": "32m",  # rows may be parcels of a megabyte: `iotid.spark.shuffle`
        "spark.ui.showConsoleProgress": str(sys.stderr.isatty()).lower(),
        "spark.ui.enabled": "false",
        "spark.redaction.regex": SECRET_NAMES,  # what event logs and pages do not show the values of
        "spark.driver.defaultJavaOptions": _java_options(),
        # a staged partition's success marker is storage.py's to write, last of all
        "spark.hadoop.mapreduce.fileoutputcommitter.marksuccessfuljobs": "false",
        **settings.conf,
    }
    builder = pyspark.sql.SparkSession.builder
    if "PYSPARK_GATEWAY_PORT" in os.environ:
        # spark-submit started this program; only its JVM knows what it was told, and an unjoined SparkConf is empty
        pyspark.SparkContext._ensure_initialized()
    submitted = pyspark.SparkConf()
    if not submitted.contains("spark.master"):
        builder = builder.master(settings.master)
        if settings.master.startswith("local"):
            # a laptop's host name may not resolve; nothing outside this machine has to reach the driver
            os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    if submitted.get("spark.master", settings.master).startswith("local"):
        # or else workers run whatever `python3` is on the path, which may be one without iotid
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
        if os.environ["PYSPARK_PYTHON"] == sys.executable and Path(__file__).is_file():  # else they may lack iotid
            defaults["spark.python.daemon.module"] = "iotid.spark.daemon"
    travels = [path.rpartition("/")[2] for path in (submitted.get("spark.submit.pyFiles") or "").split(",") if path]
    if travels:  # Python workers find these by themselves, the ranks that such a worker starts find them by this alone
        defaults["spark.executorEnv.PYTHONPATH"] = ":".join(travels)
    options = {name: value for name, value in defaults.items() if not submitted.contains(name)}
    for name, value in options.items():
        builder = builder.config(name, value)
    if any(map(names_secret, options)) and "PYSPARK_GATEWAY_PORT" not in os.environ:
        # pyspark starts Java with all of its conf on the command line; what is left out here follows by the builder
        shown = [(name, value) for name, value in options.items() if not names_secret(name)]
        conf = pyspark.SparkConf(loadDefaults=False).setAll([("spark.master", settings.master), *shown])
        pyspark.SparkContext._ensure_initialized(conf=conf)
    spark = builder.getOrCreate()
    loading.join()
    return spark


def runs_here(settings: config.Spark) -> bool:
    """Whether Spark has no other machine than this one, so that small work need not wait for it to start."""
    return "PYSPARK_GATEWAY_PORT" not in os.environ and settings.master.startswith("local")


def archive_classes() -> None:
    """Keep what a JVM makes of Spark's classes when it loads them, so that each later one starts in half the time.

    Set-up calls this once. Without the archive, or with another Java than it was made by, a JVM just starts slower.
    """
    archive = _archive()
    archive.parent.mkdir(parents=True, exist_ok=True)
    archive.unlink(missing_ok=True)
    fresh = archive.with_suffix(".new")
    spark = spark_session(
        config.load_settings(
            overrides=[f'spark.conf={{"spark.driver.extraJavaOptions": "-XX:ArchiveClassesAtExit={fresh}"}}']
        ).spark,
        "iotid set-up",
    )
    with tempfile.TemporaryDirectory() as folder:  # what the steps do: Parquet, a shuffle, Python workers
        spark.range(0, 1000, 1, 2).selectExpr("id", "id % 7 AS key").write.parquet(f"{folder}/rows")
        rows = spark.read.parquet(f"{folder}/rows").mapInArrow(in_worker(_as_they_are), "id long, key long").persist()
        rows.repartition(2, "key").sortWithinPartitions("key", "id").groupBy("key").count().toArrow()
    java = spark.sparkContext._gateway.proc  # type: ignore[union-attr]
    spark.stop()
    java.stdin.close()  # ends it; the archive is whole when it has ended
    java.wait(timeout=300)
    fresh.replace(archive)


def _as_they_are(batches: Iterable[Any]) -> Iterator[Any]:
    yield from batches


def _archive() -> Path:
    return Path(sys.prefix) / "share" / "iotid" / "spark-classes.jsa"


def _java_options() -> str:
    options = [f"-Dlog4j2.configurationFile=file:{config.conf_dir()}/log4j2.properties"]
    if _archive().is_file():
        # an archive that does not fit this Java is passed over, which is no reason for a warning at each start
        options += [f'"-XX:SharedArchiveFile={_archive()}"', "-Xlog:disable", "-Xlog:all=error:stderr"]
    return " ".join(options)
