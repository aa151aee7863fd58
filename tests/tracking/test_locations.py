"""A storage root that was copied or moved never writes into the one that it came from, nor reads from it."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner

from iotid import config
from iotid.cli.relocate import main as relocate_command
from iotid.errors import UserError
from iotid.tracking import CHALLENGER, ModelVersion, Registry, load
from iotid.tracking.locations import check_locations, database_of, relocate
from iotid.tracking.runs import start_run

MODEL = f"models:/iotid@{CHALLENGER}"


def _state(root: Path) -> list[tuple[str, int, int]]:
    return sorted((str(path), path.stat().st_mtime_ns, path.stat().st_size) for path in [root, *root.rglob("*")])


def _locations(database: Path) -> set[str]:
    with closing(sqlite3.connect(database)) as connection:
        return {
            str(row[0])
            for table, column in (("experiments", "artifact_location"), ("runs", "artifact_uri"),
                                  ("model_versions", "source"), ("logged_models", "artifact_location"))
            for row in connection.execute(f"SELECT {column} FROM {table}")
        }  # fmt: skip


@pytest.fixture
def original(embedded: Registry, version: ModelVersion) -> Path:
    """A root with a run and a model."""
    return Path(embedded.storage_root)


@pytest.fixture
def copied(original: Path, tmp_path: Path) -> Path:
    shutil.copytree(original, tmp_path / "it's a copy")
    return tmp_path / "it's a copy"


def test_copied_root__is_refused_and_the_original_stays_as_it_was(
    original: Path, copied: Path, tracking: config.Tracking
) -> None:
    before, registry = _state(original), Registry(tracking, str(copied))
    uses: list[Callable[[], object]] = [
        lambda: start_run(registry, "nightly", [], {}),
        lambda: registry.version_of(CHALLENGER),
        lambda: load(MODEL, f"sqlite:///{copied}/mlflow.db"),
    ]
    for use in uses:
        with pytest.raises(UserError, match="its artifacts are in") as caught:
            use()
        assert f"{original}/mlflow-artifacts, not in {copied}/mlflow-artifacts" in str(caught.value)
        assert "iotid relocate --apply --set 'storage.root=" in str(caught.value)
        assert "\n" not in str(caught.value)
    assert _state(original) == before


def test_copied_root__once_relocated_reads_and_writes_its_own_artifacts(
    original: Path, copied: Path, tracking: config.Tracking
) -> None:
    before, registry = _state(original), Registry(tracking, str(copied))
    moved = relocate(registry.uri, apply=True)
    assert moved.changed.keys() == {"experiments", "runs", "logged_models", "model_versions"}
    assert moved.backup is not None
    assert str(original) not in "".join(_locations(copied / "mlflow.db") - {f"{Path.cwd()}/mlruns/0"})
    run = start_run(registry, "second", [], {})
    run.log_json({"a": 1}, "second.json")
    assert list(copied.rglob("second.json"))
    shutil.rmtree(copied / "mlflow-artifacts" / "models")
    with pytest.raises(UserError, match="is not available"):  # it does not read those of the original
        load(MODEL, registry.uri)
    assert _state(original) == before


def test_moved_root__is_refused_then_relocated(copied: Path, tracking: config.Tracking) -> None:
    relocate(f"sqlite:///{copied}/mlflow.db", apply=True)
    (copied.parent / "moved").mkdir()
    here = copied.rename(copied.parent / "moved" / "root")
    registry = Registry(tracking, str(here))
    with pytest.raises(UserError, match="the storage root was copied or moved"):
        registry.version_of(CHALLENGER)
    relocate(registry.uri, apply=True)
    assert load(MODEL, registry.uri) is not None
    assert not copied.exists()


def test_relocate__changes_nothing_without_apply_and_nothing_twice(copied: Path) -> None:
    uri, database = f"sqlite:///{copied}/mlflow.db", copied / "mlflow.db"
    before = _state(copied)
    dry = relocate(uri, apply=False)
    assert "dry run, add --apply" in dry.sentence
    assert _state(copied) == before
    done = relocate(uri, apply=True)
    assert done.changed == dry.changed
    assert done.backup is not None
    assert _locations(done.backup) != _locations(database)
    before = _state(copied)
    assert relocate(uri, apply=True).sentence.endswith("nothing to do")
    assert _state(copied) == before


@pytest.mark.parametrize("written", ["path", "uri"])
def test_relocate__keeps_paths_and_uris_and_what_other_stores_hold(copied: Path, written: str) -> None:
    former = Path('/far/mlflow-artifacts/o\'ld % "root"/mlflow-artifacts')
    text = str(former) if written == "path" else former.as_uri()
    with closing(sqlite3.connect(copied / "mlflow.db")) as connection:
        connection.execute("UPDATE runs SET artifact_uri = ?", (f"{text}/1/artifacts",))
        connection.execute(
            "UPDATE model_versions SET source = 'models:/m-1', storage_location = 's3://b/mlflow-artifacts'"
        )
        connection.commit()
    found = relocate(f"sqlite:///{copied}/mlflow.db", apply=True)
    assert str(former) in found.folders
    here = copied / "mlflow-artifacts"
    places = _locations(copied / "mlflow.db")
    assert (f"{here}/1/artifacts" if written == "path" else f"{here.as_uri()}/1/artifacts") in places
    assert "models:/m-1" in places


def test_relocate__a_link_at_the_former_place_is_enough(copied: Path) -> None:
    uri = f"sqlite:///{copied}/mlflow.db"
    relocate(uri, apply=True)
    here = copied.rename(copied.parent / "here")
    copied.symlink_to(here)
    check_locations(f"sqlite:///{here}/mlflow.db")
    assert not relocate(f"sqlite:///{here}/mlflow.db", apply=True).changed


def test_relocate__mistakes_are_one_line(copied: Path, tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("this is no database " * 100)
    shutil.rmtree(copied / "mlflow-artifacts")
    before = _state(copied)
    for uri, rule in {
        "http://server:5000": "must be null or name an SQLite file",
        f"sqlite:///{tmp_path}/none/mlflow.db": "does not exist",
        f"sqlite:///{tmp_path}/text.db": "cannot be changed",
        f"sqlite:///{copied}/mlflow.db": "mlflow-artifacts: is missing; copy this folder",
    }.items():
        with pytest.raises(UserError, match=rule) as caught:
            relocate(uri, apply=True)
        assert "\n" not in str(caught.value)
    assert _state(copied) == before


def test_relocate__of_the_command_line(copied: Path) -> None:
    arguments = ["--set", f"storage.root={copied}"]
    dry = CliRunner().invoke(relocate_command, arguments)
    assert dry.output.startswith("relocate: ")
    assert dry.output.rstrip().endswith("dry run, add --apply to change them")
    done = CliRunner().invoke(relocate_command, [*arguments, "--apply"])
    assert "the former database is" in done.output
    assert done.exit_code == 0


def test_database_of__reads_sqlite_uris(tmp_path: Path) -> None:
    assert database_of("sqlite:///var/run/mlflow.db") == Path("var/run/mlflow.db")
    assert database_of("sqlite+pysqlite:////a%23b/mlflow.db?timeout=3") == Path("/a#b/mlflow.db")
    assert database_of("postgresql://host/mlflow") is None
