"""results_figure.py traffic|households|unlike|capture PNG FILE…: draw what a benchmark printed (FILE: its output).

traffic NAME=FILE…: the answer after little traffic; FILE is what traffic.py printed for the laboratory NAME. A panel
for the first flows, and one for the first minutes where most sets last longer than a quarter of an hour.
households FILE: exact sets, and what is unknown noticed, by the number of kinds behind an address (households.py).
unlike FILE: captures called unlike their kind, by what was mixed in, a panel for each laboratory (unlike_kind.py).
capture FILE: seconds that each program takes from 1 GB of captures to flows (capture.py --captures DIR).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from iotid.evaluation.figures import BLUE, COLOURS, GREY, ORANGE, new_figure, percent_axis, plain_axes, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LINES = {
    "right": ("census: right", {"color": BLUE, "marker": "o"}),
    "wrong": ("census: wrong", {"color": ORANGE, "marker": "s"}),
    "similar_first": ("most similar kind: right", {"color": COLOURS[2], "marker": "^", "linestyle": "--"}),
    "bag": ("capture_bag: right", {"color": COLOURS[3], "marker": "v", "linestyle": "-."}),
}
_MARKS: dict[str, tuple[str, dict[str, Any]]] = {
    "p_0.05": ("unlike_kind, p ≤ 0.05", {"color": BLUE, "marker": "o"}),
    "score_at_5": ("unlike_kind, at 5 % false alarms", {"color": BLUE, "marker": "o", "markerfacecolor": "none"}),
    "published": ("DIoT, as published", {"color": ORANGE, "marker": "s"}),
    "share_at_5": ("DIoT, at 5 % false alarms", {"color": ORANGE, "marker": "s", "markerfacecolor": "none"}),
}
_UNITS = {" flows": "first flows", " min": "first minutes"}


def draw_traffic(found: dict[str, dict[str, Any]], path: Path) -> None:
    """``found``: laboratory -> result of traffic.py."""
    panels = [(name, " flows") for name in found]
    panels += [(name, " min") for name, result in found.items() if result["cuts"]["15 min"]["whole"] < 0.5]
    rows = -(-len(panels) // 2)
    figure = new_figure(8, 0.4 + 2.7 * rows)
    all_axes = figure.subplots(rows, 2, sharey=True, squeeze=False).ravel()
    for axes, (name, unit) in zip(all_axes, panels, strict=False):
        _panel(axes, found[name]["cuts"], unit)
        axes.set_title(f"{name}: {found[name]['sets']} sets of {found[name]['kinds']} kinds", fontsize=9)
    for unused in all_axes[len(panels) :]:
        unused.set_visible(False)
    lines = all_axes[0].get_legend_handles_labels()
    figure.legend(*lines, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    _save(figure, path)


def _panel(axes: Axes, cuts: dict[str, dict[str, float]], unit: str) -> None:
    shown = [cut for cut in cuts if cut.endswith(unit)]
    for key, (label, style) in _LINES.items():
        shares = [cuts[cut][key] for cut in (*shown, "whole")]
        axes.plot(range(len(shares)), shares, label=label, markersize=3.5, linewidth=1.4, **style)
    axes.set_xticks(range(len(shown) + 1), [*(f"{int(cut.removesuffix(unit)):,}" for cut in shown), "all"])
    axes.set_xlabel(_UNITS[unit], fontsize=8)
    axes.set_ylim(-0.02, 1.04)
    percent_axis(axes.yaxis)
    plain_axes(axes)


def draw_households(result: dict[str, Any], path: Path) -> None:
    """``result`` of households.py."""
    merged, kinds = result["merged"], (1, 2, 3, 5, 8, 10)
    rows = {
        "exact sets of kinds": ("exact", ""),
        "two unlearned devices beside them: noticed": ("missed_unknown", " + 2 elsewhere"),
        "nothing unlearned: said all the same": ("false_unknown", ""),
    }
    figure = new_figure(7, 3.4)
    axes = figure.add_subplot()
    for number, (label, (metric, more)) in enumerate(rows.items()):
        found = [merged[f"{count} kind{'s' * (count > 1)}{more}"]["iotid"][metric] for count in kinds]
        shares = [1 - share if metric.startswith("missed") else share for share in found]
        axes.plot(kinds, shares, label=label, color=COLOURS[number], marker="os^"[number], markersize=4)
    axes.set_xticks(kinds)
    axes.set_xlabel("kinds behind one address", fontsize=8)
    axes.set_ylim(-0.02, 1.04)
    percent_axis(axes.yaxis)
    plain_axes(axes)
    axes.legend(loc="center right", frameon=False, fontsize=8)
    _save(figure, path)


def draw_capture(result: dict[str, Any], path: Path) -> None:
    """``result`` of capture.py."""
    programs = {name: own for name, own in result["large"].items() if isinstance(own, dict) and "wall_s" in own}
    seconds = {name: own["wall_s"] for name, own in programs.items() if name != "cat"}
    names = sorted(seconds, key=lambda name: seconds[name])
    figure = new_figure(7, 0.9 + 0.4 * len(names))
    axes = figure.add_subplot()
    bars = axes.barh(
        range(len(names)),
        [seconds[name] for name in names],
        color=[BLUE if name.startswith("iotid") else ORANGE for name in names],
    )
    axes.bar_label(bars, [f" {seconds[name]:.1f} s" for name in names], fontsize=8)
    axes.set_yticks(range(len(names)), [name.replace("_worker", ", one worker of Spark") for name in names])
    axes.invert_yaxis()
    axes.set_xlabel("seconds for 1 GB of captures, whole process", fontsize=8)
    axes.margins(x=0.12)
    plain_axes(axes)
    _save(figure, path)


def draw_unlike(result: dict[str, Any], path: Path) -> None:
    """``result`` of unlike_kind.py."""
    found = {name: own for name, own in result.items() if isinstance(own, dict)}  # by laboratory
    figure = new_figure(8.4, 3.1)
    all_axes = figure.subplots(1, len(found), sharey=True, squeeze=False).ravel()
    for axes, (name, own) in zip(all_axes, found.items(), strict=True):
        _unlike_panel(axes, own["conditions"])
        axes.set_title(f"{name}: {own['captures']} captures of {own['kinds']} kinds", fontsize=9)
    all_axes[0].invert_yaxis()
    lines = all_axes[0].get_legend_handles_labels()
    figure.legend(*lines, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    _save(figure, path)


def _unlike_panel(axes: Axes, conditions: dict[str, dict[str, float]]) -> None:
    for number, (key, (label, style)) in enumerate(_MARKS.items()):
        shown = [(row, each[key]) for row, each in enumerate(conditions.values()) if key in each]
        beside = 0.12 * (number - (len(_MARKS) - 1) / 2)
        axes.plot(
            [share for _, share in shown], [row + beside for row, _ in shown], linestyle="", markersize=4.5,
            label=label, **style,
        )  # fmt: skip
    axes.axvline(0.05, color=GREY, linewidth=0.8, linestyle=":")
    axes.set_yticks(range(len(conditions)), list(conditions))
    axes.set_xlim(-0.03, 1.03)
    axes.set_xlabel("captures called unlike", fontsize=8)
    percent_axis(axes.xaxis)
    plain_axes(axes)


def _save(figure: Figure, path: Path) -> None:
    save(figure, path)
    with Image.open(path) as image:
        image.quantize(24).save(path, optimize=True)  # a third of the size


def _result(file: str) -> dict[str, Any]:
    """The last line that a benchmark printed."""
    return dict(json.loads(Path(file).read_text().splitlines()[-1]))


_DRAW = {"households": draw_households, "unlike": draw_unlike, "capture": draw_capture}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("benchmark", choices=("traffic", *_DRAW))
    options.add_argument("png", type=Path)
    options.add_argument("files", nargs="+", metavar="FILE")
    given = options.parse_args()
    if given.benchmark == "traffic":
        if not all("=" in each for each in given.files):
            options.error("traffic: each FILE needs the laboratory's name before it; give aalto=FILE")
        draw_traffic({name: _result(file) for name, file in (each.split("=", 1) for each in given.files)}, given.png)
    else:
        _DRAW[given.benchmark](_result(given.files[0]), given.png)


if __name__ == "__main__":
    main()
