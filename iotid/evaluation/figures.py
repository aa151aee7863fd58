"""Figures as PNG files: confusion matrices, learning curves, reliability. Colours keep apart for the colour-blind.

Figures are made without pyplot: no global state, no window system, safe in any thread.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from iotid.evaluation.open_set import DETECTION
from iotid.evaluation.schema import Bin, System
from iotid.evaluation.traffic import ENTROPY, MEAN, Traffic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from iotid.evaluation.open_set import NewScore
    from iotid.evaluation.study import Day

# Okabe and Ito's palette: told apart in every common form of colour blindness.
_BLUE, _ORANGE, _GREY = "#0072B2", "#D55E00", "#7F7F7F"
_LINES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_DASHES = ("-", "--", ":", "-.")
_UNITS = {"packet_length": "bytes", "tcp_window": "bytes, unscaled", "payload_length": "bytes", "inter_arrival": "µs"}
DPI = 150
_LABEL_WIDTH = 26  # characters of a class name on an axis


def confusion_matrix(confusion_CC: NDArray[Any], labels: Sequence[str], path: Path, title: str = "") -> None:
    """Each true class as a row of percent. Classes that have neither flows nor answers are left off.

    A row without test flows is grey; a cell that would read as 0 stays empty.
    """
    used = np.flatnonzero((confusion_CC.sum(axis=0) > 0) | (confusion_CC.sum(axis=1) > 0))
    matrix_CC, names = confusion_CC[np.ix_(used, used)], [_short(labels[index]) for index in used.tolist()]
    support_C = matrix_CC.sum(axis=1)
    with np.errstate(invalid="ignore"):
        percent_CC = 100 * matrix_CC / support_C[:, np.newaxis]
    count = len(names)
    small = count > 15
    size = max(count * (0.25 if small else 0.5), 2.4)  # inches
    figure = _figure(size + 3.2, size + 2.2)
    axes = figure.add_subplot()
    image = axes.imshow(np.ma.masked_invalid(percent_CC), cmap=_colour_map(), vmin=0, vmax=100)
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
    _write_percents(axes, percent_CC, 6.5 if small else 8)
    bar = figure.colorbar(image, ax=axes, shrink=0.6, pad=0.02)
    bar.set_label("% of the true class", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    _save(figure, path)


def ablation(system: System, path: Path, title: str = "") -> None:
    """Points of F1 that each class loses when a characteristic is hidden; above them those of the macro F1."""
    hidden = system["hidden"].values()
    names_R = ["macro F1"]
    lost_RK = [[_points(system["metrics"]["macro_f1"]["value"], each["macro_f1"]) for each in hidden]]
    for number, of_class in enumerate(system["per_class"]):
        if of_class["support"]:
            names_R.append(_short(of_class["label"]))
            lost_RK.append([_points(of_class["f1"], each["f1"][number]) for each in hidden])
    names = list(system["hidden"])
    figure = _figure(3.2 + 1.1 * len(names), 1.6 + 0.25 * len(names_R))
    axes = figure.add_subplot()
    axes.imshow(lost_RK, cmap=_colour_map(), vmin=0, vmax=100, aspect="auto")
    for (row, column), points in np.ndenumerate(np.array(lost_RK)):
        ink = "white" if points > 55 else "black"
        axes.text(column, row, f"{points:.1f}", ha="center", va="center", color=ink, fontsize=7.5)
    axes.set_xticks(range(len(names)), [f"without\n{name}" for name in names])
    axes.set_yticks(range(len(names_R)), names_R)
    axes.tick_params(labelsize=7.5, length=0)
    axes.axhline(0.5, color=_GREY, linewidth=1)
    axes.set_title(f"{title}\npoints of F1 lost" if title else "points of F1 lost", fontsize=9)
    _save(figure, path)


def learning_curves(history: Sequence[Mapping[str, Any]], path: Path, title: str = "") -> None:
    """Loss and validation macro F1 by epoch; ``history`` has a dict for each epoch, from 1, as training writes it."""
    figure = _figure(8.4, 3.4)
    left, right = figure.subplots(1, 2)
    _curve(left, history, "loss", "training", _BLUE, "o")
    _curve(left, history, "validation_loss", "validation", _ORANGE, "s")
    left.set_ylabel("cross-entropy loss")
    left.set_ylim(bottom=0)
    if left.lines:
        left.legend(frameon=False, fontsize=8)
    _curve(right, history, "validation_macro_f1", "validation", _ORANGE, "s")
    right.set_ylabel("validation macro F1")
    right.set_ylim(0, 1.02)
    scored = _measured(history, "validation_macro_f1")
    if scored:
        epoch = max(scored, key=lambda epoch: scored[epoch])
        right.axvline(epoch, color=_GREY, linewidth=1, linestyle=":")
        right.set_title(f"best {scored[epoch]:.3f} at epoch {epoch}", fontsize=9)
    for axes in (left, right):
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        _plain(axes)
    figure.suptitle(title, fontsize=10)
    _save(figure, path)


def drift(days: Sequence[Day], path: Path, title: str = "") -> None:
    """Macro F1 of every system on the flows of each later day, and how many flows there were."""
    figure = _figure(8.4, 4.6)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    places = range(len(days))
    for number, system in enumerate(days[0]["macro_f1"]):
        look = {"color": _LINES[number % len(_LINES)], "linestyle": _DASHES[number // len(_LINES) % len(_DASHES)]}
        above.plot(places, [day["macro_f1"][system] for day in days], marker="o", markersize=3, label=system, **look)
    above.set_ylim(0, 1.02)
    above.set_ylabel("macro F1 of flows")
    above.legend(frameon=False, fontsize=7.5, loc="center left", bbox_to_anchor=(1.0, 0.5), handlelength=3.2)
    below.bar(places, [day["flows"] for day in days], color=_GREY)
    below.set_ylabel("flows")
    below.set_xticks(places, [day["day"][5:] for day in days], rotation=90 if len(days) > 15 else 0)
    below.set_xlabel("day")
    for axes in (above, below):
        _plain(axes)
    above.set_title(title, fontsize=10)
    _save(figure, path)


def roc(scores: Mapping[str, NewScore], path: Path, title: str = "") -> None:
    """Share of new kinds found against known ones called unknown, of every score; dotted, where 95 % are found."""
    figure = _figure(4.8, 4.4)
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color=_GREY, linewidth=1, linestyle="--")
    axes.axhline(DETECTION, color=_GREY, linewidth=1, linestyle=":")
    for number, (name, score) in enumerate(scores.items()):
        curve = score["curve"]
        label = f"{name}, AUROC {score['auroc']:.3f}"
        colour, dashes = _LINES[number % len(_LINES)], _DASHES[number % len(_DASHES)]
        axes.plot(curve["false_unknown"], curve["detection"], color=colour, linestyle=dashes, label=label)
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlabel("share of known devices above the threshold")
    axes.set_ylabel("share of new kinds above the threshold")
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    _plain(axes)
    axes.set_title(title, fontsize=10)
    _save(figure, path)


def reliability(bins: Sequence[Bin], path: Path, title: str = "") -> None:
    """Above, accuracy against confidence, with the diagonal that a calibrated model keeps; below, where flows lie."""
    figure = _figure(4.4, 4.8)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    filled = [each for each in bins if each["flows"]]
    above.plot([0, 1], [0, 1], color=_GREY, linewidth=1, linestyle="--", label="calibrated")
    above.plot(
        [each["confidence"] for each in filled],
        [each["accuracy"] for each in filled],
        color=_BLUE,
        marker="o",
        markersize=4,
        label="observed",
    )
    above.set_ylim(-0.02, 1.02)
    above.set_ylabel("accuracy")
    above.legend(frameon=False, fontsize=8, loc="upper left")
    total = sum(each["flows"] for each in bins)
    width = bins[0]["high"] - bins[0]["low"]
    shares = [each["flows"] / total for each in bins]
    below.bar([each["low"] for each in bins], shares, width, align="edge", color=_BLUE)
    below.set_ylabel("share of flows")
    below.set_xlabel("confidence")
    below.set_xlim(0, 1)
    for axes in (above, below):
        _plain(axes)
    above.set_title(title, fontsize=10)
    _save(figure, path)


def of_traffic(traffic: Traffic, alike: Mapping[str, Sequence[str]], folder: Path) -> list[str]:
    """Every figure of ``traffic`` below ``folder``; the names of their files.

    ``alike``: groups of labels whose entropies are drawn on one panel, those with one label left out.
    """
    known = {label for label, _, _ in traffic}
    groups = {name: [label for label in labels if label in known] for name, labels in alike.items()}
    groups = {name: labels for name, labels in groups.items() if len(labels) > 1}
    drawn = []
    for characteristic in dict.fromkeys(name for _, name, _ in traffic):
        boxes(traffic, characteristic, folder / f"{characteristic}_boxes.png")
        drawn.append(f"{characteristic}_boxes.png")
        if groups:
            entropy_curves(traffic, characteristic, groups, folder / f"{characteristic}_entropy_of_look_alikes.png")
            drawn.append(f"{characteristic}_entropy_of_look_alikes.png")
    return drawn


def boxes(traffic: Traffic, characteristic: str, path: Path, title: str = "") -> None:
    """Of every label the spread over its flows of a characteristic's mean and entropy (the paper's figures 2 and 3).

    Boxes hold the middle half, whiskers reach from the 5th to the 95th percentile. Labels by their median mean.
    """
    labels = [label for label, name, measure in traffic if (name, measure) == (characteristic, MEAN)]
    labels.sort(key=lambda label: traffic[label, characteristic, MEAN].quantile(0.5))
    figure = _figure(9.6, 1.4 + 0.24 * len(labels))
    for axes, measure, unit in zip(
        figure.subplots(1, 2, sharey=True), (MEAN, ENTROPY), (_UNITS.get(characteristic, ""), "bits"), strict=True
    ):
        stats = []
        for label in labels:
            spread = traffic[label, characteristic, measure]
            low, first, middle, third, high = (spread.quantile(share) for share in (0.05, 0.25, 0.5, 0.75, 0.95))
            stats.append({"whislo": low, "q1": first, "med": middle, "q3": third, "whishi": high, "fliers": []})
        axes.bxp(
            stats,
            orientation="horizontal",
            widths=0.6,
            patch_artist=True,
            showfliers=False,
            boxprops={"facecolor": "#9CC9E6", "edgecolor": _BLUE},
            medianprops={"color": _ORANGE, "linewidth": 1.8},
            whiskerprops={"color": _BLUE},
            capprops={"color": _BLUE},
        )
        axes.set_yticks(range(1, len(labels) + 1), [_short(label) for label in labels])
        axes.set_xlabel(f"{measure} of a flow's {_words(characteristic)}s" + (f" ({unit})" if unit else ""))
        _plain(axes)
        axes.tick_params(labelsize=7.5)
    figure.suptitle(title, fontsize=10)
    _save(figure, path)


def entropy_curves(traffic: Traffic, characteristic: str, groups: Mapping[str, Sequence[str]], path: Path) -> None:
    """Share of flows whose entropy is at most so many bits, a panel for each group of labels (figures 1 and 7)."""
    columns = min(len(groups), 3)
    rows = -(-len(groups) // columns)
    figure = _figure(3.6 * columns, 0.4 + 3.0 * rows)
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    end = max(traffic[label, characteristic, ENTROPY].values[-1] for labels in groups.values() for label in labels)
    for axes, (group, labels) in zip(panels, groups.items(), strict=False):
        for number, label in enumerate(labels):
            spread = traffic[label, characteristic, ENTROPY]
            below = np.cumsum(spread.flows) / spread.flows.sum()
            bits, share = np.concatenate([[0.0], spread.values, [end]]), np.concatenate([[0.0], below, [1.0]])
            look = {"color": _LINES[number % len(_LINES)], "linestyle": _DASHES[number % len(_DASHES)]}
            axes.step(bits, share, where="post", label=_short(label), **look)  # dashes: equal curves hide each other
        axes.set_title(_short(group), fontsize=9)
        axes.legend(frameon=False, fontsize=7, loc="lower right")
        axes.set_xlabel(f"entropy of a flow's {_words(characteristic)}s (bits)", fontsize=8)
        axes.set_ylabel("share of flows", fontsize=8)
        _plain(axes)
    for unused in panels[len(groups) :]:
        unused.set_visible(False)
    _save(figure, path)


def _words(characteristic: str) -> str:
    return characteristic.replace("tcp", "TCP").replace("_", " ")


def _write_percents(axes: Axes, percent_CC: NDArray[np.float64], font: float) -> None:
    for (row, column), percent in np.ndenumerate(percent_CC):
        if percent >= 0.5:  # NaN and what would read as 0 stay empty
            ink = "white" if percent > 55 else "black"
            axes.text(column, row, f"{percent:.0f}", ha="center", va="center", color=ink, fontsize=font)


def _points(whole: float | None, without: float | None) -> float:
    return 100 * ((whole or 0.0) - (without or 0.0))


def _curve(axes: Axes, history: Sequence[Mapping[str, Any]], key: str, label: str, colour: str, marker: str) -> None:
    measured = _measured(history, key)
    if measured:
        axes.plot(list(measured), list(measured.values()), color=colour, marker=marker, markersize=3, label=label)


def _measured(history: Sequence[Mapping[str, Any]], key: str) -> dict[int, float]:
    """What was measured of ``key``, by epoch."""
    return {epoch: row[key] for epoch, row in enumerate(history, start=1) if _is_number(row.get(key))}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and bool(np.isfinite(value))


def _short(name: str) -> str:
    """The name on one line, cut in its middle: makers put what tells two models apart at either end."""
    text = " ".join(name.split())
    if len(text) > _LABEL_WIDTH:
        text = f"{text[: _LABEL_WIDTH // 2]}…{text[1 - _LABEL_WIDTH // 2 :]}"
    return text.replace("$", r"\$")  # a dollar sign would start matplotlib's mathematics


def _colour_map() -> Any:
    from matplotlib import colormaps

    return colormaps["Blues"].with_extremes(bad="#EFEFEF")


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#E3E3E3", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8)


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _save(figure: Figure, path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure).print_figure(path, dpi=DPI, format="png")
