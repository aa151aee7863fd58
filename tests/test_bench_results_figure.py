"""The figures of the results: which numbers of a benchmark's output each shows."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

_PROGRAM = Path(__file__).parent / "bench" / "results_figure.py"
_KINDS = (1, 2, 3, 5, 8, 10)


@pytest.fixture
def figures(module_at: Callable[[Path], ModuleType]) -> ModuleType:
    return module_at(_PROGRAM)


@pytest.fixture
def drawn(figures: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    found: list[Figure] = []
    monkeypatch.setattr(figures, "_save", lambda figure, path: found.append(figure))
    return found


def _lines(axes: Axes) -> dict[str, list[float]]:
    return {str(line.get_label()): [float(each) for each in line.get_ydata()] for line in axes.lines}  # type: ignore[union-attr]


def test_draw_households__shows_exact_sets_and_what_is_noticed(figures: ModuleType, drawn: list[Figure]) -> None:
    merged: dict[str, Any] = {}
    for number in _KINDS:
        name = f"{number} kind{'s' * (number > 1)}"
        merged[name] = {"iotid": {"exact": 1 - number / 100, "missed_unknown": None, "false_unknown": 0.01}}
        merged[f"{name} + 2 elsewhere"] = {"iotid": {"exact": 0, "missed_unknown": number / 20, "false_unknown": None}}
    figures.draw_households({"merged": merged}, Path("a.png"))
    lines = list(_lines(drawn[0].axes[0]).values())
    assert lines == [
        pytest.approx([1 - number / 100 for number in _KINDS]),
        pytest.approx([1 - number / 20 for number in _KINDS]),
        pytest.approx([0.01] * 6),
    ]


def test_draw_capture__has_every_program_but_cat_the_quickest_first(figures: ModuleType, drawn: list[Figure]) -> None:
    large = {"nfstream": {"wall_s": 60.0}, "iotid": {"wall_s": 1.5}, "iotid_worker": {"wall_s": 2.0}}
    figures.draw_capture({"large": {**large, "cat": {"wall_s": 0.1}, "file_bytes": 10**9}}, Path("a.png"))
    axes = drawn[0].axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["iotid", "iotid, one worker of Spark", "nfstream"]
    assert [bar.get_width() for bar in axes.patches] == [1.5, 2.0, 60.0]  # type: ignore[attr-defined]


def test_draw_unlike__has_a_panel_for_each_laboratory(figures: ModuleType, drawn: list[Figure]) -> None:
    conditions = {"ordinary": {"p_0.05": 0.04, "published": 0.0}, "scan": {"p_0.05": 1.0, "score_at_5": 0.9}}
    site = {"captures": 9, "kinds": 3, "conditions": conditions, "seconds": 2}
    figures.draw_unlike({"lsif": site, "aalto": site, "processor": "a"}, Path("a.png"))
    assert [axes.get_title() for axes in drawn[0].axes] == [
        f"{name}: 9 captures of 3 kinds" for name in ("lsif", "aalto")
    ]
    points = [list(line.get_xdata()) for line in drawn[0].axes[0].lines]
    assert points[:3] == [[0.04, 1.0], [0.9], [0.0]]


def test_main__draws_the_last_line_of_each_file(
    figures: ModuleType, drawn: list[Figure], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cut = {"right": 0.5, "wrong": 0.1, "similar_first": 0.7, "bag": 0.6, "whole": 0.2}
    cuts = dict.fromkeys(("1 flows", "15 min", "whole"), cut)
    (tmp_path / "out").write_text("a table\n" + json.dumps({"sets": 4, "kinds": 2, "cuts": cuts}) + "\n")
    monkeypatch.setattr(sys, "argv", ["a", "traffic", "a.png", f"aalto={tmp_path / 'out'}"])
    figures.main()
    by_flows, by_minutes = drawn[0].axes[:2]
    assert by_flows.get_title() == by_minutes.get_title() == "aalto: 4 sets of 2 kinds"
    assert _lines(by_flows)["census: right"] == [0.5, 0.5]
    monkeypatch.setattr(sys, "argv", ["a", "traffic", "a.png", str(tmp_path / "out")])
    with pytest.raises(SystemExit):
        figures.main()
