"""Lays out tables for a terminal of a given width: columns are wrapped, and the least important are left out."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from iotid.messages import one_line

_GAP = "  "
_LEAST = 12  # columns of the terminal to which a wrapped column shrinks, at least


@dataclass(frozen=True)
class TextColumn:
    """``rank``: columns with higher ranks are left out first, 0: never; ``wraps``: may take several lines."""

    title: str
    cells: Sequence[str]
    rank: int = 0
    wraps: bool = False
    is_number: bool = False

    @property
    def natural_width(self) -> int:
        return max(map(display_width, (self.title, *self.cells)))

    @property
    def least_width(self) -> int:
        return min(self.natural_width, _LEAST) if self.wraps else self.natural_width


def lay_out(columns: Sequence[TextColumn], width: int) -> tuple[list[str], list[str]]:
    """The lines of the table, its header first, and the titles of columns left out; ``width`` 0: any width.

    Columns without any text are left out, and control characters in cells are escaped.
    """
    kept = [
        TextColumn(column.title, [one_line(cell) for cell in column.cells], column.rank, column.wraps, column.is_number)
        for column in columns
        if any(column.cells)
    ]
    left_out: list[str] = []
    while width and _total(column.least_width for column in kept) > width and any(column.rank for column in kept):
        last = max(kept, key=lambda column: column.rank)
        kept.remove(last)
        left_out.append(last.title)
    widths = _widths(kept, width)
    rows = zip(*(column.cells for column in kept), strict=True)
    lines = _lines([column.title for column in kept], kept, widths)
    return [*lines, *(line for row in rows for line in _lines(row, kept, widths))], left_out


def display_width(text: str) -> int:
    """How many columns of a terminal the text takes."""
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    return len(text) + wide - sum(map(bool, map(unicodedata.combining, text)))


def _total(widths: Iterator[int]) -> int:
    listed = list(widths)
    return sum(listed) + len(_GAP) * (len(listed) - 1)


def _widths(columns: Sequence[TextColumn], width: int) -> list[int]:
    """Each column's width: as wide as its cells, or less if it wraps and the table would be too wide."""
    widths = [column.natural_width for column in columns]
    while width and _total(iter(widths)) > width:
        shrinkable = [n for n, column in enumerate(columns) if column.wraps and widths[n] > column.least_width]
        if not shrinkable:
            break
        widths[max(shrinkable, key=lambda n: widths[n])] -= 1
    return widths


def _lines(cells: Sequence[str], columns: Sequence[TextColumn], widths: Sequence[int]) -> Iterator[str]:
    wrapped = [
        wrap(cell, width) if column.wraps else [cell]
        for cell, column, width in zip(cells, columns, widths, strict=True)
    ]
    for number in range(max(map(len, wrapped), default=0)):
        parts = [lines[number] if number < len(lines) else "" for lines in wrapped]
        padded = [
            f"{' ' * (width - display_width(part))}{part}" if column.is_number else _padded(part, width)
            for part, column, width in zip(parts, columns, widths, strict=True)
        ]
        yield _GAP.join(padded).rstrip()


def _padded(text: str, width: int) -> str:
    return text + " " * (width - display_width(text))


def wrap(text: str, width: int) -> list[str]:
    """The text in lines of at most ``width``, broken at blanks, or inside words that are longer."""
    lines = [""]
    for word in text.split(" "):
        joined = f"{lines[-1]} {word}" if lines[-1] else word
        if display_width(joined) <= width:
            lines[-1] = joined
            continue
        lines += [""] if lines[-1] else []
        for character in word:
            if display_width(lines[-1] + character) > width:
                lines.append("")
            lines[-1] += character
    return lines
