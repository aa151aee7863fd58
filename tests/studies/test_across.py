"""The same model in another laboratory: what is learned and tested, and scores against manual counts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from iotid.config import load_settings
from iotid.dataset import LabelledFlows
from iotid.errors import SettingError
from iotid.labels import Device, DeviceList
from iotid.schemas import FLOWS
from iotid.studies import compare as comparison
from iotid.studies import protocols
from iotid.studies.across import evaluate
from iotid.studies.study import ProtocolResult, Study

# name, model, vendor, type; plug1b is another unit of plug1
KINDS = (
    ("cam", "cam", "Acme", "camera"),
    ("plug1", "plug1", "Acme", "plug"),
    ("plug1b", "plug1", "Acme", "plug"),
    ("plug2", "plug2", "Acme", "plug"),
    ("hub", "hub", "Volt", "hub"),
)
DEVICES = DeviceList(
    tuple(
        Device(name=name, model=model, vendor=vendor, type=kind, mac=f"aa:bb:cc:dd:ee:{number:02}")
        for number, (name, model, vendor, kind) in enumerate(KINDS)
    ),
    "list.yaml",
)
_MODELS = {name: model for name, model, _, _ in KINDS}
SITES = {"home": ("cam", "plug1", "hub"), "office": ("cam", "plug2"), "shed": ("cam", "plug1", "plug1b")}
_FIRST_LENGTH = {"cam": 50, "plug1": 150, "plug1b": 150, "plug2": 150, "hub": 350}  # kinds share no length
_SMALL = Path(__file__).with_name("small.yaml")
_CHANGES = ("census.min_flows=1", "dataset.label=model")


def _flows(sites: dict[str, tuple[str, ...]], devices: DeviceList = DEVICES, *changes: str) -> LabelledFlows:
    """Six captures of each device at each site, of five flows each."""
    chance = np.random.default_rng(5)
    macs = {device.name: device.mac[0] for device in DEVICES.devices}
    columns: dict[str, list[object]] = {
        name: [] for name in ("site", "capture_file", "client_mac", "packet_length", "tcp_window")
    }
    for site, names in sites.items():
        for name in names:
            for row in range(30):
                columns["site"].append(site)
                columns["capture_file"].append(f"{site}/{name}-{row // 5}")
                columns["client_mac"].append(macs[name])
                columns["packet_length"].append((_FIRST_LENGTH[name] + chance.integers(0, 4, 3)).tolist())
                columns["tcp_window"].append([1000] * 3)
    rows = len(columns["site"])
    columns |= {"protocol": [6] * rows, "client_ip": ["10.0.0.2"] * rows, "client_port": list(range(rows))}
    schema = FLOWS.arrow_schema()
    for field in schema:
        is_list, is_text = pa.types.is_list(field.type), pa.types.is_string(field.type)
        nothing: object = [0] * 3 if is_list else "-" if is_text else None if field.nullable else 0
        columns.setdefault(field.name, [False if field.type == pa.bool_() else nothing] * rows)
    table = pa.Table.from_arrays([pa.array(columns[field.name], field.type) for field in schema], schema=schema)
    settings = load_settings([_SMALL], [*_CHANGES, *changes])
    return LabelledFlows.of(table, devices, settings.dataset, settings.flow)


def test_splits__a_site_is_tested_whole_and_all_devices_of_the_others_are_learned() -> None:
    flows, settings = _flows(SITES), load_settings([_SMALL])
    site_N, splits = (
        np.array(flows.flows["site"].to_pylist()),
        list(protocols.splits(flows, "across", settings.evaluation)),
    )
    assert len(splits) == protocols.number_of_runs(flows, "across", settings.evaluation) == 3
    for site, part_N in zip(sorted(SITES), splits, strict=True):
        assert set(part_N[site_N == site]) == {protocols.TEST}
        assert set(part_N[site_N != site]) == {protocols.TRAIN, protocols.VALIDATION}
        candidates = {_MODELS[name] for other in SITES if other != site for name in SITES[other]}
        assert {flows.labels[label] for label in flows.label[part_N == protocols.TRAIN]} == candidates
    again = list(protocols.splits(flows, "across", settings.evaluation))
    np.testing.assert_array_equal(splits, again)


@pytest.mark.parametrize(
    ("sites", "message"),
    [
        ({"home": ("cam", "hub")}, "across needs flows of two sites or more, these are of home; name each with --site"),
        ({"home": ("cam",), "shed": ("hub",)}, "needs a kind .* home, shed share none; write vendor and type"),
        ({"home": ("cam", "hub"), "shed": ("cam",)}, "two labels or more to learn from, without home only cam is left"),
    ],
)
def test_splits__too_few_sites_kinds_or_labels_are_refused(sites: dict[str, tuple[str, ...]], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        next(protocols.splits(_flows(sites), "across", load_settings([_SMALL]).evaluation))


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> tuple[ProtocolResult, Path]:
    folder = tmp_path_factory.mktemp("across")
    result = Study(load_settings([_SMALL], _CHANGES), folder).run(_flows(SITES), "across")
    return result, comparison.write([result], folder)[0]


def test_run__learned_kinds_are_named_and_a_new_one_is_unknown(compared: tuple[ProtocolResult, Path]) -> None:
    scored = compared[0].scores["across"]
    assert scored is not None
    assert scored["candidates"] == {"home": 2, "office": 3, "shed": 3}  # the hub is at home alone
    assert scored["sets"] == {"captures": {"known": 42, "new": 6}, "devices": {"known": 7, "new": 1}}
    assert scored["systems"]["device_model"]["captures"]["kind_first"] == 1.0
    assert scored["systems"]["device_model"]["devices"]["kind_first"] == 1.0
    assert scored["systems"]["majority_sequence"].keys() == {"captures", "devices"}
    # plug2 is at the office alone: a kind of the others, but no label of theirs
    assert {system: found["devices"]["models"] for system, found in scored["systems"].items()} == dict.fromkeys(
        ("ensemble", "device_model", "similar_kinds", "majority_sequence", "capture_bag"), 6
    )
    pairs = {(pair["site"], pair["device"]): pair for pair in scored["pairs"]}
    assert set(pairs) == {(site, name) for site, names in SITES.items() for name in names}
    hub = pairs["home", "hub"]
    assert (hub["kind_is_learned"], hub["census"]["unknown"], hub["device_census"]) == (False, 1.0, "unknown")
    assert (hub["first"], hub["device_rank"], hub["mostly"]) == ({}, {}, None)
    plug = pairs["office", "plug2"]
    assert (plug["kind_is_learned"], plug["label_is_learned"], plug["captures"]) == (True, False, 6)
    assert (plug["census"]["right"], plug["device_census"], plug["mostly"]) == (1.0, "right", "plug1")
    assert pairs["shed", "plug1b"]["label"] == "plug1"


def test_run__scores_of_systems_are_of_learned_kinds(compared: tuple[ProtocolResult, Path]) -> None:
    scores = compared[0].scores
    assert scores["flows"]["test"] == 240
    items = {system: own["items"] for system, own in scores["systems"].items()}
    assert items["ensemble"] == items["device_model"] == {"flows": 210, "captures": 42, "devices": 7}
    assert items["capture_bag"] == {"captures": 42, "devices": 7}
    assert scores["captures"] == 42
    assert scores["systems"]["device_model"]["merged"]["devices"]["accuracy"]["value"] == 1.0


def test_write__scores_can_be_recomputed_from_the_stored_answers(compared: tuple[ProtocolResult, Path]) -> None:
    result, folder = compared
    stored = pq.read_table(folder / "answers_across.parquet")
    (written,) = json.loads((folder / "comparison.json").read_text())
    assert evaluate(stored) == written["across"] == result.scores["across"]
    rows = stored.filter((pc.field("system") == "ensemble") & (pc.field("of") == "captures")).to_pylist()
    assert len({(row["site"], row["capture_file"]) for row in rows}) == len(rows) == 48
    for row in rows:
        assert row["capture_file"].startswith(f"{row['site']}/{row['device']}-")
        assert row["outcome"] is None
    whole = stored.filter((pc.field("system") == "device_model") & (pc.field("of") == "devices")).to_pylist()
    assert {(row["site"], row["device"]) for row in whole} == {(site, name) for site in SITES for name in SITES[site]}
    assert {row["capture_file"] for row in whole} == {None}
    assert set(stored.filter(pc.field("of") == "flows")["kind_rank"].to_pylist()) == {None}


def test_write__one_table_of_systems_one_of_devices_and_a_figure(compared: tuple[ProtocolResult, Path]) -> None:
    result, folder = compared
    text = (folder / "comparison.md").read_text()
    assert "Of 7 devices (42 captures) another site has the kind" in text
    assert "of 1 devices (6 captures) none has the kind" in text
    assert "| device_model | 100.0 % | 100.0 % |" in text
    assert "| home | hub | Volt hub (new) | 6 |  |  | 0.0 % | 0.0 % | 0.0 % | 100.0 % |  |" in text
    assert len([line for line in text.splitlines() if line.startswith("|---")]) == 2
    assert (folder / "across.png").stat().st_size > 5000
    numbers = comparison.flat([result.scores])
    assert numbers["across.device_model.captures.kind_first"] == 1.0
    assert numbers["across.census.devices.new.unknown"] == 1.0
    assert all(np.isfinite(value) for value in numbers.values())


def test_run__unlisted_devices_are_not_scored(tmp_path: Path) -> None:
    changes = (*_CHANGES, "dataset.unlisted=unknown")
    sites = SITES | {"office": (*SITES["office"], "hub")}  # the hub is not listed, and no kind of home and office
    flows = _flows(sites, DeviceList(DEVICES.devices[:4], "list.yaml"), *changes)
    scores = Study(load_settings([_SMALL], changes), tmp_path).run(flows, "across").scores
    scored = scores["across"]
    assert scored is not None
    assert scored["sets"]["captures"] == {"known": 42, "new": 0}
    assert scored["census"]["captures"]["new"] == {}
    assert {pair["device"] for pair in scored["pairs"]} == {"cam", "plug1", "plug1b", "plug2"}
    assert scores["flows"]["test"] == 270
    assert scores["captures"] == 42
    assert scores["systems"]["ensemble"]["items"] == {"flows": 210, "captures": 42, "devices": 7}
    supports = {row["label"]: row["support"] for row in scores["systems"]["ensemble"]["per_class"]}
    assert supports == {"cam": 90, "plug1": 90, "plug2": 30, "unknown": 0}


def _row(of: str, site: str, label: str, kind: str, label_rank: int, kind_rank: int, **others: Any) -> dict[str, Any]:
    row = {"system": "device_model", "of": of, "site": site, "device": label, "label": label, "kind": kind}
    return row | {"answer": "x", "label_rank": label_rank, "kind_rank": kind_rank, "outcome": "undecided"} | others


def test_evaluate__equals_a_manual_count() -> None:
    rows = [
        # captures of cam at a: first, fifth, sixth, and of probability 0; the label of the first two is not first
        _row("captures", "a", "cam", "camera", 2, 1, outcome="right", answer="cam2"),
        _row("captures", "a", "cam", "camera", 5, 5, outcome="wrong", answer="hub"),
        _row("captures", "a", "cam", "camera", 6, 6),
        _row("captures", "a", "cam", "camera", 0, 0, outcome="unknown"),
        _row("captures", "b", "cam", "camera", 1, 1, outcome="right", answer="cam"),
        _row("captures", "b", "cam2", "camera", 0, 2, outcome="wrong", answer="hub"),  # a model of b alone
        _row("captures", "b", "hub", "hub", 0, 0, outcome="wrong", answer="cam"),  # a kind of b alone
        _row("devices", "a", "cam", "camera", 1, 1, outcome="right"),
        _row("devices", "b", "cam", "camera", 2, 2, outcome="wrong"),
        _row("devices", "b", "cam2", "camera", 0, 1, outcome="right"),
        _row("devices", "b", "hub", "hub", 0, 0, outcome="unknown"),
        _row("flows", "b", "hub", "hub", 0, 0),
    ]
    rows.append(_row("captures", "a", "cam", "camera", 1, 1) | {"system": "forest", "outcome": None})
    scored = evaluate(pa.Table.from_pylist(rows))
    assert scored["systems"]["device_model"] == {
        "captures": {
            "sets": 6,
            "kind_first": 2 / 6,
            "kind_in_first_five": 4 / 6,
            "models": 5,
            "model_first": 1 / 5,
            "model_in_first_five": 3 / 5,
        },
        "devices": {
            "sets": 3,
            "kind_first": 2 / 3,
            "kind_in_first_five": 1.0,
            "models": 2,
            "model_first": 1 / 2,
            "model_in_first_five": 1.0,
        },
    }
    assert scored["systems"]["forest"]["captures"]["kind_first"] == 1.0
    assert scored["candidates"] == {"a": 2, "b": 1}
    assert scored["sets"] == {"captures": {"known": 6, "new": 1}, "devices": {"known": 3, "new": 1}}
    assert scored["census"]["captures"] == {
        "known": {"right": 2 / 6, "wrong": 2 / 6, "undecided": 1 / 6, "unknown": 1 / 6},
        "new": {"right": 0.0, "wrong": 1.0, "undecided": 0.0, "unknown": 0.0},
    }
    assert scored["census"]["devices"]["new"]["unknown"] == 1.0
    cam, _, cam2, hub = scored["pairs"]
    assert cam["captures"] == 4
    assert cam["first"] == {"device_model": 1 / 4, "forest": 1.0}
    assert cam["in_first_five"]["device_model"] == 2 / 4
    assert cam["census"] == dict.fromkeys(("right", "wrong", "undecided", "unknown"), 1 / 4)
    assert cam["mostly"] == "cam2"  # named as often as hub, and before it
    assert (cam2["kind_is_learned"], cam2["label_is_learned"]) == (True, False)
    assert (hub["kind_is_learned"], hub["first"], hub["mostly"]) == (False, {}, "cam")
