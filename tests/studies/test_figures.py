"""The figure of systems' scores: which systems it has, in which order and colour."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.figure import Figure

from iotid.evaluation.figures import BLUE, ORANGE
from iotid.studies import figures


def _score(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.05, "high": value + 0.04}


def test_systems__has_flows_and_captures_of_each_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(figures, "save", lambda figure, path: drawn.append(figure))
    flows, captures = {"macro_f1": _score(0.6)}, {"accuracy": _score(0.9)}
    systems = {
        "ensemble": {"scores": {"flows": flows, "captures": captures}},
        "capture_bag": {"scores": {"captures": captures}},
        "sequence_knn": {"scores": {"flows": flows}},
    }
    figures.systems(systems, tmp_path / "capture_folds.png")  # type: ignore[arg-type]
    left, right = drawn[0].axes
    assert [label.get_text() for label in left.get_yticklabels()] == list(systems)
    assert left.yaxis_inverted()
    points = {axes: [line for line in axes.lines if line.get_marker() == "o"] for axes in (left, right)}
    assert [(line.get_xdata()[0], line.get_ydata()[0], line.get_color()) for line in points[left]] == [
        (0.6, 0, BLUE),
        (0.6, 2, ORANGE),
    ]
    assert [(line.get_xdata()[0], line.get_ydata()[0]) for line in points[right]] == [(0.9, 0), (0.9, 1)]
    bars = [line.get_xdata() for line in right.lines if line.get_marker() != "o"]
    assert [(round(low, 2), round(high, 2)) for low, high in bars] == [(0.85, 0.94)] * 2
