"""Line charts and bars by capture date, as SVG paths. The drawing has no text, so it may be stretched to any width.

Shape suffixes: D dates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from itertools import pairwise
from typing import Any

WIDTH, HEIGHT = 300.0, 90.0  # of the view box
_MARGIN = 3.0  # above and below lines


@dataclass(frozen=True)
class Axis:
    """Capture dates from ``first`` to ``last`` along the width; dates that are not stored leave a gap."""

    first: date
    last: date
    dates: Sequence[date]

    @classmethod
    def of(cls, dates: Sequence[str]) -> Axis:
        parsed = [date.fromisoformat(each) for each in dates]
        return cls(parsed[0], parsed[-1], parsed)

    @property
    def step(self) -> float:
        """Width of one day."""
        return WIDTH / ((self.last - self.first).days + 1)

    def x(self, number: int) -> float:
        """The middle of the day of date ``number``."""
        return ((self.dates[number] - self.first).days + 0.5) * self.step

    def runs(self, values: Sequence[Any]) -> list[list[int]]:
        """Numbers of dates in a row that have a value, in runs of consecutive days."""
        known = [number for number, value in enumerate(values) if value is not None]
        runs: list[list[int]] = [known[:1]] if known else []
        for before, number in pairwise(known):
            if number == before + 1 and (self.dates[number] - self.dates[before]).days == 1:
                runs[-1].append(number)
            else:
                runs.append([number])
        return runs


@dataclass(frozen=True)
class LineChart:
    """SVG paths of a ``line`` and the ``band`` around it; ``most``: the value at the top."""

    line: str
    band: str
    most: float


def line_chart(axis: Axis, values_D: Sequence[float | None], ends_D: Sequence[tuple[float, float] | None]) -> LineChart:
    """A chart from 0 on. ``ends_D``: lower and upper end of each date's interval."""
    most = max([1.0, *(value for value in values_D if value is not None), *(end[1] for end in ends_D if end)])

    def y(value: float) -> str:
        return _number(HEIGHT - _MARGIN - (HEIGHT - 2 * _MARGIN) * value / most)

    lines, bands = [], []
    for run in axis.runs(values_D):
        half = axis.step / 2
        first, last = _number(axis.x(run[0]) - half), _number(axis.x(run[-1]) + half)
        points = [(_number(axis.x(number)), y(values_D[number] or 0)) for number in run]
        lines.append("M" + "L".join(f"{x} {at}" for x, at in [(first, points[0][1]), *points, (last, points[-1][1])]))
        ends = [ends_D[number] or (values_D[number] or 0, values_D[number] or 0) for number in run]
        places = [first, *(x for x, _ in points), last]
        upper = [y(ends[0][1]), *(y(end[1]) for end in ends), y(ends[-1][1])]
        lower = [y(ends[0][0]), *(y(end[0]) for end in ends), y(ends[-1][0])]
        outline = [*zip(places, upper, strict=True), *reversed([*zip(places, lower, strict=True)])]
        bands.append("M" + "L".join(f"{x} {at}" for x, at in outline) + "Z")
    return LineChart("".join(lines), "".join(bands), most)


@dataclass(frozen=True)
class BarChart:
    """SVG paths of bars ``up`` and ``down`` from the middle line at ``zero``; ``most_up``, ``most_down``: the largest
    values."""

    up: str
    down: str
    zero: str
    most_up: int
    most_down: int


def bar_chart(axis: Axis, up_D: Sequence[int], down_D: Sequence[int]) -> BarChart:
    most_up, most_down = max([0, *up_D]), max([0, *down_D])
    scale = (HEIGHT - 2 * _MARGIN) / max(most_up + most_down, 1)
    zero = _MARGIN + most_up * scale
    width = 0.8 * axis.step

    def bars(values: Sequence[int], sign: int) -> str:
        return "".join(
            f"M{_number(axis.x(number) - width / 2)} {_number(zero)}v{_number(-sign * value * scale)}h{_number(width)}"
            f"v{_number(sign * value * scale)}z"
            for number, value in enumerate(values)
            if value
        )

    return BarChart(bars(up_D, 1), bars(down_D, -1), _number(zero), most_up, most_down)


def ticks(axis: Axis, marked_D: Sequence[bool]) -> str:
    """Path of a tick at the lower edge for each marked date."""
    width = axis.step
    return "".join(
        f"M{_number(axis.x(number) - width / 2)} {_number(HEIGHT)}h{_number(width)}"
        for number, is_marked in enumerate(marked_D)
        if is_marked
    )


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
