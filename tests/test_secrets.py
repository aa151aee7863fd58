"""A secret in every setting, argument and variable is refused, or appears in no output, log, table or run."""

from __future__ import annotations

import json
import logging
import os
import secrets
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import yaml
from click.testing import CliRunner
from pydantic import BaseModel

from iotid import config
from iotid.cli import steps
from iotid.config import Settings, load_settings
from iotid.errors import IotidError, ServerError, SettingError, UserError
from iotid.simulate.captures import write_demo
from iotid.tracking import Registry, client, load
from iotid.tracking.runs import start_run

ROOT = Path(__file__).parents[1]
SECRET = "hunter2"
PLANTED = f"{SECRET}-{secrets.token_hex(8)}"  # of this process alone: tests beside it pass SECRET, too
SHAPES = [
    f"s3://AKIA:abc/{SECRET}@bucket/x",
    f"postgresql://ann:p@{SECRET}/word@host/db",
    f"https://{SECRET}@mlflow.example",
    f"https://mlflow.example/?password={SECRET}",
    f"https://account/c?sv=1&sig={SECRET}",
    f"https://account/c#token={SECRET}",
]
NIGHT = ["--site", "home", "--date", "2026-01-10"]


def _keys(section: type[BaseModel] = Settings, place: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, field in section.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from _keys(inner, (*place, name))
        else:
            yield (*place, name)


@pytest.mark.parametrize("key", list(_keys()), ids=".".join)
def test_settings__credentials_in_any_setting_are_refused_and_not_shown(key: tuple[str, ...], tmp_path: Path) -> None:
    section, name = key
    kind = Settings.model_fields[section].annotation
    assert isinstance(kind, type)
    known = dict(getattr(load_settings(), section))
    refused = "must not contain a user, password or key"
    file = tmp_path / "own.yaml"
    for shape in SHAPES:
        file.write_text(yaml.safe_dump({section: {name: shape}}))
        with pytest.raises(SettingError, match=f"^{section}.{name}: {refused}") as caught:
            load_settings([file])
        with pytest.raises(ValueError, match=refused) as raised:
            kind(**{**known, name: shape})
        assert SECRET not in str(caught.value) + str(raised.value)
    for value in ([SHAPES[0]], {"a": SHAPES[0]}, {SHAPES[0]: "a"}, {"a": {"b": [SHAPES[0]]}}):
        file.write_text(yaml.safe_dump({section: {name: value}}))
        with pytest.raises(SettingError, match=f"^{section}.{name}.*: {refused}") as caught:
            load_settings([file])
        assert SECRET not in str(caught.value)
    for text in (SHAPES[0], f"[{SHAPES[1]}", json.dumps({"a": SHAPES[2]}), f"{{a: {SHAPES[3]}, x"):
        with pytest.raises(SettingError, match=f"--set {section}.{name}: ({refused}|names a secret)") as caught:
            load_settings(overrides=[f"{section}.{name}={text}"])
        assert SECRET not in str(caught.value)


def test_settings__spark_secret_in_a_file_is_not_shown_in_errors(tmp_path: Path) -> None:
    name = "spark.hadoop.fs.s3a.secret.key"
    for value in (json.dumps({name: SECRET}), f"{{{name}: {SECRET}, x", f"{{{name}: {SECRET}}}"):
        with pytest.raises(
            SettingError, match=r"--set spark.conf: names a secret, .* set it in a file for --config"
        ) as e:
            load_settings(overrides=[f"spark.conf={value}"])
        assert SECRET not in str(e.value)
    (tmp_path / "own.yaml").write_text(yaml.safe_dump({"spark": {"conf": {name: SECRET}}}))
    assert load_settings([tmp_path / "own.yaml"]).spark.conf == {name: SECRET}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump({"spark": {"conf": {name: [SECRET]}}}))
    with pytest.raises(SettingError, match=f"spark.conf.{name}: ") as e:
        load_settings([tmp_path / "own.yaml"])
    assert SECRET not in str(e.value)


def _arguments() -> Iterator[tuple[str, str]]:
    context = click.Context(steps)
    for name in steps.list_commands(context):
        found = steps.get_command(context, name)
        assert found is not None
        for parameter in found.params:
            if not getattr(parameter, "is_flag", False):
                yield name, parameter.opts[0]
        yield name, ""  # an argument that nobody asked for
        yield name, "--unknown"


