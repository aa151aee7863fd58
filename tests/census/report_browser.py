"""Opens a page in headless Chromium, runs a script in it, and returns what the script found."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

# A browser window has a minimum width: the page is opened in a frame, and posts its results.
_FRAME = """<!doctype html><iframe src="page.html" style="width:{width}px;height:900px;border:0"></iframe>
<pre id="result"></pre>
<script>onmessage = result => document.getElementById("result").textContent = result.data</script>"""
_SCRIPT = """<script>(async () => {{
const result = {{width: innerWidth, title: document.title}};
// of a census's table
const lines = () => [...document.querySelectorAll("#rows tr")];
const cell = (line, index) => [...line.children[index].firstChild.children].map(part => part.textContent);
const cells = index => lines().map(line => cell(line, index)[0]);
const ids = () => lines().map(line => line.querySelector("span.id").textContent);
const show = (name, words) => {{ view.value = name; search.value = words; select(); }};
{actions}
parent.postMessage(JSON.stringify(result), "*");
}})().catch(error => parent.postMessage(JSON.stringify({{error: String(error)}}), "*"));</script>"""


def result_in_browser(folder: Path, page: str, actions: str, width: int = 1280) -> dict[str, Any]:
    """What ``actions`` add to the object `result` in a frame of ``width`` pixels; skips the test without Chromium."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium: install it to test the page in a browser")
    script = _SCRIPT.format(actions=actions)
    (folder / "page.html").write_text(page.replace("</body>", f"{script}</body>"), encoding="utf-8")
    (folder / "frame.html").write_text(_FRAME.format(width=width), encoding="utf-8")
    arguments = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}/profile", "--dump-dom"]
    dumped = subprocess.run(
        [browser, *arguments, "--window-size=1400,1000", "--virtual-time-budget=10000", f"file://{folder}/frame.html"],
        capture_output=True, text=True, check=True, timeout=60,
    ).stdout  # fmt: skip
    match = re.search(r'<pre id="result">(.*?)</pre>', dumped, re.DOTALL)
    assert match is not None
    result: dict[str, Any] = json.loads(html.unescape(match.group(1)))
    assert "error" not in result, result
    return result
