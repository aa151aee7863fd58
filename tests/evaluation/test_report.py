"""The page: self-contained, escaped, and with a correct comparison."""

from __future__ import annotations

import copy
import dataclasses
import json
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from iotid.config import load_settings
from iotid.evaluation.report import device_metrics, flatten_metrics, verdicts, write_report
from iotid.evaluation.scoring import score

_SETTINGS = load_settings(overrides=["evaluation.baselines=[majority_sequence]", "evaluation.bootstrap=20"]).evaluation
_HOSTILE = "</title><script>alert('x')</script><img src=x onerror=alert(1)>\" & \u202e名"


class _Page(HTMLParser):
    """Elements, attributes and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        self.attributes += attrs
        self.text += " "

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def report(small: Any, oracle: Any) -> Any:
    return score(small.identity, small.encoding, small.train, small.test, {"ensemble": oracle}, _SETTINGS)[0]


def test_write_report__writes_json_page_and_figures(report: Any, tmp_path: Path) -> None:
    history = [{"loss": 1.0, "validation_macro_f1": 0.5}]
    page = write_report(report, tmp_path / "report", history=history)
    assert page == tmp_path / "report" / "report.html"
    assert json.loads((tmp_path / "report" / "report.json").read_text()) == report
    assert sorted(path.name for path in (tmp_path / "report" / "figures").iterdir()) == [
        "ablation_ensemble.png",
        "confusion_ensemble.png",
        "confusion_majority_sequence.png",
        "learning_curves.png",
        "reliability_ensemble.png",
        "reliability_majority_sequence.png",
    ]


def test_write_report__with_look_alikes_there_is_a_matrix_with_them_merged(
    small: Any, oracle: Any, tmp_path: Path
) -> None:
    acme = {"vendor": "Acme", "type": "thing"}
    encoding = dataclasses.replace(small.encoding, devices={"plug": acme, "kettle": acme})
    report, answers = score(small.identity, encoding, small.train, small.test, {"ensemble": oracle}, _SETTINGS)
    page = write_report(report, tmp_path, answers=answers)
    assert (tmp_path / "figures/confusion_ensemble_merged.png").stat().st_size > 1000
    assert "classes of one vendor and type as one, 2 in all" in " ".join(_Page(page.read_text()).text.split())
    assert pq.read_table(tmp_path / "predictions.parquet").equals(answers)


def test_write_report__page_reads_nothing_from_elsewhere(report: Any, tmp_path: Path) -> None:
    page = _Page(write_report(report, tmp_path, history=[{"loss": 1.0}]).read_text())
    sources = [value for name, value in page.attributes if name in ("src", "href", "srcset", "action", "data")]
    assert len(sources) == 6
    assert all(value and value.startswith("data:image/png;base64,") for value in sources)
    assert not {"script", "link", "iframe", "object"} & set(page.elements)


@pytest.mark.filterwarnings("ignore:Glyph .* missing")  # the figures' font has no Chinese; the page has
def test_write_report__hostile_names_stay_text(small: Any, oracle: Any, tmp_path: Path) -> None:
    encoding = dataclasses.replace(small.encoding, labels=("cam", _HOSTILE, "kettle"))
    identity = {**small.identity, "name": _HOSTILE}
    models = {_HOSTILE: dataclasses.replace(oracle, encoding=encoding)}
    report, _ = score(identity, encoding, small.train, small.test, models, _SETTINGS)
    page = _Page(write_report(report, tmp_path).read_text())
    assert "script" not in page.elements
    assert page.elements.count("img") == 5
    assert "onerror" not in [name for name, _ in page.attributes]
    assert page.text.count(_HOSTILE) >= 5


def test_write_report__shows_leakage_ceiling_and_every_class(report: Any, tmp_path: Path) -> None:
    report = copy.deepcopy(report)
    report["systems"]["ensemble"]["per_class"][1].update(precision=None, recall=None, f1=None, support=0)
    for hidden in report["systems"]["ensemble"]["hidden"].values():
        hidden["f1"][1] = None
    text = " ".join(_Page(write_report(report, tmp_path).read_text()).text.split())
    assert f"Leakage {100 * report['leakage']:.1f} %." in text
    assert f"Ceiling {100 * report['ceiling']:.1f} %." in text
    assert "plug — — — — — 0" in text
    macro_f1 = report["systems"]["ensemble"]["metrics"]["macro_f1"]
    assert f"{100 * macro_f1['low']:.1f} to {100 * macro_f1['high']:.1f} %" in text


def test_flatten_metrics__has_every_systems_metrics(report: Any) -> None:
    numbers = flatten_metrics(report)
    baseline = report["systems"]["majority_sequence"]
    assert (numbers["test.leakage"], numbers["test.ceiling"]) == (report["leakage"], report["ceiling"])
    assert numbers["test.majority_sequence.macro_f1"] == baseline["metrics"]["macro_f1"]["value"]
    assert numbers["test.majority_sequence.macro_f1_merged"] == baseline["coarse"]["macro_f1"]["value"]
    assert len(numbers) == 2 + 2 * 2 * len(baseline["metrics"])


def test_write_report__refuses_what_is_not_json(report: Any, tmp_path: Path) -> None:
    report["ceiling"] = float("nan")
    with pytest.raises(ValueError, match="Out of range float"):
        write_report(report, tmp_path)


@pytest.mark.parametrize(
    ("ours", "theirs", "words", "standing"),
    [
        (
            (0.9, 0.88, 0.92),
            (0.8, 0.78, 0.82),
            "; 10.0 points above the best baseline, majority_sequence, which has macro F1 80.0 %.",
            "above",
        ),
        (
            (0.9, 0.78, 0.92),
            (0.8, 0.78, 0.82),
            "; no clear difference from the best baseline, majority_sequence, which has macro F1 80.0 %: their 95 % "
            "intervals overlap.",
            "unclear",
        ),
        (
            (0.8, 0.78, 0.82),
            (0.8, 0.78, 0.82),
            "no clear difference from the best baseline, majority_sequence, which has macro F1 80.0 %.",
            "unclear",
        ),
        (
            (0.7, None, None),
            (0.8, None, None),
            "; 10.0 points below the best baseline, majority_sequence, which has macro F1 80.0 % (no intervals: "
            "evaluation.bootstrap is 0).",
            "below",
        ),
    ],
)
def test_verdicts__compare_with_the_best_baseline(
    report: Any, ours: Any, theirs: Any, words: str, standing: str
) -> None:
    report = copy.deepcopy(report)
    for name, (value, low, high) in (("ensemble", ours), ("majority_sequence", theirs)):
        report["systems"][name]["metrics"]["macro_f1"] = {"value": value, "low": low, "high": high}
    [verdict] = verdicts(report)
    assert verdict.sentence.endswith(words)
    assert verdict.standing == standing


def test_verdicts__without_baselines_says_so(small: Any, oracle: Any) -> None:
    settings = load_settings(overrides=["evaluation.baselines=[]", "evaluation.bootstrap=0"]).evaluation
    report, _ = score(small.identity, small.encoding, small.train, small.test, {"ensemble": oracle}, settings)
    [verdict] = verdicts(report)
    assert "no baseline was scored" in verdict.sentence
    assert verdict.standing == "alone"


def test_write_report__page_has_one_unit_one_main_and_headings_in_order(report: Any, tmp_path: Path) -> None:
    page = _Page(write_report(report, tmp_path).read_text().partition("</style>")[2])
    assert page.elements.count("main") == 1
    headings = [int(element[1]) for element in page.elements if element in ("h1", "h2", "h3")]
    assert headings[:2] == [1, 2]
    assert all(later <= earlier + 1 for earlier, later in pairwise(headings))
    shares = re.findall(r"[0-9]+\.[0-9]+ %?", page.text)
    assert shares
    assert all(re.fullmatch(r"[0-9]+\.[0-9] %", share) for share in shares if share.endswith("%"))


def test_write_report__shows_whole_devices_of_each_kind(report: Any, tmp_path: Path) -> None:
    counts = {"recordings": 8, "right": 5, "wrong": 1, "undecided": 0, "unknown": 2}
    acme = {**counts, "kind": "Acme camera", "learned": True, "mistaken_for": "Volt plug"}
    strange = {**dict.fromkeys(counts, 0), "recordings": 1, "unknown": 1, "kind": "Zed", "learned": False}
    nights = {**counts, "kinds": [acme, {**strange, "mistaken_for": None}]}
    report["systems"]["ensemble"]["whole_devices"] = nights
    text = " ".join(_Page(write_report(report, tmp_path).read_text()).text.split())
    assert "ensemble: 62.5 % of 8 device nights right" in text
    assert (
        "All 8 5 62.5 % 1 12.5 % 0 0.0 % 2 25.0 % — Acme camera 8 5 1 0 2 Volt plug Zed (not learned) 1 0 0 0 1 —"
        in text
    )
    assert device_metrics(report) == {
        "test.ensemble.whole_devices.right": 0.625,
        "test.ensemble.whole_devices.wrong": 0.125,
        "test.ensemble.whole_devices.undecided": 0.0,
        "test.ensemble.whole_devices.unknown": 0.25,
    }
