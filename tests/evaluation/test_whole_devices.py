"""Whole devices of the test split: one answer for each device and capture date."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from iotid.config import load_settings
from iotid.dataset import Encoding, FlowSets, Vocabulary
from iotid.evaluation.report import device_quality
from iotid.evaluation.whole_devices import OUTCOMES, score_whole_devices
from iotid.labels.devices import UNLISTED
from iotid.model.device import DeviceModel, kinds_of

LABELS = ("cam", "lamp", "plug")
CENSUS = load_settings().census
# packet lengths of the flows that each device sends, several times in every night
LENGTHS = {"cam": ((60, 1500), (1500, 1500), (60, 60)), "plug": ((100, 100), (60, 100), (100, 60)), "lamp": ((7, 7),)}


def encoding_of(labels: tuple[str, ...]) -> Encoding:
    vocabularies = {"packet_length": Vocabulary((60, 100, 1500)), "tcp_window": Vocabulary((0,))}
    devices = {label: {"vendor": "Acme", "type": label} for label in labels}
    return Encoding(2, vocabularies, labels, devices, (6, 17), "ip")


def sets_of(encoding: Encoding, rows: list[tuple[str, int, int]], label_of: dict[str, int]) -> FlowSets:
    """``rows``: (device, set, recording); a set has five flows of each of its device's."""
    flows = [(pair, *row) for row in rows for pair in LENGTHS[row[0]]]
    lengths = np.stack([encoding.vocabularies["packet_length"].ids(np.array(pair)) for pair, *_ in flows])
    sequences = {"packet_length": lengths.astype(np.int32), "tcp_window": np.full_like(lengths, 2, np.int32)}
    label_N = np.array([label_of[device] for _, device, _, _ in flows])
    unit_N, recording_N = (np.array([flow[at] for flow in flows]) for at in (2, 3))
    return FlowSets.of(sequences, unit_N, label_N, np.full(len(flows), 5), recording_N)


@pytest.fixture(scope="module")
def predictor() -> Any:
    """A device model of cameras and plugs."""
    encoding = encoding_of(("cam", "plug"))
    _, kind_C = kinds_of(encoding.labels, encoding.devices)
    learned = [(device, number, number) for number, device in enumerate(("cam", "plug") * 12)]
    model = DeviceModel(kind_C).fit(sets_of(encoding, learned, {"cam": 0, "plug": 1}))
    return SimpleNamespace(encoding=encoding, learned=SimpleNamespace(devices=model))


def test_score_whole_devices__one_answer_for_each_device_and_date(predictor: Any) -> None:
    encoding = encoding_of(LABELS)
    rows = [("cam", 1, 1), ("cam", 2, 1), ("cam", 3, 2), ("plug", 4, 3), ("lamp", 5, 4)]  # two captures of one date
    sets = sets_of(encoding, rows, {label: number for number, label in enumerate(LABELS)})
    found = score_whole_devices(sets, encoding, predictor, "challenger", CENSUS)
    assert found is not None
    assert {name: found[name] for name in ("recordings", *OUTCOMES)} == {  # type: ignore[literal-required]
        "recordings": 4, "right": 3, "wrong": 0, "undecided": 0, "unknown": 1,
    }  # fmt: skip
    assert [(row["kind"], row["learned"], row["recordings"], row["right"]) for row in found["kinds"]] == [
        ("Acme cam", True, 2, 2),
        ("Acme lamp", False, 1, 0),
        ("Acme plug", True, 1, 1),
    ]


def test_score_whole_devices__another_kinds_flows_are_a_mistake(predictor: Any) -> None:
    encoding = encoding_of(LABELS)
    sets = sets_of(encoding, [("plug", 1, 1), ("cam", 2, 2)], {"plug": 0, "cam": 0})  # a plug listed as a camera
    found = score_whole_devices(sets, encoding, predictor, "challenger", CENSUS)
    assert found is not None
    assert (found["right"], found["wrong"]) == (1, 1)
    assert [row["mistaken_for"] for row in found["kinds"]] == ["Acme plug"]


def test_score_whole_devices__without_a_device_model_there_is_none(predictor: Any) -> None:
    encoding = encoding_of(LABELS)
    sets = sets_of(encoding, [("cam", 1, 1)], {"cam": 0})
    without = SimpleNamespace(encoding=predictor.encoding, learned=SimpleNamespace(devices=None))
    assert score_whole_devices(sets, encoding, without, "challenger", CENSUS) is None  # type: ignore[arg-type]


def test_score_whole_devices__a_second_kind_is_wrong_and_few_flows_are_undecided(predictor: Any) -> None:
    encoding = encoding_of((*LABELS, UNLISTED))
    label_of = {label: number for number, label in enumerate(encoding.labels)}
    sets = sets_of(encoding, [("cam", 1, 1), ("plug", 2, 1), ("cam", 3, 2)], {"cam": 0, "plug": 0})
    found = score_whole_devices(sets, encoding, predictor, "challenger", CENSUS)
    assert found is not None
    assert (found["recordings"], found["right"], found["wrong"]) == (2, 1, 1), "a plug beside the camera of a night"
    strict = CENSUS.model_copy(update={"min_flows": 1_000})
    undecided = score_whole_devices(sets, encoding, predictor, "challenger", strict)
    assert undecided is not None
    assert (undecided["right"], undecided["undecided"]) == (0, 2)
    unlisted = sets_of(encoding, [("cam", 1, 1)], {"cam": label_of[UNLISTED]})
    assert score_whole_devices(unlisted, encoding, predictor, "challenger", CENSUS) is None


@pytest.mark.parametrize(
    ("numbers", "protocol", "text"),
    [
        ((0, 0, 0), "by_capture", None),
        ((1, 1, 0), "by_capture", "of 1 device night of the test split it named 1 rightly and 0 wrongly"),
        ((1200, 1000, 7), "random_flow",
         "of 1,200 device nights of the test split, whose other flows it was trained on, it named 1,000 rightly and 7 "
         "wrongly"),
    ],
)  # fmt: skip
def test_device_quality__says_what_was_counted(numbers: tuple[int, int, int], protocol: str, text: str | None) -> None:
    scored: Any = dict(zip(("recordings", "right", "wrong"), numbers, strict=True))
    assert device_quality(scored, protocol) == text
    assert device_quality(None, protocol) is None
