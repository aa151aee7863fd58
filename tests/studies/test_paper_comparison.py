"""The paper's tables as data, and measurements beside them: counts under every reading, scores with their remarks."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import pytest

from iotid.config import load_settings
from iotid.evaluation.schema import Report
from iotid.evaluation.scoring import score
from iotid.studies import paper, paper_comparison
from iotid.studies.paper import Counts, PaperNumbers, Scores
from iotid.studies.paper_comparison import ASSEMBLIES, ReadingCounts, ScoreComparison

TCP, UDP = 6, 17
PLAIN, PER_FILE, TIMED, TIMED_PER_FILE = ASSEMBLIES
BY_DEVICE = Counts.model_validate(
    {
        "where": "Table 1",
        "devices": 2,
        "flows": 30,
        "of_devices": [
            {"device": "cam", "printed": "Camera", "flows": 20},
            {"device": "plug", "printed": "Plug", "flows": 10},
        ],
    }
)
TOTAL = Counts(where="Table 2", devices=2, flows=30)
SCORES = Scores.model_validate(
    {
        "where": "Table 3",
        "label": "name",
        "classes": 4,
        "systems": {
            "KNN": {"A": 50, "P": 40, "R": 30, "F1": 20},
            "Our method": {"A": 99.97, "P": 96.73, "R": 93.47, "F1": 94.61},
        },
        "ours": {"Our method": "challenger"},
        "remarks": [
            {"cells": {"KNN": ["A", "F1"]}, "misprint": False, "text": "On windows."},
            {"cells": {"Our method": ["A"]}, "misprint": True, "text": "Cannot be."},
        ],
    }
)


def _printed(counts: Counts) -> PaperNumbers:
    return PaperNumbers(title="Tiny", captures="captures", counts=counts, scores=(SCORES,), notes=("A note.",))


def _compare(counts: Counts, **flows: dict[str, tuple[int, int]]) -> list[ReadingCounts]:
    """``flows``: device -> flows of TCP and of UDP, by the assembly's name."""
    counted = {
        each: {
            (device, protocol): number
            for device, pair in flows[each.name.replace("-", "_")].items()
            for protocol, number in zip((TCP, UDP), pair, strict=True)
        }
        for each in ASSEMBLIES
        if each.name.replace("-", "_") in flows
    }
    return paper_comparison.compare(counts, ["cam", "plug"], counted)


@pytest.mark.parametrize("dataset", paper.DATASETS)
def test_tables__every_device_is_on_the_list_and_printed_flows_add_up(dataset: str) -> None:
    printed = paper.read(dataset)
    kept = printed.counts.select(paper.device_list(dataset))
    assert len(kept.devices) == {"sosr19": 24}.get(dataset, printed.counts.devices)  # which 15 is not known
    if printed.counts.of_devices:
        assert sum(row.flows for row in printed.counts.of_devices) == printed.counts.flows
        assert {row.device for row in printed.counts.of_devices} == set(kept.labels("name"))
    for scores in printed.scores:
        assert set(scores.ours) <= set(scores.systems)
        assert all(set(row) == {"A", "P", "R", "F1"} for row in scores.systems.values())
        assert all(set(remark.cells) <= set(scores.systems) for remark in scores.remarks)


def test_tables__accuracy_of_tmc18_cannot_go_with_its_recall() -> None:
    printed = paper.read("tmc18")
    flows = sorted(row.flows / 10 for row in printed.counts.of_devices)
    ours = printed.scores[0].systems["Our method"]
    most_errors = (100 - (ours["A"] - 0.005)) / 100 * sum(flows)
    assert 5 <= most_errors < 6
    worst_recall = 100 * (1 - 5 / flows[0] / len(flows))  # all errors in the smallest class
    assert worst_recall > 97 > ours["R"]
    (remark,) = [each for each in printed.scores[0].remarks if each.misprint]
    assert remark.cells == {"Our method": ("A",)}


def test_tables__precision_and_recall_of_the_forest_on_iot23_make_another_f1() -> None:
    printed = paper.read("iot23").scores[0].systems["RF"]
    lack = 3 * (1 - printed["P"] / 100)  # of precision, distributed over three classes in thirds
    found = [
        100 * sum(2 * p * r / (p + r) for p, r in zip(precisions, [printed["R"] / 100] * 3, strict=True)) / 3
        for shares in ((3, 0, 0), (2, 1, 0), (1, 1, 1))
        for share in set(permutations(shares))
        for precisions in [[1 - lack * part / 3 for part in share]]
    ]
    assert all(abs(f1 - 99.69) < 0.01 for f1 in found)
    assert printed["F1"] == 99.14


def test_tables__one_error_of_56_flows_is_the_accuracy_of_iot23() -> None:
    scores = paper.read("iot23").scores[0].systems
    assert round(100 * 55 / 56, 2) == scores["Our method"]["A"]
    assert int(10000 * 56 / 57) / 100 == scores["IoT ETEI"]["A"]
    reached = [tested for tested in range(1, 1000) if abs(100 * (tested - 1) / tested - scores["RF"]["A"]) < 0.005]
    assert reached[0] == 870


