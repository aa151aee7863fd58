"""Figures: their content, and that axis labels do not overlap."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from iotid.evaluation import figures, metrics

_PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Figures that were saved, as matplotlib's objects."""
    kept: list[Any] = []
    save = figures.save
    monkeypatch.setattr(figures, "save", lambda figure, path: (kept.append(figure), save(figure, path)))
    return kept


def _labels_overlap(axis: Any, renderer: Any) -> bool:
    boxes = [label.get_window_extent(renderer) for label in axis.get_ticklabels() if label.get_text()]
    return any(first.overlaps(second) for first, second in itertools.pairwise(boxes))


@pytest.mark.parametrize("classes", [1, 4, 12, 40])
def test_confusion_matrix__labels_do_not_overlap_and_stay_inside(
    classes: int, drawn: list[Any], tmp_path: Path
) -> None:
    names = [f"A Vendor of Long Names, device number {index}" for index in range(classes)]
    matrix = np.eye(classes, dtype=int) * 123_456 + 40_000
    figures.confusion_matrix(matrix, names, tmp_path / "confusion.png", "title")
    assert (tmp_path / "confusion.png").read_bytes().startswith(_PNG)
    figure = drawn[0]
    axes = figure.axes[0]
    renderer = FigureCanvasAgg(figure).get_renderer()
    assert not _labels_overlap(axes.xaxis, renderer)
    assert not _labels_overlap(axes.yaxis, renderer)
    edge = figure.bbox
    for label in [*axes.get_xticklabels(), *axes.get_yticklabels()]:
        box = label.get_window_extent(renderer)
        assert edge.x0 <= box.x0 <= box.x1 <= edge.x1
        assert edge.y0 <= box.y0 <= box.y1 <= edge.y1
    texts = [text.get_text() for text in axes.get_xticklabels()]
    assert len(set(texts)) == classes, "cutting long names must not make two the same"


def test_confusion_matrix__rows_are_percent_and_unused_classes_are_left_out(drawn: list[Any], tmp_path: Path) -> None:
    matrix = np.array([[3, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 8]])
    figures.confusion_matrix(matrix, ["a$b$", "wrong only", "unused", "d"], tmp_path / "confusion.png")
    axes = drawn[0].axes[0]
    assert [text.get_text() for text in axes.get_yticklabels()] == [r"a\$b\$  (4)", "wrong only  (0)", "d  (8)"]
    assert sorted(text.get_text() for text in axes.texts) == ["100", "25.0", "75.0"]
    assert axes.images[0].get_array().mask[1].all(), "a row without test flows has no percent"


def test_learning_curves__skip_epochs_without_a_value(drawn: list[Any], tmp_path: Path) -> None:
    history = [
        {"loss": 2.0, "validation_macro_f1": 0.2},
        {"loss": 1.0, "validation_macro_f1": float("nan"), "validation_loss": 1.5},
        {"loss": 0.5, "validation_macro_f1": 0.6, "validation_loss": None},
    ]
    figures.learning_curves(history, tmp_path / "curves.png")
    left, right = drawn[0].axes
    assert [list(line.get_xdata()) for line in left.lines] == [[1, 2, 3], [2]]
    assert list(right.lines[0].get_xdata()) == [1, 3]
    assert right.get_title() == "best 60.0 % at epoch 3"


def test_learning_curves__one_epoch_and_no_epoch_are_drawn(tmp_path: Path) -> None:
    figures.learning_curves([{"loss": 2.0}], tmp_path / "one.png")
    figures.learning_curves([], tmp_path / "none.png")
    assert (tmp_path / "one.png").read_bytes().startswith(_PNG)
    assert (tmp_path / "none.png").read_bytes().startswith(_PNG)


def test_reliability__empty_bins_are_not_drawn(drawn: list[Any], tmp_path: Path) -> None:
    bins = metrics.reliability(np.array([0.95, 0.5]), np.array([True, False]), np.array([3, 1]))
    figures.reliability(bins, tmp_path / "reliability.png")
    above, below = drawn[0].axes
    assert list(above.lines[1].get_ydata()) == [0, 1]
    assert [text.get_text() for text in above.texts] == ["1", "3"], "flows at each point"
    assert sorted(bar.get_height() for bar in below.patches)[-2:] == [0.25, 0.75]
