"""New kinds: judged scores, against manual counts, and a protocol with known truth."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iotid.config import load_settings
from iotid.dataset import LabelledFlows
from iotid.errors import SettingError
from iotid.labels import Device, DeviceList
from iotid.schemas import FLOWS
from iotid.studies import compare as comparison
from iotid.studies import figures, open_set, protocols
from iotid.studies.open_set import OpenSetAnswers, evaluate, false_unknown
from iotid.studies.study import Study

KINDS = (("cam", "Acme", "camera"), ("plug1", "Acme", "plug"), ("plug2", "Acme", "plug"), ("hub", "Volt", "hub"))
DEVICES = DeviceList(
    tuple(
        Device(name=name, vendor=vendor, type=kind, mac=f"aa:bb:cc:dd:ee:{number:02}")
        for number, (name, vendor, kind) in enumerate(KINDS)
    ),
    "list.yaml",
)
_SMALL = Path(__file__).with_name("small.yaml")


def _flows(devices: DeviceList, *changes: str, listed: DeviceList | None = None) -> LabelledFlows:
    """Nine captures of each device, of five flows each; kinds share no length, plug1 and plug2 share all of them.

    ``listed``: those that get a label, if not all.
    """
    chance = np.random.default_rng(5)
    columns: dict[str, list[object]] = {
        name: [] for name in ("capture_file", "client_mac", "packet_length", "tcp_window")
    }
    for number in range(len(devices.devices)):
        first = 100 * (1 if number == 2 else number) + 50
        for capture in range(9):
            for _ in range(5):
                columns["capture_file"].append(f"{number}-{capture}")
                columns["client_mac"].append(devices.devices[number].mac[0])
                columns["packet_length"].append((first + chance.integers(0, 4, 3)).tolist())
                columns["tcp_window"].append([1000] * 3)
    rows = len(columns["capture_file"])
    columns |= {"protocol": [6] * rows, "client_ip": ["10.0.0.2"] * rows, "client_port": list(range(rows))}
    schema = FLOWS.arrow_schema()
    for field in schema:
        is_list, is_text = pa.types.is_list(field.type), pa.types.is_string(field.type)
        nothing: object = [0] * 3 if is_list else "-" if is_text else None if field.nullable else 0
        columns.setdefault(field.name, [False if field.type == pa.bool_() else nothing] * rows)
    table = pa.Table.from_arrays([pa.array(columns[field.name], field.type) for field in schema], schema=schema)
    settings = load_settings([_SMALL], changes)
    return LabelledFlows.of(table, listed or devices, settings.dataset, settings.flow)


@given(st.integers(0, 10_000))
def test_false_unknown__is_that_of_the_best_threshold(seed: int) -> None:
    chance = np.random.default_rng(seed)
    size = int(chance.integers(2, 60))
    new_U = np.arange(size) < chance.integers(1, size)
    score_U = chance.integers(0, 8, size) / 8  # with ties
    found = [float((score_U[~new_U] >= limit).mean()) for limit in score_U if (score_U[new_U] >= limit).mean() >= 0.95]
    assert false_unknown(new_U, score_U) == pytest.approx(min(found))


def _sets() -> OpenSetAnswers:
    """Two groups: four known captures, and four of the labels 1 and 2, in one of which two learned kinds are found."""
    left_out = np.array([False, False, True, True] * 2)
    score = np.array([0.1, 0.7, 0.6, 0.9, 0.2, 0.3, 0.25, 0.9])
    return OpenSetAnswers(
        unit=np.arange(8),
        label=np.array([0, 0, 1, 1, 0, 1, 2, 2]),
        left_out=left_out,
        device_model=score,
        out_of_vocabulary_rate=left_out.astype(float),
        network_uncertainty=np.full(8, 0.5),
        is_new=score > 0.5,
        named=np.array([0, 0, 0, 0, 0, 0, 0, 0]),
        is_own=np.array([True] + [False] * 7),
        status=np.array(["known", "unknown", "unknown", "unknown", "undecided", "known", "several", "unknown"]),
        group=np.array([1] * 4 + [2] * 4),
    )


def test_judge__counts_found_named_and_lost_captures() -> None:
    scored = evaluate(_sets(), ["cam", "plug", "hub"])
    assert scored["groups"] == [["plug"], ["hub"]]
    assert scored["captures"] == {"known": 4, "left_out": 4}
    # of the 16 pairs of a new and a known capture three are in the wrong order: 0.6 and 0.25 against 0.7, 0.25 and 0.3
    assert scored["scores"]["device_model"]["auroc"] == pytest.approx(13 / 16)
    assert scored["scores"]["device_model"]["auroc_of_groups"] == pytest.approx([3 / 4, 3 / 4])
    assert scored["scores"]["device_model"]["false_unknown_at_95"] == 0.5  # at 0.25, where the last new one is found
    assert scored["scores"]["surprise"]["auroc"] == 1.0
    assert scored["scores"]["surprise"]["false_unknown_at_95"] == 0.0
    assert scored["scores"]["doubt"]["auroc"] == 0.5
    assert scored["at_limit"] == {"detection": 0.75, "false_unknown": 0.25}
    assert scored["census"] == {
        "known": {"right": 0.25, "wrong": 0.25, "undecided": 0.25, "unknown": 0.25},
        "left_out": {"wrong": 0.25, "undecided": 0.0, "unknown": 0.75},
    }
    plug, hub = scored["per_label"]
    assert plug == {"label": "plug", "captures": 2, "unknown": 1.0, "undecided": 0.0, "named": 0.0, "mostly": None}
    assert (hub["unknown"], hub["named"], hub["mostly"]) == (0.5, 0.5, "cam")


def test_judge__an_additional_kind_is_wrong_and_a_label_of_the_kind_is_right() -> None:
    two_kinds = _sets()._replace(status=np.array(["several"] * 8), is_own=np.zeros(8, bool))
    assert evaluate(two_kinds, ["cam", "plug", "hub"])["census"]["known"]["wrong"] == 1.0
    similar = _sets()._replace(status=np.array(["known"] * 8), is_own=np.ones(8, bool), named=np.full(8, 2))
    census = evaluate(similar, ["cam", "plug", "hub"])["census"]
    assert (census["known"]["right"], census["left_out"]["wrong"]) == (1.0, 1.0)


@pytest.mark.parametrize(("groups", "expected"), [(2, 2), (3, 3), (1000, 3)])
def test_splits__each_kind_is_left_out_once_with_all_its_labels(groups: int, expected: int) -> None:
    settings = load_settings([_SMALL], [f"evaluation.left_out_groups={groups}"])
    flows = _flows(DEVICES)
    left_out, tested = np.zeros(len(flows.label), int), np.zeros(len(flows.label), int)
    splits = list(protocols.splits(flows, "devices_out", settings.evaluation))
    assert len(splits) == expected
    for part_N in splits:
        own_N = part_N == protocols.LEFT_OUT
        labels = {flows.labels[label] for label in flows.label[own_N]}
        assert ("plug1" in labels) == ("plug2" in labels)
        assert not set(flows.label[own_N]) & set(flows.label[~own_N])  # all of its flows, and no others
        assert set(part_N[~own_N]) == {protocols.TRAIN, protocols.VALIDATION, protocols.TEST}
        capture_of = [set(flows.capture[part_N == part]) for part in (protocols.TRAIN, protocols.TEST)]
        assert not capture_of[0] & capture_of[1]
        left_out, tested = left_out + own_N, tested + (part_N == protocols.TEST)
    assert (left_out == 1).all()
    assert (tested <= 1).all()


def test_splits__a_seed_draws_the_same_groups_and_unlisted_devices_are_learned_from() -> None:
    settings = load_settings([_SMALL], ["evaluation.left_out_groups=2"])
    flows = _flows(DEVICES)
    again = [list(protocols.splits(flows, "devices_out", settings.evaluation)) for _ in range(2)]
    np.testing.assert_array_equal(*again)
    unlisted = dataclasses.replace(flows, labels=("cam", "hub", "plug1", "unknown"))
    for part_N in protocols.splits(unlisted, "devices_out", settings.evaluation):
        assert protocols.LEFT_OUT not in part_N[unlisted.label == 3]


def test_splits__one_kind_cannot_be_left_out() -> None:
    plugs = DeviceList(DEVICES.devices[1:3], "list.yaml")
    settings = load_settings([_SMALL])
    with pytest.raises(SettingError, match=r"devices_out needs two kinds .* \['Acme plug'\]"):
        next(protocols.splits(_flows(plugs), "devices_out", settings.evaluation))


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> tuple[comparison.ProtocolResult, Path]:
    folder = tmp_path_factory.mktemp("compare")
    settings = load_settings([_SMALL], ["evaluation.left_out_groups=3", "census.min_flows=1"])
    result = Study(settings, folder).run(_flows(DEVICES), "devices_out")
    return result, comparison.write([result], folder)[0]


def test_run__distinct_new_kinds_are_found_and_learned_ones_pass(
    compared: tuple[comparison.ProtocolResult, Path],
) -> None:
    protocol_scores = compared[0].scores
    scored = protocol_scores["open_set"]
    assert scored is not None
    assert sorted(map(tuple, scored["groups"])) == [("cam",), ("hub",), ("plug1", "plug2")]
    # all 36 captures are left out once; 12 are tested in each training, but for those of 1, 1 and 2 labels left out
    assert scored["captures"] == {"known": 24, "left_out": 36}
    assert protocol_scores["flows"]["left_out"] == 36 * 5
    assert protocol_scores["flows"]["test"] == 24 * 5
    assert scored["scores"]["device_model"]["auroc"] == 1.0
    assert scored["scores"]["device_model"]["false_unknown_at_95"] == 0.0
    assert scored["scores"]["surprise"]["auroc"] == 1.0  # no length of theirs was learned
    assert scored["at_limit"]["detection"] == 1.0
    assert scored["census"]["left_out"] == {"wrong": 0.0, "undecided": 0.0, "unknown": 1.0}
    assert scored["at_limit"]["false_unknown"] == 0.0
    # plug1 and plug2 have equal flows, and are one kind
    assert scored["census"]["known"] == {"right": 1.0, "wrong": 0.0, "undecided": 0.0, "unknown": 0.0}
    supports = {row["label"]: row["support"] for row in protocol_scores["systems"]["ensemble"]["per_class"]}
    assert sum(supports.values()) == 24 * 5


def test_run__unlisted_devices_have_no_kind_and_are_not_tested(tmp_path: Path) -> None:
    changes = ["evaluation.left_out_groups=3", "census.min_flows=1", "dataset.unlisted=unknown"]
    flows = _flows(DEVICES, *changes, listed=DeviceList(DEVICES.devices[:3], "list.yaml"))
    assert flows.labels == ("cam", "plug1", "plug2", "unknown")  # the hub is not listed
    result = Study(load_settings([_SMALL], changes), tmp_path).run(flows, "devices_out")
    scored, table = result.scores["open_set"], result.sets
    assert scored is not None
    assert table is not None
    assert scored["captures"]["left_out"] == 27
    assert set(table["label"].to_pylist()) == {"cam", "plug1", "plug2"}
    assert scored["census"]["left_out"]["unknown"] == 1.0
    answers = result.answers.filter(pc.equal(result.answers["system"], "device_model")).to_pylist()
    assert {row["answer"] for row in answers if row["label"] == "unknown"} == {"unknown"}
    assert {row["answer"] for row in answers if row["label"] == "cam"} == {"cam"}


def test_run__scores_can_be_recomputed_from_sets(
    compared: tuple[comparison.ProtocolResult, Path],
) -> None:
    protocol_scores, _, table = compared[0]
    assert table is not None
    rows = table.to_pylist()
    assert len({(row["capture_file"], row["left_out"]) for row in rows}) == len(rows) == 60
    scored = protocol_scores["open_set"]
    assert scored is not None
    new = [row for row in rows if row["left_out"]]
    assert np.mean([row["is_new"] for row in new]) == scored["at_limit"]["detection"]
    assert np.mean([row["is_own"] for row in rows if not row["left_out"]]) == scored["census"]["known"]["right"]
    for row in rows:
        assert row["label"] == KINDS[int(row["capture_file"][0])][0]
        if row["left_out"]:
            assert row["label"] in scored["groups"][row["group"] - 1]


def test_write__the_table_the_curve_and_the_numbers_have_new_kinds(
    compared: tuple[comparison.ProtocolResult, Path],
) -> None:
    result, folder = compared
    assert {path.name for path in folder.iterdir()} == {
        "answers_devices_out.parquet",
        "sets_devices_out.parquet",
        "devices_out.png",
        "comparison.html",
        "comparison.json",
        "comparison.md",
        "households.json",
    }
    assert (folder / "devices_out.png").stat().st_size > 5000
    text = (folder / "comparison.md").read_text()
    assert "36 captures of kinds left out, in 3 groups, against 24 of learned kinds" in text
    assert "| device_model | 100.0 % | 100.0 %, 100.0 %, 100.0 % | 0.0 % | 1 - the device model's" in text
    assert "| hub | 9 | 100.0 % | 0.0 % | 0.0 % |  |" in text
    numbers = comparison.flat([result.scores])
    assert numbers["devices_out.open_set.device_model.auroc"] == 1.0
    assert numbers["devices_out.open_set.left_out.wrong"] == 0.0
    assert numbers["devices_out.open_set.at_limit.detection"] == 1.0
    assert all(np.isfinite(value) for value in numbers.values())


def test_roc__draws_every_score(tmp_path: Path) -> None:
    figures.roc(evaluate(_sets(), ["cam", "plug", "hub"])["scores"], tmp_path / "roc.png", "title")
    assert (tmp_path / "roc.png").stat().st_size > 5000
    assert set(open_set.ORIGINS) == {"device_model", "surprise", "doubt"}
