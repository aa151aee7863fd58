"""Synthetic censuses of several sites in a store, and the network's census over them without Java."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from iotid.arrow import content_hash
from iotid.census.changes import ABSENT
from iotid.census.network.take import Window, take_network_census
from iotid.census.stored import TOTALS_FILE, write_groups
from iotid.census.totals import totals_of
from iotid.config import Settings
from iotid.partitions import Partition, PartitionKey, Store
from iotid.schemas import CENSUS, GROUPS

Payloads = dict[int, float]  # length of a TCP payload -> share


def date_of(day: int) -> str:
    """Days are counted from 2026-01-01, which is 1."""
    return (date(2026, 1, 1) + timedelta(days=day - 1)).isoformat()


def kind(label: str, confidence: float = 0.9, vendor: str = "Acme", type: str = "plug") -> dict[str, Any]:  # noqa: A002 - a column
    return {"kind": f"{vendor} {type}", "label": label, "vendor": vendor, "type": type, "confidence": confidence,
            "flows": 3, "units": 1}  # fmt: skip


def rows_of(devices: Sequence[dict[str, Any]], day: int) -> pa.Table:
    """Rows of CENSUS; each device is a plug unless it says otherwise."""
    seen = datetime(2026, 1, 1, 12, tzinfo=UTC) + timedelta(days=day - 1)
    rows = []
    for number, device in enumerate(devices):
        usual = {
            "device_id": f"02:00:00:00:{number >> 8:02x}:{number & 255:02x}", "status": "known", "kinds": [kind("p1")],
            "runners_up": [], "similar_kinds": [], "unlike_kind": None,
            "confidence": 0.9, "unexplained": 0.0, "household": 0.0, "reason": "", "marks": [],
            "flows": 4, "bytes": 400, "first_seen": seen, "last_seen": seen, "addresses": [], "change": "same",
            "new_kinds": [], "watched": False, "group_name": None, "first_seen_ever": seen, "dates_present": 1,
            "earlier_names": [],
        } | device  # fmt: skip
        if usual["change"] in ("gone", "away"):
            usual["status"] = "absent"
        if usual["status"] == "unknown":
            usual["kinds"] = []
        only = usual["kinds"][0] if len(usual["kinds"]) == 1 else {}
        rows.append({name: only.get(name) for name in ("label", "vendor", "type")} | usual)
    return pa.Table.from_pylist(rows, schema=CENSUS.arrow_schema(stored=True))


def groups_of(profiles: dict[str, Payloads]) -> pa.Table:
    rows = [
        {"group_name": name, "services": ["TCP 8883"], "flows_per_hour": 4.0, "active_hours": 24.0,
         "protocol": [6] * len(shares), "payload_length": sorted(shares), "share": [shares[n] for n in sorted(shares)]}
        for name, shares in sorted(profiles.items())
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, schema=GROUPS.arrow_schema())


class NetworkStore:
    """Writes censuses of sites, and takes the network's."""

    def __init__(self, settings: Settings, spark: Any) -> None:
        self.settings, self.spark, self.store = settings, spark, Store(settings.storage.root)

    def census(
        self,
        site: str,
        day: int,
        devices: Sequence[dict[str, Any]] = (),
        groups: dict[str, Payloads] | None = None,
        *,
        totals: bool = True,
        pseudonyms: Any = None,
        **metadata: Any,
    ) -> None:
        """``groups``: profile of each group; its unknown devices are in ``devices``, or else one."""
        devices = [*devices]
        shown = {device.get("group_name") for device in devices}
        for name in groups or {}:
            devices += [] if name in shown else [{"status": "unknown", "group_name": name, "maker": "Nova"}]
        rows, table = rows_of(devices, day), groups_of(groups or {})
        summed = totals_of(rows)
        status = pc.value_counts(rows["status"]).to_pylist()
        present = rows.filter(pc.invert(pc.equal(rows["status"], ABSENT)))
        with self.store.write("census", self.key(site, day), CENSUS.version) as staged:
            pq.write_table(rows, f"{staged.path}/part-0.parquet", filesystem=staged.filesystem)
            if totals:
                pq.write_table(summed, f"{staged.path}/{TOTALS_FILE}", filesystem=staged.filesystem)
            write_groups(staged, table, pseudonyms)
            staged.metadata |= {
                "rows": len(rows), "devices": len(present), "model_version": "1", "settings_hash": "s",
                "key_fingerprint": pseudonyms.fingerprint if pseudonyms else None, "flows": 4 * len(rows),
                "flows_of_devices": 4 * len(rows), "packets": {"flow": 9}, "unreadable": 0, "unexplained": 0.125,
                "status": {each["values"]: each["counts"] for each in status},
                "content_hash": content_hash(summed, table), **metadata,
            }  # fmt: skip

    def flows(self, site: str, day: int, rows: int, **metadata: Any) -> None:
        with self.store.write("flows", self.key(site, day)) as staged:
            staged.metadata |= {"rows": rows, "packets": {"flow": 9}, "unreadable": 0, **metadata}

    def network(self, day: int, sites: Sequence[str] = (), days: int = 30, name: str = "all") -> Partition:
        window = Window.of(name, date_of(day), days, sites)
        return take_network_census(self.spark, self.store, window, self.settings.census)

    def stored(self, day: int, name: str = "all") -> Partition:
        return self.store.open("network", PartitionKey.of_network(name, date_of(day)))

    @staticmethod
    def key(site: str, day: int) -> PartitionKey:
        return PartitionKey.of_date(site, date_of(day))


def read(network: Partition, name: str = "part-0.parquet") -> list[dict[str, Any]]:
    table: pa.Table = pq.read_table(f"{network.uri}/{name}", partitioning=None)
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def of_all(network: Partition, level: str) -> dict[str, dict[str, Any]]:
    return {row["item"]: row for row in read(network) if row["site"] is None and row["level"] == level}