@pytest.mark.parametrize(("step", "option"), list(_arguments()))
def test_command__credentials_in_any_argument_are_not_shown(step: str, option: str, tmp_path: Path) -> None:
    harmless = {"--captures": str(tmp_path), "--site": "a", "--date": "2026-01-10", "--labels": f"{tmp_path}/none.yaml"}
    harmless |= {"--dataset": "tmc18" if step == "reproduce" else "d", "--name": "n", "--format": "csv"}
    harmless |= {"captures": f"{tmp_path}/none.pcap"}
    found = steps.get_command(click.Context(steps), step)
    assert found is not None
    line = []
    for needed in found.params:
        if needed.required:
            line += [] if isinstance(needed, click.Argument) else needed.opts[:1]
            line += [harmless[needed.opts[0]]]
    if step != "settings-schema":
        line += ["--set", f"storage.root={tmp_path}/store"]
    for shape in [*SHAPES, f"a\nError: \x1b[2J{SHAPES[0]}"]:
        typed = f"section.{shape}=1" if option == "--set" else shape
        result = CliRunner().invoke(steps, [step, *line, *([option, typed] if option.startswith("-") else [typed])])
        assert result.exit_code == 2, result.output
        assert SECRET not in result.output
        assert "\x1b" not in result.output
        assert len([line for line in result.output.splitlines() if line.startswith("Error: ")]) == 1


def test_command__credentials_in_place_of_a_step_are_not_shown() -> None:
    for shape in SHAPES:
        result = CliRunner().invoke(steps, [shape])
        assert (result.exit_code, SECRET in result.output) == (2, False)


