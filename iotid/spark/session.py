"""Starts the Spark session, or returns the active one."""

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
from iotid.spark.in_process import InProcess
from iotid.spark.java import use_java
from iotid.spark.worker_errors import in_worker

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

DERIVED = "spark.iotid.derivePartitions"  # of a session in which nobody set the number of shuffle partitions

_PARTITIONS = 8  # until a step derives another (`iotid.spark.shuffle`); adaptive execution merges small ones


def spark_session(settings: config.Spark, app_name: str = "iotid", ahead: Iterable[str] = ()) -> SparkSession:
    """Start a session or return the active one. The master of spark-submit has precedence over ``spark.master``.

    ``ahead``: modules to import while Java starts.

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
        "spark.sql.shuffle.partitions": str(settings.shuffle_partitions or _PARTITIONS),
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
        "spark.sql.execution.arrow.pyspark.enabled": "true",
        "spark.sql.execution.arrow.maxBytesPerBatch": "8m",  # a row may be a block of 1 MB: `iotid.spark.shuffle`
        "spark.ui.showConsoleProgress": str(sys.stderr.isatty()).lower(),
        **({} if "PYSPARK_GATEWAY_PORT" in os.environ else {"spark.ui.enabled": "false"}),  # else spark-submit decides
        "spark.redaction.regex": SECRET_NAMES,  # settings whose values event logs and the UI hide
        "spark.driver.defaultJavaOptions": _java_options(),
        # partitions.py writes a partition's success marker itself
        "spark.hadoop.mapreduce.fileoutputcommitter.marksuccessfuljobs": "false",
        **settings.conf,
    }
    builder = pyspark.sql.SparkSession.builder
    if "PYSPARK_GATEWAY_PORT" in os.environ:
        # started by spark-submit: its options are in the JVM, and SparkConf is empty until it connects to it
        pyspark.SparkContext._ensure_initialized()
    submitted = pyspark.SparkConf()
    if not submitted.contains("spark.master"):
        builder = builder.master(settings.master)
        if settings.master.startswith("local"):
            # a laptop's host name may not resolve, and no other machine connects to the driver
            os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    if submitted.get("spark.master", settings.master).startswith("local"):
        # else workers run `python3` of the path, which may lack iotid
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
        if os.environ["PYSPARK_PYTHON"] == sys.executable and Path(__file__).is_file():  # else workers may lack iotid
            defaults["spark.python.daemon.module"] = "iotid.spark.daemon"
    shipped = [path.rpartition("/")[2] for path in (submitted.get("spark.submit.pyFiles") or "").split(",") if path]
    if shipped:  # Spark adds these to its Python workers' path, but not to that of the ranks that a worker starts
        defaults["spark.executorEnv.PYTHONPATH"] = ":".join(shipped)
    set_by_others = (
        submitted.contains("spark.sql.shuffle.partitions") or "spark.sql.shuffle.partitions" in settings.conf
    )
    if settings.shuffle_partitions is None and not set_by_others:
        defaults[DERIVED] = "true"
    options = {name: value for name, value in defaults.items() if not submitted.contains(name)}
    for name, value in options.items():
        builder = builder.config(name, value)
    if any(map(names_secret, options)) and "PYSPARK_GATEWAY_PORT" not in os.environ:
        # pyspark passes all of its conf to Java on the command line, so secrets are left out; the builder sets them
        public = [(name, value) for name, value in options.items() if not names_secret(name)]
        conf = pyspark.SparkConf(loadDefaults=False).setAll([("spark.master", settings.master), *public])
        pyspark.SparkContext._ensure_initialized(conf=conf)
    spark = builder.getOrCreate()
    loading.join()
    return spark


_IN_PROCESS_SITES = 300  # a census of each is read in about 10 ms


def session_for(
    settings: config.Spark, app_name: str, *, size_bytes: int = 0, flows: int = 0, sites: int = 0
) -> SparkSession | InProcess:
    """A session for a step that reads captures of this size, this many flows, or the censuses of this many sites.

    If they are few and Spark would run on this machine only, this process; else `iotid.spark_session`, whose errors it
    raises. Both `in_process_bytes` and `in_process_flows` must not be 0 for the former.
    """
    most = settings.in_process_bytes, settings.in_process_flows, _IN_PROCESS_SITES
    is_small = all(size <= limit for size, limit in zip((size_bytes, flows, sites), most, strict=True))
    if runs_here(settings) and is_small and all(most):
        return InProcess()
    from iotid import spark_session

    return spark_session(settings, app_name)


def runs_here(settings: config.Spark) -> bool:
    """Whether Spark runs on this machine only; then small work is faster without it."""
    return "PYSPARK_GATEWAY_PORT" not in os.environ and settings.master.startswith("local")


def archive_classes() -> None:
    """Write a class data sharing archive of Spark's classes, with which a JVM starts in half the time.

    Set-up calls this once. It has an effect only with the Java that wrote it.
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
    with tempfile.TemporaryDirectory() as folder:  # load the classes that steps use: Parquet, a shuffle, Python workers
        spark.range(0, 1000, 1, 2).selectExpr("id", "id % 7 AS key").write.parquet(f"{folder}/rows")
        rows = spark.read.parquet(f"{folder}/rows").mapInArrow(in_worker(_unchanged), "id long, key long").persist()
        rows.repartition(2, "key").sortWithinPartitions("key", "id").groupBy("key").count().toArrow()
    java = spark.sparkContext._gateway.proc  # type: ignore[union-attr]
    spark.stop()
    java.stdin.close()  # ends the JVM, which then writes the archive
    java.wait(timeout=300)
    fresh.replace(archive)


def _unchanged(batches: Iterable[Any]) -> Iterator[Any]:
    yield from batches


def _archive() -> Path:
    return Path(sys.prefix) / "share" / "iotid" / "spark-classes.jsa"


def _java_options() -> str:
    options = [f"-Dlog4j2.configurationFile=file:{config.conf_dir()}/log4j2.properties"]
    # the heap grows only if more than a fifth of the time goes into collecting garbage (by default a thirteenth), else
    # shuffle blocks of tasks that have ended would fill it up to its limit
    options += ["-XX:GCTimeRatio=4"]
    if _archive().is_file():
        # Java ignores an archive of another Java, but would warn at each start
        options += [f'"-XX:SharedArchiveFile={_archive()}"', "-Xlog:disable", "-Xlog:all=error:stderr"]
    return " ".join(options)
