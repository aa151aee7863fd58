"""Results of a study: text, tables and figures, written as Markdown or as a page that needs no other file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from iotid.evaluation.pages import environment, image


@dataclass(frozen=True)
class Heading:
    """``level``: 2 of a section, 3 of a part of it; the title is the only heading of level 1."""

    text: str
    level: int = 2


@dataclass(frozen=True)
class Paragraph:
    text: str


@dataclass(frozen=True)
class Items:
    """A list; each item has a name and a text."""

    rows: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Table:
    """``head``: of each column; the first ``named`` columns hold names, the others numbers; ``title``: for readers of
    the page that hear it."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    named: int = 1


@dataclass(frozen=True)
class Figure:
    """A PNG file, which only the page shows; ``alt``: what it shows, in words."""

    path: Path
    alt: str


Block = Heading | Paragraph | Items | Table | Figure


def markdown(blocks: Sequence[Block]) -> str:
    """The blocks without figures."""
    return "\n".join(line for block in blocks for line in _lines(block)) + "\n"


def page(title: str, subtitle: str, blocks: Sequence[Block]) -> str:
    """The blocks as HTML, figures inside it."""
    shown = [(type(block).__name__, block) for block in blocks]
    template = environment("iotid.studies").get_template("document.html.j2")
    return template.render(title=title, subtitle=subtitle, blocks=shown, image=image)


def _lines(block: Block) -> Iterator[str]:
    match block:
        case Heading(text, level):
            yield f"{'#' * level} {text}"
        case Paragraph(text):
            yield text
        case Items(rows):
            yield from (f"* {name}: {text}" for name, text in rows)
        case Table(_, head, rows):
            yield f"| {' | '.join(head)} |"
            yield "|---" * len(head) + "|"
            yield from (f"| {' | '.join(row)} |" for row in rows)
        case Figure():
            return
    yield ""
