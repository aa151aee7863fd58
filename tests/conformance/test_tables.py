"""The tables of differences: what they may leave out, and what they must not hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

_TABLE = '[[decision]]\nreason = "We count such packets."\ncaptures = ["a", "b"]\n'


@pytest.mark.parametrize(
    ("outcomes", "fault"),
    [
        ({"a": "2 packets", "b": "3", "c": None}, None),
        ({"a": "2 packets", "b": "3", "c": "4 packets"}, "c differs and is not listed: 4 packets"),
        ({"a": "2 packets", "b": None}, "b is listed and does not differ"),
        ({"a": "2 packets"}, "b is listed and was not compared"),
        ({}, "nothing was compared"),
    ],
)
def test_judge__every_difference_is_listed_and_every_listed_one_is_there(
    outcomes: dict[str, str | None], fault: str | None, judge: Any, tmp_path: Path
) -> None:
    (tmp_path / "suite.toml").write_text(_TABLE)
    if fault is None:
        judge("suite", outcomes, tmp_path)
    else:
        with pytest.raises(AssertionError, match=fault):
            judge("suite", outcomes, tmp_path)


@pytest.mark.parametrize(
    ("table", "fault"),
    [
        (_TABLE + _TABLE, "a is listed twice"),
        ('[[decision]]\nreason = " "\ncaptures = ["a"]\n', "needs its reason"),
        ('[[decision]]\ncaptures = ["a"]\n', "has a reason and captures"),
    ],
)
def test_judge__a_listed_capture_stands_once_and_with_its_reason(
    table: str, fault: str, judge: Any, tmp_path: Path
) -> None:
    (tmp_path / "suite.toml").write_text(table)
    with pytest.raises(AssertionError, match=fault):
        judge("suite", {"a": "2 packets"}, tmp_path)
