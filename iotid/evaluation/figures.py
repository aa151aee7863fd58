"""Figures as PNG files: confusion matrices, learning curves, reliability, in colours safe for the colour-blind.

Drawn without pyplot: no global state, no window system, thread-safe.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from iotid.evaluation.schema import Bin, System
from iotid.pages import percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

# Okabe and Ito's palette: distinct in every common form of colour blindness.
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#7F7F7F"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", "--", ":", "-.")
DPI = 150
_LABEL_WIDTH = 26  # characters of a class name on an axis


def confusion_matrix(confusion_CC: NDArray[Any], labels: Sequence[str], path: Path, title: str = "") -> None:
    """Confusion matrix, each row in percent of the true class. Classes with neither flows nor answers are left out.

    A row without test flows is grey; a cell that would round to 0 is empty.
    """
    used = np.flatnonzero((confusion_CC.sum(axis=0) > 0) | (confusion_CC.sum(axis=1) > 0))
    matrix_CC, names = confusion_CC[np.ix_(used, used)], [short_name(labels[index]) for index in used.tolist()]
    support_C = matrix_CC.sum(axis=1)
    with np.errstate(invalid="ignore"):
        percent_CC = 100 * matrix_CC / support_C[:, np.newaxis]
    count = len(names)
    small = count > 15
    size = max(count * (0.3 if small else 0.5), 2.4)  # inches
    figure = new_figure(size + 3.2, size + 2.2)
    axes = figure.add_subplot()
    image = axes.imshow(np.ma.masked_invalid(percent_CC), cmap=colour_map(), vmin=0, vmax=100)
    axes.set_xticks(range(count), names, rotation=90)
    axes.set_yticks(range(count), [f"{name}  ({flows:,})" for name, flows in zip(names, support_C, strict=True)])
    axes.tick_params(labelsize=7.5 if small else 8)
    axes.tick_params(which="both", length=0)
    axes.set_xticks(np.arange(count + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(count + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="#E3E3E3", linewidth=0.5)
    axes.set_xlabel("answered")
    axes.set_ylabel("true class (test flows)")
    axes.set_title(title, fontsize=10)
    _write_percents(axes, percent_CC, 6 if small else 8)
    bar = figure.colorbar(image, ax=axes, shrink=0.6, pad=0.02)
    bar.set_label("% of the true class", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    save(figure, path)


def ablation(system: System, path: Path, title: str = "") -> None:
    """Points of macro F1, and of each class's F1, that are lost when a characteristic is hidden."""
    hidden = system["hidden"].values()
    names_R = ["macro F1"]
    lost_RK = [[_points(system["metrics"]["macro_f1"]["value"], item["macro_f1"]) for item in hidden]]
    for number, of_class in enumerate(system["per_class"]):
        if of_class["support"]:
            names_R.append(short_name(of_class["label"]))
            lost_RK.append([_points(of_class["f1"], item["f1"][number]) for item in hidden])
    names = list(system["hidden"])
    figure = new_figure(3.2 + 1.1 * len(names), 1.6 + 0.25 * len(names_R))
    axes = figure.add_subplot()
    axes.imshow(lost_RK, cmap=colour_map(), vmin=0, vmax=100, aspect="auto")
    for (row, column), points in np.ndenumerate(np.array(lost_RK)):
        ink = "white" if points > 55 else "black"
        axes.text(column, row, f"{points:.1f}", ha="center", va="center", color=ink, fontsize=7.5)
    axes.set_xticks(range(len(names)), [f"without\n{name}" for name in names])
    axes.set_yticks(range(len(names_R)), names_R)
    axes.tick_params(labelsize=7.5, length=0)
    axes.axhline(0.5, color=GREY, linewidth=1)
    axes.set_title(f"{title}\npoints of F1 lost" if title else "points of F1 lost", fontsize=9)
    save(figure, path)


