"""Concurrent promotions and rollbacks, on the embedded SQLite and on a server with PostgreSQL."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from iotid import config
from iotid.errors import DataError, StaleError, UserError
from iotid.tracking import CHAMPION, ModelVersion, Registry, champion, lock
from iotid.tracking.lock import Lock
from iotid.tracking.runs import start_run

_RACER = """
import sys
from iotid.config import Tracking
from iotid.errors import StaleError
from iotid.tracking import Registry, champion

uri, model, root, version = sys.argv[1:]
store = Registry(Tracking(uri=uri or None, experiment="race", model=model), root)
store.find_version("champion")
print("ready", flush=True)
sys.stdin.readline()
try:
    champion.promote(store, int(version), replaces=1)
    print("moved", flush=True)
except StaleError as fault:
    print(fault, flush=True)
"""


@pytest.mark.parametrize("records", ["embedded", pytest.param("served", marks=pytest.mark.spark)])
def test_promote__of_several_processes_exactly_one_sets_the_champion(
    records: str, request: pytest.FixtureRequest, with_versions: Callable[..., Registry]
) -> None:
    store = with_versions(request.getfixturevalue(records), "raced", versions=4)
    champion.promote(store, 1, replaces=None)
    where = [store.tracking.uri or "", store.tracking.model, store.storage_root]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    racers = {
        version: subprocess.Popen([sys.executable, "-c", _RACER, *where, str(version)], **pipes)
        for version in (2, 3, 4)
    }
    for racer in racers.values():
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    for racer in racers.values():
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    printed = {version: racer.communicate(timeout=120)[0].splitlines() for version, racer in racers.items()}
    (winner,) = [version for version, lines in printed.items() if lines == ["moved"]]
    assert store.version_of(CHAMPION).number == winner
    for version in racers.keys() - {winner}:
        (line,) = printed[version]
        assert (
            f"the champion changed meanwhile: the comparison used champion version 1, "
            f"now there is champion version {winner}" in line
        )
    assert Lock(store).holder() is None


def test_promote__after_waiting_for_the_lock_detects_a_changed_champion(
    embedded: Registry, with_versions: Callable[..., Registry]
) -> None:
    store = with_versions(embedded, "waited", versions=3)
    champion.promote(store, 1, replaces=None)
    faults: list[BaseException] = []

    def late() -> None:
        try:
            champion.promote(store, 3, replaces=1)
        except StaleError as fault:
            faults.append(fault)

    waiting = threading.Thread(target=late)
    with Lock(store).held():
        waiting.start()
        time.sleep(1)
        assert waiting.is_alive()
        champion.set_champion(store, 2)
    waiting.join(60)
    assert len(faults) == 1
    assert store.version_of(CHAMPION).number == 2
    assert "former_champion" not in store.version(3).tags


def test_promote__without_the_expected_champion_changes_no_alias(
    embedded: Registry, with_versions: Callable[..., Registry]
) -> None:
    store = with_versions(embedded, "gone", versions=1)
    with pytest.raises(StaleError, match="used champion version 7, now there is no champion; no alias"):
        champion.promote(store, 1, replaces=7)
    assert store.find_version(CHAMPION) is None
    assert Lock(store).holder() is None


def test_rollback__invalid_version_tag_is_a_one_line_error(
    embedded: Registry, with_versions: Callable[..., Registry]
) -> None:
    store = with_versions(embedded, "odd", versions=1)
    champion.promote(store, 1, replaces=None)
    for tag in ("", "one", "1.5", "-1", "\n", "9" * 400):
        store.set_tag(1, "former_champion", tag)
        with pytest.raises(DataError, match="tag former_champion of version 1 must be a version number, got") as caught:
            champion.rollback(store)
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 500


def test_rollback__of_two_concurrent_ones_only_the_first_succeeds(
    embedded: Registry, with_versions: Callable[..., Registry], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = with_versions(embedded, "twice", versions=3)
    for former, version in ((None, 1), (1, 2), (2, 3)):
        champion.promote(store, version, replaces=former)
    rest, version_of = iter([True]), Registry.version_of

    def other_first(self: Registry, alias: str) -> ModelVersion:
        """The second process rolls back between the first one's reading and its lock."""
        found = version_of(self, alias)
        if next(rest, False):
            assert champion.rollback(self) == (3, 2)
        return found

    monkeypatch.setattr(Registry, "version_of", other_first)
    with pytest.raises(StaleError, match=r"used champion version 3, now there is .* 2; .* run iotid rollback again"):
        champion.rollback(store)
    assert store.version_of(CHAMPION).number == 2


def test_lock__of_a_dead_process_expires(
    embedded: Registry,
    with_versions: Callable[..., Registry],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = with_versions(embedded, "died", versions=1)
    monkeypatch.setattr(lock, "EXPIRES_S", 1.0)
    assert Lock(store).claim("dead") == "dead"
    assert Lock(store).claim("dead") == "dead", "a claim repeated after a broken connection is the same claim"
    started = time.monotonic()
    champion.promote(store, 1, replaces=None)
    assert time.monotonic() - started > 1
    assert caplog.text.count("its process has died") == 1
    assert store.version_of(CHAMPION).number == 1
    assert Lock(store).holder() is None


def test_lock__after_expiry_its_former_holder_does_not_release_it(
    embedded: Registry, with_versions: Callable[..., Registry]
) -> None:
    store = with_versions(embedded, "other", versions=1)
    with Lock(store).held():
        holder = Lock(store).holder()
        assert holder is not None
        Lock(store).release("somebody else")
        assert Lock(store).holder() == holder
        Lock(store).release(holder)
        assert Lock(store).claim("next") == "next"
    assert Lock(store).holder() == "next"


def test_promote__sets_the_champion_and_rollback_restores_the_previous_one(
    tracking: config.Tracking, flows: pa.Table, write_bundle: Callable[..., Path], tmp_path: Path
) -> None:
    store = Registry(tracking, str(tmp_path / "store"))
    with pytest.raises(UserError, match=r"no version of iotid is champion; run iotid promote first"):
        store.version_of("champion")
    run = start_run(store, "nightly", [], {})
    for number in (1, 2):
        assert store.register(run, write_bundle(tmp_path / str(number), number), flows).number == number
    champion.promote(store, 1, replaces=None)
    with pytest.raises(UserError, match="was the first champion") as caught:
        champion.rollback(store)
    assert "\n" not in str(caught.value)
    champion.promote(store, 2, replaces=1)
    second = store.version_of("champion")
    assert (second.number, second.tags["former_champion"]) == (2, "1")
    assert champion.former_champion(store, second) == 1
    assert champion.rollback(store) == (2, 1)
    assert store.version_of("champion").number == 1
    assert store.version(2).tags["rolled_back_to"] == "1"
    run.end()
    assert store.connect().get_run(run.id).info.status == "FINISHED"
