"""Figures of studies as PNG files: scores of systems, drift over days, detection of unknown kinds, distributions of
traffic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from iotid.evaluation.figures import (
    BLUE,
    COLOURS,
    DASHES,
    GREY,
    ORANGE,
    colour_map,
    new_figure,
    percent_axis,
    plain_axes,
    save,
    short_name,
)
from iotid.pages import percent
from iotid.studies.describe import ENTROPY, MEAN, Distributions
from iotid.studies.open_set import DETECTION, STORED_NAMES
from iotid.studies.split_run import CAPTURES, FLOWS, OURS

if TYPE_CHECKING:
    from iotid.studies.across import Pair
    from iotid.studies.open_set import NewScore
    from iotid.studies.study import Day, SystemScores

BOXES, SIMILAR_LABELS = (
    "_boxes.png",
    "_entropy_of_look_alikes.png",
)  # ends of the names of files, after a characteristic
_TITLES = {stored: field for field, stored in STORED_NAMES.items()}
_SCORES = ((FLOWS, "macro_f1", "macro F1 of flows"), (CAPTURES, "accuracy", "captures of a device right"))
UNITS = {"packet_length": "bytes", "tcp_window": "bytes, unscaled", "payload_length": "bytes", "inter_arrival": "µs"}


def systems(scores: Mapping[str, SystemScores], path: Path) -> None:
    """Macro F1 of flows and accuracy of captures of every system, with 95 % intervals."""
    figure = new_figure(8.4, 1.4 + 0.26 * len(scores))
    panels = figure.subplots(1, 2, sharey=True)
    for axes, (of, metric, title) in zip(panels, _SCORES, strict=True):
        for row, (system, own) in enumerate(scores.items()):
            if of in own["scores"]:
                score = own["scores"][of][metric]
                axes.plot([score["low"], score["high"]], [row, row], color=GREY, linewidth=4, solid_capstyle="butt")
                axes.plot(score["value"], row, marker="o", markersize=5, color=BLUE if system in OURS else ORANGE)
        axes.set_title(title, fontsize=9)
        percent_axis(axes.xaxis)
        plain_axes(axes)
        axes.grid(axis="x", color=GREY, linewidth=0.4, alpha=0.5)
    panels[0].set_yticks(range(len(scores)), list(scores))
    panels[0].invert_yaxis()
    figure.supxlabel("blue: ours, orange: baselines; bars: 95 % intervals", fontsize=8)
    save(figure, path)


def drift(days: Sequence[Day], path: Path, title: str = "") -> None:
    """Macro F1 of every system on the flows of each later day, and the number of these flows."""
    figure = new_figure(8.4, 4.6)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    positions = range(len(days))
    for number, system in enumerate(days[0]["macro_f1"]):
        colour, dashes = COLOURS[number % len(COLOURS)], DASHES[number // len(COLOURS) % len(DASHES)]
        above.plot(
            positions,
            [day["macro_f1"][system] for day in days],
            label=system,
            color=colour,
            linestyle=dashes,
            marker="o",
            markersize=3,
            linewidth=2.4 if system in OURS else 0.8,
        )
    percent_axis(above.yaxis)
    above.set_ylim(0, 1.02)
    above.set_ylabel("macro F1 of flows")
    above.legend(frameon=False, fontsize=7.5, loc="center left", bbox_to_anchor=(1.0, 0.5), handlelength=3.2)
    below.bar(positions, [day["flows"] for day in days], color=GREY)
    below.set_ylabel("flows")
    below.set_xticks(positions, [day["day"][5:] for day in days], rotation=90 if len(days) > 15 else 0)
    below.set_xlabel("day")
    for axes in (above, below):
        plain_axes(axes)
    above.set_title(title, fontsize=10)
    save(figure, path)


def roc(scores: Mapping[str, NewScore], path: Path, title: str = "") -> None:
    """ROC curve of every score: share of new kinds detected against share of known ones reported as unknown; dotted: 95
    % detection."""
    figure = new_figure(4.8, 4.4)
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle="--")
    axes.axhline(DETECTION, color=GREY, linewidth=1, linestyle=":")
    for number, (name, score) in enumerate(scores.items()):
        curve = score["curve"]
        label = f"{_TITLES.get(name, name)}, AUROC {percent(score['auroc'])}"
        colour, dashes = COLOURS[number % len(COLOURS)], DASHES[number % len(DASHES)]
        axes.plot(curve["false_unknown"], curve["detection"], color=colour, linestyle=dashes, label=label)
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlabel("share of known devices above the threshold")
    axes.set_ylabel("share of new kinds above the threshold")
    percent_axis(axes.xaxis)
    percent_axis(axes.yaxis)
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    plain_axes(axes)
    axes.set_title(title, fontsize=10)
    save(figure, path)


def across(pairs: Sequence[Pair], path: Path) -> None:
    """For each device whose kind another site has, and each system: the share of captures whose kind has the first
    rank."""
    known = [pair for pair in pairs if pair["kind_is_learned"]]
    systems = list(known[0]["first"])
    figure = new_figure(4.4 + 0.55 * len(systems), 1.8 + 0.28 * len(known))
    axes = figure.add_subplot()
    shares = np.array([[pair["first"][system] for system in systems] for pair in known])
    axes.imshow(shares, cmap=colour_map(), vmin=0, vmax=1, aspect="auto")
    for (row, column), share in np.ndenumerate(shares):
        ink = "white" if share > 0.55 else "black"
        axes.text(column, row, f"{100 * share:.0f}", ha="center", va="center", color=ink, fontsize=7.5)
    axes.set_xticks(range(len(systems)), systems, rotation=60, ha="right")
    axes.set_yticks(range(len(known)), [f"{pair['site']}: {short_name(pair['device'])}" for pair in known])
    axes.tick_params(labelsize=7.5, length=0)
    axes.set_title("% of captures whose kind is first, site left out of training", fontsize=9)
    save(figure, path)


def draw_traffic(traffic: Distributions, groups: Mapping[str, Sequence[str]], folder: Path) -> list[str]:
    """Draw every figure of ``traffic`` in ``folder``; return the names of their files.

    ``groups``: labels whose entropies are drawn on one panel; groups of one label are left out.
    """
    known = {label for label, _, _ in traffic}
    groups = {name: [label for label in labels if label in known] for name, labels in groups.items()}
    groups = {name: labels for name, labels in groups.items() if len(labels) > 1}
    drawn = []
    for characteristic in dict.fromkeys(name for _, name, _ in traffic):
        boxes(traffic, characteristic, folder / (characteristic + BOXES))
        drawn.append(characteristic + BOXES)
        if groups:
            entropy_curves(traffic, characteristic, groups, folder / (characteristic + SIMILAR_LABELS))
            drawn.append(characteristic + SIMILAR_LABELS)
    return drawn


def boxes(traffic: Distributions, characteristic: str, path: Path, title: str = "") -> None:
    """Box plots of a characteristic's mean and entropy over the flows of every label (the paper's figures 2 and 3).

    Boxes are quartiles, whiskers reach from the 5th to the 95th percentile. Labels are sorted by the median of their
    means.
    """
    labels = [label for label, name, measure in traffic if (name, measure) == (characteristic, MEAN)]
    labels.sort(key=lambda label: traffic[label, characteristic, MEAN].quantile(0.5))
    figure = new_figure(9.6, 1.4 + 0.24 * len(labels))
    for axes, measure, unit in zip(
        figure.subplots(1, 2, sharey=True), (MEAN, ENTROPY), (UNITS.get(characteristic, ""), "bits"), strict=True
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
            boxprops={"facecolor": "#9CC9E6", "edgecolor": BLUE},
            medianprops={"color": ORANGE, "linewidth": 1.8},
            whiskerprops={"color": BLUE},
            capprops={"color": BLUE},
        )
        axes.set_yticks(range(1, len(labels) + 1), [short_name(label) for label in labels])
        axes.set_xlabel(f"{measure} of a flow's {words(characteristic)}s" + (f" ({unit})" if unit else ""))
        plain_axes(axes)
        axes.tick_params(labelsize=7.5)
    figure.suptitle(title, fontsize=10)
    save(figure, path)


def entropy_curves(
    traffic: Distributions, characteristic: str, groups: Mapping[str, Sequence[str]], path: Path
) -> None:
    """Cumulative distribution of the entropy over flows, a panel for each group of labels (figures 1 and 7)."""
    columns = min(len(groups), 3)
    rows = -(-len(groups) // columns)
    figure = new_figure(3.6 * columns, 0.4 + 3.0 * rows)
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    end = max(traffic[label, characteristic, ENTROPY].values[-1] for labels in groups.values() for label in labels)
    for axes, (group, labels) in zip(panels, groups.items(), strict=False):
        for number, label in enumerate(labels):
            spread = traffic[label, characteristic, ENTROPY]
            below = np.cumsum(spread.flows) / spread.flows.sum()
            bits, share = np.concatenate([[0.0], spread.values, [end]]), np.concatenate([[0.0], below, [1.0]])
            style = {"color": COLOURS[number % len(COLOURS)], "linestyle": DASHES[number % len(DASHES)]}
            axes.step(bits, share, where="post", label=short_name(label), **style)  # dashes keep equal curves visible
        axes.set_title(short_name(group), fontsize=9)
        axes.legend(frameon=False, fontsize=7, loc="lower right")
        axes.set_xlabel(f"entropy of a flow's {words(characteristic)}s (bits)", fontsize=8)
        axes.set_ylabel("share of flows", fontsize=8)
        percent_axis(axes.yaxis)
        plain_axes(axes)
    for unused in panels[len(groups) :]:
        unused.set_visible(False)
    save(figure, path)


def words(characteristic: str) -> str:
    """The characteristic's name in words."""
    return characteristic.replace("tcp", "TCP").replace("_", " ")