@pytest.mark.parametrize("shape", SHAPES)
def test_load__address_with_credentials_is_refused_and_not_shown(
    shape: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", shape)
    for more in ({}, {"tracking_uri": shape}):
        with pytest.raises(UserError, match="tracking_uri: must not contain a user, password or key") as caught:
            load("models:/iotid@champion", **more)
        assert SECRET not in str(caught.value)
    with pytest.raises(IotidError, match="must read models:") as caught:
        load(shape, "sqlite:////tmp/none.db")
    assert SECRET not in str(caught.value) + caplog.text


@pytest.mark.parametrize("shape", SHAPES)
def test_registry__message_about_an_unreachable_server_shows_no_credentials(
    shape: str, settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import requests

    def away() -> None:
        raise requests.exceptions.ProxyError(f"cannot reach {shape}\nthrough {shape}")

    monkeypatch.setattr(client, "RETRY_S", 0.1)
    with pytest.raises(ServerError) as caught:
        client.with_retries("http://127.0.0.1:9", away)
    assert SECRET not in str(caught.value) + caplog.text
    assert "waiting for the tracking server" in caplog.text


_VARIABLES = (
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "MLFLOW_TRACKING_PASSWORD",
    "PGPASSWORD",
    "IOTID_CENSUS_KEY",
)


def _plant(number: int) -> str:
    return f"{PLANTED}-{number}-" + "5ac4" * 6


def _planted() -> dict[str, str]:
    return {name: _plant(number) for number, name in enumerate(_VARIABLES)}


def _bytes_with_a_secret(folder: Path) -> list[str]:
    return [str(path) for path in folder.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]


def test_tracking__run_with_all_settings_contains_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "iotid")
    for name, value in _planted().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HTTPS_PROXY", f"http://ann:{_plant(10)}@proxy:3128")
    (tmp_path / "key").write_text(_plant(11))
    (tmp_path / "own.yaml").write_text(yaml.safe_dump({"spark": {"conf": {"spark.x.password": _plant(12)}}}))
    overrides = [f"storage.root={tmp_path}/store", "census.pseudonyms=true", f"census.key_file={tmp_path}/key"]
    settings = load_settings([tmp_path / "own.yaml"], overrides)
    registry = Registry(settings.tracking, settings.storage.root)
    sections = [getattr(settings, name) for name in Settings.model_fields if name != "spark"]
    start_run(registry, "all", sections, {"hash": config.settings_hash(*sections)}).end()
    assert (tmp_path / "store" / "mlflow.db").stat().st_size > 0
    assert _bytes_with_a_secret(tmp_path / "store") == []
    assert SECRET not in caplog.text


def _watch_processes(stop: threading.Event, seen: set[bytes]) -> None:
    while not stop.wait(0.02):
        for file in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                seen.add(file.read_bytes())
            except OSError:
                continue


_WITH_A_BUCKETS_SECRET = """
import os
from iotid.spark import shuffle
from iotid.cli import main
drawn = os.environ.pop("BUCKETS_SECRET").encode()
shuffle.Buckets.of = classmethod(lambda cls, spark, size: cls(shuffle.partitions_for(spark, size), drawn))
main()
"""


@pytest.mark.spark
def test_steps__of_a_night_on_spark_leave_no_secret_anywhere(tmp_path: Path) -> None:
    write_demo(tmp_path / "demo")
    (tmp_path / "key").write_text(_plant(11))
    events = tmp_path / "events"
    events.mkdir()
    conf = {"spark.eventLog.enabled": "true", "spark.eventLog.dir": events.as_uri(), "spark.eventLog.compress": "false"}
    names = ("spark.hadoop.fs.s3a.secret.key", "spark.hadoop.fs.azure.account.key.x", "spark.ssl.keyPassword")
    conf |= {name: _plant(20 + number) for number, name in enumerate(names)}
    own = {"spark": {"conf": conf}, "census": {"pseudonyms": True, "key_file": str(tmp_path / "key")}}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(own))
    layers = ["--config", "local.yaml", "--config", str(tmp_path / "own.yaml")]
    layers += ["--set", f"storage.root={tmp_path}/store", "--set", "spark.master=local[2]"]
    layers += ["--set", "spark.in_process_bytes=0"]
    captures = str(tmp_path / "demo" / "captures" / "home" / "2026-01-10")
    environment = os.environ | _planted() | {"HTTPS_PROXY": f"http://ann:{_plant(10)}@proxy:3128"}
    environment["BUCKETS_SECRET"] = _plant(30)
    stop, seen = threading.Event(), set[bytes]()
    watch = threading.Thread(target=_watch_processes, args=(stop, seen))
    watch.start()
    try:
        for step, more in (("split-pcaps", ["--captures", captures]), ("assemble-flows", [])):
            line = [sys.executable, "-c", _WITH_A_BUCKETS_SECRET, step, *layers, *NIGHT, *more]
            result = subprocess.run(line, capture_output=True, text=True, check=False, env=environment, cwd=ROOT)
            assert result.returncode == 0, result.stderr
            assert SECRET not in result.stdout + result.stderr
    finally:
        stop.set()
        watch.join()
    assert any(b"spark.eventLog.enabled" in line for line in seen), "Java was looked at"
    assert [line for line in seen if PLANTED.encode() in line] == []
    logged = b"".join(path.read_bytes() for path in events.rglob("*") if path.is_file())
    assert all(name.encode() in logged for name in names)
    (tmp_path / "own.yaml").unlink()
    (tmp_path / "key").unlink()
    assert _bytes_with_a_secret(tmp_path) == []


@pytest.mark.spark
def test_spark_session__secret_in_a_file_reaches_spark_and_hadoop(tmp_path: Path) -> None:
    name = "spark.hadoop.fs.s3a.secret.key"
    (tmp_path / "own.yaml").write_text(yaml.safe_dump({"spark": {"conf": {name: SECRET}, "master": "local[1]"}}))
    program = (
        "import sys; from iotid.config import load_settings; from iotid.spark.session import spark_session\n"
        "context = spark_session(load_settings(['local.yaml', sys.argv[1]]).spark, 'look').sparkContext\n"
        "hadoop = context._jsc.hadoopConfiguration().get(sys.argv[2].removeprefix('spark.hadoop.'))\n"
        "print(context.getConf().get(sys.argv[2]), hadoop, context.master, context.appName)\n"
    )
    line = [sys.executable, "-c", program, str(tmp_path / "own.yaml"), name]
    result = subprocess.run(line, capture_output=True, text=True, check=True, cwd=ROOT)
    assert result.stdout.split() == [SECRET, SECRET, "local[1]", "look"]
