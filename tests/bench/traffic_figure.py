"""traffic_figure.py PNG NAME=FILE…: draw what traffic.py printed for each laboratory (FILE: its output).

A panel for the first flows, and one for the first minutes where most sets last longer than a quarter of an hour.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from iotid.evaluation.figures import BLUE, COLOURS, ORANGE, new_figure, percent_axis, plain_axes, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LINES = {
    "right": ("census: right", {"color": BLUE, "marker": "o"}),
    "wrong": ("census: wrong", {"color": ORANGE, "marker": "s"}),
    "similar_first": ("most similar kind: right", {"color": COLOURS[2], "marker": "^", "linestyle": "--"}),
    "bag": ("capture_bag: right", {"color": COLOURS[3], "marker": "v", "linestyle": "-."}),
}
_UNITS = {" flows": "first flows", " min": "first minutes"}


def draw(found: dict[str, dict[str, Any]], path: Path) -> None:
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
    save(figure, path)
    with Image.open(path) as image:
        image.quantize(24).save(path, optimize=True)  # a third of the size


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


def main() -> None:
    path, *given = sys.argv[1:]
    files = dict(each.split("=", 1) for each in given)
    draw({name: json.loads(Path(file).read_text().splitlines()[-1]) for name, file in files.items()}, Path(path))


if __name__ == "__main__":
    main()