def learning_curves(history: Sequence[Mapping[str, Any]], path: Path, title: str = "") -> None:
    """Loss and validation macro F1 by epoch; ``history`` has one dict per epoch, as training writes it."""
    figure = new_figure(8.4, 3.4)
    left, right = figure.subplots(1, 2)
    _curve(left, history, "loss", "training", BLUE, "o")
    _curve(left, history, "validation_loss", "validation", ORANGE, "s")
    left.set_ylabel("cross-entropy loss")
    left.set_ylim(bottom=0)
    if left.lines:
        left.legend(frameon=False, fontsize=8)
    _curve(right, history, "validation_macro_f1", "validation", ORANGE, "s")
    right.set_ylabel("validation macro F1")
    percent_axis(right.yaxis)
    right.set_ylim(0, 1.02)
    scored = _measured(history, "validation_macro_f1")
    if scored:
        epoch = max(scored, key=lambda epoch: scored[epoch])
        right.axvline(epoch, color=GREY, linewidth=1, linestyle=":")
        right.set_title(f"best {percent(scored[epoch])} at epoch {epoch}", fontsize=9)
    for axes in (left, right):
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        plain_axes(axes)
    figure.suptitle(title, fontsize=10)
    save(figure, path)


def reliability(bins: Sequence[Bin], path: Path, title: str = "") -> None:
    """Reliability diagram: accuracy against confidence, each point with its number of flows; below, their shares."""
    figure = new_figure(5.2, 5.4)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    filled = [item for item in bins if item["flows"]]
    above.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle="--", label="calibrated")
    above.plot(
        [item["confidence"] for item in filled],
        [item["accuracy"] for item in filled],
        color=BLUE,
        marker="o",
        markersize=4,
        label="observed, with the number of flows",
    )
    for item in filled:
        at = item["confidence"] or 0.0, item["accuracy"] or 0.0
        # beside the point, inside the axes
        across, side = (-5, "right") if at[0] > 0.8 else (5, "left")
        up, edge = (3, "bottom") if at[1] < 0.1 else (-3, "top")
        where = {"textcoords": "offset points", "ha": side, "va": edge}
        above.annotate(f"{item['flows']:,}", at, (across, up), fontsize=6.5, color="#1C2430", **where)
    above.set_ylim(-0.02, 1.02)
    above.set_ylabel("accuracy")
    above.legend(frameon=False, fontsize=8, loc="upper left")
    total = sum(item["flows"] for item in bins)
    width = bins[0]["high"] - bins[0]["low"]
    shares = [item["flows"] / total for item in bins]
    below.bar([item["low"] for item in bins], shares, width, align="edge", color=BLUE)
    below.set_ylabel("share of flows")
    below.set_xlabel("confidence")
    below.set_xlim(0, 1)
    for axes in (above, below):
        plain_axes(axes)
        percent_axis(axes.yaxis)
    percent_axis(below.xaxis)
    above.set_title(title, fontsize=10)
    save(figure, path)


def _write_percents(axes: Axes, percent_CC: NDArray[np.float64], font: float) -> None:
    for (row, column), value in np.ndenumerate(percent_CC):
        if value >= 0.05:  # NaN and what rounds to 0 stay empty
            ink = "white" if value > 55 else "black"
            text = "100" if value == 100 else f"{min(value, 99.9):.1f}"
            axes.text(column, row, text, ha="center", va="center", color=ink, fontsize=font)


def _points(whole: float | None, without: float | None) -> float:
    return 100 * ((whole or 0.0) - (without or 0.0))


def _curve(axes: Axes, history: Sequence[Mapping[str, Any]], key: str, label: str, colour: str, marker: str) -> None:
    measured = _measured(history, key)
    if measured:
        axes.plot(list(measured), list(measured.values()), color=colour, marker=marker, markersize=3, label=label)


def _measured(history: Sequence[Mapping[str, Any]], key: str) -> dict[int, float]:
    """The finite values of ``key``, by epoch."""
    return {epoch: row[key] for epoch, row in enumerate(history, start=1) if _is_number(row.get(key))}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and bool(np.isfinite(value))


def short_name(name: str) -> str:
    """The name on one line, shortened in the middle, because names of models often differ at either end."""
    text = " ".join(name.split())
    if len(text) > _LABEL_WIDTH:
        text = f"{text[: _LABEL_WIDTH // 2]}…{text[1 - _LABEL_WIDTH // 2 :]}"
    return text.replace("$", r"\$")  # a dollar sign would start matplotlib's math mode


def colour_map() -> Any:
    from matplotlib import colormaps

    return colormaps["Blues"].with_extremes(bad="#EFEFEF")


def plain_axes(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#E3E3E3", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8)


def percent_axis(axis: Axis) -> None:
    """Label the ticks of an axis of shares in per cent."""
    from matplotlib.ticker import PercentFormatter

    axis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))


def new_figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def save(figure: Figure, path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure).print_figure(path, dpi=DPI, format="png")
