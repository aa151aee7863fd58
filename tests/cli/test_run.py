"""The whole way in one process: which steps run, and how it ends. The steps themselves are tested where they live."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from iotid.cli import run as pipeline
from iotid.config import load_settings
from iotid.errors import LabelError, SettingError, UserError, WatchError
from iotid.partitions import PartitionKey, Store

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
            with store.write("census", PartitionKey.of_date(night.site, night.date)) as staged:
                staged.metadata |= {"watched": watched, "watched_labels": {"cam": watched}}

    monkeypatch.setattr(pipeline, "run_steps", run_steps)
    monkeypatch.setattr(pipeline, "_summary", lambda *_: ["summary"])
    monkeypatch.setattr("iotid.cli.command.say", told.append)
    layers = ["--set", f"storage.root={tmp_path}", "--set", f"watchlist.fail={str(fails).lower()}"]
    if fails:
        with pytest.raises(WatchError, match="2026-01-10, is written; watched devices: 1"):
            pipeline.run_nights(NIGHTS, NIGHTS, ["devices.yaml"], "demo", layers)
    else:
        pipeline.run_nights(NIGHTS, NIGHTS, ["devices.yaml"], "demo", layers)
    ingest, census = ["split-pcaps", "assemble-flows"] * 2, ["take-census"] * 2
    assert told == [[*ingest, "write-dataset", "train", "evaluate", "promote", *census], "summary"]


LIST = 'devices: [{name: cam, mac: "02:00:00:00:00:01"}]'


@pytest.mark.parametrize(
    ("listed", "overrides", "kind", "told"),
    [
        ("devices: [{name: cam, mac: 02}]", [], LabelError, "is not a MAC"),
        (LIST, ["dataset.label=type"], LabelError, "cam has no type"),
        (LIST, ["promotion.min_recall={camm: 0.9}"], SettingError, "did you mean cam?"),
        (LIST, ["census.pseudonyms=on"], SettingError, "there is no key"),
        (
            LIST,
            ["census.pseudonyms=on", "census.key_file=/no/such/key"],
            SettingError,
            "census.key_file: cannot be read",
        ),
        (LIST, ["tracking.uri=htp://localhost"], UserError, "htp"),
        (LIST, ["training.device=cuda"], SettingError, "training.device: is cuda"),
    ],
)
def test_run__what_a_later_step_would_refuse_is_refused_before_the_first(
    listed: str,
    overrides: list[str],
    kind: type[UserError],
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("IOTID_CENSUS_KEY", raising=False)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    (tmp_path / "devices.yaml").write_text(listed)
    changes = [f"storage.root={tmp_path}/store", *overrides]
    with pytest.raises(kind) as caught:
        pipeline.check(load_settings(["local.yaml"], changes), [f"{tmp_path}/devices.yaml"])
    assert told in str(caught.value)
    settings = [part for text in ("spark.master=local", *changes) for part in ("--set", text)]
    lists = ["--labels", f"{tmp_path}/devices.yaml", "--captures", f"{tmp_path}/none"]
    answer = CliRunner().invoke(pipeline.main, [*settings, *lists])
    assert (answer.exit_code, answer.output.count("\n")) == (2, 1)
    assert told in answer.output


@pytest.mark.parametrize(
    "step", ["split-pcaps", "assemble-flows", "write-dataset", "train", "evaluate", "promote", "run"]
)
@pytest.mark.parametrize(
    ("file", "told"),
    [
        (
            "promotion: {min_macro_f: 0.3}",
            "promotion.min_macro_f: unknown setting; did you mean promotion.min_macro_f1?",
        ),
        ("watchlist: {labels: [{name: cam, form: 0.9}]}", "watchlist.labels.0.form: unknown setting"),
        ("watchlist: {labels: [cam}", "is not valid YAML"),
        ("watchlist: {labels: []}\nwatchlist: {types: []}", "key 'watchlist' in line 1"),
        ("census: {inside: [192.168.1.5/24]}", "did you mean 192.168.1.0/24?"),
    ],
)
def test_steps__every_one_judges_the_settings_of_all(step: str, file: str, told: str, tmp_path: Path) -> None:
    from iotid.cli import steps

    (tmp_path / "own.yaml").write_text(file)
    night, dataset = ["--site", "a", "--date", "2026-01-10"], ["--dataset", "d"]
    arguments = {
        "split-pcaps": [*night, "--captures", "c"],
        "assemble-flows": night,
        "write-dataset": [*night, *dataset, "--labels", "l.yaml"],
        "run": ["--captures", "c", "--labels", "l.yaml"],
    }
    answer = CliRunner().invoke(steps, [step, "--config", f"{tmp_path}/own.yaml", *arguments.get(step, dataset)])
    assert (answer.exit_code, answer.output.count("\n")) == (2, 1)
    assert told in answer.output
