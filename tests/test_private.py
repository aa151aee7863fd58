"""Private folders and files, and permissions of tables."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from iotid.cli import command
from iotid.cli.assemble_flows import main as assemble_flows
from iotid.cli.split_pcaps import main as split_pcaps
from iotid.config import Settings, load_settings
from iotid.errors import SettingError
from iotid.model.bundle import write_atomically
from iotid.partitions import Store
from iotid.private import ensure_private, temporary_folder
from iotid.simulate.captures import write_demo

NIGHT = ["--site", "home", "--date", "2026-01-10"]


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A temporary folder like the system's, to which everybody may write."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    folder.chmod(0o1777)
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    temporary_folder.cache_clear()
    yield folder
    temporary_folder.cache_clear()


def _mode(path: Path) -> str:
    return f"{path.lstat().st_mode & 0o7777:o}"


def test_ensure_private__makes_a_private_folder_and_refuses_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ensure_private(tmp_path / "a" / "new")
    assert _mode(tmp_path / "a" / "new") == "700"
    (tmp_path / "link").symlink_to(tmp_path / "a" / "new")
    (tmp_path / "nowhere").symlink_to(tmp_path / "absent")
    (tmp_path / "file").touch()
    assert not any(ensure_private(tmp_path / name) for name in ("link", "nowhere", "file", "file/below"))
    assert not (tmp_path / "absent").exists()
    for mode, expected in ((0o755, True), (0o775, False), (0o757, False)):
        (tmp_path / "a" / "new").chmod(mode)
        assert ensure_private(tmp_path / "a" / "new") is expected
    (tmp_path / "a" / "new").chmod(0o700)
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    assert not ensure_private(tmp_path / "a" / "new")


def test_temporary_folder__is_private_and_shared_between_processes(temporary: Path) -> None:
    folder = Store("mock:///tables").working_folder("runs", "d")
    assert folder == temporary / f"iotid-{os.getuid()}" / "runs" / "d"
    assert _mode(temporary / f"iotid-{os.getuid()}") == "700"
    temporary_folder.cache_clear()
    assert Store("mock:///tables").working_folder("runs", "d") == folder


@pytest.mark.parametrize("planted", ["link", "open to others", "another user's"])
def test_temporary_folder__planted_folder_is_not_used_and_logged(
    temporary: Path, planted: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    victim = temporary.parent / "victim"
    (victim / "runs").mkdir(parents=True)
    usual = temporary / f"iotid-{os.getuid()}"
    if planted == "link":
        usual.symlink_to(victim)
    else:
        usual.mkdir()
        usual.chmod(0o777 if planted == "open to others" else 0o755)
    if planted == "another user's":
        other = os.getuid() + 1
        monkeypatch.setattr(os, "getuid", lambda: other)
        usual.rename(usual.with_name(f"iotid-{os.getuid()}"))
    folder = Store("mock:///tables").working_folder("runs")
    write_atomically(folder / "weights", b"new")
    assert folder.parent.parent == temporary
    assert folder.parent.name not in (usual.name, f"iotid-{os.getuid()}")
    assert _mode(folder.parent) == "700"
    assert list((victim / "runs").iterdir()) == []
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "is a link, another user's, or open to others" in caplog.text


def test_write_atomically__does_not_follow_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    for name in ("weights", f".weights.{os.getpid()}"):
        (tmp_path / name).symlink_to(victim)
    write_atomically(tmp_path / "weights", b"new")
    assert (victim.read_bytes(), (tmp_path / "weights").read_bytes()) == (b"mine", b"new")
    assert not (tmp_path / "weights").is_symlink()
    monkeypatch.setattr("iotid.model.bundle.uuid4", lambda: type("Id", (), {"hex": "known"}))
    (tmp_path / ".weights.known").symlink_to(victim)
    with pytest.raises(FileExistsError):
        write_atomically(tmp_path / "weights", b"newer")
    assert victim.read_bytes() == b"mine"


def _modes(folder: Path, kind: str) -> set[str]:
    return {_mode(path) for path in folder.rglob("*") if (path.is_dir() if kind == "folders" else path.is_file())}


@pytest.mark.spark
@pytest.mark.parametrize(
    ("umask", "folders", "files"), [(None, "750", "640"), ("077", "700", "600"), ("022", "755", "644")]
)
def test_tables__have_the_permissions_of_the_setting_also_from_workers(
    tmp_path: Path, spark: Any, umask: str | None, folders: str, files: str
) -> None:
    write_demo(tmp_path / "demo")
    captures = tmp_path / "demo" / "captures" / "home" / "2026-01-10"
    layers = ["--config", "local.yaml", "--set", f"storage.root={tmp_path}/store"]
    layers += ["--set", f"storage.umask={umask}"] if umask else []
    before = os.umask(0)
    try:
        for step, more in ((split_pcaps, ["--captures", str(captures)]), (assemble_flows, [])):
            result = CliRunner().invoke(step, [*layers, *NIGHT, *more])
            assert result.exit_code == 0, result.output
        assert os.umask(0) == 0, "what a program had before it called a step it has afterwards"
    finally:
        os.umask(before)
    assert list((tmp_path / "store" / "flows").rglob("*.parquet"))
    assert _modes(tmp_path / "store", "folders") == {folders}
    assert _modes(tmp_path / "store", "files") == {files}


def test_umask__of_a_step_is_the_setting() -> None:
    @command.step("look")
    def look(settings: Settings) -> None:
        umask = os.umask(0)
        os.umask(umask)
        command.print_lines(f"{umask:03o}")

    for given, expected in (([], "027"), (["022"], "022"), (['"077"'], "077"), (["0"], "000")):
        overrides = [part for text in given for part in ("--set", f"storage.umask={text}")]
        assert CliRunner().invoke(look, overrides).output.strip() == expected
    for wrong in ("0o27", "27x", "777", "true", "1", "-22"):
        with pytest.raises(SettingError, match=r"storage\.umask"):
            load_settings(overrides=[f"storage.umask={wrong}"])
