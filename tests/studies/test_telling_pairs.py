"""Telling pairs of packets: counted in pieces, compared between labels, and shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from iotid.config import load_settings
from iotid.labels.device_list import DeviceList
from iotid.labels.devices import Device
from iotid.partitions import Store
from iotid.spark.in_process import InProcess
from iotid.studies import description_text, document, steps, telling_pairs
from iotid.studies.describe import describe
from iotid.studies.telling_pairs import COUNTED, TellingPair, choose
from tests.baselines.toy_captures import packets

_DEVICES = DeviceList((Device(name="cam", ip="10.0.0.2"), Device(name="plug", ip="10.0.0.3")))
_SETTINGS = load_settings(overrides=["dataset.min_flows=1", "dataset.label=name"])


def _rows() -> list[dict[str, Any]]:
    """Four captures of the cam, two of the plug. Both have 10 -> 20; the cam 556 -> 1293 in three captures; the plug
    7 <- 8 in both, and a pair of its own in each."""
    rows = []
    for number in range(4):
        file = {"capture_file": f"cam{number}", "client_ip": "10.0.0.2"}
        rows += [file | packets(10, -20), file | packets(10, -20, 556, -1293 - (number == 3))]
    for number in range(2):
        file = {"capture_file": f"plug{number}", "client_ip": "10.0.0.3"}
        rows += [file | packets(-8, 7, 10, -20), file | packets(30 + number, -40)]
    return rows


@pytest.mark.parametrize("files", [1, 5])
def test_describe__pairs_of_each_label_whatever_the_number_of_files(
    files: int, tmp_path: Path, flow_table: Any, write_night: Any
) -> None:
    night = write_night(Store(str(tmp_path)), flow_table(_rows()), files=files)
    _, pairs = describe(InProcess(), [night], _DEVICES, _SETTINGS.dataset, _SETTINGS.flow)
    assert pairs == {
        "cam": [TellingPair(True, 556, 1293, 3, 4, 0.0, "")],
        "plug": [TellingPair(False, 8, 7, 2, 2, 0.0, "")],
    }


def test_describe__writes_and_returns_the_pairs(tmp_path: Path, flow_table: Any, write_night: Any) -> None:
    store = Store(str(tmp_path))
    night = write_night(store, flow_table(_rows()))
    written, _, lines = steps.describe(
        InProcess(), store, [night], _DEVICES, _SETTINGS.dataset, _SETTINGS.flow, "pairs"
    )
    assert lines[0] == "cam: client 556 -> server 1,293, in 75.0 % of its captures, other labels: none"
    folder = Path(written.uri.removeprefix("file://"))
    stored = json.loads((folder / "pairs.json").read_text())
    assert stored[0] == {
        "label": "cam", "by_client": True, "first": 556, "second": 1293, "captures": 3, "of": 4, "elsewhere": 0.0,
        "other": "",
    }  # fmt: skip
    assert [each["label"] for each in stored] == ["cam", "plug"]
    assert "client 556 -&gt; server 1,293" in (folder / steps.DESCRIPTION).read_text()


def _counted(rows: list[tuple[str, int, int, int, int]]) -> pa.Table:
    return pa.table([pa.array(column) for column in zip(*rows, strict=True)], schema=COUNTED)


def test_choose__a_pair_of_few_captures_or_of_one_is_not_telling() -> None:
    rows = [("cam", 0, 0, 0, capture) for capture in range(5)] + [("clock", 0, 0, 0, 9)]
    rows += [("cam", 1, 5, 6, 0), ("cam", 1, 5, 6, 1), ("clock", 1, 7, 8, 9)]
    assert choose(_counted(rows), {"cam", "clock"}) == {"cam": [], "clock": []}  # 2 of 5; 1 of 1
    found = choose(_counted([*rows, ("cam", 1, 5, 6, 2), ("cam", 1, 5, 6, 2)]), {"cam", "clock"})  # twice is once
    assert found["cam"] == [TellingPair(True, 5, 6, 3, 5, 0.0, "")]


def test_choose__the_greatest_difference_is_first_and_only_given_labels_count() -> None:
    rows = [(label, 0, 0, 0, capture) for label in ("a", "b", "c") for capture in range(4)]
    rows += [("a", 1, 1, 1, capture) for capture in range(4)] + [("b", 1, 1, 1, capture) for capture in range(2)]
    rows += [("a", 0, 2, 2, capture) for capture in range(3)] + [("c", 0, 2, 2, capture) for capture in range(4)]
    found = choose(_counted(rows), {"a", "b"})
    assert found["a"] == [TellingPair(False, 2, 2, 3, 4, 0.0, ""), TellingPair(True, 1, 1, 4, 4, 0.5, "b")]
    assert (found["b"], set(found)) == ([], {"a", "b"})  # half of b, but all of a


@pytest.mark.parametrize("seed", range(5))
def test_choose__of_equals_most_captures_then_the_pair_in_any_order(seed: int) -> None:
    """Of 10 captures each: 5 - 0, 7 - 2, twice, and 9 - 4."""
    rows = [(label, 0, 0, 0, capture) for label in ("a", "b") for capture in range(10)]
    shared = {(1, 3, 3): (5, 0), (0, 2, 2): (7, 2), (1, 2, 2): (7, 2), (1, 9, 9): (9, 4)}
    for pair, numbers in shared.items():
        for label, captures in zip(("a", "b"), numbers, strict=True):
            rows += [(label, *pair, capture) for capture in range(captures)]
    np.random.default_rng(seed).shuffle(rows)
    counted = _counted(rows).take(np.random.default_rng(seed).permutation(len(rows)))
    found = choose(counted, {"a", "b"})["a"]
    assert [(pair.captures, pair.by_client, pair.first) for pair in found] == [
        (9, True, 9),
        (7, True, 2),
        (7, False, 2),
    ]


def test_commonest__keeps_all_captures_and_the_commonest_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telling_pairs, "PAIRS", 1)
    rows = np.array([
        [0, 0, 0, 0, 1], [0, 0, 0, 0, 2], [0, 0, 5, 5, 1], [0, 1, 4, 4, 1], [0, 1, 4, 4, 2], [1, 0, 0, 0, 1],
        [1, 1, 3, 3, 1], [1, 1, 9, 9, 1],
    ])  # fmt: skip
    assert telling_pairs._commonest(rows).tolist() == rows[[0, 1, 3, 4, 5, 6]].tolist()
    assert telling_pairs._commonest(rows[:0]).tolist() == []


def test_pair_blocks__a_table_and_the_labels_without_pairs() -> None:
    pairs = {"cam": [TellingPair(True, 556, 1293, 19, 20, 0.25, "plug")], "clock": []}
    blocks = description_text.pair_blocks(pairs)
    (table,) = (block for block in blocks if isinstance(block, document.Table))
    assert table.rows == [["cam", "client 556 -> server 1,293", "95.0 %", "19 of 20", "25.0 % of plug"]]
    assert isinstance(blocks[-1], document.Paragraph)
    assert blocks[-1].text.endswith("pair: clock.")
    assert "Without" not in document.markdown(description_text.pair_blocks({"cam": pairs["cam"]}))
