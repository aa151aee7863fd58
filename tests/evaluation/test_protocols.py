"""Protocols side by side: what is tested, how captures vote, and the table."""

from __future__ import annotations

import random
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import f1_score

from iotid.config import Settings, load_settings
from iotid.dataset import Device, DeviceList, LabelledFlows
from iotid.dataset.partition import PARTS
from iotid.errors import DataError, SettingError
from iotid.evaluation import comparison, protocols
from iotid.evaluation.protocols import Study
from iotid.schemas import FLOWS

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


def _settings(*changes: str) -> Settings:
    small = ["model.embedding_size=4", "model.hidden_size=4", "model.layers=1", "training.epochs=1"]
    few = ["evaluation.baselines=[majority_sequence]", "evaluation.bootstrap=10", "evaluation.folds=3"]
    return load_settings(overrides=[*small, *few, *changes])


def _flows(settings: Settings, sites: dict[str, tuple[str, ...]] | None = None) -> LabelledFlows:
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
    arrays = [pa.array(columns.get(field.name, [None] * len(rows)), field.type) for field in schema]
    return LabelledFlows.of(pa.Table.from_arrays(arrays, schema=schema), DEVICES, settings.dataset, settings.flow)


def test_run__folds_test_every_flow_and_every_capture_once(tmp_path: Path) -> None:
    settings = _settings()
    flows = _flows(settings)
    outcome = Study(settings, tmp_path).run(flows, "capture_folds")
    assert outcome["flows"]["test"] == len(flows.label) == 72
    assert outcome["captures"] == 12
    assert set(outcome["systems"]) == {"ensemble", "majority_sequence"}
    for scores in outcome["systems"].values():
        assert [row["support"] for row in scores["per_class"]] == [24, 24, 24]
        assert scores["ceiling_share"] <= 1
    assert outcome["coarse_labels"] == ["Acme camera", "Acme plug"]


@pytest.mark.parametrize("protocol", ["random_flow", "random_unique", "by_capture", "by_time"])
def test_run__a_datasets_protocol_is_tested_on_its_test_part(tmp_path: Path, protocol: str) -> None:
    settings = _settings()
    flows = _flows(settings)
    outcome = Study(settings, tmp_path).run(flows, protocol)
    sizes = np.bincount(flows.under(protocol).parts(), minlength=3).tolist()
    assert outcome["flows"] == dict(zip(PARTS, sizes, strict=True))


def test_run__scores_are_those_of_the_rivals_answers(tmp_path: Path) -> None:
    settings = _settings("evaluation.baselines=[majority_sequence]")
    flows = _flows(settings)
    outcome = Study(settings, tmp_path).run(flows, "by_capture")
    encoding, parts = flows.dataset(flows.under("by_capture").parts())
    from iotid import baselines

    rival = baselines.create("majority_sequence", encoding, 1).fit(parts["train"].rows, 3)
    test = parts["test"]
    named = rival.probabilities(test.rows.sequences).argmax(axis=1)[test.row_of_flow]
    expected = f1_score(flows.label[test.flow], named, average="macro")
    assert outcome["systems"]["majority_sequence"]["flows"]["macro_f1"]["value"] == pytest.approx(expected)


def test_run__another_site_is_never_learned_from_and_asked_only_what_both_have(tmp_path: Path) -> None:
    settings = _settings()
    flows = _flows(settings, {"home": (CAM, PLUG), "office": (CAM, PLUG, BULB)})
    outcome = Study(settings, tmp_path).run(flows, "site:office")
    assert outcome["flows"]["test"] == 48
    assert sum(outcome["flows"].values()) == 96
    supports = {row["label"]: row["support"] for row in outcome["systems"]["ensemble"]["per_class"]}
    assert supports == {"cam": 24, "plug1": 24, "plug2": 0}
    part_N = protocols._other_site(flows, "office")
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


def test_vote__adds_logarithms_of_all_flows_of_a_capture() -> None:
    label_R, unit_R = np.array([0, 0, 1]), np.array([7, 7, 9])
    answers_RC = np.array([[0.4, 0.6], [0.9, 0.1], [0.0, 1.0]])
    label_U, named_U = protocols._vote(label_R, unit_R, np.array([1, 1, 2]), answers_RC)
    assert (label_U.tolist(), named_U.tolist()) == ([0, 1], [0, 1])
    _, outvoted_U = protocols._vote(label_R, unit_R, np.array([9, 1, 2]), answers_RC)
    assert outvoted_U.tolist() == [1, 1]


def test_text__names_every_protocol_and_system_and_flat_every_number(tmp_path: Path) -> None:
    settings = _settings("evaluation.protocols=[random_flow, capture_folds]")
    outcomes = comparison.compare(_flows(settings), settings, tmp_path)
    text = comparison.text(outcomes)
    for word in (
        "## random_flow",
        "## capture_folds",
        "| ensemble |",
        "| majority_sequence |",
        "have a twin in training",
    ):
        assert word in text
    assert len({line.count("|") for line in text.splitlines() if line.startswith("|")}) == 1
    numbers = comparison.flat(outcomes)
    assert "capture_folds.ensemble.captures.accuracy" in numbers
    assert all(np.isfinite(value) for value in numbers.values())
    assert {path.name for path in comparison.write(outcomes, tmp_path).iterdir()} == {
        "comparison.json",
        "comparison.md",
    }
