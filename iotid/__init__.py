"""iotid identifies the IoT devices in network captures. Importing it loads none of the heavy libraries."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from iotid import config

    __version__: str


def spark_session(settings: config.Spark | None = None, app_name: str = "iotid") -> SparkSession:
    """Start or reuse a Spark session that reads captures: ``spark.read.format("pcap").load(path)``.

    ``settings``: the section ``spark``, by default that of conf/base.yaml: all cores of this machine.

    Raises:
        InputError: ``settings`` is something else.
        SetupError: there is no Java 17 or 21.
    """
    from iotid import config
    from iotid.inputs import check_type
    from iotid.spark import session

    settings = config.load_settings().spark if settings is None else settings
    check_type("settings", settings, config.Spark, "iotid.config.load_settings().spark")

    # workers import these at start; nearly every step needs them
    preloaded = ("pandas", "iotid.capture.source", "iotid.flows.assemble", "iotid.dataset.write")
    spark = session.spark_session(settings, app_name, preloaded)
    from pyspark.errors import AnalysisException

    from iotid.capture.source import PcapDataSource

    try:
        spark.dataSource.register(PcapDataSource)
    except AnalysisException as fault:
        if fault.getCondition() != "DATA_SOURCE_ALREADY_EXISTS":  # `newSession` gives a session those of its parent
            raise
    return spark


def __getattr__(name: str) -> str:
    """Looks up ``__version__`` on first use: saves 0.2 s in a Spark worker that does not use it."""
    if name != "__version__":
        raise AttributeError(f"module 'iotid' has no attribute {name!r}")
    from importlib.metadata import PackageNotFoundError, version

    try:
        found = version("iotid")
    except PackageNotFoundError:  # a source tree that was never installed
        found = "0+unknown"
    globals()["__version__"] = found
    return found
