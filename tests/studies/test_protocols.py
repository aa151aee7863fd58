"""Protocols side by side: what is tested, how captures vote, and the table."""

from __future__ import annotations

import random
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from sklearn.metrics import f1_score

from iotid import baselines
from iotid.baselines import Samples, device_flows
from iotid.config import Settings, load_settings
from iotid.dataset import DeviceTraffic, LabelledFlows
from iotid.dataset.split_protocols import DATASET_SPLITS
from iotid.errors import DataError, SettingError
from iotid.evaluation import metrics
from iotid.labels import Device, DeviceList, owner
from iotid.partitions import PartitionKey, Store
from iotid.schemas import FLOWS
from iotid.studies import compare as comparison
from iotid.studies import figures, protocols, study
from iotid.studies.study import Study
from iotid.tracking import Registry

CAM, PLUG, BULB = ("aa:bb:cc:dd:ee:0" + digit for digit in "123")
DEVICES = DeviceList(
    (
        Device(name="cam", mac=CAM, vendor="Acme", type="camera"),
        Device(name="plug1", mac=PLUG, vendor="Acme", type="plug"),
        Device(name="plug2", mac=BULB, vendor="Acme", type="plug"),
    ),
    "list.yaml",
)
_START = datetime(2024, 3, 1, tzinfo=UTC)


_SMALL = Path(__file__).with_name("small.yaml")


def _settings(*changes: str) -> Settings:
    return load_settings([_SMALL], changes)


def _flows(settings: Settings, sites: dict[str, tuple[str, ...]] | None = None) -> LabelledFlows:
    return LabelledFlows.of(_table(sites), DEVICES, settings.dataset, settings.flow)


def _table(sites: dict[str, tuple[str, ...]] | None = None) -> pa.Table:
    """Four captures of six flows each for each site and MAC; lengths mostly distinguish the devices."""
    chance = random.Random(3)
    rows: list[dict[str, Any]] = []
    for site, macs in (sites or {"home": (CAM, PLUG, BULB)}).items():
        for mac in macs:
            for capture in range(4):
                for _ in range(6):
                    lengths = [40 + 10 * int(mac[-1]) + chance.randrange(3) for _ in range(chance.randrange(1, 4))]
                    rows.append(
                        {"site": site, "client_mac": mac, "capture_file": f"{mac}-{capture}", "lengths": lengths}
                    )
    columns: dict[str, list[Any]] = {
        "site": [row["site"] for row in rows],
        "capture_date": [date(2024, 3, 1)] * len(rows),
        "capture_file": [row["capture_file"] for row in rows],
        "protocol": [6] * len(rows),
        "client_ip": ["10.0.0.2"] * len(rows),
        "client_mac": [row["client_mac"] for row in rows],
        "client_port": list(range(len(rows))),
        "first_seen": [_START + timedelta(seconds=number) for number in range(len(rows))],
        "packet_length": [row["lengths"] for row in rows],
        "tcp_window": [[1000] * len(row["lengths"]) for row in rows],
    }
    schema = FLOWS.arrow_schema()
    for field in schema:
        constant: Any = "-" if field.type == pa.string() else _START if field.name == "last_seen" else 0
        constant = False if field.type == pa.bool_() else constant
        lists = [[0] * len(row["lengths"]) for row in rows]
        filler = lists if pa.types.is_list(field.type) else [None if field.nullable else constant] * len(rows)
        columns.setdefault(field.name, filler)
    arrays = [pa.array(columns[field.name], field.type) for field in schema]
    return pa.Table.from_arrays(arrays, schema=schema)


def test_run__folds_test_every_flow_and_every_capture_once(tmp_path: Path) -> None:
    settings = _settings()
    flows = _flows(settings)
    protocol_scores = Study(settings, tmp_path).run(flows, "capture_folds").scores
    assert protocol_scores["flows"]["test"] == len(flows.label) == 72
    assert protocol_scores["captures"] == 12
    assert set(protocol_scores["systems"]) == {
        "ensemble", "device_model", "similar_kinds", "majority_sequence", "capture_bag",
    }  # fmt: skip
    for system in ("ensemble", "majority_sequence", "device_model"):
        scores = protocol_scores["systems"][system]
        assert [row["support"] for row in scores["per_class"]] == [24, 24, 24]
        if system == "device_model":  # sees more than one flow, so the ceiling does not bound it
            assert scores["ceiling_share"] is None
        else:
            assert scores["ceiling_share"] <= 1
    bag = protocol_scores["systems"]["capture_bag"]
    assert bag["scores"]["captures"]["accuracy"]["value"] == 1.0  # lengths distinguish the three
    assert (set(bag["scores"]), bag["per_class"]) == ({"captures"}, [])
    assert protocol_scores["coarse_labels"] == ["Acme camera", "Acme plug"]


