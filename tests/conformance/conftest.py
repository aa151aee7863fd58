"""What the comparisons share: which captures, which settings, and the table of differences that are decided.

A suite's table, SUITE.toml, lists by name each capture on which iotid and the oracle differ, in groups of one reason:
a decision of ours. A capture that differs and is not listed fails; so does a listed one that does not differ.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from iotid import config

_HERE = Path(__file__).parent
_SHOWN = 25  # differences that a failure prints
_summary: list[str] = []


@pytest.fixture(scope="session")
def suite(captures: Path) -> Path:
    """Folder of the conformance captures: one folder an oracle."""
    folder = captures / "conformance"
    assert folder.is_dir(), f"{folder} is missing; unpack the captures again"
    return folder


@pytest.fixture(scope="session")
def capture_settings() -> config.Capture:
    """Of conf/base.yaml, but with every tunnel taken off, as the oracles do."""
    every = "[gre, ip_in_ip, 6in4, vxlan, geneve, gtp_u, capwap, tzsp]"
    return config.load_settings(overrides=[f"capture.tunnels={every}"]).capture


@pytest.fixture(scope="session")
def judge() -> Callable[..., None]:
    """`judge_suite`: tests cannot import from this file."""
    return judge_suite


def judge_suite(name: str, outcomes: Mapping[str, str | None], tables: Path = _HERE) -> None:
    """Compare outcomes, by capture None or what differs, with ``tables``/``name``.toml; the share is in the summary."""
    assert outcomes, f"{name}: nothing was compared"
    decided = _decided(tables / f"{name}.toml")
    differing = {capture: text for capture, text in outcomes.items() if text is not None}
    if tables == _HERE:
        equal = len(outcomes) - len(differing)
        share = f"{equal} of {len(outcomes)} captures equal ({100 * equal / len(outcomes):.1f} %)"
        _summary.append(f"{name}: {share}, {len(decided)} differences listed")
    faults = [f"{capture} differs and is not listed: {differing[capture]}" for capture in differing.keys() - decided]
    faults += [f"{capture} is listed and does not differ" for capture in outcomes.keys() & decided - differing.keys()]
    faults += [f"{capture} is listed and was not compared" for capture in decided - outcomes.keys()]
    more = [f"… and {len(faults) - _SHOWN} more"] if len(faults) > _SHOWN else []
    assert not faults, "\n".join([f"{name}.toml and {len(faults)} captures disagree:", *sorted(faults)[:_SHOWN], *more])


def _decided(table: Path) -> set[str]:
    """The captures that the table lists, each in one group with its reason."""
    with table.open("rb") as file:
        groups = tomllib.load(file).get("decision", [])
    decided: set[str] = set()
    for group in groups:
        assert set(group) == {"reason", "captures"}, f"{table.name}: a decision has a reason and captures, nothing else"
        assert group["reason"].strip(), f"{table.name}: a decision needs its reason"
        for capture in group["captures"]:
            assert capture not in decided, f"{table.name}: {capture} is listed twice"
            decided.add(capture)
    return decided


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The share of captures that are equal, for each suite that was compared."""
    for line in _summary:
        terminalreporter.write_line(line)
