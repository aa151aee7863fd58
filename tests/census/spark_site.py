"""A synthetic site whose census is taken on Spark, with a real small model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from iotid.census import take_census
from iotid.census.pseudonyms import KEY_VARIABLE
from iotid.config import Settings, Watchlist
from iotid.partitions import Partition, PartitionKey, Store
from iotid.tracking import ModelVersion

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


A, B, C, D = (f"02:00:00:00:00:{last}" for last in ("0a", "0b", "0c", "0d"))
WATCHED = {"labels": ["camera"], "vendors": [], "types": [], "fail": False}
KEY, OTHER_KEY = "one key of this test", "another key of this test"
GATE = "02:00:00:00:00:01"
IPS = {A: "192.168.1.10", B: "192.168.1.11", C: "192.168.1.12", D: "192.168.1.13"}


class Site:
    """Takes the census of synthetic flows of one site."""

    def __init__(self, spark: SparkSession, settings: Settings, model: Path, make: Callable, write: Callable) -> None:
        self.spark, self.settings, self.model, self.make, self.write = spark, settings, model, make, write
        self.store = Store(settings.storage.root)

    def flows(self, day: int, *flows: dict[str, Any], **more: Any) -> None:
        self.write(self.store, "lab", f"2026-01-{day:02}", flows, **more)

    def devices(self, day: int, **patterns: str) -> None:
        """Flows of a day on which each device has four equal flows of each pattern; patterns are joined by +."""
        named = {"a": A, "b": B, "c": C, "d": D}
        self.flows(
            day,
            *(
                self.make(pattern, IPS[named[name]], named[name])
                for name, shown in patterns.items()
                for pattern in shown.split("+")
                for _ in "1234"
            ),
        )

    def census(self, day: int, version: int | None = 1, model: Path | None = None, **census: Any) -> Partition:
        """``version``: of the model; None: there is none."""
        settings = self.settings.census.model_copy(update=census)
        watchlist = Watchlist.model_validate(WATCHED)
        key = PartitionKey.of_date("lab", f"2026-01-{day:02}")
        if version is None:
            return take_census(self.spark, self.store, key, None, None, settings, watchlist)
        champion = ModelVersion(version, "run", "2026-01-31", {})
        return take_census(self.spark, self.store, key, champion, model or self.model, settings, watchlist)

    def with_key(self, day: int, key: str, **more: Any) -> Partition:
        """The census under pseudonyms, with the key in the environment."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(KEY_VARIABLE, key)
            return self.census(day, **{"pseudonyms": "opaque", **more})

    def rows(self, day: int, **more: Any) -> dict[str, dict[str, Any]]:
        return {row["device_id"]: row for row in stored(self.census(day, **more)).to_pylist()}

    def changes(self, day: int, **more: Any) -> dict[str, str]:
        return {device: row["change"] for device, row in self.rows(day, **more).items()}


def stored(census: Partition) -> pa.Table:
    return pq.read_table(f"{census.uri}/part-0.parquet", partitioning=None)