@pytest.mark.parametrize("protocol", ["random_flow", "random_unique", "by_capture", "by_time"])
def test_run__a_datasets_protocol_is_tested_on_its_test_part(tmp_path: Path, protocol: str) -> None:
    settings = _settings()
    flows = _flows(settings)
    protocol_scores = Study(settings, tmp_path).run(flows, protocol).scores
    sizes = np.bincount(flows.with_protocol(protocol).assign_splits(), minlength=3).tolist()
    assert protocol_scores["flows"] == dict(zip(DATASET_SPLITS, sizes, strict=True))


def test_run__scores_are_those_of_the_baselines_answers(tmp_path: Path) -> None:
    settings = _settings("evaluation.baselines=[majority_sequence]")
    flows = _flows(settings)
    protocol_scores = Study(settings, tmp_path).run(flows, "by_capture").scores
    encoding, parts = flows.dataset(flows.with_protocol("by_capture").assign_splits())
    name = baselines.create("majority_sequence", encoding, 1).fit(parts["train"].rows, 3)
    test = parts["test"]
    named = name.probabilities(test.rows.sequences).argmax(axis=1)[test.row_of_flow]
    expected = f1_score(flows.label[test.flow], named, average="macro")
    assert protocol_scores["systems"]["majority_sequence"]["scores"]["flows"]["macro_f1"]["value"] == pytest.approx(
        expected
    )


def test_run__another_site_is_tested_over_shared_labels_and_not_learned(tmp_path: Path) -> None:
    settings = _settings()
    flows = _flows(settings, {"home": (CAM, PLUG), "office": (CAM, PLUG, BULB)})
    protocol_scores = Study(settings, tmp_path).run(flows, "site:office").scores
    assert protocol_scores["flows"]["test"] == 48
    assert sum(protocol_scores["flows"].values()) == 96
    supports = {row["label"]: row["support"] for row in protocol_scores["systems"]["ensemble"]["per_class"]}
    assert supports == {"cam": 24, "plug1": 24, "plug2": 0}
    part_N = next(protocols.splits(flows, "site:office", settings.evaluation))
    there_N = np.array(flows.flows["site"].to_pylist()) == "office"
    assert set(part_N[there_N]) == {-1, 2}
    assert set(part_N[~there_N]) == {0, 1}


