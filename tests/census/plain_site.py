"""A synthetic site whose census needs no Spark: a table of labels stands in for the model."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from iotid.census import take, take_census
from iotid.census.changes import COMPARED
from iotid.census.listed import COLUMNS as LISTED
from iotid.census.scored import NoModel, Scored
from iotid.census.split_groups import EarlierGroups
from iotid.config import Settings, Watchlist
from iotid.labels.devices import Device
from iotid.partitions import Partition, PartitionKey, Store
from iotid.schemas import CENSUS, FLOWS, LEFT_OUT
from iotid.tracking import ModelVersion

A, B, C, D = (f"02:00:00:00:00:{last}" for last in ("0a", "0b", "0c", "0d"))
ADDED = ("named_by", "maker", "mac_randomised", "watched", *COMPARED, *LISTED)  # by take_census itself
COLUMNS = [name for name in CENSUS.arrow_schema(stored=True).names if name not in ADDED]
WATCHED = {"labels": ["camera"], "vendors": ["Volt"], "types": [], "fail": False}
KEY = "one key of this test"


def _kinds(label: str | None) -> list[dict[str, Any]]:
    """The kinds that a label stands for, each named by its class alone; several are joined by +."""
    return [
        {"kind": f"{one}s", "label": one, "vendor": "Volt" if one == "plug" else None, "type": None, "confidence": 0.93,
         "flows": 3, "units": 1}
        for one in (label or "").split("+") if one not in ("", "undecided")
    ]  # fmt: skip


def devices_of(day: int, labels: dict[str, str | None]) -> pa.Table:
    """What scoring gives for devices of these labels; None: unknown, of a group after ?; undecided where the label says
    so."""
    seen = datetime(2026, 1, day, 12, tzinfo=UTC)
    rows = []
    for number, (device, shown) in enumerate(sorted(labels.items())):
        label, group = (None, shown[1:]) if shown and shown[0] == "?" else (shown, None)
        kinds = _kinds(label)
        status = "unknown" if label is None else "undecided" if not kinds else "known" if len(kinds) == 1 else "several"
        only = kinds[0] if status == "known" else {}
        rows.append(
            {
                "device_id": device, "status": status, **{name: only.get(name) for name in ("label", "vendor", "type")},
                "confidence": 0.93, "kinds": kinds, "runners_up": [], "similar_kinds": [], "unlike_kind": None,
                "unexplained": 0.0, "household": 0.1,
                "reason": "Of 4 distinct flows: 4 like those of several kinds.", "marks": [], "group_name": group,
                "flows": 4, "bytes": 400,
                "first_seen": seen, "last_seen": seen + timedelta(minutes=1),
                "addresses": [f"192.168.1.{10 + number}"],
            }
        )  # fmt: skip
    schema = CENSUS.arrow_schema(stored=True)
    return pa.Table.from_pylist(rows, pa.schema([schema.field(name) for name in COLUMNS]))


def _left_out(reason: str, mac: str | None, address: str | None, flows: int) -> dict[str, Any]:
    counts = {"addresses": 1, "ends": 1, "flows": flows, "packets": 2 * flows}
    return {"reason": reason, "mac": mac, "address": address, "in_census": False, **counts}


LEFT_OUT_ROWS = pa.Table.from_pylist(
    [_left_out("outside", None, "52.1.2.3", 3), _left_out("other_protocol", D, "192.168.1.13", 2)],
    schema=LEFT_OUT.arrow_schema(),
)
FLOW = {"length": "ip", "max_packets": 32}


class Site:
    """Takes the census of one site whose devices are given by label; version 2 of the model calls a camera a webcam."""

    def __init__(self, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
        self.settings, self.store = settings, Store(settings.storage.root)
        self.shown: dict[str, dict[str, str | None]] = {}
        self.model: int | None = 1
        self.tags: dict[str, str] = {}  # of the champion
        self.lost = 0
        self.split: list[set[str]] = []  # what each scoring was asked to split
        devices = {"camera": {"vendor": "Acme", "type": "camera"}, "plug": {"vendor": "Volt", "type": "plug"}}
        encoding = SimpleNamespace(labels=tuple(devices), devices=devices, misfit=lambda flow: flow.get("misfit"))
        monkeypatch.setattr(take, "broadcast_model", lambda spark, folder: (None, encoding))
        monkeypatch.setattr(take, "score_partition", self._score)

    def _score(
        self, spark: Any, flows: Partition, model: Any, encoding: Any, settings: Any, earlier: EarlierGroups
    ) -> Scored:
        date = flows.key.capture_date
        day = int(date[-2:])
        labels = self.shown[date]
        self.split.append(set(earlier.split))
        groups = earlier.groups
        if isinstance(encoding, NoModel):
            labels = dict.fromkeys(labels)
        elif self.model == 2:
            labels = {device: "webcam" if label == "camera" else label for device, label in labels.items()}
        devices = devices_of(day, labels)
        names = sorted(set(devices["group_name"].drop_null().to_pylist()) - set(groups["group_name"].to_pylist()))
        made = [
            {"group_name": name, "services": [], "protocol": [], "payload_length": [], "share": []} for name in names
        ]
        groups = pa.concat_tables([groups, pa.Table.from_pylist(made, schema=groups.schema)])
        return Scored(devices, groups, 4 * len(labels) - self.lost, LEFT_OUT_ROWS)

    def flows(self, day: int, flow: dict[str, Any] | None = None, **labels: str | None) -> None:
        date = f"2026-01-{day:02}"
        self.shown[date] = {{"a": A, "b": B, "c": C, "d": D}[name]: label for name, label in labels.items()}
        with self.store.write("flows", PartitionKey.of_date("lab", date), FLOWS.version) as staged:
            metadata = {
                "rows": 4 * len(labels) + 5,
                "packets": {"flow": 40, "not_ip": 3},
                "settings": {"flow": FLOW | (flow or {})},
            }
            staged.metadata |= metadata

    def census(
        self,
        day: int,
        version: int | None = 1,
        watchlist: dict[str, Any] | None = None,
        devices: Sequence[Device] | None = None,
        **changes: Any,
    ) -> Partition:
        """``version``: of the model; None: there is none. ``devices``: the operator's list."""
        self.model = version
        settings = self.settings.census.model_copy(update=changes)
        listed = Watchlist.model_validate(watchlist or WATCHED)
        key, champion = PartitionKey.of_date("lab", f"2026-01-{day:02}"), None
        if version is not None:
            champion = ModelVersion(version, "run", "2026-01-31", self.tags)
        bundle = Path("m") if champion else None
        sections = settings, listed, (6, 17), devices
        return take_census(None, self.store, key, champion, bundle, *sections)  # type: ignore[arg-type]


def changes_of(census: Partition) -> dict[str, tuple[str, str | None]]:
    rows = pq.read_table(census.uri, partitioning=None).to_pylist()
    return {row["device_id"]: (row["change"], row["previous_label"]) for row in rows}
