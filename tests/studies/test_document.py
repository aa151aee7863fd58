"""One document as Markdown and as a page: the same content, escaped, complete without other files."""

from __future__ import annotations

import re
from pathlib import Path

from iotid.evaluation.figures import new_figure, save
from iotid.studies import document
from iotid.studies.document import Figure, Heading, Items, Paragraph, Table

_HOSTILE = "<script>alert(1)</script>"


def _blocks(tmp_path: Path) -> list[document.Block]:
    save(new_figure(1, 1), tmp_path / "one.png")
    return [
        Heading("by_capture"),
        Paragraph(f"A text of {_HOSTILE}."),
        Table("systems", ["system", "macro F1"], [["ensemble", "84.1 %"], [_HOSTILE, ""]]),
        Heading("more", level=3),
        Figure(tmp_path / "one.png", "a curve"),
        Items([("ensemble", "ours")]),
    ]


def test_markdown__has_all_but_figures(tmp_path: Path) -> None:
    assert document.markdown(_blocks(tmp_path)).splitlines() == [
        "## by_capture",
        "",
        f"A text of {_HOSTILE}.",
        "",
        "| system | macro F1 |",
        "|---|---|",
        "| ensemble | 84.1 % |",
        f"| {_HOSTILE} |  |",
        "",
        "### more",
        "",
        "* ensemble: ours",
        "",
    ]


def test_page__is_escaped_reads_nothing_and_has_headings_in_order(tmp_path: Path) -> None:
    page = document.page(f"Comparison {_HOSTILE}", "of systems", _blocks(tmp_path))
    assert "<script" not in page
    assert page.count("&lt;script&gt;") == 4  # twice the title, text, row
    assert re.findall(r"<(h[1-6]|main)>", page) == ["h1", "main", "h2", "h3"]
    assert [source[:22] for source in re.findall(r'(?:src|href)="([^"]*)"', page)] == ["data:image/png;base64,"]
    assert 'alt="a curve"' in page