def test_run__drift_learns_from_the_first_days_and_scores_later_ones(tmp_path: Path) -> None:
    settings = _settings("evaluation.drift_days=1")
    table = _table()
    late = [_START + timedelta(days=number // 24, seconds=number) for number in range(len(table))]
    where = table.schema.get_field_index("first_seen")
    field = table.schema.field("first_seen")
    table = table.set_column(where, field, pa.array(np.random.default_rng(1).permutation(late).tolist(), field.type))
    flows = LabelledFlows.of(table, DEVICES, settings.dataset, settings.flow)
    protocol_scores = Study(settings, tmp_path).run(flows, "drift").scores
    assert [(day["day"], day["flows"]) for day in protocol_scores["days"]] == [("2024-03-02", 24), ("2024-03-03", 24)]
    assert protocol_scores["flows"]["test"] == 48
    reached = protocol_scores["systems"]["ensemble"]["scores"]["flows"]["accuracy"]["value"]
    of_days = [day["accuracy"]["ensemble"] for day in protocol_scores["days"]]
    assert reached == pytest.approx(np.mean(of_days))
    figures.drift(protocol_scores["days"], tmp_path / "drift.png")
    assert (tmp_path / "drift.png").stat().st_size > 5000
    with pytest.raises(SettingError, match=r"evaluation\.drift_days=3, the flows have 3"):
        Study(_settings("evaluation.drift_days=3"), tmp_path).run(flows, "drift")


@pytest.mark.parametrize(("of_office", "both"), [((CAM, BULB), "only cam"), ((BULB,), "none")])
def test_splits__a_site_with_fewer_than_two_labels_of_others_is_refused(of_office: tuple[str, ...], both: str) -> None:
    settings = _settings()
    flows = _flows(settings, {"home": (CAM, PLUG), "office": of_office})
    message = (
        rf"^evaluation\.protocols: site:office needs two labels or more that office and another site have, both have "
        rf"{both}; write labels in the same way in all device lists, name further sites with --site, or leave "
    )
    with pytest.raises(SettingError, match=message):
        next(protocols.splits(flows, "site:office", settings.evaluation))


@pytest.mark.parametrize(
    ("macs_of_days", "both"), [(((CAM,), (CAM, PLUG)), "only cam"), (((BULB,), (CAM, PLUG)), "none")]
)
def test_splits__drift_with_fewer_than_two_labels_on_both_sides_is_refused(
    macs_of_days: tuple[tuple[str, ...], ...], both: str
) -> None:
    settings = _settings("evaluation.drift_days=1")
    tables = []
    for day, macs in enumerate(macs_of_days):
        table = _table({"home": macs})
        where, field = table.schema.get_field_index("first_seen"), table.schema.field("first_seen")
        seen = pa.array([_START + timedelta(days=day)] * len(table), field.type)
        tables.append(table.set_column(where, field, seen))
    flows = LabelledFlows.of(pa.concat_tables(tables), DEVICES, settings.dataset, settings.flow)
    rule = rf"evaluation\.drift_days=1 days and after them, both have {both}; give more dates or another number"
    with pytest.raises(SettingError, match=rule):
        next(protocols.splits(flows, "drift", settings.evaluation))


def test_compare__ends_before_training_if_a_later_protocol_has_one_label(tmp_path: Path) -> None:
    settings = _settings("evaluation.protocols=[random_flow,site:office]")
    flows = _flows(settings, {"home": (CAM, PLUG), "office": (CAM, BULB)})
    with pytest.raises(SettingError, match="both have only cam"):
        comparison.compare(flows, settings, tmp_path)
    assert not list(tmp_path.iterdir())


def _traffic(flows: LabelledFlows) -> DeviceTraffic:
    """Every capture's device sends two packets a second for four seconds, of lengths that identify the device."""
    rows = []
    captures = sorted(set(zip(flows.flows["capture_file"].to_pylist(), flows.label.tolist(), strict=True)))
    start = int(_START.timestamp())
    for path, label in captures:
        for second in range(4):
            for sent in (False, True):
                rows.append((path, path[:17], start + second, sent, 100 + 50 * int(label) + sent, 2, int(label)))
    names = ("capture_file", "device", "second", "sent", "frame_length", "packets", "label")
    columns = dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))
    columns["capture_file"] = pa.array(columns["capture_file"]).dictionary_encode()
    table = pa.table(columns).set_column(4, "frame_length", pa.array(columns["frame_length"], pa.int32()))
    return DeviceTraffic(table, flows.labels)


@pytest.mark.parametrize("protocol", ["capture_folds", "random_flow"])
def test_run__window_baselines_are_scored_on_windows_and_whole_captures(tmp_path: Path, protocol: str) -> None:
    windows = {"pinheiro_tree": 48, "byteiot": 12} if protocol == "capture_folds" else {"pinheiro_tree": 48}
    settings = _settings(f"evaluation.packet_baselines=[{','.join(windows)}]")
    flows = _flows(settings)
    protocol_scores, answers, _ = Study(settings, tmp_path, _traffic(flows)).run(flows, protocol)
    for name, count in windows.items():
        system_scores = protocol_scores["systems"][name]
        assert "reconstruction" in system_scores["origin"] or "authors' code" in system_scores["origin"]
        assert system_scores["scores"]["windows"]["accuracy"]["value"] == 1.0
        if protocol == "capture_folds":
            assert system_scores["items"] == {"windows": count, "flows": 72, "captures": 12}
            assert system_scores["scores"]["captures"]["accuracy"]["value"] == 1.0
        else:
            assert set(system_scores["items"]) == {"windows"}
            assert 0 < system_scores["items"]["windows"] < count
    rows = answers.filter((pc.field("system") == "pinheiro_tree") & (pc.field("of") == "windows")).to_pylist()
    assert len(rows) == protocol_scores["systems"]["pinheiro_tree"]["items"]["windows"]
    assert {row["answer"] == row["label"] for row in rows} == {True}
    assert {row["capture_file"] for row in rows} <= set(flows.flows["capture_file"].to_pylist())


