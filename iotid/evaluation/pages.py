"""Pages of reports and studies: their frame is `page.html.j2`, their figures are inside them."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from iotid.evaluation import figures
from iotid.pages import NOTHING, page_environment, percent, span

if TYPE_CHECKING:
    from jinja2 import Environment

    from iotid.evaluation.schema import Score


def environment(package: str) -> Environment:
    """Jinja's environment of pages whose templates are in ``package`` and extend `page.html.j2`."""
    own = page_environment(package, "iotid.evaluation")
    own.filters.update(percent=percent, span=_span_of, seconds=_seconds, breakable=_breakable)
    return own


def image(path: Path) -> dict[str, Any]:
    """The PNG as a data URI, and its natural width in CSS pixels."""
    content = path.read_bytes()
    width = int.from_bytes(content[16:20], "big")  # IHDR, PNG specification, section 11.2.1
    return {
        "uri": f"data:image/png;base64,{base64.b64encode(content).decode()}",
        "width": round(width * 96 / figures.DPI),
    }


def _span_of(score: Score) -> str:
    return span(score["low"], score["high"])


def _breakable(name: str) -> Markup:
    """The escaped name, with a line break allowed after each underscore."""
    return Markup("_<wbr>").join(name.split("_"))


def _seconds(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.1f}"
