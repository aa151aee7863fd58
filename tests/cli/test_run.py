"""All steps in one process: their order and the exit code. The steps are tested in their packages."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from iotid.cli import checks, pipeline
from iotid.cli import run as command
from iotid.config import Settings, load_settings
from iotid.errors import InputError, LabelError, SettingError, UserError, WatchError
from iotid.partitions import Store

INPUTS = [
    pipeline.SiteCaptures("home", "2026-01-10", "captures/1"),
    pipeline.SiteCaptures("home", "2026-01-11", "captures 2"),
]


@pytest.mark.parametrize("fails", [True, False])
def test_run_pipeline__reports_a_watched_device_after_the_last_census(
    fails: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    printed: list[Any] = []

    def run_steps(steps: Sequence[pipeline.Call], settings: Settings) -> None:
        printed.append([name for name, _ in steps])
        assert not settings.watchlist.fail
        store = Store(str(tmp_path))
        for own, watched in zip(INPUTS, (1, 0), strict=True):
            with store.write("census", own.key) as staged:
                staged.metadata |= {"watched": watched, "watched_labels": {"cam": watched}}

    monkeypatch.setattr(pipeline, "run_steps", run_steps)
    monkeypatch.setattr(pipeline, "_summary", lambda *_: ["summary"])
    monkeypatch.setattr("iotid.cli.command.print_lines", printed.append)
    settings = load_settings([], [f"storage.root={tmp_path}", f"watchlist.fail={str(fails).lower()}"])
    if fails:
        with pytest.raises(WatchError, match="2026-01-10, is written; watched devices: 1"):
            pipeline.run_pipeline(settings, INPUTS, INPUTS, ["devices.yaml"], "demo")
    else:
        pipeline.run_pipeline(settings, INPUTS, INPUTS, ["devices.yaml"], "demo")
    ingest, census = ["split-pcaps", "assemble-flows"] * 2, ["take-census", "take-network-census"] * 2
    assert printed == [[*ingest, "write-dataset", "train", "evaluate", "promote", *census], "summary"]


def test_run__without_a_device_list_takes_the_census_and_trains_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []

    def run_steps(steps: Sequence[pipeline.Call], settings: Settings) -> None:
        ran.extend(name for name, _ in steps)
        store, key = Store(settings.storage.root), INPUTS[0].key
        files = {"files": 1, "files_unplanned": 0, "files_same": 0, "files_alike": 0, "files_ignored": 0}
        for table, fields in (
            ("splits", {**files, "bytes": 9, "unreadable": {}}),
            ("flows", {"rows": 1, "packets": {"flow": 2}, "overlapping": 0}),
            ("census", {"devices": 1, "groups": 1, "status": {"unknown": 1}, "changes": {"baseline": 1}, "watched": 0}),
        ):
            with store.write(table, key) as staged:
                staged.metadata |= fields

    monkeypatch.setattr(pipeline, "run_steps", run_steps)
    asked = ["--captures", "c", "--site", "home", "--date", "2026-01-10", "--set", f"storage.root={tmp_path}"]
    done = CliRunner().invoke(command.main, asked)
    assert done.exit_code == 0, done.output
    assert ran == ["split-pcaps", "assemble-flows", "take-census", "take-network-census"]
    assert "1 device: 1 unknown in 1 group" in done.output
    assert "report.html" not in done.output
    assert "Left out: dataset, training, report and promotion, because no device list was given" in done.output


def test_run_steps__calls_each_step_after_a_line_that_shows_it_as_a_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    called: list[Any] = []
    for name in ("split_pcaps", "write_dataset"):
        step = importlib.import_module(f"iotid.cli.{name}").main
        monkeypatch.setattr(step, "function", lambda settings, **options: called.append(options))
    calls = pipeline.calls(INPUTS[1:], INPUTS, ["a.yaml"], "d")
    steps = [call for call in calls if call[0] in ("split-pcaps", "write-dataset")]
    pipeline.run_steps(steps, load_settings())
    assert called == [dict(options) for _, options in steps]
    dates = "--date 2026-01-10 --date 2026-01-11"
    assert capsys.readouterr().err.splitlines() == [
        "[1/2] iotid split-pcaps --captures 'captures 2' --site home --date 2026-01-11",
        f"[2/2] iotid write-dataset --site home {dates} --labels a.yaml --dataset d",
    ]


PCAP = bytes.fromhex("d4c3b2a1020004000000000000000000ffff000001000000")  # a header
LIST = 'devices: [{name: cam, mac: "02:00:00:00:00:01"}]'


@pytest.mark.parametrize(
    ("listed", "overrides", "kind", "expected"),
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
        (LIST, ["census.makers=/no/such.csv"], SettingError, "census.makers"),
        (LIST, ["dataset.characteristics=[dscp]"], SettingError, "dscp must have flow.header_fields=true, got false"),
    ],
)
def test_run__errors_of_later_steps_are_found_before_the_first(
    listed: str,
    overrides: list[str],
    kind: type[UserError],
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("IOTID_CENSUS_KEY", raising=False)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    (tmp_path / "devices.yaml").write_text(listed)
    changes = [f"storage.root={tmp_path}/store", *overrides]
    with pytest.raises(kind) as caught:
        checks.check_settings(load_settings(["local.yaml"], changes), [f"{tmp_path}/devices.yaml"], [])
    assert expected in str(caught.value)
    settings = [part for text in ("spark.master=local", *changes) for part in ("--set", text)]
    lists = ["--labels", f"{tmp_path}/devices.yaml", "--captures", f"{tmp_path}/none"]
    answer = CliRunner().invoke(command.main, [*settings, *lists])
    assert (answer.exit_code, answer.output.count("\n")) == (2, 1)
    assert expected in answer.output


def test_check_captures__too_few_for_the_protocol_are_refused(tmp_path: Path) -> None:
    settings = load_settings(["local.yaml"], ["dataset.protocol=by_capture"])
    with pytest.raises(InputError, match="no such file or folder"):
        checks.check_captures([f"{tmp_path}/none"], settings)
    (tmp_path / "a.pcap").write_bytes(PCAP)
    with pytest.raises(SettingError, match=r"dataset\.protocol: by_capture .*there are only 1; give 3 or more"):
        checks.check_captures([str(tmp_path)], settings)


def test_warn_of_census__says_at_the_first_step_what_the_last_would_refuse(caplog: pytest.LogCaptureFixture) -> None:
    checks.warn_of_census(load_settings([], ["census.makers=/no/such.csv"]).census)
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("take-census would refuse these settings here: census.makers")
    checks.warn_of_census(load_settings().census)
    assert len(caplog.messages) == 1


@pytest.mark.parametrize(
    "step", ["split-pcaps", "assemble-flows", "write-dataset", "train", "evaluate", "promote", "run"]
)
@pytest.mark.parametrize(
    ("file", "expected"),
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
def test_steps__each_validates_all_settings(step: str, file: str, expected: str, tmp_path: Path) -> None:
    from iotid.cli import steps

    (tmp_path / "own.yaml").write_text(file)
    one_date, dataset = ["--site", "a", "--date", "2026-01-10"], ["--dataset", "d"]
    arguments = {
        "split-pcaps": [*one_date, "--captures", "c"],
        "assemble-flows": one_date,
        "write-dataset": [*one_date, *dataset, "--labels", "l.yaml"],
        "run": ["--captures", "c", "--labels", "l.yaml"],
    }
    answer = CliRunner().invoke(steps, [step, "--config", f"{tmp_path}/own.yaml", *arguments.get(step, dataset)])
    assert (answer.exit_code, answer.output.count("\n")) == (2, 1)
    assert expected in answer.output


@pytest.mark.parametrize("labels", [[], ["a.yaml", "b.csv"]])
def test_calls__every_census_is_compared_with_the_device_list(labels: list[str]) -> None:
    given = [
        options["labels"] for step, options in pipeline.calls(INPUTS, INPUTS, labels, "d") if step == "take-census"
    ]
    assert given == [tuple(labels)] * len(INPUTS)


def test_check_settings__captures_must_suffice_for_the_protocol(tmp_path: Path) -> None:
    (tmp_path / "devices.yaml").write_text(LIST)
    settings = load_settings(["local.yaml"], ["dataset.protocol=by_capture", f"storage.root={tmp_path}/store"])
    folder = tmp_path / "captures"
    folder.mkdir()
    given = [f"{tmp_path}/devices.yaml"], [str(folder)]
    for name in "abc":
        (folder / f"{name}.pcap").write_bytes(PCAP)
        if name != "c":
            with pytest.raises(SettingError, match=r"give 3 or more"):
                checks.check_settings(settings, *given)
            checks.check_settings(settings, [], given[1])  # nothing is learned
    checks.check_settings(settings, *given)
