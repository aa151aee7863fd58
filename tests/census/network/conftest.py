"""A store with censuses of several sites, and the network's census over them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from iotid.config import Settings

from .network_store import NetworkStore

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


@pytest.fixture
def network(settings: Settings, plain_spark: Callable[..., Any]) -> NetworkStore:
    return NetworkStore(settings, plain_spark())


@pytest.fixture
def network_on_spark(settings: Settings, spark: SparkSession) -> NetworkStore:
    return NetworkStore(settings, spark)
