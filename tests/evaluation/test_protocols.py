"""Protocols side by side: what is tested, how captures vote, and the table."""

from __future__ import annotations

import random
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from sklearn.metrics import f1_score

from iotid import baselines
from iotid.config import Settings, load_settings
from iotid.dataset import Device, DeviceList, LabelledFlows
from iotid.dataset.partition import PARTS
from iotid.errors import DataError, SettingError
from iotid.evaluation import comparison, protocols
from iotid.evaluation.study import Study
from iotid.registry import Registry
from iotid.schemas import FLOWS
from iotid.storage import Store

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


_SMALL = (
    "model.embedding_size=4",
    "model.hidden_size=4",
    "model.layers=1",
    "training.epochs=1",
    "evaluation.baselines=[majority_sequence]",
    "evaluation.bootstrap=10",
    "evaluation.folds=3",
    "evaluation.further_baselines=[]",
)


def _settings(*changes: str) -> Settings:
    return load_settings(overrides=[*_SMALL, *changes])


def _flows(settings: Settings, sites: dict[str, tuple[str, ...]] | None = None) -> LabelledFlows:
    return LabelledFlows.of(_table(sites), DEVICES, settings.dataset, settings.flow)


def _table(sites: dict[str, tuple[str, ...]] | None = None) -> pa.Table:
    """Of each site and MAC three captures or more of six flows each; lengths tell the devices apart, mostly."""
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
        "client_mac": [row["client_mac"] for row in rows],
        "client_port": list(range(len(rows))),
        "first_seen": [_START + timedelta(seconds=number) for number in range(len(rows))],
        "packet_length": [row["lengths"] for row in rows],
        "tcp_window": [[1000] * len(row["lengths"]) for row in rows],
    }
    schema = FLOWS.arrow_schema()
    for field in schema:
        constant: Any = "-" if field.type == pa.string() else _START if field.name == "last_seen" else 0
        lists = [[0] * len(row["lengths"]) for row in rows]
        of_no_matter = lists if pa.types.is_list(field.type) else [None if field.nullable else constant] * len(rows)
        columns.setdefault(field.name, of_no_matter)
    arrays = [pa.array(columns[field.name], field.type) for field in schema]
    return pa.Table.from_arrays(arrays, schema=schema)


def test_run__folds_test_every_flow_and_every_capture_once(tmp_path: Path) -> None:
    settings = _settings()
    flows = _flows(settings)
    outcome = Study(settings, tmp_path).run(flows, "capture_folds").outcome
    assert outcome["flows"]["test"] == len(flows.label) == 72
    assert outcome["captures"] == 12
    assert set(outcome["systems"]) == {"ensemble", "ensemble_vote", "majority_sequence", "capture_bag"}
    for system in ("ensemble", "majority_sequence", "ensemble_vote"):
        scores = outcome["systems"][system]
        assert [row["support"] for row in scores["per_class"]] == [24, 24, 24]
        assert scores["ceiling_share"] <= 1 or system == "ensemble_vote"  # which sees more than one flow
    bag = outcome["systems"]["capture_bag"]
    assert bag["scores"]["captures"]["accuracy"]["value"] == 1.0  # lengths tell the three apart
    assert (set(bag["scores"]), bag["per_class"]) == ({"captures"}, [])
    assert outcome["coarse_labels"] == ["Acme camera", "Acme plug"]


@pytest.mark.parametrize("protocol", ["random_flow", "random_unique", "by_capture", "by_time"])
def test_run__a_datasets_protocol_is_tested_on_its_test_part(tmp_path: Path, protocol: str) -> None:
    settings = _settings()
    flows = _flows(settings)
    outcome = Study(settings, tmp_path).run(flows, protocol).outcome
    sizes = np.bincount(flows.under(protocol).parts(), minlength=3).tolist()
    assert outcome["flows"] == dict(zip(PARTS, sizes, strict=True))


def test_run__scores_are_those_of_the_rivals_answers(tmp_path: Path) -> None:
    settings = _settings("evaluation.baselines=[majority_sequence]")
    flows = _flows(settings)
    outcome = Study(settings, tmp_path).run(flows, "by_capture").outcome
    encoding, parts = flows.dataset(flows.under("by_capture").parts())
    rival = baselines.create("majority_sequence", encoding, 1).fit(parts["train"].rows, 3)
    test = parts["test"]
    named = rival.probabilities(test.rows.sequences).argmax(axis=1)[test.row_of_flow]
    expected = f1_score(flows.label[test.flow], named, average="macro")
    assert outcome["systems"]["majority_sequence"]["scores"]["flows"]["macro_f1"]["value"] == pytest.approx(expected)


