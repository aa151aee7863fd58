"""unlike_figure.py PNG FILE: draw what unlike_kind.py printed (FILE: its output), a panel for each laboratory."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from iotid.evaluation.figures import BLUE, GREY, ORANGE, new_figure, percent_axis, plain_axes, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MARKS: dict[str, tuple[str, dict[str, Any]]] = {
    "p_0.05": ("unlike_kind, p ≤ 0.05", {"color": BLUE, "marker": "o"}),
    "score_at_5": ("unlike_kind, at 5 % false alarms", {"color": BLUE, "marker": "o", "markerfacecolor": "none"}),
    "published": ("DIoT, as published", {"color": ORANGE, "marker": "s"}),
    "share_at_5": ("DIoT, at 5 % false alarms", {"color": ORANGE, "marker": "s", "markerfacecolor": "none"}),
}


def draw(found: dict[str, dict[str, Any]], path: Path) -> None:
    """``found``: laboratory -> result of unlike_kind.py."""
    figure = new_figure(8.4, 3.1)
    all_axes = figure.subplots(1, len(found), sharey=True, squeeze=False).ravel()
    for axes, (name, result) in zip(all_axes, found.items(), strict=True):
        _panel(axes, result["conditions"])
        axes.set_title(f"{name}: {result['captures']} captures of {result['kinds']} kinds", fontsize=9)
    all_axes[0].invert_yaxis()
    lines = all_axes[0].get_legend_handles_labels()
    figure.legend(*lines, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    save(figure, path)
    with Image.open(path) as image:
        image.quantize(24).save(path, optimize=True)  # a third of the size


def _panel(axes: Axes, conditions: dict[str, dict[str, float]]) -> None:
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


def main() -> None:
    path, file = sys.argv[1:]
    found = json.loads(Path(file).read_text().splitlines()[-1])
    draw({name: result for name, result in found.items() if isinstance(result, dict)}, Path(path))


if __name__ == "__main__":
    main()
