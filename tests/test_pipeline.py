"""The whole way in one process: which steps run, and how it ends. The steps themselves are tested where they live."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from iotid import pipeline
from iotid.errors import WatchError
from iotid.storage import Store

NIGHTS = [pipeline.Night("home", "2026-01-10", "captures/1"), pipeline.Night("home", "2026-01-11", "captures/2")]


@pytest.mark.parametrize("fails", [True, False])
def test_run_nights__tells_of_a_watched_device_after_the_last_night(
    fails: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []

    def run_steps(lines: list[list[str]], layers: list[str]) -> None:
        told.append([line[0] for line in lines])
        assert not pipeline.settings_of(layers).watchlist.fail
        store = Store(str(tmp_path))
        for night, watched in zip(NIGHTS, (1, 0), strict=True):
            with store.write("census", {"site": night.site, "capture_date": night.date}) as staged:
                staged.metadata |= {"watched": watched, "watched_labels": {"cam": watched}}

    monkeypatch.setattr(pipeline, "run_steps", run_steps)
    monkeypatch.setattr(pipeline, "_summary", lambda *_: "summary")
    monkeypatch.setattr("iotid.command.say", told.append)
    layers = ["--set", f"storage.root={tmp_path}", "--set", f"watchlist.fail={str(fails).lower()}"]
    if fails:
        with pytest.raises(WatchError, match="2026-01-10, is written; watched devices: 1"):
            pipeline.run_nights(NIGHTS, NIGHTS, ["devices.yaml"], "demo", layers)
    else:
        pipeline.run_nights(NIGHTS, NIGHTS, ["devices.yaml"], "demo", layers)
    ingest, census = ["split-pcaps", "assemble-flows"] * 2, ["take-census"] * 2
    assert told == [[*ingest, "write-dataset", "train", "evaluate", "promote", *census], "summary"]