@pytest.mark.parametrize(
    ("protocol", "items"),
    [
        ("site:office", {"windows": 32, "flows": 48, "captures": 8}),
        ("across", {"windows": 64, "flows": 96, "captures": 16, "devices": 4}),
    ],
)
def test_run__window_baselines_learn_from_another_site(tmp_path: Path, protocol: str, items: dict[str, int]) -> None:
    settings = _settings("evaluation.packet_baselines=[pinheiro_tree]")
    table = _table({"home": (CAM, PLUG), "office": (CAM, PLUG)})
    files = [
        f"{site}/{path}"
        for site, path in zip(*(table[name].to_pylist() for name in ("site", "capture_file")), strict=True)
    ]
    where = table.schema.get_field_index("capture_file")
    table = table.set_column(where, table.schema.field("capture_file"), pa.array(files))
    flows = LabelledFlows.of(table, DEVICES, settings.dataset, settings.flow)
    system_scores = Study(settings, tmp_path, _traffic(flows)).run(flows, protocol).scores["systems"]["pinheiro_tree"]
    assert system_scores["items"] == items
    sets = {of: scores["accuracy"]["value"] for of, scores in system_scores["scores"].items() if of != "flows"}
    assert sets == dict.fromkeys(items.keys() - {"flows"}, 1.0)  # windows begin with the capture, and miss most flows


def test_run__etei_needs_flows_with_bytes(tmp_path: Path) -> None:
    settings = _settings("evaluation.packet_baselines=[etei]", "evaluation.etei_epochs=1")
    with pytest.raises(SettingError, match=r"flow\.keep_bytes=250"):
        Study(settings, tmp_path).run(_flows(settings), "by_capture")
    keeping = settings.flow.model_copy(update={"keep_bytes": 160, "keep_packets": 10})
    table = _table()
    devices = np.array([int(mac[-1]) for mac in table["client_mac"].to_pylist()], np.uint8)
    kept = pa.array([bytes([40 * device] * 1600) for device in devices], pa.binary())
    table = table.set_column(table.schema.get_field_index("first_bytes"), table.schema.field("first_bytes"), kept)
    flows = LabelledFlows.of(table, DEVICES, settings.dataset, keeping)
    assert (flows.bytes_of(np.arange(72))[:, 7] == 40 * devices).all()
    system_scores = Study(settings, tmp_path).run(flows, "by_capture").scores["systems"]["etei"]
    assert set(system_scores["scores"]) == {"flows", "captures"}
    assert "Yin et al. 2021" in system_scores["origin"]


def test_run__capture_baselines_are_scored_on_captures_and_their_flows(tmp_path: Path) -> None:
    names = list(baselines.capture_baselines(1))
    settings = _settings(f"evaluation.capture_baselines=[{','.join(names)}]")
    table = _table()
    ones = pa.array([[1] * len(each) for each in table["packet_length"].to_pylist()], pa.list_(pa.int32()))
    where = table.schema.get_field_index("direction")
    table = table.set_column(where, table.schema.field("direction"), ones)
    further = (*owner.READ, *device_flows.COLUMNS)
    flows = LabelledFlows.of(table, DEVICES, settings.dataset, settings.flow, further=further)
    protocol_scores, answers, _ = Study(settings, tmp_path).run(flows, "capture_folds")
    for name in names:
        system_scores = protocol_scores["systems"][name]
        assert system_scores["items"] == {"flows": 72, "captures": 12}
        assert system_scores["origin"]
        rows = answers.filter(pc.field("system") == name)
        by_capture = rows.group_by("capture_file").aggregate([("answer", "count_distinct"), ("answer", "count")])
        assert set(by_capture["answer_count_distinct"].to_pylist()) == {1}, "a flow has its capture's answer"
        assert set(by_capture["answer_count"].to_pylist()) == {7}
    right = protocol_scores["systems"]["hamad"]["scores"]["captures"]["accuracy"]["value"]
    assert right > 0.8  # lengths mostly distinguish the three


def test_is_client__is_false_where_the_device_is_the_server() -> None:
    settings = _settings()
    table = _table()
    ends = {"client_ip": "192.0.2.1", "server_ip": "10.0.0.2", "client_mac": None}
    swapped = np.arange(len(table)) % 2 == 1
    macs = table["client_mac"]
    for name, value in ends.items():
        where, field = table.schema.get_field_index(name), table.schema.field(name)
        changed = pc.if_else(pa.array(swapped), pa.scalar(value, pa.string()), table[name])
        table = table.set_column(where, field, changed)
    where, field = table.schema.get_field_index("server_mac"), table.schema.field("server_mac")
    table = table.set_column(where, field, pc.if_else(pa.array(swapped), macs, pa.scalar(None, pa.string())))
    flows = LabelledFlows.of(table, DEVICES, settings.dataset, settings.flow, further=owner.READ)
    assert len(flows.label) == 72
    assert (flows.is_client == ~swapped).all()