def test_run__another_site_is_never_learned_from_and_asked_only_what_both_have(tmp_path: Path) -> None:
    settings = _settings()
    flows = _flows(settings, {"home": (CAM, PLUG), "office": (CAM, PLUG, BULB)})
    outcome = Study(settings, tmp_path).run(flows, "site:office").outcome
    assert outcome["flows"]["test"] == 48
    assert sum(outcome["flows"].values()) == 96
    supports = {row["label"]: row["support"] for row in outcome["systems"]["ensemble"]["per_class"]}
    assert supports == {"cam": 24, "plug1": 24, "plug2": 0}
    part_N = next(protocols.splits(flows, "site:office", settings.evaluation))
    there_N = np.array(flows.flows["site"].to_pylist()) == "office"
    assert set(part_N[there_N]) == {-1, 2}
    assert set(part_N[~there_N]) == {0, 1}


@pytest.mark.parametrize("protocol", ["by_moon", "site:nowhere", "site:home"])
def test_run__a_protocol_that_cannot_be_is_refused(tmp_path: Path, protocol: str) -> None:
    settings = _settings()
    with pytest.raises(SettingError, match=r"evaluation\.protocols: "):
        Study(settings, tmp_path).run(_flows(settings), protocol)


def test_run__folds_that_leave_a_part_empty_are_an_error(tmp_path: Path) -> None:
    settings = _settings("evaluation.folds=40")
    with pytest.raises(DataError, match="no flow is in the"):
        Study(settings, tmp_path).run(_flows(settings), "capture_folds")


def test_text__names_every_protocol_and_system_and_flat_every_number(tmp_path: Path) -> None:
    settings = _settings("evaluation.protocols=[random_flow, capture_folds]")
    results = comparison.compare(_flows(settings), settings, tmp_path)
    outcomes = [result.outcome for result in results]
    text = comparison.text(outcomes)
    for word in (
        "## random_flow",
        "## capture_folds",
        "| ensemble |",
        "| majority_sequence |",
        "have a twin in training",
    ):
        assert word in text
    assert text.count("* ensemble: adaptive") == 1
    assert len({line.count("|") for line in text.splitlines() if line.startswith("|")}) == 1
    numbers = comparison.flat(outcomes)
    assert "capture_folds.ensemble.captures.accuracy" in numbers
    assert all(np.isfinite(value) for value in numbers.values())
    assert {path.name for path in comparison.write(results, tmp_path).iterdir()} == {
        "answers_random_flow.parquet",
        "answers_capture_folds.parquet",
        "comparison.json",
        "comparison.md",
    }


def test_compare__from_a_nights_flows_to_a_table_and_a_run(tmp_path: Path) -> None:
    """The command itself, on a stored night; given again, it trains nothing anew and writes the same."""
    from jobs.compare import main

    store, flows = Store(str(tmp_path)), _table()
    keys = {"site": "home", "capture_date": "2024-03-01"}
    with store.write("flows", keys, FLOWS.version) as staged:
        pq.write_table(flows.drop_columns(["site", "capture_date"]), f"{staged.path}/part-0.parquet")
        staged.metadata = {"rows": len(flows), "settings": {"flow": _settings().flow.model_dump(mode="json")}}
    lines = [f"  - {{name: {device.name}, mac: '{device.mac[0]}', type: plug}}\n" for device in DEVICES.devices]
    (tmp_path / "devices.yaml").write_text("devices:\n" + "".join(lines))
    changes = [*_SMALL, "evaluation.protocols=[by_capture]", f"storage.root={tmp_path}"]
    asked = ["--site", "home", "--date", "2024-03-01", "--labels", f"{tmp_path}/devices.yaml", "--name", "try"]
    given = [*asked, *(part for change in changes for part in ("--set", change))]
    first = CliRunner().invoke(main, given, catch_exceptions=False)
    (kept,) = (tmp_path / "runs").glob("compare-try/*/by_capture-01/checkpoint/checkpoint.json")
    trained = kept.stat().st_mtime_ns
    again = CliRunner().invoke(main, given, catch_exceptions=False)
    assert kept.stat().st_mtime_ns == trained
    assert first.exit_code == again.exit_code == 0
    assert first.stdout == again.stdout
    assert "## by_capture" in first.stdout
    written = Path(store.open("comparisons", {"name": "try"}).uri.removeprefix("file://"))
    assert (written / "comparison.md").read_text() in first.stdout
    other = CliRunner().invoke(main, [*given, "--set", "flow.length=frame"])
    assert other.exit_code == 2
    assert "flow.length: is frame, the flows of" in other.output
    client = Registry(_settings().tracking, str(tmp_path))._client()
    (experiment,) = client.search_experiments(filter_string="name = 'iotid'")
    run = client.search_runs([experiment.experiment_id])[0]
    assert "by_capture.ensemble.flows.macro_f1" in run.data.metrics
    assert run.info.status == "FINISHED"
