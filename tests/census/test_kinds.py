"""The census of simulated and of real devices: kinds never learned, and several devices behind one address."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from iotid import config
from iotid.capture.simulate import NIGHTS, write_units
from iotid.census import take_census
from iotid.config import Settings, Watchlist
from iotid.dataset import DeviceList, LabelledFlows
from iotid.flows import from_captures
from iotid.schemas import FLOWS
from iotid.storage import Store

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = pytest.mark.spark
_SMALL = {"embedding_size": 16, "hidden_size": 24, "layers": 1}
_SHORT = {"epochs": 10, "threads": 1, "precision": "float32", "learning_rate": 0.01}


def simulated(folder: Path, units: Mapping[str, int], night: str, seed: int) -> tuple[pa.Table, dict[str, str]]:
    """The flows of a made-up night, and the model of each MAC."""
    macs = write_units(folder / f"{night}.pcap", units, night, seed)
    return from_captures(folder / f"{night}.pcap").replace_schema_metadata(), macs


def learn(flows: pa.Table, devices: DeviceList, settings: Settings, folder: Path) -> Path:
    """The bundle of a small model that learned four fifths of these flows."""
    from iotid.training.fit import fit

    labelled = LabelledFlows.of(flows, devices, settings.dataset, settings.flow)
    part_N = np.random.default_rng(1).choice(2, len(labelled.label), p=(0.8, 0.2)).astype(np.int8)
    encoding, parts = labelled.dataset(part_N)
    model = settings.model.model_copy(update=_SMALL)
    training = settings.training.model_copy(update=_SHORT)
    fit(model, training, encoding, parts["train"].rows, parts["validation"].rows, folder)
    return folder


def list_of(macs: Mapping[str, str], folder: Path) -> DeviceList:
    rows = [f"{model}-{number},{model},{mac}" for number, (mac, model) in enumerate(macs.items())]
    path = folder / "devices.csv"
    path.write_text("\n".join(["name,model,mac", *rows]) + "\n", encoding="utf-8")
    return DeviceList.read(str(path))


def behind(flows: pa.Table, macs: Iterable[str], address: str) -> pa.Table:
    """The flows of these devices as a capture beyond a router shows them: one address, no MAC."""
    mine = pa.array([*macs], pa.string())
    at_N = {side: pc.fill_null(pc.is_in(flows[f"{side}_mac"], value_set=mine), False) for side in ("client", "server")}
    for side, is_mine in at_N.items():
        place = flows.schema.get_field_index(f"{side}_ip")
        flows = flows.set_column(place, flows.schema.field(place), pc.if_else(is_mine, address, flows[f"{side}_ip"]))
    for side in at_N:
        place = flows.schema.get_field_index(f"{side}_mac")
        flows = flows.set_column(place, flows.schema.field(place), pa.nulls(len(flows), pa.string()))
    return flows.filter(pc.or_(at_N["client"], at_N["server"]))


def census_of(
    spark: SparkSession, settings: Settings, flows: pa.Table, model: Path, date: str = NIGHTS[1], **changed: Any
) -> dict[str, dict[str, Any]]:
    store = Store(settings.storage.root)
    schema = FLOWS.arrow_schema(stored=True)
    with store.write("flows", {"site": "lab", "capture_date": date}) as staged:
        pq.write_table(flows.select(schema.names).cast(schema), f"{staged.path}/part-0.parquet")
        told = {"length": settings.flow.length, "max_packets": settings.flow.max_packets}
        staged.metadata |= {"rows": len(flows), "packets": {}, "settings": {"flow": told}}
    census = settings.census.model_copy(update=changed)
    night = take_census(
        spark, store, "lab", date, model, "1", census, Watchlist(labels=(), vendors=(), types=(), fail=False)
    )
    rows = pq.read_table(f"{night.uri}/part-0.parquet", partitioning=None).to_pylist()
    return {row["device_id"]: row for row in rows if row["change"] not in ("gone", "away")}


def test_take_census__kinds_that_were_left_out_of_training_are_a_group_each_on_both_nights(
    spark: SparkSession, settings: Settings, tmp_path: Path
) -> None:
    kinds = {"voltano-plug": 2, "voltano-bulb": 1, "frostine-fridge": 3, "inkwell-printer": 4}
    nights = [simulated(tmp_path, kinds, night, seed) for seed, night in enumerate(NIGHTS, start=1)]
    macs = nights[0][1]
    learned = {mac: model for mac, model in macs.items() if model.startswith("voltano")}
    model = learn(nights[0][0], list_of(learned, tmp_path), settings, tmp_path / "model")
    groups = []
    for (flows, _), date in zip(nights, NIGHTS, strict=True):
        rows = census_of(spark, settings, flows, model, date, max_surprise=0.3)
        found = {mac: rows[mac]["group"] for mac in macs}
        assert {mac for mac, group in found.items() if group is None} == learned.keys()
        by_kind = [{found[mac] for mac in macs if macs[mac] == kind} for kind in ("frostine-fridge", "inkwell-printer")]
        assert [len(names) for names in by_kind] == [1, 1]
        assert by_kind[0] != by_kind[1]
        groups.append(found)
    assert groups[0] == groups[1]
    folder = Path(Store(settings.storage.root).uri("census", {"site": "lab", "capture_date": NIGHTS[1]}))
    services = {row["group"]: row["services"] for row in pq.read_table(folder / "_groups.parquet").to_pylist()}
    fridges = next(groups[1][mac] for mac in macs if macs[mac] == "frostine-fridge")
    assert {"TCP 7547", "UDP 47808"} <= set(services[fridges])
    lines = (folder / "_groups.csv").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 1 + 2
    assert lines[1].startswith(f'"{groups[1][next(mac for mac in macs if macs[mac] == "inkwell-printer")]}",4,0,')


def test_take_census__simulated_devices_behind_one_address_are_found_and_single_ones_stay_single(
    spark: SparkSession, settings: Settings, tmp_path: Path
) -> None:
    kinds = dict.fromkeys(("voltano-plug", "pondera-scale", "inkwell-printer", "vistara-tv", "rovero-vacuum"), 3)
    flows, macs = simulated(tmp_path, kinds, NIGHTS[0], seed=1)
    later, _ = simulated(tmp_path, kinds, NIGHTS[1], seed=2)
    model = learn(flows, list_of(macs, tmp_path), settings, tmp_path / "model")
    some = {kind: next(mac for mac in macs if macs[mac] == kind) for kind in kinds}
    together = {
        "10.9.0.1": ("voltano-plug", "vistara-tv"),
        "10.9.0.2": ("pondera-scale", "inkwell-printer"),
        "10.9.0.3": ("voltano-plug", "inkwell-printer", "rovero-vacuum"),
    }
    merged = [behind(later, [some[kind] for kind in names], address) for address, names in together.items()]
    rows = census_of(spark, settings, pa.concat_tables([later, *merged]), model)
    for mac, kind in macs.items():
        assert (rows[mac]["status"], rows[mac]["label"], rows[mac]["several"]) == ("known", kind, [])
    for address, names in together.items():
        assert (rows[address]["status"], rows[address]["label"]) == ("several", None)
        assert {one["label"] for one in rows[address]["several"]} == {*names}


def test_take_census__real_devices_behind_one_address_are_found_and_single_ones_stay_single(
    spark: SparkSession, settings: Settings, captures: Path, tmp_path: Path
) -> None:
    names = ("Withings", "WeMoLink", "D-LinkCam", "HueBridge", "TP-LinkPlugHS110", "MAXGateway")
    flows = from_captures([captures / "aalto" / name for name in names], join_files=False).replace_schema_metadata()
    devices = DeviceList.read(str(config.conf_dir() / "datasets" / "aalto.yaml"))
    macs = {device.name: device.mac[0] for device in devices.devices if device.name in names}
    is_later = pc.match_substring_regex(flows["capture_file"], r"-(1|3|5|7|9)\d?-STA\.pcap$")
    model = learn(flows.filter(pc.invert(is_later)), devices, settings, tmp_path / "model")
    later = flows.filter(is_later)
    pairs = {f"10.9.{a}.{b}": (names[a], names[b]) for a in range(len(names)) for b in range(a)}
    merged = [behind(later, [macs[name] for name in pair], address) for address, pair in pairs.items()]
    rows = census_of(spark, settings, pa.concat_tables([later, *merged]), model)
    for name, mac in macs.items():
        assert rows[mac]["status"] != "several", name
    found = {address: {one["label"] for one in rows[address]["several"]} for address in pairs}
    assert all(labels <= {*pairs[address]} for address, labels in found.items())
    assert sum(labels == {*pairs[address]} for address, labels in found.items()) >= len(pairs) / 2