def test_run__scores_can_be_recomputed_from_answers(tmp_path: Path) -> None:
    settings = _settings()
    protocol_scores, answers, _ = Study(settings, tmp_path).run(_flows(settings), "capture_folds")
    for system, system_scores in protocol_scores["systems"].items():
        for of, scores in system_scores["scores"].items():
            rows = answers.filter((pc.field("system") == system) & (pc.field("of") == of))
            expected = f1_score(rows["label"].to_pylist(), rows["answer"].to_pylist(), average="macro")
            assert scores["macro_f1"]["value"] == pytest.approx(expected)
            bins = metrics.reliability(
                rows["confidence"].to_numpy(),
                np.equal(rows["label"].to_pylist(), rows["answer"].to_pylist()),
                np.ones(len(rows)),
            )
            error = system_scores["captures_calibration_error" if of == "captures" else "expected_calibration_error"]
            assert error == pytest.approx(metrics.expected_calibration_error(bins))


def test_captures_ceiling__equal_captures_cannot_all_be_right(tmp_path: Path) -> None:
    settings = _settings()
    table = _table()
    same = pa.array([[50]] * len(table), pa.list_(pa.int32()))
    equal = table.set_column(table.schema.get_field_index("packet_length"), table.schema.field("packet_length"), same)
    for name in ("tcp_window", "direction", "inter_arrival_us", "tcp_flags", "payload_length"):
        kind = equal.schema.field(name)
        equal = equal.set_column(equal.schema.get_field_index(name), kind, pa.array([[0]] * len(table), kind.type))
    flows = LabelledFlows.of(equal, DEVICES, settings.dataset, settings.flow)
    assert study._captures_ceiling(flows, np.unique(flows.capture * 3 + flows.label)) == pytest.approx(4 / 12)
    apart = _flows(settings)
    assert study._captures_ceiling(apart, np.unique(apart.capture * 3 + apart.label)) == 1.0


def test_parts_of_samples__by_time_tests_the_last_of_each_label() -> None:
    settings = _settings().dataset
    label, start = np.array([0] * 10 + [1] * 20), np.concatenate([np.arange(10)[::-1], np.arange(20)])
    samples = Samples(np.zeros(30, np.int64), np.zeros(30, np.int64), label, start, np.zeros((30, 1)))
    part_S = protocols.parts_of_samples(samples, None, "by_time", settings)
    assert sorted(start[(part_S == 2) & (label == 0)].tolist()) == [9]
    assert sorted(start[(part_S == 2) & (label == 1)].tolist()) == [18, 19]
    random_S = protocols.parts_of_samples(samples, None, "random_flow", settings)
    assert np.bincount(random_S).tolist() == np.bincount(part_S).tolist() == [24, 3, 3]
    by_capture_S = protocols.parts_of_samples(samples, np.array([2], np.int8), "by_capture", settings)
    assert set(by_capture_S.tolist()) == {2}


@pytest.mark.parametrize("protocol", ["random_flow", "by_capture", "capture_folds", "devices_out"])
@pytest.mark.parametrize("groups", [2, 1000])
def test_number_of_runs__is_that_of_the_splits(protocol: str, groups: int) -> None:
    settings = _settings(f"evaluation.left_out_groups={groups}")
    flows = _flows(settings)
    found = list(protocols.splits(flows, protocol, settings.evaluation))
    assert protocols.number_of_runs(flows, protocol, settings.evaluation) == len(found)


@pytest.mark.parametrize("protocol", ["by_moon", "site:nowhere", "site:home"])
def test_run__an_impossible_protocol_is_refused(tmp_path: Path, protocol: str) -> None:
    settings = _settings()
    with pytest.raises(SettingError, match=r"evaluation\.protocols: "):
        Study(settings, tmp_path).run(_flows(settings), protocol)


def test_run__folds_that_leave_a_part_empty_are_an_error(tmp_path: Path) -> None:
    settings = _settings("evaluation.folds=40")
    with pytest.raises(DataError, match="split is empty"):
        Study(settings, tmp_path).run(_flows(settings), "capture_folds")