def test_compare__protocols_are_a_filter_and_the_nearest_reading_is_found() -> None:
    compared = _compare(
        BY_DEVICE,
        joined={"cam": (19, 5), "plug": (9, 2)},
        files={"cam": (40, 5), "plug": (11, 0)},
        joined_timeouts={"cam": (50, 9), "plug": (50, 9)},
        files_timeouts={"cam": (70, 9), "plug": (70, 9)},
    )
    assert [each.total for each in compared] == [35, 28, 56, 51, 118, 100, 158, 140]
    assert [each.difference for each in compared] == [5, -2, 26, 21, 88, 70, 128, 110]
    best = paper_comparison.nearest(compared)
    assert best.reading == "no time-outs, joined, TCP"
    assert best.differences == {"cam": -1, "plug": -1}
    assert best.distance == 2


def test_compare__an_equal_total_of_unequal_devices_is_not_near() -> None:
    compared = _compare(BY_DEVICE, joined={"cam": (10, 0), "plug": (20, 0)}, files={"cam": (18, 0), "plug": (9, 0)})
    assert compared[0].difference == 0
    assert compared[0].distance == 20
    assert paper_comparison.nearest(compared).assembly == PER_FILE


def test_compare__a_device_without_flows_lacks_all_printed_ones() -> None:
    (both, tcp) = _compare(BY_DEVICE, joined={"cam": (20, 0)})
    assert tcp.flows == {"cam": 20, "plug": 0}
    assert tcp.differences == {"cam": 0, "plug": -10}
    text = paper_comparison.counts_text(_printed(BY_DEVICE), [both, tcp])
    assert "| no time-outs | joined | TCP | 20 | -10 | 1 | plug -10 |" in text
    assert "| plug | Plug | 10 | 0 | -10 |" in text


def test_compare__other_labels_do_not_count() -> None:
    (_, tcp) = paper_comparison.compare(BY_DEVICE, ["cam", "plug"], {PLAIN: {("cam", TCP): 20, ("phone", TCP): 99}})
    assert tcp.total == 20


def test_nearest__of_equal_ones_the_first_is_taken_and_the_page_names_the_others() -> None:
    compared = _compare(TOTAL, joined={"cam": (25, 10)}, files={"cam": (35, 1)})
    assert [each.distance for each in compared] == [5, 5, 6, 5]
    assert paper_comparison.nearest(compared) is compared[0]
    text = paper_comparison.counts_text(_printed(TOTAL), compared)
    assert "Nearest: no time-outs, joined, TCP and UDP (5: absolute difference of the totals)." in text
    assert "As near: no time-outs, joined, TCP; no time-outs, per file, TCP." in text
    assert "not printed by device" in text


def test_readings__settings_load_and_differ() -> None:
    compared = paper_comparison.compare(TOTAL, [], {each: {} for each in ASSEMBLIES})
    made = {load_settings(["paper.yaml"], each.overrides).model_dump_json() for each in compared}
    assert len(made) == 8
    plain = load_settings(["paper.yaml"], compared[0].overrides)
    assert plain.flow == load_settings(["paper.yaml"]).flow
    assert plain.dataset == load_settings(["paper.yaml"]).dataset
    timed = load_settings(["paper.yaml"], compared[-1].overrides)
    assert (timed.flow.idle_timeout_s, timed.flow.active_timeout_s) == (120, 1800)
    assert timed.dataset.protocols == (TCP,)


def _report(small: Any, oracle: Any) -> Report:
    settings = load_settings(overrides=["evaluation.baselines=[majority_sequence]", "evaluation.bootstrap=0"])
    models = {"challenger": oracle}
    return score(small.identity, small.encoding, small.train, small.test, models, settings.evaluation)[0]


def test_scores_text__has_printed_and_measured_scores_and_remarks(small: Any, oracle: Any) -> None:
    report = _report(small, oracle)
    text = paper_comparison.scores_text(_printed(TOTAL), ScoreComparison(SCORES, report, "somewhere/report.html"))
    measured = {
        name: [f"{100 * own['metrics'][metric]['value']:.2f}" for metric in ("accuracy", "macro_f1")]
        for name, own in report["systems"].items()
    }
    rows = {line.split(" | ")[0]: line.strip("|").split(" | ") for line in text.splitlines() if line.startswith("| ")}
    assert rows["| KNN"][1:3] == ["50.00 [1]", ""]
    ours = rows["| Our method = challenger"]
    assert ours[1:3] == ["99.97 [2]", measured["challenger"][0]]
    assert [cell.strip() for cell in ours[7:]] == ["94.61", measured["challenger"][1]]
    baseline = rows["| majority_sequence"]
    assert [cell.strip() for cell in baseline[1:3]] == ["", measured["majority_sequence"][0]]
    assert "[1] On windows." in text
    assert "[2] Misprint: Cannot be." in text
    assert "These are 3 classes, not the paper's 4" in text


def test_to_json__has_every_reading_and_every_score(small: Any, oracle: Any) -> None:
    compared = _compare(BY_DEVICE, joined={"cam": (19, 5), "plug": (9, 2)})
    result = paper_comparison.to_json(
        _printed(BY_DEVICE), compared, [ScoreComparison(SCORES, _report(small, oracle), "report.html")]
    )
    assert [each["total"] for each in result["readings"]] == [35, 28]
    assert result["nearest"] == result["readings"][1]["reading"]
    assert result["readings"][1]["differences"] == {"cam": -1, "plug": -1}
    assert set(result["scores"][0]["systems"]) == {"challenger", "majority_sequence"}
    assert 0 <= result["scores"][0]["systems"]["challenger"]["F1"] <= 100
