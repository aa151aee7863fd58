"""The inventory of a table of flows: equal to the census that Spark takes of them, with and without a model."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest

from iotid import config
from iotid.census import devices
from iotid.census.groups import NO_GROUPS
from iotid.census.inventory import Inventory, take_inventory
from iotid.config import Settings
from iotid.errors import DataError, InputError, SchemaError
from iotid.partitions import Store
from iotid.schemas import CENSUS, FLOWS, LEFT_OUT

from .conftest import PATTERNS, flow
from .spark_site import IPS, A, B, C, D

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyspark.sql import SparkSession

NOON = datetime(2026, 1, 10, 12, tzinfo=UTC)
WATCHED = config.Watchlist.model_validate({"labels": ["camera"], "vendors": [], "types": [], "fail": False})


def _table(flows: list[dict[str, Any]]) -> pa.Table:
    keys = {"site": "lab", "capture_date": NOON.date()}
    timed = [
        {"first_seen": NOON + timedelta(seconds=n), "last_seen": NOON + timedelta(seconds=n + 5), **keys, **each}
        for n, each in enumerate(flows)
    ]
    return pa.Table.from_pylist(timed, schema=FLOWS.arrow_schema())


def _inventory(flows: list[dict[str, Any]], predictor: Any = None, **changes: Any) -> Inventory:
    settings = config.load_settings().census.model_copy(update=changes)
    return take_inventory(_table(flows), settings, WATCHED, (6, 17), predictor)


def _random_flows(seed: int, number: int = 400) -> list[dict[str, Any]]:
    """Flows of known and unknown devices, both directions, several addresses, odd dates, and flows without a device."""
    chance = np.random.default_rng(seed)
    macs = [A, B, C, D, None]
    rows = []
    for _ in range(number):
        mac = macs[int(chance.integers(0, len(macs)))]
        ip = str(chance.choice([IPS.get(mac or "", "192.168.1.99"), "192.168.1.77", "fe80::7", "52.1.1.1"]))
        pattern = {A: "camera", B: "plug", C: "odd"}.get(mac or "", str(chance.choice(list(PATTERNS))))
        made = flow(pattern, ip, mac, int(chance.integers(0, len(PATTERNS[pattern]))))
        count = len(made["packet_length"])
        made |= {
            "protocol": int(chance.choice([6, 17, 17, 1])),
            "server_port": int(chance.choice([443, 53, 8883, int(chance.integers(1, 9000))])),
            "direction": [int(each) for each in chance.choice([1, -1], count)],
            "payload_length": [int(each) for each in chance.integers(0, 90, count)],
            "server_packets": int(chance.integers(0, 3)), "client_packets": int(chance.integers(0, 3)),
        }  # fmt: skip
        made["answered"] = made["server_packets"] > 1
        start = NOON + timedelta(seconds=int(chance.integers(0, 3600)), days=400 if chance.random() < 0.02 else 0)
        made |= {"first_seen": start, "last_seen": start + timedelta(seconds=int(chance.integers(0, 200)))}
        if chance.random() < 0.4:
            ends = {"client": "server", "server": "client"}
            turned = {f"{end}_{what}": made[f"{other}_{what}"] for end, other in ends.items() for what in ("ip", "mac")}
            made |= turned
        rows.append(made)
    return rows


def test_inventory__groups_devices_and_lists_what_is_left_out() -> None:
    flows = [
        *[flow("camera", IPS[A], A)] * 3,
        *[flow("camera", IPS[B], B)] * 2,
        flow("plug", IPS[C], C, server_port=8883),
        flow("camera", "52.9.9.9", None),
        *[flow("camera", IPS[D], D, protocol=1)] * 4,
    ]
    found = _inventory(flows)
    rows = {row["device_id"]: row for row in found.devices.to_pylist()}
    assert found.devices.schema == CENSUS.arrow_schema(stored=True)
    assert {device: (row["status"], row["confidence"], row["flows"]) for device, row in rows.items()} == {
        A: ("unknown", 0, 3), B: ("unknown", 0, 2), C: ("unknown", 0, 1),
    }  # fmt: skip
    assert rows[A]["group_name"] == rows[B]["group_name"] != rows[C]["group_name"]
    assert (rows[A]["bytes"], rows[A]["addresses"], rows[A]["change"]) == (3 * 3060, [IPS[A]], "baseline")
    assert (rows[A]["first_seen"], rows[A]["last_seen"]) == (NOON, NOON + timedelta(seconds=7))
    assert found.services == [["TCP 443"], ["TCP 443"], ["TCP 8883"]]
    assert set(found.groups["group_name"].to_pylist()) == {rows[A]["group_name"], rows[C]["group_name"]}
    assert found.left_out.schema == LEFT_OUT.arrow_schema()
    left_out = {row["reason"]: row for row in found.left_out.to_pylist()}
    assert {reason: (row["mac"], row["address"], row["flows"], row["ends"]) for reason, row in left_out.items()} == {
        "outside": (None, "52.9.9.9", 1, 1), "other_protocol": (D, IPS[D], 4, 1),
    }  # fmt: skip


def test_inventory__of_no_flows_is_empty() -> None:
    found = _inventory([])
    assert (len(found.devices), found.services, len(found.groups), len(found.left_out)) == (0, [], 0, 0)


def test_inventory__of_flows_without_a_device_is_empty_with_a_model(small_model: Path) -> None:
    from iotid.model import Predictor

    found = _inventory([flow("camera", IPS[A], A, protocol=1)], Predictor.load(small_model))
    assert (len(found.devices), found.left_out["flows"].to_pylist()) == (0, [1])
    assert repr(found) == "Inventory(devices: none; 0 groups; 1 flows left out)"


def test_devices__are_those_of_the_inventory_with_their_services(small_model: Path) -> None:
    from iotid.model import Predictor

    model, rows = Predictor.load(small_model), _random_flows(3)
    flows = _table([row for row in rows if row["client_packets"] + row["server_packets"] <= len(row["packet_length"])])
    for predictor in (None, model):
        expected = take_inventory(flows, config.load_settings().census, WATCHED, (6, 17), predictor)
        found = devices(flows, predictor)
        unwatched = [name for name in expected.devices.column_names if name != "watched"]
        assert found.select(unwatched).equals(expected.devices.select(unwatched))
        assert found["services"].to_pylist() == expected.services
        for other_form in (flows.to_pandas(), flows.to_pylist()):
            assert devices(other_form, predictor).equals(found)


def test_devices__settings_of_the_census_apply(small_model: Path) -> None:
    from iotid.model import Predictor

    flows, settings = _table([flow("camera", IPS[A], A)] * 5), config.load_settings().census
    strict = config.with_values(settings, min_flows=9)
    found = [
        devices(flows, Predictor.load(small_model), settings=each)["status"].to_pylist() for each in (None, strict)
    ]
    assert found == [["known"], ["undecided"]]


def test_devices__wrong_arguments_are_one_line(small_model: Path, tmp_path: Path) -> None:
    import torch

    from iotid.model import AdaptiveEnsemble, Predictor, bundle

    model, flows = Predictor.load(small_model), _table([flow("camera", IPS[A], A)])
    other: Any = config.load_settings()
    plain = AdaptiveEnsemble(model._model.settings, bundle.vocabulary_sizes(model.encoding), len(model.labels))
    torch.manual_seed(1)
    two_sites = [row | {"site": site} for row in flows.to_pylist() for site in ("lab", "office")]
    for fault, message, call in (
        (InputError, r"^flows: must be a pyarrow", lambda: devices("a.pcap")),  # type: ignore[arg-type]
        (InputError, r"^flows: must be of one site, .* got 2 sites; pass", lambda: devices(two_sites)),
        (InputError, r"^model: must be of type Predictor, got str; pass", lambda: devices(flows, "models:/a@b")),  # type: ignore[arg-type]
        (InputError, r"^settings: must be of type Census, got Settings; pass", lambda: devices(flows, settings=other)),
        (SchemaError, r"^flows: lack answered; pass", lambda: devices(flows.drop_columns("answered"))),
        (DataError, "it has no device model", lambda: devices(flows, Predictor(plain, model.encoding))),
    ):  # fmt: skip
        with pytest.raises(fault, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_inventory__counts_every_flow_once_whatever_the_order() -> None:
    flows = _random_flows(5)
    found = _inventory(flows)
    assert sum(found.devices["flows"].to_pylist()) + sum(found.left_out["flows"].to_pylist()) == len(flows)
    backward = _inventory([flows[n] for n in np.random.default_rng(1).permutation(len(flows))])
    assert backward.devices.to_pylist() == found.devices.to_pylist()
    assert backward.left_out.to_pylist() == found.left_out.to_pylist()


def test_inventory__is_imported_without_spark_and_torch() -> None:
    heavy = ["pyspark", "torch", "mlflow", "sklearn", "matplotlib", "scapy"]
    code = f"import sys, iotid.census.inventory, iotid.flows.local; print([m for m in {heavy} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_inventory__says_how_unlike_its_kind_a_device_is_if_asked(small_model: Path) -> None:
    from iotid.model import Predictor

    flows = [flow("camera", IPS[A], A, n) for n in (0, 1, 2, 3)] * 3
    strange = [flow("camera", IPS[B], B, n) for n in (0, 1, 2, 3)] * 3 + [flow("odd", IPS[B], B)] * 6
    model = Predictor.load(small_model)
    off = _inventory(flows + strange, model, behind="hosts").devices
    on = _inventory(flows + strange, model, behind="hosts", unlike_kind=True).devices
    assert off["label"].to_pylist() == ["camera", "camera"]
    assert off["unlike_kind"].to_pylist() == [None, None]
    assert on.drop_columns("unlike_kind").equals(off.drop_columns("unlike_kind"))
    usual, unlike = on["unlike_kind"].to_pylist()
    assert unlike <= 0.05 < usual <= 1
    assert _inventory(flows, None, unlike_kind=True).devices["unlike_kind"].to_pylist() == [None]


@pytest.mark.spark
@pytest.mark.parametrize("has_model", [False, True])
@pytest.mark.parametrize(("joins_files", "unlike_kind"), [(False, True), (True, False)])
def test_score_partition__gives_the_same_on_spark_and_in_this_process(
    spark: SparkSession, settings: Settings, small_model: Path, write_flows: Callable, *, has_model: bool,
    joins_files: bool, unlike_kind: bool,
) -> None:  # fmt: skip
    from iotid.census.score import score_partition
    from iotid.census.scored import NoModel, broadcast_model
    from iotid.census.split_groups import EarlierGroups
    from iotid.model import Predictor
    from iotid.spark.in_process import InProcess

    flows = _random_flows(7) + [flow("camera", IPS[A], A), flow("camera", IPS[A], A, 2)] * 9
    chance = np.random.default_rng(8)
    for each in flows:
        each |= {"vlan": chance.choice([None, 3]), "capture_file": str(chance.choice(["x", "y"]))}
        each["address_conflict"] = bool(chance.random() < 0.05)
    partition = write_flows(Store(settings.storage.root), "lab", "2026-01-10", flows)
    partition.metadata["settings"]["flow"]["join_files"] = joins_files
    census = settings.census.model_copy(update={"unlike_kind": unlike_kind})
    scored = []
    for session in (spark, InProcess()):
        model, encoding = broadcast_model(session, small_model) if has_model else (None, NoModel((6, 17)))
        scored.append(score_partition(session, partition, model, encoding, census, EarlierGroups(NO_GROUPS)))
    on_spark, in_process = scored
    for name in ("devices", "groups", "left_out", "expected"):
        one, other = getattr(on_spark, name), getattr(in_process, name)
        assert one == other or one.to_pylist() == other.to_pylist(), name
    assert on_spark.flows_of_other_dates == in_process.flows_of_other_dates > 0
    assert on_spark.flows == in_process.flows == len(flows)
    marks = {mark for row in on_spark.devices["marks"].to_pylist() for mark in row}
    assert "address_conflict" in marks
    assert [] in on_spark.devices["marks"].to_pylist()
    here = take_inventory(_table(flows), census, WATCHED, (6, 17), Predictor.load(small_model) if has_model else None)
    compared = [name for name in on_spark.devices.column_names if name not in ("marks", "reason")]
    assert here.devices.select(compared).to_pylist() == on_spark.devices.select(compared).to_pylist()
    assert here.groups.to_pylist() == on_spark.groups.to_pylist()
    assert here.left_out.to_pylist() == on_spark.left_out.to_pylist()
    assert set(here.devices["status"].to_pylist()) >= ({"known", "unknown"} if has_model else {"unknown"})
    given = set(here.devices["unlike_kind"].to_pylist()) - {None}
    assert bool(given) == (has_model and unlike_kind)