def test_text__has_every_protocol_and_system_and_flat_every_number(tmp_path: Path) -> None:
    settings = _settings("evaluation.protocols=[random_flow, capture_folds]")
    results = comparison.compare(_flows(settings), settings, tmp_path)
    all_scores = [result.scores for result in results]
    folder, text = comparison.write(results, tmp_path)
    for word in (
        "## random_flow",
        "## capture_folds",
        "| ensemble |",
        "| majority_sequence |",
        "have a duplicate in training",
    ):
        assert word in text
    assert text.count("* ensemble: adaptive") == 1
    assert "Of flows, the ensemble has macro F1" in text
    bounded = {name for name, scores in all_scores[0]["systems"].items() if scores["ceiling_share"] is not None}
    assert bounded == {"ensemble", *settings.evaluation.baselines}, "the ceiling bounds what reads one flow at a time"
    assert len({line.count("|") for line in text.splitlines() if line.startswith("|")}) == 1
    numbers = comparison.flat(all_scores)
    assert "capture_folds.ensemble.captures.accuracy" in numbers
    assert {"capture_folds.leakage", "capture_folds.ceiling"} <= numbers.keys()
    assert "capture_folds.device_model.captures.expected_calibration_error" in numbers
    assert all(np.isfinite(value) for value in numbers.values())
    assert (folder / "comparison.md").read_text() == text
    assert {path.name for path in folder.iterdir()} == {
        "answers_random_flow.parquet",
        "answers_capture_folds.parquet",
        "random_flow.png",
        "capture_folds.png",
        "comparison.html",
        "comparison.json",
        "comparison.md",
        "households.json",
    }


def test_compare__from_stored_flows_to_a_table_and_a_run(tmp_path: Path) -> None:
    """The command on a stored partition; a second run trains nothing and writes the same."""
    from iotid.cli.compare import main

    store, flows = Store(str(tmp_path)), _table()
    keys = PartitionKey.of_date("home", "2024-03-01")
    with store.write("flows", keys, FLOWS.version) as staged:
        pq.write_table(flows.drop_columns(["site", "capture_date"]), f"{staged.path}/part-0.parquet")
        staged.metadata = {"rows": len(flows), "settings": {"flow": _settings().flow.model_dump(mode="json")}}
    lines = [f"  - {{name: {device.name}, mac: '{device.mac[0]}', type: plug}}\n" for device in DEVICES.devices]
    (tmp_path / "devices.yaml").write_text("devices:\n" + "".join(lines))
    changes = ["evaluation.protocols=[by_capture]", f"storage.root={tmp_path}"]
    arguments = ["--config", str(_SMALL), "--site", "home", "--date", "2024-03-01"]
    arguments += ["--labels", f"{tmp_path}/devices.yaml", "--name", "try"]
    all_arguments = [*arguments, *(part for change in changes for part in ("--set", change))]
    first = CliRunner().invoke(main, all_arguments, catch_exceptions=False)
    (kept,) = (tmp_path / "runs").glob("compare-try/*/by_capture-01/checkpoint/checkpoint.json")
    trained = kept.stat().st_mtime_ns
    again = CliRunner().invoke(main, all_arguments, catch_exceptions=False)
    assert kept.stat().st_mtime_ns == trained
    assert first.exit_code == again.exit_code == 0
    assert first.stdout == again.stdout
    assert "## by_capture" in first.stdout
    written = Path(store.open("comparisons", PartitionKey.named("try")).uri.removeprefix("file://"))
    assert (written / "comparison.md").read_text() in first.stdout
    other = CliRunner().invoke(main, [*all_arguments, "--set", "flow.length=frame"])
    assert other.exit_code == 2
    assert "flow.length: is frame, the flows of" in other.output
    client = Registry(_settings().tracking, str(tmp_path)).connect()
    (experiment,) = client.search_experiments(filter_string="name = 'iotid'")
    run = client.search_runs([experiment.experiment_id])[0]
    assert "by_capture.ensemble.flows.macro_f1" in run.data.metrics
    assert run.info.status == "FINISHED"


def test_captures_by_site__a_capture_of_two_sites_is_read_once(settings: Settings) -> None:
    store, partitions = Store(settings.storage.root), []
    for site, day, paths in (("office", 1, ["c", "b"]), ("home", 1, ["a", "a"]), ("home", 2, ["b"])):
        keys = PartitionKey.of_date(site, f"2026-01-0{day}")
        with store.write("splits", keys, 2) as staged:
            pq.write_table(pa.table({"path": paths}), f"{staged.path}/part-0.parquet", filesystem=staged.filesystem)
        partitions.append(store.open("splits", keys))
    assert comparison._captures_by_site(partitions) == {"home": ["a", "b"], "office": ["c"]}
